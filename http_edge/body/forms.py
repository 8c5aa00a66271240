"""Reading of a request's fields for every API family: JSON, multipart/form-data and urlencoded, by content type.

    async with await read_fields(request) as fields:
        reader = Reader(fields.values)

Rules. Anything that is not a form is JSON, whatever its content type; a urlencoded body that begins with "{" is JSON too, as `curl
-d` sends it. In forms, keys with brackets make objects and lists (`a[b]=1`, `a[]=1`, `a[][b]=1`, `a[0][b]=1`), and everything is text. A
scalar that was sent twice counts with its last value, in JSON and in forms alike; `all` has every one. Files belong to the request: they,
and the memory of a large body, are held until the context ends, so do not wait for a job inside it.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from binascii import a2b_qp
from bisect import bisect
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote_to_bytes

from msgspec import Struct
from starlette.requests import Request

from http_edge.base.context import current
from http_edge.base.errors import EdgeError, invalid, shown
from http_edge.base.json_text import BadJson, decode_json
from http_edge.base.limits import CLOSE, MAX_TEXT_BYTES, SMALL_BODY_BYTES
from http_edge.body.json_body import parse_object
from http_edge.body.multipart import MAX_NAME_CHARS, Part, PartReader, boundary_of, malformed
from http_edge.body.spool import MAX_FIELDS, Body, Spool, SpoolFile

_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_MARK = re.compile(r"\[([^\[\]]*)\]")
_PLACE = re.compile(r"[0-9]{1,4}")
_LIST_MARK = re.compile(r"\[\d{0,4}\]$")

#: Fields that are lists, so that one sent twice is a list of both.
_LISTS = ("webhook_events",)

_MULTIPART, _URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"

#: Objects in objects in a form's key.
_MAX_DEPTH = 4


class Upload(Struct, frozen=True, kw_only=True):
    """A file that came with a request, on disk until the request's fields are closed."""

    #: As the client named it, without a list mark: `image` for `image[]`.
    field: str
    #: The client's name of the file; never a path here.
    file_name: str
    #: Content type that the client sent, which is not trusted; "": none.
    media_type: str
    path: Path
    size: int


class Fields:
    """Fields and files of a request."""

    def __init__(self, *, is_form: bool) -> None:
        #: Field -> value: text, lists and objects of text from a form, anything from JSON.
        self.values: dict[str, Any] = {}
        #: Field -> files, in the order sent.
        self.uploads: dict[str, list[Upload]] = {}
        self.is_form = is_form
        self._sent: dict[str, list[Any]] = {}
        #: List -> the places of its objects as the form counts them.
        self._places: dict[str, list[int]] = {}
        self._files: list[SpoolFile] = []
        self._releases: list[Callable[[], None]] = []

    def all(self, name: str) -> list[Any]:
        """Every value of this field in the order sent: of a list, of `name[]`, of `name` repeated in a form."""
        value = self.values.get(name)
        if isinstance(value, list):
            return value
        return self._sent.get(name, [] if value is None else [value])

    def upload(self, *names: str) -> Upload | None:
        """The only file under these names, None when there is none. Raises `EdgeError` when there are several."""
        found = [upload for name in names for upload in self.uploads.get(name, ())]
        if len(found) > 1:
            raise invalid(
                found[0].field, found[1].file_name, f"is one file too many: {len(found)} came, one is expected"
            )
        return found[0] if found else None

    def json_value(self, name: str) -> Any:
        """The field's value, parsed when it is the text of a JSON object or list; None when absent or empty. Raises `EdgeError`."""
        value = self.values.get(name)
        if not isinstance(value, str):
            return value
        text = value.strip()
        if not text.startswith(("{", "[")):
            return value if text else None
        try:
            return decode_json(text)
        except BadJson as error:
            raise invalid(name, value, f"cannot be read: {error}") from None

    def json_member(self, name: str) -> dict[str, Any] | None:
        """The object in this field, itself or as JSON text; None when absent or empty. Raises `EdgeError`."""
        value = self.json_value(name)
        if value is None or isinstance(value, dict):
            return value
        raise invalid(
            name, value, "is not an object" + (", nor the JSON text of one" if isinstance(value, str) else "")
        )

    def close(self) -> None:
        """Remove the files and release the memory; more than once is fine."""
        for file in self._files:
            file.discard()
        for release in self._releases:
            release()
        self._files.clear()
        self._releases.clear()

    async def __aenter__(self) -> Fields:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Not in a thread: a cancelled request could not wait for it.
        self.close()

    # ------------------------------------------------------------ filled by `read_fields`

    def create(self, spool: Spool) -> SpoolFile:
        """A temporary file that goes when the fields are closed. Raises `EdgeError`."""
        file = spool.create()
        self._files.append(file)
        return file

    def on_close(self, release: Callable[[], None]) -> None:
        """Call this when the fields are closed."""
        self._releases.append(release)

    def put(self, key: str, value: str) -> None:
        """Add a form's field. Raises `EdgeError`."""
        match = _KEY.fullmatch(key)
        marks = _MARK.findall(match[2]) if match else []
        if not key or len(key) > MAX_NAME_CHARS or "\0" in key:
            raise malformed(f"{shown(key)} cannot name a field")
        if len(marks) > _MAX_DEPTH:
            raise malformed(f"{shown(key)} nests too deeply, at most {_MAX_DEPTH} brackets")
        if sum(map(len, self._sent.values())) >= MAX_FIELDS:
            raise EdgeError("too_large", f"body: it has more than {MAX_FIELDS} fields", headers=CLOSE)
        sent = self._sent.setdefault(key, [])
        sent.append(value)
        if key in _LISTS and len(sent) > 1:
            self.values[key] = list(sent)
            return
        if len(marks) > 1 and (place := _PLACE.fullmatch(marks[0])):
            self._assign_at(match[1] if match else key, int(place[0]), marks[1:], value, key)
            return
        _assign(self.values, match[1] if match else key, marks, value, key)

    def _assign_at(self, name: str, place: int, marks: list[str], value: str, sent: str) -> None:
        """Put a value into the object at a place of a list: `loras[0][name]`. The places count by their order; some may be left out."""
        items = self.values.setdefault(name, [])
        places = self._places.setdefault(name, [])
        if not isinstance(items, list) or len(places) != len(items):
            raise _mixed(sent)
        if place not in places:
            at = bisect(places, place)
            places.insert(at, place)
            items.insert(at, {})
        _assign(items[places.index(place)], marks[0], marks[1:], value, sent)

    def put_upload(self, part: Part, file: SpoolFile) -> None:
        """Add a form's file."""
        name = _LIST_MARK.sub("", part.name) or part.name
        upload = Upload(
            field=name, file_name=part.file_name or "", media_type=part.media_type, path=file.path, size=file.size
        )
        self.uploads.setdefault(name, []).append(upload)


async def read_fields(request: Request) -> Fields:
    """The request's fields and files; use as an async context manager. Raises `EdgeError` naming what is wrong; `ClientDisconnect`."""
    spool: Spool = request.app.state.spool
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise EdgeError("bad_form", f"content-encoding: {shown(encoding)} is not supported", headers=CLOSE)
    is_form = kind in (_MULTIPART, _URLENCODED)
    fields = Fields(is_form=is_form)
    try:
        if kind == _MULTIPART:
            await _read_multipart(request, spool, content_type, fields)
        else:
            await _read_text(request, spool, fields)
        await _add_to_digest(spool, fields)
    except BaseException:
        fields.close()
        raise
    return fields


async def _add_to_digest(spool: Spool, fields: Fields) -> None:
    """Add fields and files to the request's digest, if it has one."""
    payload = current().payload
    if payload is None:
        return
    payload.add(fields.values, fields._sent)
    for name, uploads in sorted(fields.uploads.items()):
        for upload in uploads:
            digest = await spool.in_thread(lambda path=upload.path: _digest(path))  # type: ignore[misc]
            payload.add(name, upload.file_name, digest)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _read_multipart(request: Request, spool: Spool, content_type: str, fields: Fields) -> None:
    reader = PartReader(lambda: fields.create(spool), boundary_of(content_type))
    body = Body(request, spool.limits, spool.limits.request_bytes)
    with spool.upload_turn(body):
        async with aclosing(body.chunks()) as chunks:
            await reader.read(chunks)
    if sum(part.size for part in reader.parts if part.file_name is None) > SMALL_BODY_BYTES:
        fields.on_close(await spool.large_turn())
    for part in reader.parts:
        if part.file_name is None:
            fields.put(part.name, _decoded(part.name, await _load(spool, part.data, part.file)))
        elif part.file is not None and (part.file_name or part.size):
            # A browser sends a file input that was left empty as a file without name and bytes.
            fields.put_upload(part, part.file)


async def _read_text(request: Request, spool: Spool, fields: Fields) -> None:
    """Read a body that is text as a whole: JSON or urlencoded."""
    start = bytearray()
    file: SpoolFile | None = None
    body = Body(request, spool.limits, MAX_TEXT_BYTES)
    async with aclosing(body.chunks()) as chunks, AsyncExitStack() as turns:
        grow = turns.enter_context(spool.arriving())
        async for chunk in chunks:
            size = len(start) + len(chunk)
            if file is None and size <= SMALL_BODY_BYTES and grow(size):
                start += chunk
                continue
            if file is None:
                turns.enter_context(spool.upload_turn(body))
                file = fields.create(spool)
                await file.write(start)
                start = bytearray()
            await file.write(chunk)
        if file is not None:
            await file.finish()
    if file is not None:
        fields.on_close(await spool.large_turn())
    text = await _load(spool, start, file)
    if fields.is_form and text.removeprefix(codecs.BOM_UTF8).lstrip()[:1] != b"{":
        pairs = await spool.in_thread(lambda: _parse_urlencoded(text)) if file else _parse_urlencoded(text)
        for key, value in pairs:
            fields.put(key, value)
    else:
        fields.is_form = False
        fields.values = await spool.in_thread(lambda: parse_object(text)) if file else parse_object(text)


async def _load(spool: Spool, data: bytearray, file: SpoolFile | None) -> bytes:
    """The text of a part or body, from where it is; its file is no longer needed."""
    if file is None:
        return bytes(data)
    body = await spool.in_thread(file.path.read_bytes)
    file.discard()
    return body


def _parse_urlencoded(body: bytes) -> list[tuple[str, str]]:
    if body.count(b"&") >= MAX_FIELDS:
        raise EdgeError("too_large", f"body: it has more than {MAX_FIELDS} fields", headers=CLOSE)
    pairs = []
    for item in body.strip().split(b"&"):
        if item:
            key, _, value = item.partition(b"=")
            name = _decoded("a field's name", _unescaped(key))
            pairs.append((name, _decoded(name, _unescaped(value))))
    return pairs


def _unescaped(raw: bytes) -> bytes:
    """Resolve "+" and %XX. Raises `EdgeError`.

    Percent escapes are those of quoted-printable with another sign, and its decoder takes a fraction of a second where `unquote` takes
    seconds and a hundred times the memory. It fails in no way that keeps the length right.
    """
    spaced = raw.replace(b"+", b" ")
    if not any(sign in spaced for sign in (b"=", b"\r", b"\n")):
        plain = a2b_qp(spaced.replace(b"%", b"="))
        if len(plain) == len(spaced) - 2 * spaced.count(b"%"):
            return plain
    if len(spaced) > SMALL_BODY_BYTES:
        raise malformed("it is not valid application/x-www-form-urlencoded")
    return unquote_to_bytes(spaced)


def _decoded(what: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise malformed(f"{what[:MAX_NAME_CHARS]}: it is not valid UTF-8") from None


def _assign(container: dict[str, Any], key: str, marks: list[str], value: str, sent: str) -> None:
    """Put a value at the place given by the brackets of its key."""
    if not marks:
        if isinstance(container.get(key), dict | list):
            raise _mixed(sent)
        container[key] = value
    elif marks[0]:
        child = container.setdefault(key, {})
        if not isinstance(child, dict):
            raise _mixed(sent)
        _assign(child, marks[0], marks[1:], value, sent)
    else:
        items = container.setdefault(key, [])
        if not isinstance(items, list):
            raise _mixed(sent)
        if len(marks) == 1:
            items.append(value)
        elif not marks[1]:
            raise malformed(f"{shown(sent)} cannot name a field: it is a list in a list")
        else:
            # `a[][x]=1&a[][y]=2` is one object; a second `a[][x]` begins the next.
            if not items or not isinstance(items[-1], dict) or marks[1] in items[-1]:
                items.append({})
            _assign(items[-1], marks[1], marks[2:], value, sent)


def _mixed(sent: str) -> EdgeError:
    return malformed(
        f"{shown(sent)} was also sent as another kind of field: a value, a list and an object exclude each other"
    )
