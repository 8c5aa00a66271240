"""Middleware of every request, in one plain ASGI layer: its id, its size, its path's last slash, its tenant and client, its trace, its
route, its errors, its line in the metrics.

One layer and not one for each: a status read is answered from memory, and layers that each read all headers and wrap `send` would be
most of what it costs.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.depot import tokens
from broker.runtime.log_actions import Action
from http_edge.api.common.metrics import Metrics
from http_edge.auth.access import Access
from http_edge.auth.web_pages import Sent, WebPages
from http_edge.base.context import OPEN_CALLER, REQUEST, RequestScope
from http_edge.base.errors import ANSWERED, EdgeError, ErrorResponses, from_disk
from http_edge.base.idempotency import InFlight
from http_edge.base.limits import too_large
from http_edge.base.random_hex import random_hex
from http_edge.base.trace import new_trace, read_trace
from http_edge.body.upload_places import network_of
from http_edge.http.read_turns import ReadPlaces
from http_edge.http.routing import EdgeRoute, RouteTable

log = logging.getLogger(__name__)

#: Wait in the answer of a server that stops, seconds.
_STOPPING_RETRY_S = 2.0

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

#: Methods that get a line of their own in the metrics; clients may send any name.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
#: Requests of these have no body unless their headers announce one.
_BODILESS = frozenset(("GET", "HEAD", "OPTIONS"))


class Exchange:
    """Request under way: headers that its answer bears beside the handler's own, and the status that went out (0: none yet)."""

    __slots__ = ("_send", "request", "request_id", "sent", "status")

    def __init__(self, sent: Sent, send: Send) -> None:
        self.sent = sent
        self._send = send
        given = sent.get(b"x-request-id")
        self.request_id = given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else random_hex(32)
        self.status = 0
        #: None until it is admitted.
        self.request: RequestScope | None = None

    def send(self, message: Message) -> Awaitable[None]:
        """ASGI's `send`. The handler's list of headers is left as it is."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            request = self.request
            if request is not None and request.trace is not None:
                headers.append((b"traceparent", request.trace.traceparent.encode()))
                if request.trace.state:
                    headers.append((b"tracestate", request.trace.state.encode("latin-1")))
                if request.replayed:
                    headers.append((b"idempotency-replayed", b"true"))
        return self._send(message)


class Middleware:
    """The application's outermost layer, which is all of them.

    Gives every response an `x-request-id` (the client's, if it sent a valid one), refuses bodies over the cap and requests that may not
    come, and drops a trailing slash: a path with and without it is the same path, and a redirect would lose the body of a POST in some
    clients.
    Files that workers put have a cap of their own: the size that was signed.
    `wrap` puts further layers between these and the routes; `other` handles lifespan and websockets.
    """

    def __init__(
        self,
        routes: Iterable[EdgeRoute],
        access: Access,
        pages: WebPages,
        metrics: Metrics,
        errors: ErrorResponses,
        max_body_bytes: int,
        *,
        other: ASGIApp,
        wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    ) -> None:
        self._table = RouteTable(routes)
        self._access = access
        self._pages = pages
        self._good_hosts = pages.good_hosts
        self._metrics = metrics
        self._errors = errors
        self._max_body_bytes = max_body_bytes
        self._other = other
        self._in_flight = InFlight()
        self._reads = ReadPlaces()
        self._inner = wrap(self._admitted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        started_at = time.perf_counter()
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            scope["path"] = path.rstrip("/") or "/"
        # Of a header that was sent twice the first counts.
        sent = dict(reversed(scope["headers"]))
        exchange = Exchange(sent, send)
        state = scope.setdefault("state", {})
        state["request_id"], state["exchange"] = exchange.request_id, exchange
        try:
            refused = None
            # Most clients' names are known, and most send each header once.
            if sent.get(b"host") not in self._good_hosts or len(sent) != len(scope["headers"]):
                refused = self._pages.refuse(scope, sent)
            if refused is not None:
                await self._errors.response(refused, scope["path"])(scope, receive, exchange.send)
            elif _may_have_body(sent, scope["method"]) and not scope["path"].startswith(tokens.PREFIX):
                await self._within_cap(scope, sent, receive, exchange)
            else:
                await self._inner(scope, receive, exchange.send)
        except asyncio.CancelledError:
            # The server cancels what still runs when the grace of its stop is over, and would answer 500 in its own words.
            if exchange.status:
                raise
            stopping = EdgeError("unavailable", "this server is stopping", retry_after_s=_STOPPING_RETRY_S)
            await self._errors.response(stopping, scope["path"])(scope, receive, exchange.send)
        except Exception as error:
            if not exchange.status:
                exchange.status = 500
                await (await self._errors.on_bug(Request(scope), error))(scope, receive, send)
            # The server logs it.
            raise
        finally:
            # It leads back to the server's own record of the request, which holds the scope: a cycle would be left to the collector.
            del state["exchange"]
            route = scope.get("route")
            method = scope["method"]
            self._metrics.observe(
                "none" if route is None else route.path,
                method if method in _METHODS else "other",
                exchange.status,
                time.perf_counter() - started_at,
            )

    async def _within_cap(self, scope: Scope, sent: Sent, receive: Receive, exchange: Exchange) -> None:
        """Refuse by the declared length before anything is read, and by the real one while reading."""
        length = sent.get(b"content-length", b"").decode("latin-1")
        if length.isdecimal() and int(length[:20]) > self._max_body_bytes:
            error = too_large(f"{length[:20]} bytes", self._max_body_bytes)
            await self._errors.response(error, scope["path"])(scope, receive, exchange.send)
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

        await self._inner(scope, receive_counted, exchange.send)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer within the request's context, or refuse a request without the key that it needs."""
        exchange: Exchange = scope["state"]["exchange"]
        sent = exchange.sent
        if b"traceparent" in sent:
            state = sent.get(b"tracestate", b"").decode("latin-1")
            trace = read_trace(sent[b"traceparent"].decode("latin-1"), state)
        else:
            trace = new_trace()
        request = exchange.request = RequestScope(OPEN_CALLER, request_id=exchange.request_id, trace=trace)
        try:
            self._access.admit(request, scope, sent)
            if request.job_key:
                self._in_flight.hold(request.job_key)
        except EdgeError as error:
            await self._errors.response(error, scope["path"])(scope, receive, send)
            return
        token = REQUEST.set(request)
        try:
            await self._routed(scope, receive, send, exchange)
        finally:
            REQUEST.reset(token)
            if request.job_key:
                self._in_flight.release(request.job_key)

    async def _routed(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        """Answer with the route's handler, or with the error that it raises. Raises errors that have no answer."""
        request = Request(scope, receive, send)
        try:
            method = scope["method"]
            found = self._table.find(scope["path"], method)
            if found is None:
                raise HTTPException(404)
            scope["route"], scope["path_params"] = found
            handler = found[0].handlers.get(method)
            if handler is None:
                raise HTTPException(405, headers={"Allow": ", ".join(found[0].handlers)})
            if found[0].strict_query and scope["query_string"]:
                found[0].check_query(method, request.query_params)
            if method in found[0].changing:
                self._pages.check_page(method, scope["state"]["exchange"].sent)
            if method in found[0].expensive:
                async with self._reads.place(_client_of(scope, exchange), request):
                    response = await handler(request)
            else:
                response = await handler(request)
            await response(scope, receive, send)
        except OSError as error:
            refused = from_disk(error)
            if refused is None or exchange.status:
                raise
            log.error("the disk cannot be written", extra={"action": Action.DISK, "reason": str(error)})
            await self._errors.response(refused, scope["path"])(scope, receive, send)
        except ANSWERED as error:
            if exchange.status:
                raise RuntimeError("an answer had begun when its handler failed") from error
            await (await self._errors.answer(request, error))(scope, receive, send)


def _client_of(scope: Scope, exchange: Exchange) -> str:
    """Return the client by which turns are shared: the name of a key, else a network."""
    if exchange.request is not None and exchange.request.caller.key_name:
        return f"key {exchange.request.caller.key_name}"
    client = scope.get("client")
    return network_of(client[0]) if client else ""


def _may_have_body(sent: Sent, method: str) -> bool:
    length = sent.get(b"content-length")
    if length is None:
        return method not in _BODILESS or b"transfer-encoding" in sent
    return length != b"0"
