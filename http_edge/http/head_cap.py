"""uvicorn's HTTP protocol with a bound on the head of a request, which notifies the request that is being answered when its client left,
begins no further one for a client that does not read, and lets a client whose request was refused half way read why.

uvicorn collects a head however long it gets; and of requests sent one behind the other on a connection it notifies only the last that the
connection is gone, so that the first would go on without a client. It also begins the next of them while the answers before it lie unread.
A connection that ends with its answer it closes at once: what the client still sends is then answered by a reset, which takes the answer
away from a client that has not read it yet.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Request line and headers, bytes. What is within it and still too much is refused in the API's own words (`access`).
MAX_HEAD_BYTES = 128 * 1024

#: Longest time that a head may take to arrive, seconds.
_HEAD_TIMEOUT_S = 30.0

#: How much of the rest of a refused request is read and dropped, bytes, and how long: in all, and since the client last sent some of it;
#: seconds. A client that still sends then loses its answer, as one without an end must.
_DROP_BYTES = 64 * 1024 * 1024
_DROP_S, _DROP_IDLE_S = 30.0, 5.0


def _refusal(status: str, text: str) -> bytes:
    """The bytes of an answer that ends its connection."""
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}"
    return f"{head}\r\n\r\n{text}".encode("ascii")


class CappedProtocol(HttpToolsProtocol):
    """Ends a connection whose head is too long, or too long in coming; ends what is being answered with its connection."""

    _in_head = True
    #: When the reading of discarded bytes ends, by the loop's clock; None while requests are read.
    _drop_until: float | None = None
    _dropped_at = 0.0
    _dropped_bytes = 0
    _drop_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None
    #: The request that begins when the client has read what lies ready for it.
    _next: tuple[RequestResponseCycle, ASGI3Application] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # What an answer uses of its transport; its `close` is the one that lets the client read.
        ends = SimpleNamespace(write=transport.write, is_closing=transport.is_closing, close=self._close_after_answer)
        self._answer_transport = cast(asyncio.Transport, ends)
        self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._drop_timer is not None:
            self._drop_timer.cancel()
        self.pipeline.clear()
        self._next = None
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._drop_until is not None:
            self._dropped_at = self.loop.time()
            self._dropped_bytes += len(data)
            if self._dropped_bytes > _DROP_BYTES:
                self.transport.close()
            return
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
            self.transport.write(_refusal("431 Request Header Fields Too Large", "the headers are too large\n"))
            self._close_and_drop()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and end the connection."""
        self.transport.write(_refusal("400 Bad Request", msg))
        self._close_and_drop()

    def on_headers_complete(self) -> None:
        """Begin the request. Of a target with a host of its own (`GET http://host/path`) that host counts, not `Host` (RFC 9112, 3.2.2)."""
        if not self.url.startswith(b"/") and b"://" in self.url:
            # Two `Host`s stay two, and are refused.
            authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begin to answer; while answers before it lie unread, only once they are read: no answer waits for more than that."""
        if self.flow.write_paused and not self.transport.is_closing():
            self._next = (cycle, app)
            return
        self._answering = cycle
        cycle.transport = self._answer_transport
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._drop_until is None:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1

    def resume_writing(self) -> None:
        super().resume_writing()
        following, self._next = self._next, None
        if following is not None and not self.transport.is_closing():
            self._start_asgi_task(*following)

    def _close_after_answer(self) -> None:
        if self._answering is not None and self._answering.more_body:
            self._close_and_drop()
        else:
            self.transport.close()

    def _close_and_drop(self) -> None:
        """End the sending side, and the connection when the client has ended it, or will not."""
        if self._drop_until is not None or self.transport.is_closing():
            return
        self._stop_timer()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._next = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._dropped_at = self.loop.time()
        self._drop_until = self._dropped_at + _DROP_S
        self._drop_timer = self.loop.call_later(_DROP_IDLE_S, self._drop_is_over)
        self.flow.resume_reading()

    def _drop_is_over(self) -> None:
        assert self._drop_until is not None
        ends = min(self._drop_until, self._dropped_at + _DROP_IDLE_S)
        if self.loop.time() < ends:
            self._drop_timer = self.loop.call_at(ends, self._drop_is_over)
        else:
            self.transport.close()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
