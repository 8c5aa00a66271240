"""Protocol of a client's connection: uvicorn's, with what it leaves open.

- The head of a request is bounded in bytes and time.
- Of requests sent one behind the other on a connection, the one that is being answered is notified when the client has left; uvicorn
  notifies the last one only, so that the first would go on without a client.
- The next of them begins once the answers before it were read.
- A client that does not read its answer for long is disconnected: a download would hold its file, and a stream its place, for ever.
- A client whose request was refused while it still sends can read the refusal. uvicorn closes at once; the client's bytes that are still to
  come are then answered with a reset, which takes the refusal away.
- An offer of another protocol (`Upgrade: h2c`, which Java's client and `curl --http2` send with any request) is not accepted, and the
  request is answered with its body. uvicorn's parser takes what follows the head for the other protocol.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Request line and headers, bytes. What is within it and still too much is refused in the form of the path's API (`auth.access`).
MAX_HEAD_BYTES = 128 * 1024

#: Longest time that a head may take to arrive, seconds.
_HEAD_TIMEOUT_S = 30.0

#: How much of the rest of a refused request is read and dropped, bytes, and how long: in all, and since the client last sent some of it;
#: seconds. A client that still sends then loses its answer, as one without an end must.
_DROP_BYTES = 64 * 1024 * 1024
_DROP_S, _DROP_IDLE_S = 30.0, 5.0

#: A client must read at least so many bytes, or all that lie ready for it, in each such time, seconds.
_UNREAD_S = 120.0
_LEAST_READ_BYTES = 64 * 1024


def _refusal(status: str, text: str) -> bytes:
    """The bytes of an answer that ends its connection."""
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}"
    return f"{head}\r\n\r\n{text}".encode("ascii")


class _UnreadWatch:
    """Watch over a client that has bytes to read: aborts the connection of one that reads too few."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        #: Bytes that lay ready when they were last looked at.
        self._ready = 0

    def begin(self) -> None:
        if self._timer is None:
            self._ready = self._transport.get_write_buffer_size()
            self._timer = self._loop.call_later(_UNREAD_S, self._look)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._ready - self._transport.get_write_buffer_size() < _LEAST_READ_BYTES:
            self._transport.abort()
        else:
            self.begin()


class _Discard:
    """The rest of a refused request, read and dropped until the client has ended it, or will not; `close` is called then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
        self._loop = loop
        self._close = close
        self._bytes = 0
        self._received_at = loop.time()
        self._until = self._received_at + _DROP_S
        self._timer = loop.call_later(_DROP_IDLE_S, self._look)

    def add(self, count: int) -> None:
        self._received_at = self._loop.time()
        self._bytes += count
        if self._bytes > _DROP_BYTES:
            self._close()

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        ends = min(self._until, self._received_at + _DROP_IDLE_S)
        if self._loop.time() < ends:
            self._timer = self._loop.call_at(ends, self._look)
        else:
            self._close()


class ConnectionProtocol(HttpToolsProtocol):
    """A connection with bounds for its client; ends what is being answered with the connection."""

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    #: None while requests are read.
    _discard: _Discard | None = None
    _unread: _UnreadWatch
    _answering: RequestResponseCycle | None = None
    #: The request that begins when the client has read what lies ready for it.
    _next: tuple[RequestResponseCycle, ASGI3Application] | None = None
    #: What the parser is being fed; behind a head with an offer of another protocol, what it has yet to be fed.
    _left = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unread = _UnreadWatch(transport, self.loop)
        # What an answer uses of its transport; its `close` is the one that lets the client read.
        ends = SimpleNamespace(write=transport.write, is_closing=transport.is_closing, close=self._close_after_answer)
        self._answer_transport = cast(asyncio.Transport, ends)
        self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unread.end()
        if self._discard is not None:
            self._discard.end()
        self.pipeline.clear()
        self._next = None
        answering = self._answering
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discard is not None:
            self._discard.add(len(data))
            return
        was_in_head, scope_before = self._in_head, self.scope
        idle, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        left = data
        while left:
            self._left = left
            super().data_received(left)
            if self._left is left:
                break
            left = self._left
        # The server makes a scope when a request begins, and puts the path there when its head is complete.
        scope = self.scope
        if idle is not None:
            if scope is scope_before and self.timeout_keep_alive_task is None:
                # The rest of a body whose request was answered: it must come before the connection has been idle for too long.
                self.timeout_keep_alive_task = idle
            else:
                idle.cancel()
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

    # ------------------------------------------------------------ requests

    def on_headers_complete(self) -> None:
        """Begin the request. Of a target with a host of its own (`GET http://host/path`) that host counts, not `Host` (RFC 9112, 3.2.2)."""
        if not self.url.startswith(b"/") and b"://" in self.url:
            # Two `Host`s stay two, and are refused.
            authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request's body. With an offer of another protocol this is called at the end of the head: its body is still to come."""
        if not (self.parser.should_upgrade() and _framing(self.headers)):
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Go on behind a head with an offer of another protocol, which the parser reports by an exception: it is an ordinary request."""
        offer = sys.exception()
        assert isinstance(offer, httptools.HttpParserUpgrade)
        self._left = self._left[offer.args[0] :]
        framing = _framing(self.headers)
        if framing:
            self.parser = httptools.HttpRequestParser(_BodyFirst(self))
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%s: %s\r\n\r\n" % framing)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begin to answer; while answers before it lie unread, only once they are read: no answer waits for more than that."""
        if self.flow.write_paused and not self.transport.is_closing():
            self._next = (cycle, app)
            return
        self._answering = cycle
        cycle.transport = self._answer_transport
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._discard is None:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1

    # ------------------------------------------------------------ answers that are not read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        following, self._next = self._next, None
        if self.transport.is_closing():
            return
        self._unread.end()
        if following is not None:
            self._start_asgi_task(*following)

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self._close()

    # ------------------------------------------------------------ the end

    def _close(self) -> None:
        """End the connection once the client has read what lies ready for it, or will not."""
        self.transport.close()
        self._unread.begin()

    def _close_after_answer(self) -> None:
        if self._answering is not None and self._answering.more_body:
            self._close_and_drop()
        else:
            self._close()

    def _close_and_drop(self) -> None:
        """End the sending side, and the connection when the client has ended it, or will not."""
        if self._discard is not None or self.transport.is_closing():
            return
        self._stop_timer()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._next = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._discard = _Discard(self.loop, self._close)
        self.flow.resume_reading()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _BodyFirst:
    """Callbacks of a parser whose first head was read by another: of the first request the body alone, of all others everything."""

    def __init__(self, protocol: ConnectionProtocol) -> None:
        self._protocol = protocol
        self._is_first = True
        self.on_body = protocol.on_body

    def on_url(self, url: bytes) -> None:
        if not self._is_first:
            self._protocol.on_url(url)

    def on_message_begin(self) -> None:
        if not self._is_first:
            self._protocol.on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_first:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_first:
            self._protocol.on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_first = False
        self._protocol.on_message_complete()


def _framing(headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes] | None:
    """The header that says where a body ends; None: there is no body."""
    return next((one for one in headers if one[0] in (b"content-length", b"transfer-encoding")), None)
