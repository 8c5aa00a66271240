"""Errors of requests: failure kind -> status (`error_table`) and body, per API family.

Code anywhere in the edge raises `EdgeError` with a kind; which status and which body that becomes is decided by the family that owns the
request's path (`Family`). Bad input is the client's error: nothing here logs it, and messages repeat values shortened.
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from broker.client import errors as broker_errors
from broker.wire.terms import DISK_RETRY_S, MAX_RETRY_AFTER_S
from http_edge.base.error_table import BY_STATUS, TABLE, Kind

__all__ = ["TABLE", "EdgeError", "Kind"]

#: Longest part of a client's value that an error repeats.
SHOWN_CHARS = 80


class EdgeError(Exception):
    """Error that a request is answered with."""

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
        #: Code in bodies that have one, where the kind is too coarse.
        self.code: str = code or kind
        #: All fields at fault, when there are several.
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
    """The error for an object that does not exist."""
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
    """Build the error for a refusal of the broker."""
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
            param = {"deadline": "deadline_s", "promise": "ready_within_s", "gpus": "gpus"}.get(error.code)
            headers = (
                {"x-ready-within-s": f"{math.ceil(error.earliest_s * 1000) / 1000:.3f}"} if error.earliest_s else None
            )
            message = f"{param}: {error.message}" if error.code in ("promise", "gpus") else error.message
            return EdgeError("invalid_value", message, param=param, headers=headers)
        case _:
            return EdgeError("unavailable", error.message, retry_after_s=2.0)


def from_disk(error: OSError) -> EdgeError | None:
    """Build the error for a disk that cannot be written; None when `error` is something else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EdgeError("disk_full", "the service's disk is full", retry_after_s=DISK_RETRY_S)
    if error.errno == errno.EROFS:
        return EdgeError("unavailable", "the service's disk cannot be written", retry_after_s=DISK_RETRY_S)
    return None


# ---------------------------------------------------------------- answers


class Family(Struct, frozen=True, kw_only=True):
    """Form of an API family's errors."""

    name: str
    #: What its paths begin with; of all families' prefixes the longest decides.
    prefixes: tuple[str, ...]
    #: The body of an error, from its status and the request's path.
    render: Callable[[EdgeError, int, str], Struct]
    body: type[Struct]
    #: Where its statuses differ from the table's.
    statuses: Mapping[Kind, int] = {}
    media_type: str = "application/json"


class ErrorResponses:
    """Errors as responses, each in the form of the family that owns its path. One prefix must be "", for all other paths."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = tuple(families)
        by_prefix = [(prefix, family) for family in self.families for prefix in family.prefixes]
        self._by_prefix = sorted(by_prefix, key=lambda item: len(item[0]), reverse=True)
        #: Handlers by class of error, as starlette takes them; any error that has no other is a bug.
        self.handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
            EdgeError: self._on_edge_error,
            broker_errors.BrokerError: self._on_broker_error,
            HTTPException: self._on_http_exception,
            ClientDisconnect: _on_disconnect,
            Exception: self.on_bug,
        }

    def family_of(self, path: str) -> Family:
        """The API family that owns a path."""
        return next(family for prefix, family in self._by_prefix if path.startswith(prefix))

    def status_of(self, kind: Kind, path: str) -> int:
        """The status that an error of this kind has on this path."""
        return self.family_of(path).statuses.get(kind, TABLE[kind].status)

    def response(self, error: EdgeError, path: str) -> Response:
        """The response for an error on this path."""
        family, row = self.family_of(path), TABLE[error.kind]
        status = self.status_of(error.kind, path)
        headers = dict(error.headers)
        if error.retry_after_s > 0 and status >= 400:
            headers["Retry-After"] = str(math.ceil(min(MAX_RETRY_AFTER_S, max(1.0, error.retry_after_s))))
        if row.retry is not None and status >= 400:
            headers["x-should-retry"] = "true" if row.retry else "false"
        headers["Cache-Control"] = "no-store"
        body = msgspec.json.encode(family.render(error, status, path))
        return Response(body, status_code=status, media_type=family.media_type, headers=headers)

    async def answer(self, request: Request, error: Exception) -> Response:
        """The response for an error of `ANSWERED`."""
        handler = next(self.handlers[kind] for kind in type(error).__mro__ if kind in self.handlers)
        return await handler(request, error)

    async def on_bug(self, request: Request, error: Exception) -> Response:
        """The response for a bug of this service. The server logs it; the client gets no detail."""
        bug = EdgeError("internal", "internal error; the server's log says more")
        # This answer is given outside all layers, so the id that the log's reader needs is put on here.
        bug.headers["x-request-id"] = request.scope.get("state", {}).get("request_id", "")
        return self.response(bug, request.scope["path"])

    async def _on_edge_error(self, request: Request, error: EdgeError) -> Response:
        return self.response(error, request.scope["path"])

    async def _on_broker_error(self, request: Request, error: broker_errors.BrokerError) -> Response:
        return self.response(from_broker(error), request.scope["path"])

    async def _on_http_exception(self, request: Request, error: HTTPException) -> Response:
        """The response for what starlette raises itself: no such route, wrong method, body over a cap."""
        path = request.scope["path"]
        headers = dict(error.headers or {})
        if error.status_code == 405:
            # Starlette joins a set, whose order changes from run to run.
            allowed = sorted(part.strip() for part in headers.pop("Allow", "").split(",") if part.strip())
            headers["Allow"] = ", ".join(allowed)
            message = f"method: {shown(request.method)} is not supported here; supported: {headers['Allow']}"
            return self.response(EdgeError("method_not_allowed", message, param="method", headers=headers), path)
        if error.status_code == 404:
            return self.response(not_found("path", path), path)
        kind = BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "bad_json")
        return self.response(EdgeError(kind, error.detail, headers=headers), path)


#: Errors that have an answer. Any other is a bug.
ANSWERED = (EdgeError, broker_errors.BrokerError, HTTPException, ClientDisconnect)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """The response to a client that left while its body was read: it is not read, and needs no traceback in the log."""
    return Response(status_code=499)
