"""Errors of requests: failure kind -> status (`error_table`) and body, per API family.

Code anywhere in the edge raises `EdgeError` with a kind; which status and which body that becomes is decided here alone, by the family that
owns the request's path. Bad input is the client's news, not ours: nothing here logs, and values are shown shortened.
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from broker.client import errors as broker_errors
from http_edge.base.error_table import BY_STATUS, CLOUD_STATUS, TABLE, TASKS_STATUS, Family, Kind, Row

__all__ = ["TABLE", "EdgeError", "Kind"]

#: Longest part of a client's value that an error repeats.
SHOWN_CHARS = 80

#: The openai SDKs give up at once when told to wait longer than this.
MAX_RETRY_AFTER_S = 120


#: What a client refused for the disk's sake is told to wait.
_DISK_RETRY_S = 30.0


class EdgeError(Exception):
    """The edge could not do this."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        params: Sequence[str] = (),
        value: Any = None,
        place: str = "body",
        retry_after_s: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        #: The field at fault, as the client wrote it.
        self.param = param
        #: The word for it in bodies that have one, where the kind is too coarse.
        self.code: str = code or kind
        #: All of them, when several are at fault alike.
        self.params = tuple(params) or ((param,) if param else ())
        self.value = value
        #: Where the field was: body, query or path.
        self.place = place
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})


def invalid(field: str, value: Any, rule: str, *, place: str = "body") -> EdgeError:
    """The error for a value that breaks a rule: names field, value and rule."""
    return EdgeError("invalid_value", f"{field}: {shown(value)} {rule}", param=field, value=value, place=place)


def not_found(what: str, name: str) -> EdgeError:
    """The error for a name that nothing bears."""
    return EdgeError("not_found", f"{what}: {shown(name)} does not exist", param=what, value=name, place="path")


def shown(value: Any) -> str:
    """A client's value as an error repeats it: JSON, at most `SHOWN_CHARS` characters, containers by their kind only."""
    if isinstance(value, str):
        text = json.dumps(value[: SHOWN_CHARS + 1], ensure_ascii=False)
        return text if len(value) <= SHOWN_CHARS else f'{text[:SHOWN_CHARS]}…" ({len(value)} characters)'
    if isinstance(value, dict):
        return f"an object of {len(value)} members"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return "a number of more than 77 digits"
    return json.dumps(value)


def from_broker(error: broker_errors.BrokerError) -> EdgeError:
    """What a refusal of the broker means to a client."""
    match error:
        case broker_errors.QueueFull():
            return EdgeError("queue_full", error.message, retry_after_s=error.retry_after_s or 5.0)
        case broker_errors.ServiceBusy():
            return EdgeError("busy", error.message, retry_after_s=error.retry_after_s or 1.0)
        case broker_errors.AliasTaken():
            return EdgeError("alias_taken", error.message)
        case broker_errors.IdConflict():
            return EdgeError("id_conflict", error.message, param="id")
        case broker_errors.ShuttingDown():
            return EdgeError("shutting_down", error.message, retry_after_s=error.retry_after_s or 5.0)
        case broker_errors.SubmitRejected():
            param = "deadline_s" if error.code == "deadline" else None
            return EdgeError("invalid_value", error.message, param=param)
        case _:
            return EdgeError("unavailable", error.message, retry_after_s=2.0)


def from_disk(error: OSError) -> EdgeError | None:
    """What a disk's refusal to be written means to a client; None when it is something else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EdgeError("disk_full", "the service's disk is full", retry_after_s=_DISK_RETRY_S)
    if error.errno == errno.EROFS:
        return EdgeError("unavailable", "the service's disk cannot be written", retry_after_s=_DISK_RETRY_S)
    return None


# ---------------------------------------------------------------- bodies, one function a family

Rendered = tuple[int, dict[str, Any], str]


def _native(error: EdgeError, row: Row, path: str) -> Rendered:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(row.status).phrase,
        "status": row.status,
        "detail": error.message,
        "instance": path,
        "error": _error_member(error, row),
    }
    return row.status, body, "application/problem+json"


def _error_member(error: EdgeError, row: Row) -> dict[str, Any]:
    """The member that OpenAI's clients read, whatever else a body holds."""
    return {"message": error.message, "type": row.type, "param": error.param, "code": error.code}


def _lightx2v(error: EdgeError, row: Row, path: str) -> Rendered:
    status = row.lightx2v or row.status
    if status == 422:
        return status, {"detail": _detail_items(error)}, "application/json"
    if status == 200:
        return status, {"error": error.message}, "application/json"
    return status, {"error": error.message, "detail": error.message}, "application/json"


def _detail_items(error: EdgeError) -> list[dict[str, Any]]:
    """FastAPI's list of faults."""
    kind = {"bad_json": "json_invalid", "missing_field": "missing"}.get(error.kind, "value_error")
    sent = shown(error.value) if error.value is not None else None
    places = [[error.place, param] for param in error.params] or [[error.place]]
    return [{"type": kind, "loc": place, "msg": error.message, "input": sent} for place in places]


def _lightx2v_tasks(error: EdgeError, row: Row, path: str) -> Rendered:
    status = TASKS_STATUS.get(error.kind, row.status)
    detail: Any = _detail_items(error) if status == 422 else error.message
    return status, {"detail": detail, "error": _error_member(error, row)}, "application/json"


def _lightx2v_cloud(error: EdgeError, row: Row, path: str) -> Rendered:
    status = CLOUD_STATUS.get(error.kind, row.status)
    body = {"message": f"error: {error.message}!", "detail": error.message, "error": _error_member(error, row)}
    return status, body, "application/json"


def _openai(error: EdgeError, row: Row, path: str) -> Rendered:
    """The native body, which has `error` and `detail` both; as plain JSON, which every client of that family looks into."""
    status, body, _ = _native(error, msgspec.structs.replace(row, status=row.openai or row.status), path)
    return status, body, "application/json"


_RENDERERS: dict[Family, Callable[[EdgeError, Row, str], Rendered]] = {
    "native": _native,
    "lightx2v": _lightx2v,
    "lightx2v_tasks": _lightx2v_tasks,
    "lightx2v_cloud": _lightx2v_cloud,
    "openai": _openai,
}

#: Path prefix -> family; the first that matches, else native.
FAMILY_PREFIXES: tuple[tuple[str, Family], ...] = (
    ("/v1/local/", "lightx2v"),
    ("/v1/file/", "lightx2v"),
    ("/v1/tasks", "lightx2v_tasks"),
    ("/v1/service/", "lightx2v_tasks"),
    ("/v1/files/download/", "lightx2v_tasks"),
    ("/api/v1/", "lightx2v_cloud"),
    ("/assets/task/", "lightx2v_cloud"),
    ("/v1/videos", "openai"),
    ("/v1/images", "openai"),
    ("/v1/models", "openai"),
)


def family_of(path: str) -> Family:
    """The API family that owns a path."""
    return next((family for prefix, family in FAMILY_PREFIXES if path.startswith(prefix)), "native")


def error_response(error: EdgeError, path: str) -> Response:
    """The response for an error on this path."""
    row = TABLE[error.kind]
    status, body, media_type = _RENDERERS[family_of(path)](error, row, path)
    headers = dict(error.headers)
    if error.retry_after_s > 0 and status >= 400:
        headers["Retry-After"] = str(min(MAX_RETRY_AFTER_S, max(1, math.ceil(error.retry_after_s))))
    if row.retry is not None and status >= 400:
        headers["x-should-retry"] = "true" if row.retry else "false"
    headers["Cache-Control"] = "no-store"
    return Response(msgspec.json.encode(body), status_code=status, media_type=media_type, headers=headers)


# ---------------------------------------------------------------- starlette's exception handlers


async def on_edge_error(request: Request, error: Exception) -> Response:
    """Handler of `EdgeError`."""
    assert isinstance(error, EdgeError)
    return error_response(error, request.scope["path"])


async def on_broker_error(request: Request, error: Exception) -> Response:
    """Handler of `BrokerError` that no caller translated."""
    assert isinstance(error, broker_errors.BrokerError)
    return error_response(from_broker(error), request.scope["path"])


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Handler of what starlette raises itself: no such route, wrong method, body over a cap."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # Starlette joins a set, whose order changes from run to run.
        allowed = sorted(part.strip() for part in headers.pop("Allow", "").split(",") if part.strip())
        headers["Allow"] = ", ".join(allowed)
        message = f"method: {shown(request.method)} is not supported here; supported: {headers['Allow']}"
        return error_response(EdgeError("method_not_allowed", message, param="method", headers=headers), path)
    if error.status_code == 404:
        return error_response(not_found("path", path), path)
    kind = BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "bad_json")
    return error_response(EdgeError(kind, error.detail, headers=headers), path)


async def on_disconnect(request: Request, error: Exception) -> Response:
    """Handler of a client that left while its body was read: nobody hears the answer, and nobody needs a traceback."""
    return Response(status_code=499)


async def on_bug(request: Request, error: Exception) -> Response:
    """Handler of everything else: a fault of ours. The server logs it; the client learns no more than that."""
    error = EdgeError("internal", "internal error; the server's log says more")
    # This answer is given outside all layers, so the id that the log's reader needs is put on here.
    error.headers["x-request-id"] = request.scope.get("state", {}).get("request_id", "")
    return error_response(error, request.scope["path"])


HANDLERS: dict[Any, Any] = {
    EdgeError: on_edge_error,
    broker_errors.BrokerError: on_broker_error,
    HTTPException: on_http_exception,
    ClientDisconnect: on_disconnect,
    Exception: on_bug,
}
