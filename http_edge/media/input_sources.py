"""Images and clips from wherever clients have them: an upload of this request, a data URL, base64, a URL, a file's id, a path here.

All end in `InputStore.spool`, which decodes an image whole and a clip's first frame: what is refused is refused before a job exists.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from broker.wire.inputs import InputKind
from http_edge.base.context import Caller, current
from http_edge.base.errors import EdgeError, invalid
from http_edge.base.limits import MAX_PATH_CHARS
from http_edge.body.forms import Upload
from http_edge.media import input_store
from http_edge.media.fetch import Fetcher
from http_edge.media.input_store import InputStore, Picture
from http_edge.media.uploads import Uploads, is_file_id

T = TypeVar("T")

#: Decoding an image takes memory: not by every thread there is.
_THREADS = 4

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA_URL = re.compile(r"data:([^,]{0,256}),", re.IGNORECASE)
#: The alphabet of URLs and file names (RFC 4648, section 5) to the usual one.
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]*={0,2}\s*")

#: How the formats that we read begin in base64 (and GIF, to be refused by name). A path of this length that begins so and has
#: no character of its own (a dot, say) does not occur; anything longer than a path is no path. The last two are MP4 and Matroska.
_HEADS = ("iVBORw0KGgo", "/9j/", "UklGR", "Qk", "R0lGOD", "AAAA", "GkXfo")
_LEAST_BASE64 = 64


class InputSources:
    """Resolves a client's image or clip to a checked file that engines can read."""

    def __init__(
        self, store: InputStore, files: Uploads, fetcher: Fetcher, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._files = files
        self._fetcher = fetcher
        self._wall_clock = wall_clock
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def resolve(
        self, field: str, source: str | Upload, *, allow_paths: bool, kind: InputKind = "picture"
    ) -> Picture:
        """The kept copy. Raises `EdgeError` naming field, value and rule."""
        if isinstance(source, Upload):
            return await self._in_thread(lambda: self._store.from_upload(field, source.file_name, source.path, kind))
        text = source.strip()
        if match := _DATA_URL.match(text):
            if not match[1].lower().rstrip().endswith("base64"):
                raise invalid(field, text, "is a data URL without ;base64")
            return await self._in_thread(lambda: self._from_base64(field, text, match.end(), kind))
        if _URL.match(text):
            noun, most = "video" if kind == "clip" else "image", input_store.max_bytes(kind)
            data = await self._fetcher.get(field, text, kind=noun, max_bytes=most)
            return await self._in_thread(lambda: self._store.spool(field, text, data, kind))
        caller = current().caller
        if is_file_id(text):
            return await self._in_thread(lambda: self._from_file(field, text, caller, kind))
        if _is_base64(text) or not allow_paths:
            return await self._in_thread(lambda: self._from_base64(field, text, 0, kind))
        return await self._in_thread(lambda: self._store.from_path(field, text, caller.tenant, kind))

    async def of_result(self, field: str, name: str, path: Path, kind: InputKind) -> Picture:
        """The kept copy of a file that the service made; errors call it `name`. Raises `EdgeError`."""
        return await self._in_thread(lambda: self._store.from_upload(field, name, path, kind))

    async def touch(self, field: str, path: str) -> None:
        """Note that a kept image is used once more. Raises `EdgeError` when it is kept no longer."""
        await self._in_thread(lambda: self._store.touch(field, path))

    def _from_file(self, field: str, file_id: str, caller: Caller, kind: InputKind) -> Picture:
        record = self._files.get(file_id, self._wall_clock())
        if record is None or not caller.may_see(record.tenant):
            raise invalid(field, file_id, "does not exist")
        return self._store.from_upload(field, file_id, self._files.data_path(file_id), kind)

    def _from_base64(self, field: str, text: str, start: int, kind: InputKind) -> Picture:
        size, most = (len(text) - start) * 3 // 4, input_store.max_bytes(kind)
        if size > most + 4:
            raise invalid(field, text, f"has {size} bytes, at most {most}")
        try:
            # Bytes, as a regular expression over megabytes would hold the event loop up.
            letters = text[start:].encode("ascii").translate(_URL_SAFE, b" \t\r\n\v\f").rstrip(b"=")
            data = base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
        except UnicodeEncodeError:
            raise _no_image(field, text, start, "it holds other characters") from None
        except binascii.Error as error:
            raise _no_image(field, text, start, str(error)) from None
        return self._store.spool(field, text, data, kind)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)


def _no_image(field: str, text: str, start: int, why: str) -> EdgeError:
    if not start and not _is_base64(text):
        return invalid(field, text, "is no URL, data URL, base64 or id of a file")
    return invalid(field, text, f"is not valid base64: {why}")


def _is_base64(text: str) -> bool:
    """Whether this is an image or clip in base64 rather than a path."""
    if len(text) > MAX_PATH_CHARS:
        return True
    return len(text) >= _LEAST_BASE64 and text.startswith(_HEADS) and _BASE64.fullmatch(text) is not None
