"""Requests as values: built here once, carried out by either client. And where to send them: address and key."""

from __future__ import annotations

import mimetypes
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

from zoetrope.client.errors import ServiceError, ZoetropeError, error_class
from zoetrope.client.retries import retry_after_s

#: Where a service listens unless it is set up otherwise.
DEFAULT_PORT = 8000
#: Seconds without a byte before a request has failed. Submissions may take as long as an upload is spooled and checked.
TIMEOUT_S = 60.0
#: An event stream sends a comment at least every 15 s.
STREAM_TIMEOUT_S = 40.0

#: What is uploaded: a file by its path, its bytes, or an open file.
FileSource = Path | bytes | BinaryIO


class FilePart(Struct, frozen=True):
    """A file of a form."""

    field: str
    name: str
    source: Any
    media_type: str = "application/octet-stream"


class Request(Struct, frozen=True, kw_only=True):
    """A request; `repeatable`: sent twice, it does the same as once."""

    method: str
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    #: JSON body; with `files` the fields of a form.
    fields: dict[str, Any] | None = None
    files: tuple[FilePart, ...] = ()
    repeatable: bool = True
    timeout_s: float = TIMEOUT_S


class Reply(Struct, frozen=True, kw_only=True):
    """An answer; names of headers are in lower case. `body` is empty while the answer is read as a stream."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


def get(path: str, **query: Any) -> Request:
    """A read. Of the query, what is None is left out."""
    return Request(
        method="GET", path=path, query={name: str(value) for name, value in query.items() if value is not None}
    )


def segment(text: str) -> str:
    """A name as part of a path. Raises `ZoetropeError` for an empty one, which would name the whole collection."""
    if not text:
        raise ZoetropeError("the name is empty; it must name a job, a worker, a model or a file")
    return quote(text, safe="")


def is_file(value: Any) -> bool:
    """Whether a field's value is to be uploaded. Text is a path, URL or id that the service reads."""
    return isinstance(value, Path | bytes) or hasattr(value, "read")


def file_part(name: str, value: FileSource) -> FilePart:
    """A file of a form. Raises `ZoetropeError` for a path that cannot be read."""
    if isinstance(value, Path):
        if not value.is_file():
            raise ZoetropeError(f"{name}: {str(value)!r} is no file that can be read")
        file_name = value.name
    else:
        file_name = Path(str(getattr(value, "name", "") or name)).name
    return FilePart(name, file_name, value, mimetypes.guess_type(file_name)[0] or "application/octet-stream")


def submission(prompt: str, fields: Mapping[str, Any], key: str | None = None) -> Request:
    """The request for a job. `key`: its idempotency key; without one, and without an `id` of the job, one is drawn at random."""
    fields_given = {"prompt": prompt, **{name: value for name, value in fields.items() if value is not None}}
    headers = {}
    if "id" not in fields_given:
        headers["Idempotency-Key"] = key or uuid.uuid4().hex
    elif key is not None:
        raise ZoetropeError("a job's own id and an idempotency key exclude each other")
    parts: list[FilePart] = []
    for name, value in list(fields_given.items()):
        members = value if isinstance(value, list | tuple) else [value]
        files = [is_file(member) for member in members]
        if not any(files):
            continue
        if not all(files):
            raise ZoetropeError(f"{name}: is a mixture of files and text; upload the files first and name their ids")
        parts += [file_part(name, member) for member in members]
        del fields_given[name]
    return Request(
        method="POST",
        path="/v1/jobs",
        headers=headers,
        fields=_form(fields_given) if parts else fields_given,
        files=tuple(parts),
    )


def _form(fields: Mapping[str, Any]) -> dict[str, str]:
    """Fields as a form has them: text, and JSON for what has members. Raises `ZoetropeError` for what is neither."""
    return {name: value if isinstance(value, str) else _json(name, value) for name, value in fields.items()}


def _json(name: str, value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except TypeError as error:
        raise ZoetropeError(f"{name}: {error}") from None


def uploading(file: FileSource, purpose: str, name: str) -> Request:
    """The request that keeps a file. A repeated one would keep it twice, which costs room and nothing else."""
    part = file_part("file", file)
    if name:
        part = msgspec.structs.replace(part, name=name)
    return Request(method="POST", path="/v1/files", fields={"purpose": purpose}, files=(part,))


def estimating(fields: Mapping[str, Any]) -> Request:
    """The request for an estimate. Fields that are neither number nor text have no effect on it, and are left out."""
    return get(
        "/v1/queue/estimate", **{name: value for name, value in fields.items() if isinstance(value, str | int | float)}
    )


def draining(worker: str, *, hand_back: bool, even_last: bool) -> Request:
    """The request that lets a worker leave."""
    query = {name: "true" for name, is_set in (("hand_back", hand_back), ("even_last", even_last)) if is_set}
    return Request(method="POST", path=f"/v1/workers/{segment(worker)}/drain", query=query)


def undraining(worker: str) -> Request:
    """The request that gives a worker work again."""
    return Request(method="POST", path=f"/v1/workers/{segment(worker)}/undrain")


def reading_usage(first_day: str | None, last_day: str | None, by: str) -> Request:
    """The request for what was used; `by` has commas between its words."""
    return get("/v1/usage", **{"from": first_day, "to": last_day, "by": by})


def reading_recipe(file: FileSource) -> Request:
    """The request that reads what a file was drawn with."""
    return Request(method="POST", path="/v1/recipe", fields={}, files=(file_part("file", file),))


def reading_credentials(file: FileSource) -> Request:
    """The request that checks a file's content credentials."""
    return Request(method="POST", path="/v1/credentials", fields={}, files=(file_part("file", file),))


def error_of(reply: Reply, now: float) -> ServiceError:
    """The error that an answer names."""
    try:
        body = msgspec.json.decode(reply.body, type=_ErrorBody)
    except (msgspec.DecodeError, msgspec.ValidationError):
        body = _ErrorBody()
    error = body.error if not isinstance(body.error, UnsetType) else _ErrorMembers()
    message = error.message or body.detail or "; ".join(body.reasons) or f"the service answered {reply.status}"
    return error_class(reply.status, error.code or "")(
        message,
        status=reply.status,
        code=error.code or "",
        param=error.param,
        retry_after_s=retry_after_s(reply.headers, now),
        request_id=reply.headers.get("x-request-id", ""),
    )


class _ErrorMembers(Struct):
    message: str = ""
    param: str | None = None
    code: str | None = None


class _ErrorBody(Struct):
    error: _ErrorMembers | UnsetType = UNSET
    detail: str = ""
    reasons: Sequence[str] = ()


class Address(Struct, frozen=True):
    """Address of the service, and the key to it."""

    url: str
    api_key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, which no proxy of the environment leads to."""
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")


def address(url: str | None, api_key: str | None, environ: Mapping[str, str] = os.environ) -> Address:
    """The address from what was given, ZOETROPE_URL and ZOETROPE_API_KEY, or this machine's. Raises `ZoetropeError`."""
    place = "url" if url else "ZOETROPE_URL"
    found = url or environ.get("ZOETROPE_URL") or f"http://127.0.0.1:{environ.get('ZOETROPE_PORT') or DEFAULT_PORT}"
    try:
        parts = urlsplit(found)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ZoetropeError(f"{place}: {found!r} must be an address like http://127.0.0.1:8000")
    key = environ.get("ZOETROPE_API_KEY", "") if api_key is None else api_key
    if not (key.isascii() and key.isprintable()):
        raise ZoetropeError("the API key must be of printable ASCII characters")
    return Address(found.rstrip("/"), key.strip())
