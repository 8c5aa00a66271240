"""Requests over one connection to the broker: each is sent again until it is answered or too late.

ZeroMQ reconnects and promises nothing else: what was sent and not yet read dies with the connection, on either side. So every request is
one that may be repeated (a job id is its own dedup key), is kept until it is answered, and is sent again when the connection is new and
when the answer is late. A plain DEALER on its FD, not `zmq.asyncio`, which costs five times the CPU and can lose a message when a
receive is cancelled; cancelling a caller here only drops its entry.

The first request of a turn of the loop goes at once, those that follow in the same turn go together at its end: many frames cost the broker
more than one. What is sent again goes in a frame of its own, which a broker of another version can answer.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from broker.client import errors
from broker.client.event_stream import WATCH_CONFIRM_S, EventStream
from broker.runtime.log_actions import Action
from broker.wire import codec
from broker.wire import messages as m

logger = logging.getLogger(__name__)

#: An unanswered request is sent again after this, then after twice as long, and so on up to the second.
RESEND_S = 1.0
RESEND_MAX_S = 4.0

_TICK_S = 0.1
_DRAIN = 256

_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)

#: Opens the DEALER.
Opener = Callable[["zmq.Context[zmq.Socket[bytes]]"], "zmq.Socket[bytes]"]


class Pending:
    """A request that has not been answered: its frame, the future of its caller, and when it is sent again."""

    __slots__ = ("deadline", "frame", "future", "pause_s", "resend_at", "timeout_s")

    def __init__(self, frame: bytes, future: asyncio.Future[Any], now: float, timeout_s: float) -> None:
        self.frame = frame
        self.future = future
        self.timeout_s = timeout_s
        self.deadline = now + timeout_s
        #: Not before it has been sent.
        self.resend_at = self.deadline
        self.pause_s = RESEND_S


class Exchange:
    """The connection and the requests that wait for their answers; events go to `events`. From one event loop."""

    def __init__(self, open_socket: Opener, events: EventStream) -> None:
        self._open_socket = open_socket
        self._events = events
        #: Answers that were no message of the protocol.
        self.invalid_messages = 0
        self._pending: dict[int, Pending] = {}
        #: Of these, those that go together at the end of this turn.
        self._unsent: list[Pending] = []
        self._last_req = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._writable = False
        self._recheck: asyncio.Handle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._following: asyncio.Handle | None = None

    def start(self) -> None:
        """Connect in the background."""
        self._context = zmq.Context()
        self._socket = self._open_socket(self._context)
        get_running_loop().add_reader(int(self._socket.getsockopt(zmq.FD)), self._readable)
        self._check_soon()

    def close(self) -> None:
        """Disconnect; requests still waiting raise `BrokerUnavailable`. May be called twice."""
        if self._context is None:
            return
        get_running_loop().remove_reader(int(self._socket.getsockopt(zmq.FD)))
        for handle in (self._recheck, self._ticker, self._following):
            if handle is not None:
                handle.cancel()
        self._recheck = self._ticker = self._following = None
        self._socket.close(linger=0)
        self._context.destroy(linger=0)
        self._context = None
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(errors.BrokerUnavailable("the client was closed"))
        self._unsent.clear()

    async def request(self, build: Callable[[int], m.Message], timeout_s: float) -> m.Message:
        """Send the message built with a new number; the answer. Raises `BrokerUnavailable`; `ValueError` naming a wrong field."""
        if self._context is None:
            raise errors.BrokerUnavailable("the client is not started")
        self._last_req += 1
        req = self._last_req
        message = build(req)
        frame = codec.encode(message)
        # The broker drops what does not fit the protocol, and its caller would wait in vain: raise at once.
        codec.from_edge(frame)
        now = get_running_loop().time()
        pending = Pending(frame, get_running_loop().create_future(), now, timeout_s)
        self._pending[req] = pending
        if self._recheck is None or type(message) in m.COSTLY:
            self._send_pending(pending, now)
        else:  # there is an end of this turn
            self._unsent.append(pending)
        self._ensure_ticker()
        try:
            answer: m.Message = await pending.future
            return answer
        finally:
            self._pending.pop(req, None)

    def follow_soon(self) -> None:
        """Send the broker on the next turn which jobs are followed: those of one turn go together."""
        if self._following is None and self._context is not None:
            self._following = get_running_loop().call_soon(self._follow)

    # ------------------------------------------------------------ sending

    def _follow(self) -> None:
        """Send the changes of the followed jobs; what cannot be sent now is sent on a later tick, or over the next connection."""
        self._following = None
        for message in self._events.follow_messages():
            if not self._send(codec.encode(message)):
                return
            self._events.followed.note_sent(message)

    def _send_unsent(self) -> None:
        """Send the requests that have waited for the end of the turn."""
        pendings, self._unsent = self._unsent, []
        now = get_running_loop().time()
        taken = all(self._send(frame) for frame in codec.join(pending.frame for pending in pendings))
        for pending in pendings:
            _plan_resend(pending, now, taken=taken)

    def _send_pending(self, pending: Pending, now: float) -> None:
        _plan_resend(pending, now, taken=self._send(pending.frame))

    def _send(self, frame: bytes) -> bool:
        """Send, after what waits to be; False when there is no connection, or its queue is full."""
        if self._unsent:
            self._send_unsent()
        try:
            self._socket.send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        finally:
            self._check_soon()
        return True

    def _ensure_ticker(self) -> None:
        if self._ticker is None:
            self._ticker = get_running_loop().call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        """Time out, send again, confirm the subscription."""
        self._ticker = None
        now = get_running_loop().time()
        for pending in [*self._pending.values()]:
            if pending.future.done():
                continue
            if now >= pending.deadline:
                text = f"the broker did not answer within {pending.timeout_s:g} s"
                pending.future.set_exception(errors.BrokerUnavailable(text))
            elif now >= pending.resend_at:
                self._send_pending(pending, now)
        if self._events.subscribed and now >= self._events.confirm_at:
            self._confirm_watch(now)
        self._follow()
        if self._pending or self._events.subscribed:
            self._ensure_ticker()

    def _confirm_watch(self, now: float) -> None:
        self._events.confirm_at = now + WATCH_CONFIRM_S
        self._last_req += 1
        self._send(codec.encode(m.Watch(req=self._last_req, steps=self._events.steps)))

    # ------------------------------------------------------------ receiving

    def _check_soon(self) -> None:
        """Read the socket's events on the next turn: the last call may have consumed the edge of its descriptor."""
        if self._recheck is None:
            self._recheck = get_running_loop().call_soon(self._checked)

    def _checked(self) -> None:
        self._recheck = None
        if self._unsent:
            self._send_unsent()
        self._readable()

    def _readable(self) -> None:
        try:
            events = int(self._socket.getsockopt(_EVENTS))
            writable = bool(events & _POLLOUT)
            if writable != self._writable:
                self._writable = writable
                if writable:
                    self._connected()
            if events & _POLLIN:
                self._drain()
        finally:  # also when a caller's callback raised
            if int(self._socket.getsockopt(_EVENTS)) & _POLLIN:
                self._check_soon()

    def _connected(self) -> None:
        """Send again over a new connection, perhaps to a new broker: all that was under way on the old one is lost."""
        now = get_running_loop().time()
        self._unsent.clear()  # they are pending, too
        for pending in [*self._pending.values()]:
            if not pending.future.done():
                self._send_pending(pending, now)
        if self._events.subscribed:
            self._events.reconnected()
            self._confirm_watch(now)

    def _drain(self) -> None:
        taken = 0
        while taken < _DRAIN:
            try:
                frames = self._socket.recv_multipart(_NOBLOCK)
            except zmq.Again:
                return
            try:
                messages = codec.to_edge(codec.single(frames))
            except codec.DecodeError as error:
                taken += 1
                self.invalid_messages += 1
                logger.warning(
                    "dropped what is no answer", extra={"action": Action.INVALID_MESSAGE, "reason": str(error)}
                )
                continue
            taken += len(messages)
            self._handle_all(messages)

    def _handle_all(self, messages: Sequence[Any]) -> None:
        """Handle each. Raises what a callback raised first, at the end: they come only once."""
        failed: Exception | None = None
        for message in messages:
            try:
                if message is not None:
                    self._handle(message)
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _handle(self, message: Any) -> None:
        if isinstance(message, m.Event | m.JobsDeleted):
            self._events.take(message)
            return
        # Here, not where the caller wakes up: events right behind the answer are numbered from it.
        if isinstance(message, m.Watching):
            self._events.begin(message.seq)
            self.follow_soon()
        pending = self._pending.get(message.req)
        if pending is not None and not pending.future.done():
            pending.future.set_result(message)


def _plan_resend(pending: Pending, now: float, *, taken: bool) -> None:
    """Note when a request that has just been sent is sent again; `taken`: a connection took it."""
    if taken:
        pending.resend_at = now + pending.pause_s
        pending.pause_s = min(RESEND_MAX_S, 2 * pending.pause_s)
    else:
        pending.resend_at = now + RESEND_S
