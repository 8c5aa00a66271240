"""multipart/form-data as it arrives: text parts in memory while they are small, files and long text on disk, everything capped.

python-multipart's low-level parser finds the parts. What it leaves to its user is done here: it does not notice that a body ends before its
closing boundary, has no cap on the number or size of parts, and hands names over as raw bytes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

from msgspec import Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from http_edge.base.errors import EdgeError, shown
from http_edge.base.limits import CLOSE, MAX_TEXT_BYTES, SMALL_BODY_BYTES, too_large
from http_edge.body.spool import MAX_FIELDS, SpoolFile

#: The parser logs each fault in a body as a warning; it is the client's, and answered.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

MAX_FILES = 32
MAX_NAME_CHARS = 256
MAX_FILE_NAME_CHARS = 512

#: Text in memory while the body is still arriving: a part beyond the first or a request beyond the second goes over the disk.
_PART_MEMORY_BYTES = 64 * 1024
_MEMORY_BYTES = SMALL_BODY_BYTES

#: Media types of parts that are files even without a name; a field may have one of text or JSON.
_FILE_TYPES = ("image/", "video/", "audio/", "application/octet-stream")

_PLAIN_ENCODINGS = (b"", b"7bit", b"8bit", b"binary")


class Part(Struct, kw_only=True):
    """Part of a body: a file when it has a file name or the media type of one, else a field."""

    name: str
    #: None for a field.
    file_name: str | None
    media_type: str
    #: The text of a field that stayed in memory.
    data: bytearray
    #: The bytes of all others.
    file: SpoolFile | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) + (self.file.size if self.file else 0)


def boundary_of(content_type: str) -> bytes:
    """The boundary in a Content-Type. Raises `EdgeError` when there is none."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise malformed("the Content-Type multipart/form-data has no valid boundary")
    return boundary


def malformed(why: str) -> EdgeError:
    """The error for a form that cannot be read."""
    return EdgeError("bad_form", f"body: {why}", headers=CLOSE)


class PartReader:
    """Reads one body's parts into `parts`. `create` makes temporary files, which the caller removes."""

    def __init__(self, create: Callable[[], SpoolFile], boundary: bytes) -> None:
        self.parts: list[Part] = []
        self._create = create
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._pieces: list[tuple[Part, bytes]] = []
        self._whole: list[Part] = []
        self._in_memory = 0
        self._text = 0
        self._ended = False

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Read the whole body. Raises `EdgeError`; `ClientDisconnect`."""
        async for chunk in chunks:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise malformed(f"it is not valid multipart/form-data: {error}") from None
            await self._store()
        if not self._ended:
            raise malformed("it ends before the closing boundary of its multipart/form-data")

    async def _store(self) -> None:
        """Store the pieces that the parser found."""
        for part, data in self._pieces:
            if part.file is None and self._stays_in_memory(part, len(data)):
                part.data += data
                self._in_memory += len(data)
                continue
            if part.file is None:
                part.file = self._create()
                await part.file.write(part.data)
                self._in_memory -= len(part.data)
                part.data = bytearray()
            await part.file.write(data)
        self._pieces.clear()
        for part in self._whole:
            if part.file is not None:
                await part.file.finish()
        self._whole.clear()

    def _stays_in_memory(self, part: Part, more: int) -> bool:
        if part.file_name is not None:
            return False
        return len(part.data) + more <= _PART_MEMORY_BYTES and self._in_memory + more <= _MEMORY_BYTES

    # ------------------------------------------------------------ the parser's callbacks

    def _on_part_begin(self) -> None:
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        part = _part(self._headers)
        files = sum(one.file_name is not None for one in self.parts)
        if part.file_name is not None and files >= MAX_FILES:
            raise EdgeError("too_large", f"body: it has more than {MAX_FILES} files", headers=CLOSE)
        if part.file_name is None and len(self.parts) - files >= MAX_FIELDS:
            raise EdgeError("too_large", f"body: it has more than {MAX_FIELDS} fields", headers=CLOSE)
        self.parts.append(part)
        if part.file_name is not None:
            part.file = self._create()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        if part.file_name is None:
            self._text += end - start
            if self._text > MAX_TEXT_BYTES:
                raise too_large(f"text of more than {MAX_TEXT_BYTES} bytes", MAX_TEXT_BYTES)
        self._pieces.append((part, data[start:end]))

    def _on_part_end(self) -> None:
        self._whole.append(self.parts[-1])

    def _on_end(self) -> None:
        self._ended = True


def _part(headers: dict[bytes, bytes]) -> Part:
    """The part that these headers begin. Raises `EdgeError`."""
    kind, options = parse_options_header(headers.get(b"content-disposition", b""))
    if kind != b"form-data" or b"name" not in options:
        raise malformed('a part has no Content-Disposition of the form: form-data; name="..."')
    name = _text("a field's name", options[b"name"], MAX_NAME_CHARS)
    encoding = headers.get(b"content-transfer-encoding", b"").strip().lower()
    if encoding not in _PLAIN_ENCODINGS:
        raise malformed(f"{name}: Content-Transfer-Encoding {shown(encoding.decode('latin-1'))} is not supported")
    file_name = None
    if b"filename" in options:
        # How browsers, and clients that follow them (HTML, "multipart/form-data encoding algorithm"), write a quote in a name.
        raw = options[b"filename"].replace(b"%22", b'"')
        file_name = _text(f"{name}: the file name", raw, MAX_FILE_NAME_CHARS)
    kind, _ = parse_options_header(headers.get(b"content-type", b""))
    media_type = kind.decode("latin-1")[:128]
    if file_name is None and media_type.lower().startswith(_FILE_TYPES):
        file_name = ""
    return Part(name=name, file_name=file_name, media_type=media_type, data=bytearray())


def _text(what: str, raw: bytes, max_chars: int) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise malformed(f"{what} is not valid UTF-8") from None
    if len(text) > max_chars or "\0" in text:
        raise malformed(f"{what}, {shown(text)}, has a NUL or more than {max_chars} characters")
    return text
