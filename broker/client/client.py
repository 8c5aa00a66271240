"""The asyncio client of the broker, for edges, bench and tests.

ZeroMQ reconnects and promises nothing else: what was sent and not yet read dies with the connection, on either side. So every request is
one that may be repeated (a job id is its own dedup key), is kept until it is answered, and is sent again when the connection is new and
when the answer is late. A plain DEALER on its FD, not `zmq.asyncio`, which costs five times the CPU and can lose a message when a
receive is cancelled; cancelling a caller here only drops its entry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
import zmq

from broker.client import errors
from broker.client.pending import RESEND_MAX_S, RESEND_S, Pending
from broker.runtime.curve_keys import PeerKey
from broker.runtime.dealer import open_dealer
from broker.runtime.log_actions import Action
from broker.wire import codec
from broker.wire import messages as m

logger = logging.getLogger(__name__)

#: How often a subscription is confirmed: the longest that a broker restart which ZeroMQ hid from us stays unnoticed.
WATCH_CONFIRM_S = 2.0

_TICK_S = 0.1
_DRAIN = 256

_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)

R = TypeVar("R", bound=m.Message)


class BrokerClient:
    """One connection to the broker; any number of requests at once, from one event loop.

    Every request raises `BrokerUnavailable` when it has not been answered within `timeout_s`, and `ValueError` naming the field when
    it does not fit the protocol. It need not be connected to be used: requests wait for the broker to appear.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        key: PeerKey | None = None,
        timeout_s: float = 10.0,
        on_event: Callable[[m.JobView], None] | None = None,
        on_gap: Callable[[], None] | None = None,
        on_gone: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        """A tcp endpoint needs a key.

        While watching, `on_event` gets every event and `on_gone` the ids of deleted jobs; `on_gap` is called when some were lost.
        """
        self.endpoint = endpoint
        self._key = key
        self.timeout_s = timeout_s
        #: Answers that were no message of the protocol.
        self.junk = 0
        self._on_event = on_event
        self._on_gap = on_gap
        self._on_gone = on_gone
        self._pending: dict[int, Pending] = {}
        self._last_req = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._writable = False
        self._recheck: asyncio.Handle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._watching = False
        self._confirm_at = 0.0
        #: Number of the last event; None before the first answer to `Watch`.
        self._seq: int | None = None
        self._maybe_gap = False

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Connect in the background."""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = open_dealer(self._context, self.endpoint, codec.MAX_REPLY_FRAME, self._key)
        self._loop.add_reader(int(self._socket.getsockopt(zmq.FD)), self._readable)
        self._check_soon()

    async def close(self) -> None:
        """Disconnect; requests still waiting raise `BrokerUnavailable`. May be called twice."""
        if self._context is None:
            return
        self._loop.remove_reader(int(self._socket.getsockopt(zmq.FD)))
        for handle in (self._recheck, self._ticker):
            if handle is not None:
                handle.cancel()
        self._recheck = self._ticker = None
        self._socket.close(linger=0)
        self._context.destroy(linger=0)
        self._context = None
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(errors.BrokerUnavailable("the client was closed"))

    async def __aenter__(self) -> BrokerClient:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------ requests

    async def submit(self, submit: m.Submit) -> tuple[m.JobView, bool]:
        """Hand in a job (`req` is filled in): (the job as it is on disk, whether it was there before).

        After a broker restart in between, "before" can be this very call. Raises the `SubmitRejected` family.
        """
        reply = await self._request(lambda req: msgspec.structs.replace(submit, req=req))
        if isinstance(reply, m.Rejected):
            raise errors.rejection(reply.code, reply.message, reply.retry_after_s)
        accepted = _expect(m.Accepted, reply)
        return codec.job_view(accepted.body), accepted.duplicate

    async def cancel(self, job_id: str, tenant: str = "") -> tuple[m.CancelOutcome, m.JobView | None]:
        """Ask for the end of a job of this tenant ("": of any): (the outcome, the job unless it was not found)."""
        request = await self._request(lambda req: m.CancelJob(req=req, job_id=job_id, tenant=tenant))
        reply = _expect(m.CancelReply, request)
        return reply.outcome, None if reply.outcome == "not_found" else codec.job_view(reply.body)

    async def get(self, job_id: str, tenant: str = "") -> m.JobView | None:
        """The job, if it is of this tenant ("": of any), with its spec and history."""
        return await self._get(lambda req: m.GetJob(req=req, job_id=job_id, tenant=tenant))

    async def get_alias(self, origin: str, alias: str, tenant: str = "") -> m.JobView | None:
        """The newest job of this name and tenant ("": of any), with its spec and history."""
        return await self._get(lambda req: m.GetJob(req=req, origin=origin, alias=alias, tenant=tenant))

    async def _get(self, build: Callable[[int], m.GetJob]) -> m.JobView | None:
        reply = _expect(m.JobReply, await self._request(build))
        return codec.job_view(reply.body) if reply.found else None

    async def list(self, **fields: Any) -> tuple[list[m.JobView], bool]:
        """A page of jobs and whether more follow; `fields` are those of `ListJobs`, less `req`.

        Where few of many match, the broker is asked again and again, and serves others in between.
        """
        query = m.ListJobs(req=0, **fields)
        found: list[m.JobView] = []
        while True:
            answer = _expect(m.Jobs, await self._request(partial(_numbered, query)))
            views = codec.job_views(answer.body)
            found += views
            if not answer.behind:
                return found, answer.more
            query = msgspec.structs.replace(query, limit=query.limit - len(views), behind=answer.behind)

    async def forget(self, job_ids: Sequence[str], *, finished_s: float = 0.0) -> tuple[str, ...]:
        """Delete the records of these jobs (at most 50), as far as they finished so long ago; the ids of those deleted.

        When the answer to a first try was lost, jobs that it deleted are missing in the answer to the second.
        """
        ids = tuple(job_ids)
        reply = await self._request(lambda req: m.ForgetJobs(req=req, job_ids=ids, finished_s=finished_s))
        return _expect(m.Forgotten, reply).job_ids

    async def claim_deliveries(self, limit: int) -> tuple[Sequence[m.ClaimedDelivery], float]:
        """(webhook deliveries to make, seconds until another is due or -1). Those of a lost answer come again after their lease."""
        reply = _expect(m.Deliveries, await self._request(lambda req: m.ClaimDeliveries(req=req, limit=limit)))
        return codec.hook_claims(reply.body), reply.wait_s

    async def delivery_done(self, done: m.DeliveryDone) -> None:
        """Report a delivery (`req` is filled in); on disk when this returns."""
        _expect(m.DeliveryNoted, await self._request(lambda req: msgspec.structs.replace(done, req=req)))

    async def pool(self) -> m.PoolView:
        """Workers and totals."""
        reply = _expect(m.Pool, await self._request(lambda req: m.GetPool(req=req)))
        view: m.PoolView = codec.pool_view(reply.body)
        return view

    async def drain_worker(self, name: str) -> m.WorkerView | None:
        """Let a worker finish what it holds and leave: the worker as it is now, None when there is none of that name."""
        reply = _expect(m.WorkerReply, await self._request(lambda req: m.DrainWorker(req=req, name=name)))
        if not reply.found:
            return None
        view: m.WorkerView = codec.worker_view(reply.body)
        return view

    async def set_aside(self) -> Sequence[m.JobView]:
        """The jobs that the broker set aside, the oldest first, without their specs."""
        reply = _expect(m.Jobs, await self._request(lambda req: m.ListSetAside(req=req)))
        views: Sequence[m.JobView] = codec.job_views(reply.body)
        return views

    async def settle_set_aside(self, job_id: str, action: Literal["release", "fail", "delete"]) -> str:
        """Decide on a job that was set aside: "done", "not_set_aside" or "unreadable". A repeated "done" answers "not_set_aside"."""
        reply = await self._request(lambda req: m.SettleSetAside(req=req, job_id=job_id, action=action))
        return _expect(m.SetAsideSettled, reply).outcome

    async def watch(self) -> None:
        """Subscribe to all events, for as long as this client lives, over restarts of the broker. Returns when the stream has begun.

        After any interruption `on_gap` is called: events were lost, or may have been. If this raises, the stream is still wanted,
        and `on_gap` tells when it has begun.
        """
        self._watching = True
        try:
            reply = await self._request(lambda req: m.Watch(req=req))
        except BaseException:
            self._maybe_gap = True
            raise
        _expect(m.Watching, reply)

    async def _request(self, build: Callable[[int], m.Message]) -> m.Message:
        if self._context is None:
            raise errors.BrokerUnavailable("the client is not started")
        self._last_req += 1
        req = self._last_req
        frame = codec.encode(build(req))
        # The broker drops what does not fit the protocol, and its caller would wait in vain: say so at once.
        codec.from_edge(frame)
        now = self._loop.time()
        pending = Pending(frame, self._loop.create_future(), now + self.timeout_s)
        self._pending[req] = pending
        self._send_pending(pending, now)
        self._ensure_ticker()
        try:
            answer: m.Message = await pending.future
            return answer
        finally:
            self._pending.pop(req, None)

    # ------------------------------------------------------------ sending

    def _send_pending(self, pending: Pending, now: float) -> None:
        if self._send(pending.frame):
            pending.resend_at = now + pending.pause_s
            pending.pause_s = min(RESEND_MAX_S, 2 * pending.pause_s)
        else:
            pending.resend_at = now + RESEND_S

    def _send(self, frame: bytes) -> bool:
        """Send a request; False when there is no connection, or its queue is full."""
        try:
            self._socket.send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        finally:
            self._check_soon()
        return True

    def _ensure_ticker(self) -> None:
        if self._ticker is None:
            self._ticker = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        """Time out, send again, confirm the subscription."""
        self._ticker = None
        now = self._loop.time()
        for pending in [*self._pending.values()]:
            if pending.future.done():
                continue
            if now >= pending.deadline:
                text = f"the broker did not answer within {self.timeout_s:g} s"
                pending.future.set_exception(errors.BrokerUnavailable(text))
            elif now >= pending.resend_at:
                self._send_pending(pending, now)
        if self._watching and now >= self._confirm_at:
            self._confirm_watch(now)
        if self._pending or self._watching:
            self._ensure_ticker()

    def _confirm_watch(self, now: float) -> None:
        self._confirm_at = now + WATCH_CONFIRM_S
        self._last_req += 1
        self._send(codec.encode(m.Watch(req=self._last_req)))

    # ------------------------------------------------------------ receiving

    def _check_soon(self) -> None:
        """Ask the socket for its events on the next turn: the FD's edge may have been swallowed by what was just done."""
        if self._recheck is None:
            self._recheck = self._loop.call_soon(self._checked)

    def _checked(self) -> None:
        self._recheck = None
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
        now = self._loop.time()
        for pending in [*self._pending.values()]:
            if not pending.future.done():
                self._send_pending(pending, now)
        if self._watching:
            self._maybe_gap = self._maybe_gap or self._seq is not None
            self._confirm_watch(now)

    def _drain(self) -> None:
        for _ in range(_DRAIN):
            try:
                frames = self._socket.recv_multipart(_NOBLOCK)
            except zmq.Again:
                return
            try:
                message = codec.to_edge(codec.single(frames))
            except codec.DecodeError as error:
                self.junk += 1
                logger.warning(
                    "dropped what is no answer", extra={"action": Action.INVALID_MESSAGE, "reason": str(error)}
                )
                continue
            if message is not None:
                self._handle(message)

    def _handle(self, message: Any) -> None:
        if isinstance(message, m.Event | m.JobsDeleted):
            self._event(message)
            return
        # Here, not where the caller wakes up: events right behind the answer are numbered from it.
        if isinstance(message, m.Watching):
            self._watch_began(message.seq)
        pending = self._pending.get(message.req)
        if pending is not None and not pending.future.done():
            pending.future.set_result(message)

    def _watch_began(self, seq: int) -> None:
        gap = self._maybe_gap or (self._seq is not None and seq != self._seq)
        self._seq = seq
        self._maybe_gap = False
        if gap and self._on_gap is not None:
            self._on_gap()

    def _event(self, event: m.Event | m.JobsDeleted) -> None:
        gap = self._seq is not None and event.seq != self._seq + 1
        self._seq = event.seq
        if gap and self._on_gap is not None:
            self._on_gap()
        if isinstance(event, m.JobsDeleted):
            if self._on_gone is not None:
                self._on_gone(event.job_ids)
        elif self._on_event is not None:
            self._on_event(codec.job_view(event.body))


def _numbered(query: m.ListJobs, req: int) -> m.ListJobs:
    return msgspec.structs.replace(query, req=req)


def _expect(kind: type[R], reply: m.Message) -> R:
    if not isinstance(reply, kind):
        raise errors.BrokerError(f"the broker answered with {type(reply).__name__}, expected {kind.__name__}")
    return reply
