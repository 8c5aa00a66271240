"""What happens to every request, in one plain ASGI layer: its id, its size, its path's last slash, its line in the metrics."""

from __future__ import annotations

import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from http_edge.errors import error_response
from http_edge.metrics import Metrics
from http_edge.spool import too_large

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

#: Methods that get a line of their own in the metrics; clients may send any word.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class EdgeMiddleware:
    """Gives every response an `x-request-id` (the client's, if it sent a sane one), refuses bodies over the cap, drops a trailing slash.

    A path with and without its last slash is the same path: a redirect would lose the body of a POST in some clients.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            scope["path"] = path.rstrip("/") or "/"
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        started_at = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._within_cap(scope, headers, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.observe(route, method, status, time.perf_counter() - started_at)

    async def _within_cap(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Refuse by the declared length before anything is read, and by the real one while reading."""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_body_bytes:
            error = too_large(f"{length[:20]} bytes", self._max_body_bytes)
            await error_response(error, scope["path"])(scope, receive, send)
            return
        total = 0

        async def receive_counted() -> Message:
            nonlocal total
            message = await receive()
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                if total > self._max_body_bytes:
                    raise too_large(f"more than {self._max_body_bytes} bytes", self._max_body_bytes)
            return message

        await self._app(scope, receive_counted, send)


def _request_id(sent: str) -> str:
    return sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(16)
