"""uvicorn's HTTP protocol with a bound on the head of a request, which tells the request that is being answered when its client left, and
begins no further one for a client that does not read.

uvicorn collects a head however long it gets; and of requests sent one behind the other on a connection it tells only the last one that the
connection is gone, so that the first would go on for nobody. It also begins the next of them while the answers before it lie unread.
"""

from __future__ import annotations

import asyncio

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Request line and headers, bytes. What is within it and still too much is refused in the API's own words (`access`).
MAX_HEAD_BYTES = 128 * 1024

#: Longest time that a head may take to arrive, seconds.
_HEAD_TIMEOUT_S = 30.0

_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 26\r\n\r\nthe headers are too large\n"
)


class CappedProtocol(HttpToolsProtocol):
    """Ends a connection whose head is too long, or too long in coming; ends what is being answered with its connection."""

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None
    #: The request that begins when the client has read what lies ready for it.
    _next: tuple[RequestResponseCycle, ASGI3Application] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.pipeline.clear()
        self._next = None
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head, scope_before = self._in_head, self.scope
        super().data_received(data)
        # The server makes a scope when a request begins, and puts the path there when its head is complete.
        scope = self.scope
        self._in_head = scope is None or "path" not in scope
        if not self._in_head:
            if self._head_timer is not None:
                self._stop_timer()
            return
        if self._head_timer is None and not self.transport.is_closing():
            # Only now: most heads come in one piece, and need no timer.
            self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_S, self._head_is_late)
        if scope is not scope_before:
            self._head_bytes = 0
        if not was_in_head:
            # The chunk in which a further request begins may be the end of a body for the most part.
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_REFUSAL)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Begin the request. Of a target with a host of its own (`GET http://host/path`) that host counts, not `Host` (RFC 9112, 3.2.2)."""
        if not self.url.startswith(b"/") and b"://" in self.url:
            # Two `Host`s stay two, and are refused.
            authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begin to answer; while answers before it lie unread, only once they are read: nobody waits for more than that."""
        if self.flow.write_paused and not self.transport.is_closing():
            self._next = (cycle, app)
            return
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def resume_writing(self) -> None:
        super().resume_writing()
        following, self._next = self._next, None
        if following is not None and not self.transport.is_closing():
            self._start_asgi_task(*following)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
