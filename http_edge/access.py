"""Who a request is from and what goes with it, in one plain ASGI layer: its key, its trace, its idempotency key; 401 without a key.

The layer stands before all APIs, so that none of them knows of keys: what they ask of the broker is bounded by `scope.current()`.
"""

from __future__ import annotations

import contextlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from http_edge import idempotency
from http_edge.errors import EdgeError, error_response
from http_edge.idempotency import InFlight
from http_edge.keys import KeyRing
from http_edge.scope import ANYBODY, REQUEST, Caller, Payload, RequestScope
from http_edge.spool import CLOSE, SMALL_BODY_BYTES
from http_edge.trace import read_trace

#: For probes, and for whoever wants to know how to ask.
OPEN_PATHS = frozenset(
    ("/", "/health", "/healthz", "/health_generate", "/readyz", "/livez", "/liveness", "/openapi.json", "/docs")
)
_METRICS = "/metrics"

#: Headers of one request, in number and bytes.
_MAX_HEADERS = 128
_MAX_HEADER_BYTES = 64 * 1024

_CHALLENGE = 'Bearer realm="zoetrope"'


class AccessMiddleware:
    """Sets the scope of every request. Without a key ring everybody may do everything, as one tenant."""

    def __init__(self, app: ASGIApp, keys: KeyRing | None, metrics_open: bool) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = OPEN_PATHS | {_METRICS} if metrics_open else OPEN_PATHS
        self._in_flight = InFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = read_trace(headers.get("traceparent", ""), headers.get("tracestate", ""))
        request = RequestScope(ANYBODY, request_id=scope.get("state", {}).get("request_id", ""), trace=trace)

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                marked = MutableHeaders(scope=message)
                marked["traceparent"] = trace.traceparent
                if trace.state:
                    marked["tracestate"] = trace.state
                if request.replayed:
                    marked["Idempotency-Replayed"] = "true"
            await send(message)

        with contextlib.ExitStack() as held:
            try:
                self._admit(request, scope, headers)
                if request.job_key:
                    held.enter_context(self._in_flight.only_one(request.job_key))
            except EdgeError as error:
                await error_response(error, scope["path"])(scope, receive, send_marked)
                return
            token = REQUEST.set(request)
            held.callback(REQUEST.reset, token)
            await self._app(scope, receive, send_marked)

    def _admit(self, request: RequestScope, scope: Scope, headers: Headers) -> None:
        """Fill in who asks, and what for. Raises `EdgeError`."""
        _check_size(scope)
        path = scope["path"]
        if self._keys is not None and path not in self._open_paths:
            request.caller = self._caller(self._keys, headers)
        if scope["method"] != "POST":
            return
        key = idempotency.read_key(headers.getlist(idempotency.HEADER))
        if key:
            request.job_key = idempotency.job_key(request.caller.tenant, path, key)
            request.payload = Payload()
            request.payload.add(scope.get("query_string", b"").decode("latin-1"))

    def _caller(self, keys: KeyRing, headers: Headers) -> Caller:
        """Whoever sent one of the keys. Raises `EdgeError`.

        Either header will do: clients of other APIs send some bearer token whether or not they were given one.
        """
        sent = _sent_keys(headers)
        for key in sent:
            record = keys.find(key)
            if record is not None:
                return Caller(
                    key_name=record.name,
                    tenant=record.tenant,
                    sees=record.tenant,
                    max_queued=record.max_queued,
                    max_running=record.max_running,
                    max_priority=record.max_priority,
                )
        message = "the API key is not known, or has expired" if sent else "an API key is needed"
        raise EdgeError(
            "unauthorized",
            f"{message}: Authorization: Bearer KEY, or X-API-Key: KEY",
            code="invalid_api_key",
            headers={
                "WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"' if sent else _CHALLENGE,
                **({} if _is_small(headers) else CLOSE),
            },
        )


def _sent_keys(headers: Headers) -> list[str]:
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return [key for key in (bearer, headers.get("x-api-key", "").strip()) if key]


def _is_small(headers: Headers) -> bool:
    """Whether the body, which nobody will read, is worth keeping the connection for."""
    length = headers.get("content-length", "0")
    return "transfer-encoding" not in headers and length.isdecimal() and int(length[:20]) <= SMALL_BODY_BYTES


def _check_size(scope: Scope) -> None:
    headers = scope["headers"]
    if len(headers) > _MAX_HEADERS:
        raise EdgeError("headers_too_large", f"headers: {len(headers)} came, at most {_MAX_HEADERS}", headers=CLOSE)
    size = sum(len(name) + len(value) for name, value in headers)
    if size > _MAX_HEADER_BYTES:
        message = f"headers: they have {size} bytes, at most {_MAX_HEADER_BYTES}"
        raise EdgeError("headers_too_large", message, headers=CLOSE)
