"""Downloads of files, after RFC 9110 sections 13 and 14: validators, conditions, single and multiple ranges, HEAD.

Written rather than taken from starlette's `FileResponse`, which answers 400 to an unknown range unit, has neither 304 nor
412, refuses all ranges when one of them is out of bounds, and makes its ETag from the file's time. Ours is the file's sha256: the
same on every edge.

`plan` decides from headers alone and touches nothing; `download` carries the plan out in worker threads. A file that is being sent is
locked (shared): retention leaves a locked file alone.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import anyio
import anyio.to_thread
from msgspec import Struct
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from http_edge.base.errors import EdgeError, shown
from http_edge.base.paths import open_parent

#: Most ranges of a request, more than any player sends; beyond it the whole file is sent, which RFC 9110, 14.2 allows.
MAX_RANGES = 32

_CHUNK_BYTES = 256 * 1024

#: Seconds between two tries of a file that is locked against being sent.
_LOCK_POLL_S = 0.05

_RANGE = re.compile(r"(\d{0,18})\s*-\s*(\d{0,18})")
_TAG = re.compile(r'(W/)?("[^"]*")')

Pieces = list[bytes | tuple[int, int]]


class Download(Struct, frozen=True, kw_only=True):
    """A file that never changes, as it was recorded when it was published."""

    #: The directory that the file must really be in.
    root: Path
    path: Path
    size: int
    sha256: str
    media_type: str
    #: File name for the client.
    name: str
    inline: bool = True
    #: Further headers of every answer with bytes of the file.
    headers: Mapping[str, str] = {}
    #: Fetches the file to its path, if it is not there; raises `EdgeError`. None: it is there, or gone.
    fetch: Callable[[], Awaitable[object]] | None = None
    #: Makes an address at which a client gets the file without this edge; blocks, and raises `EdgeError`. None: there is none.
    redirect_url: Callable[[], str] | None = None


class Plan(Struct, frozen=True):
    """Planned answer: the status, and the bytes as (start, end) with the end exclusive."""

    status: int
    ranges: tuple[tuple[int, int], ...] = ()


# ---------------------------------------------------------------- the plan


def plan(headers: Headers, *, etag: str, size: int, modified_s: int) -> Plan:
    """Plan the answer to a GET or HEAD with these headers, in the order of RFC 9110, 13.2.2.

    `etag` is quoted; `modified_s` is Unix time in whole seconds.
    """
    if_match, if_none_match = headers.get("if-match"), headers.get("if-none-match")
    if if_match is not None:
        if not _matches(if_match, etag, weak=False):
            return Plan(412)
    elif (since := _date(headers.get("if-unmodified-since"))) is not None and modified_s > since:
        return Plan(412)
    if if_none_match is not None:
        if _matches(if_none_match, etag, weak=True):
            return Plan(304)
    elif (since := _date(headers.get("if-modified-since"))) is not None and modified_s <= since:
        return Plan(304)
    range_header = headers.get("range")
    if range_header is None or not _range_applies(headers.get("if-range"), etag, modified_s):
        return Plan(200)
    return _plan_ranges(range_header, size)


def _plan_ranges(range_header: str, size: int) -> Plan:
    unit, equals, text = range_header.partition("=")
    # A unit or a syntax that we do not understand is ignored, never an error (14.2).
    if not equals or unit.strip().lower() != "bytes":
        return Plan(200)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not 1 <= len(parts) <= MAX_RANGES:
        return Plan(200)
    ranges: list[tuple[int, int]] = []
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None or part == "-":
            return Plan(200)
        first, last = match[1], match[2]
        if first and last and int(last) < int(first):
            return Plan(200)
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start < end:
            ranges.append((start, end))
    if not ranges:
        return Plan(416)
    return Plan(206, tuple(_merged(ranges)))


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping ranges become one, so that no request is answered with more bytes than the file has."""
    if len(ranges) == 1:
        return ranges
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _matches(header: str, etag: str, *, weak: bool) -> bool:
    if header.strip() == "*":
        return True
    return any(tag == etag and (weak or not prefix) for prefix, tag in _TAG.findall(header))


def _range_applies(if_range: str | None, etag: str, modified_s: int) -> bool:
    if if_range is None:
        return True
    if if_range.strip().startswith(('"', "W/")):
        return if_range.strip() == etag
    return _date(if_range) == modified_s


def _date(text: str | None) -> int | None:
    """Unix time of an HTTP date; None when absent or not one (by the RFC, to be ignored)."""
    if text is None:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------- carrying it out


async def download(request: Request, file: Download) -> Response:
    """The response for a file. Raises `EdgeError` when it is gone, or the request's conditions or ranges fail."""
    if file.redirect_url is not None and request.method == "GET":
        where = await anyio.to_thread.run_sync(file.redirect_url)
        return Response(status_code=307, headers={"Location": where, "Cache-Control": "no-store", **file.headers})
    modified_s = await _checked(file)
    etag = f'"{file.sha256}"'
    decided = plan(request.headers, etag=etag, size=file.size, modified_s=modified_s)
    if decided.status in (206, 416) and request.method != "GET":
        # Ranges have no meaning but for GET (RFC 9110, 14.2).
        decided = Plan(200)
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "ETag": etag,
        "Last-Modified": formatdate(modified_s, usegmt=True),
    }
    if decided.status == 412:
        raise EdgeError("precondition_failed", "the file is not in the state that the request's conditions name")
    if decided.status == 416:
        message = f"range: {shown(request.headers['range'])} is outside the file's {file.size} bytes"
        raise EdgeError("range_not_satisfiable", message, headers={"Content-Range": f"bytes */{file.size}"})
    if decided.status == 304:
        return Response(status_code=304, headers=headers)
    inline = file.inline and request.query_params.get("download", "0") in ("", "0", "false")
    headers |= {
        **file.headers,
        "Content-Disposition": disposition("inline" if inline else "attachment", file.name),
        "X-Content-Type-Options": "nosniff",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
    }
    return _body(request.method, file, decided, headers)


async def whole_file(file: Download, headers: Mapping[str, str] | None = None) -> Response:
    """The whole file as the answer to another request than a GET of it: no conditions, no ranges, not cached. Raises `EdgeError`."""
    await _checked(file)
    own = {
        "Cache-Control": "no-store",
        "Content-Disposition": disposition("inline" if file.inline else "attachment", file.name),
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        **file.headers,
        **(headers or {}),
    }
    return _body("GET", file, Plan(200), own)


def disposition(kind: str, name: str) -> str:
    """A Content-Disposition (RFC 6266): names that are not plain come in both forms, the ASCII one for old clients."""
    quoted = quote(name, safe="!#$&+.^_`|~-")
    if quoted == name:
        return f'{kind}; filename="{name}"'
    plain = re.sub(r"[^A-Za-z0-9 !#$&+.^_`|~()\[\]{},;=@'-]", "_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=utf-8''{quoted}"


def lock_unless_sent(path: Path) -> int | None:
    """Lock a file against being sent until the returned descriptor is closed; None while it is being sent. Raises `OSError`. Blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class _FileResponse(StreamingResponse):
    """Streams pieces of a file that is opened and locked before the first byte goes out."""

    def __init__(self, file: Download, pieces: Pieces, status: int, headers: dict[str, str], media_type: str) -> None:
        super().__init__(iter(()), status_code=status, headers=headers, media_type=media_type)
        self._file = file
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        descriptor = await _opened(self._file)
        try:
            self.body_iterator = _read(descriptor, self._file.path, self._pieces)
            await super().__call__(scope, receive, send)
        finally:
            os.close(descriptor)


def _body(method: str, file: Download, decided: Plan, headers: dict[str, str]) -> Response:
    media_type = file.media_type
    pieces: Pieces
    if decided.status == 200:
        pieces, length = [(0, file.size)], file.size
    elif len(decided.ranges) == 1:
        start, end = decided.ranges[0]
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        pieces, length = [(start, end)], end - start
    else:
        boundary = secrets.token_hex(16)
        pieces = _multipart(decided.ranges, boundary, media_type, file.size)
        length = sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)
        media_type = f"multipart/byteranges; boundary={boundary}"
    headers["Content-Length"] = str(length)
    if method == "HEAD":
        return Response(status_code=decided.status, headers=headers, media_type=media_type)
    return _FileResponse(file, pieces, decided.status, headers, media_type)


def _multipart(ranges: tuple[tuple[int, int], ...], boundary: str, media_type: str, size: int) -> Pieces:
    pieces: Pieces = []
    for start, end in ranges:
        lead = "" if not pieces else "\r\n"
        head = (
            f"{lead}--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {start}-{end - 1}/{size}\r\n\r\n"
        )
        pieces += [head.encode("ascii"), (start, end)]
    pieces.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return pieces


async def _read(descriptor: int, path: Path, pieces: Pieces) -> AsyncIterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        start, end = piece
        while start < end:
            chunk = await anyio.to_thread.run_sync(os.pread, descriptor, min(_CHUNK_BYTES, end - start), start)
            if not chunk:
                raise OSError(f"{path} is shorter than published")
            start += len(chunk)
            yield chunk


async def _opened(file: Download) -> int:
    """Open and lock. Raises `EdgeError` when the file was taken away since it was checked.

    Retention holds the lock while the broker deletes the job's record. That is not waited for in a thread: they read all other files.
    """
    while True:
        descriptor = await anyio.to_thread.run_sync(_open, file)
        if descriptor is not None:
            return descriptor
        await anyio.sleep(_LOCK_POLL_S)


def _open(file: Download) -> int | None:
    """Open and lock; None while it is locked against being sent. Raises `EdgeError`."""
    root = Path(os.path.realpath(file.root))
    path = root / file.path.relative_to(file.root)
    try:
        # Through no link: a directory may have been exchanged for one since.
        with open_parent(path, (root,)) as directory:
            descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        raise _gone(file) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


async def _checked(file: Download) -> int:
    """The file's time in whole seconds, once it is here. Raises `EdgeError`."""
    if file.fetch is not None:
        await file.fetch()
    return await anyio.to_thread.run_sync(_check, file)


def _check(file: Download) -> int:
    """The file's time in whole seconds. Raises `EdgeError` when it is not the whole regular file below its root that was published."""
    try:
        status = os.lstat(file.path)
        inside = Path(os.path.realpath(file.path)).is_relative_to(os.path.realpath(file.root))
    except OSError:
        raise _gone(file) from None
    if not (inside and stat.S_ISREG(status.st_mode) and status.st_size == file.size):
        raise EdgeError("gone", f"the file {file.path.name} is not as it was published")
    return int(status.st_mtime)


def _gone(file: Download) -> EdgeError:
    return EdgeError("gone", f"the file {file.path.name} is no longer kept")
