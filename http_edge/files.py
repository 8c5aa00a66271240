"""Downloads of artefacts, after RFC 9110 sections 13 and 14: validators, conditions, single and multiple ranges, HEAD.

Written rather than taken from starlette's `FileResponse`, which answers 400 to a range unit it does not know, knows neither 304 nor
412, refuses all ranges when one of them is out of bounds, and makes its ETag from the file's time. Ours is the artefact's sha256: the
same on every edge.

`plan` decides from headers alone and touches nothing; `artefact_response` carries the plan out in worker threads.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import anyio.to_thread
from msgspec import Struct
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from broker.wire.jobspec import Artefact
from broker.wire.messages import JobView
from http_edge.errors import EdgeError, shown

#: More ranges than any player asks for: the whole file is sent instead (RFC 9110, 14.2 allows it).
MAX_RANGES = 32

_CHUNK_BYTES = 256 * 1024

_RANGE = re.compile(r"(\d{0,18})\s*-\s*(\d{0,18})")
_TAG = re.compile(r'(W/)?("[^"]*")')


class Plan(Struct, frozen=True):
    """What to answer: the status, and which bytes as (start, end) with the end exclusive."""

    status: int
    ranges: tuple[tuple[int, int], ...] = ()


def artefact_path(artefacts: Path, view: JobView, artefact: Artefact) -> Path:
    """Where an artefact of a finished job lies."""
    return artefacts / view.id / str(view.fence) / artefact.name


def find_artefact(view: JobView, *, name: str | None = None, index: int = 0) -> tuple[int, Artefact]:
    """An artefact of a job by name or index. Raises `EdgeError` `not_ready` while there are none, `not_found` for a wrong one."""
    if view.state != "succeeded" or view.result is None:
        if view.state in ("failed", "cancelled"):
            why = f": {view.failure.message}" if view.failure and view.failure.message else ""
            raise EdgeError(
                "not_ready", f"job {view.id} is {view.state} and has no result{why}", param="id", value=view.id
            )
        step = f" at step {view.step} of {view.total}" if view.total else ""
        raise EdgeError(
            "not_ready", f"job {view.id} is {view.state}{step}; it has no result yet", param="id", value=view.id
        )
    artefacts = view.result.artefacts
    if name is not None:
        for position, artefact in enumerate(artefacts):
            if artefact.name == name:
                return position, artefact
        known = ", ".join(artefact.name for artefact in artefacts) or "none"
        raise EdgeError(
            "not_found", f"name: {shown(name)} is not an artefact of this job; there are: {known}", param="name"
        )
    if not 0 <= index < len(artefacts):
        raise EdgeError(
            "not_found",
            f"index: {index} is not an artefact of this job; there are {len(artefacts)}, from 0",
            param="index",
        )
    return index, artefacts[index]


# ---------------------------------------------------------------- the plan


def plan(headers: Headers, *, etag: str, size: int, modified_s: int) -> Plan:
    """What a GET or HEAD with these headers gets, in the order of RFC 9110, 13.2.2.

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
    wanted = headers.get("range")
    if wanted is None or not _range_applies(headers.get("if-range"), etag, modified_s):
        return Plan(200)
    return _plan_ranges(wanted, size)


def _plan_ranges(wanted: str, size: int) -> Plan:
    unit, equals, text = wanted.partition("=")
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
    """Unix time of an HTTP date; None when absent or not one, which the RFC says to ignore."""
    if text is None:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------- carrying it out


async def artefact_response(
    request: Request, artefacts: Path, view: JobView, index: int, artefact: Artefact
) -> Response:
    """The response for one artefact. Raises `EdgeError` when the file is gone, or the request's conditions or ranges fail."""
    path = artefact_path(artefacts, view, artefact)
    modified_s = await anyio.to_thread.run_sync(_check_file, artefacts, path, artefact)
    etag = f'"{artefact.sha256}"'
    decided = plan(request.headers, etag=etag, size=artefact.size, modified_s=modified_s)
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "ETag": etag,
        "Last-Modified": formatdate(modified_s, usegmt=True),
    }
    if decided.status == 412:
        raise EdgeError("precondition_failed", "the file is not in the state that the request's conditions name")
    if decided.status == 416:
        message = f"range: {shown(request.headers['range'])} is outside the file's {artefact.size} bytes"
        raise EdgeError("range_not_satisfiable", message, headers={"Content-Range": f"bytes */{artefact.size}"})
    if decided.status == 304:
        return Response(status_code=304, headers=headers)
    disposition = "attachment" if request.query_params.get("download", "0") not in ("", "0", "false") else "inline"
    headers |= {
        "Content-Disposition": _disposition(disposition, file_name(view, index, artefact)),
        "X-Content-Type-Options": "nosniff",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(artefact.sha256)).decode()}:",
    }
    return _body(request.method, path, artefact, decided, headers)


def file_name(view: JobView, index: int, artefact: Artefact) -> str:
    """What a downloaded artefact is called: by its job, as every job's first file has the same name."""
    suffix = Path(artefact.name).suffix
    return f"{view.id}{suffix}" if index == 0 else f"{view.id}-{index}{suffix}"


def _body(method: str, path: Path, artefact: Artefact, decided: Plan, headers: dict[str, str]) -> Response:
    media_type, size = artefact.media_type, artefact.size
    pieces: list[bytes | tuple[int, int]]
    if decided.status == 200:
        pieces, length = [(0, size)], size
    elif len(decided.ranges) == 1:
        start, end = decided.ranges[0]
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        pieces, length = [(start, end)], end - start
    else:
        boundary = secrets.token_hex(16)
        pieces = _multipart(decided.ranges, boundary, media_type, size)
        length = sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)
        media_type = f"multipart/byteranges; boundary={boundary}"
    headers["Content-Length"] = str(length)
    if method == "HEAD":
        return Response(status_code=decided.status, headers=headers, media_type=media_type)
    return StreamingResponse(_read(path, pieces), status_code=decided.status, headers=headers, media_type=media_type)


def _multipart(
    ranges: tuple[tuple[int, int], ...], boundary: str, media_type: str, size: int
) -> list[bytes | tuple[int, int]]:
    pieces: list[bytes | tuple[int, int]] = []
    for start, end in ranges:
        lead = "" if not pieces else "\r\n"
        head = (
            f"{lead}--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {start}-{end - 1}/{size}\r\n\r\n"
        )
        pieces += [head.encode("ascii"), (start, end)]
    pieces.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return pieces


async def _read(path: Path, pieces: list[bytes | tuple[int, int]]) -> AsyncIterator[bytes]:
    file = await anyio.to_thread.run_sync(_open, path)
    try:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            start, end = piece
            while start < end:
                chunk = await anyio.to_thread.run_sync(os.pread, file, min(_CHUNK_BYTES, end - start), start)
                if not chunk:
                    raise OSError(f"{path} is shorter than published")
                start += len(chunk)
                yield chunk
    finally:
        os.close(file)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _check_file(artefacts: Path, path: Path, artefact: Artefact) -> int:
    """The file's time in whole seconds. Raises `EdgeError` when it is not the whole regular file below `artefacts` that was published."""
    try:
        status = os.lstat(path)
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(artefacts))
    except OSError:
        raise EdgeError("gone", f"the file {artefact.name} of this job is no longer kept") from None
    if not (inside and stat.S_ISREG(status.st_mode) and status.st_size == artefact.size):
        raise EdgeError("gone", f"the file {artefact.name} of this job is not as it was published")
    return int(status.st_mtime)


def _disposition(kind: str, name: str) -> str:
    quoted = quote(name)
    return f'{kind}; filename="{name}"' if quoted == name else f"{kind}; filename*=utf-8''{quoted}"
