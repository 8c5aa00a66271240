"""Fan-out of the broker's events to event streams and waiters of one edge process, and a short memory of job views.

Rules. A listener has room for one view, the newest: a slow reader skips steps and costs no memory. When events were lost (a gap),
every listener is marked stale and the memory is emptied; each listener then requests a snapshot. A remembered view of a live job
is fresh only for a moment, so that a lost subscription cannot give stale views for long. Nothing here is needed for correctness
over a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from broker.wire.messages import JobView
from broker.wire.terms import FINAL_NAMES, UNSTARTED_NAMES
from http_edge.jobs.job import Job, major_state
from http_edge.jobs.step_interest import POLLED_S, StepInterest

#: Jobs remembered, in number and in bytes of their specs, and for how long a view of one is fresh: progress comes as events, a
#: queue position does not.
_MAX_KEPT = 2048

_MAX_KEPT_BYTES = 16 * 1024 * 1024

_RUNNING_FRESH_S = 1.0

_WAITING_FRESH_S = 0.25

#: How long answers about a deleted job may still be under way.
_KEEP_GONE_S = 30.0


class Memory:
    """The newest full view of jobs that were read lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: Job -> its view, and until when that is fresh.
        self._jobs: OrderedDict[str, tuple[Job, float]] = OrderedDict()
        self._bytes = 0
        #: Job -> revision of its last event: an answer that was overtaken by an event is not worth keeping.
        self._revisions: OrderedDict[str, int] = OrderedDict()
        #: Deleted job -> when the broker reported it.
        self._gone: OrderedDict[str, float] = OrderedDict()

    def get(self, job_id: str) -> Job | None:
        """The job, if its view is still fresh."""
        held = self._jobs.get(job_id)
        if held is None:
            return None
        job, fresh_until = held
        if self._clock() > fresh_until:
            return None
        self._jobs.move_to_end(job_id)
        return job

    def is_polled(self, job_id: str) -> bool:
        """Whether a running job is known, and its view was fresh until lately: its client polls it."""
        held = self._jobs.get(job_id)
        if held is None or held[0].view.state != "running":
            return False
        return self._clock() - held[1] < POLLED_S

    def _fresh_until(self, job: Job) -> float:
        # What became of a webhook's deliveries comes with no event.
        if job.is_final and not job.view.submission.webhook:
            return math.inf
        is_waiting = job.view.state in UNSTARTED_NAMES
        return self._clock() + (_WAITING_FRESH_S if is_waiting else _RUNNING_FRESH_S)

    def put(self, job: Job) -> None:
        """Remember a full view, unless a newer one is here."""
        if self._clock() - self._gone.get(job.view.id, -math.inf) < _KEEP_GONE_S:
            return
        held = self._jobs.get(job.view.id)
        newest = max(held[0].view.revision if held else 0, self._revisions.get(job.view.id, 0))
        if newest > job.view.revision:
            return
        self.forget(job.view.id)
        self._jobs[job.view.id] = (job, self._fresh_until(job))
        self._bytes += len(job.view.body)
        while len(self._jobs) > _MAX_KEPT or self._bytes > _MAX_KEPT_BYTES:
            self.forget(next(iter(self._jobs)))

    def update(self, view: JobView) -> None:
        """Apply an event: progress is taken over; after a change of state the view is dropped, as the event has no history."""
        self._revisions[view.id] = view.revision
        self._revisions.move_to_end(view.id)
        if len(self._revisions) > _MAX_KEPT:
            self._revisions.popitem(last=False)
        held = self._jobs.get(view.id)
        if held is None:
            return
        old = held[0].view
        if view.revision <= old.revision:
            return
        if major_state(view) == major_state(old):
            job = held[0].moved_to(view)
            self._jobs[view.id] = (job, self._fresh_until(job))
        else:
            self.forget(view.id)

    def drop(self, job_id: str) -> None:
        """Drop a job whose record was deleted; an answer sent before that is not to be kept."""
        self.forget(job_id)
        self._gone[job_id] = self._clock()
        self._gone.move_to_end(job_id)
        if len(self._gone) > _MAX_KEPT:
            self._gone.popitem(last=False)

    def forget(self, job_id: str) -> None:
        held = self._jobs.pop(job_id, None)
        if held is not None:
            self._bytes -= len(held[0].view.body)

    def clear(self) -> None:
        self._jobs.clear()
        self._bytes = 0


class Audience:
    """Listeners of one job, and the job as the newest event made it: made once for all of them."""

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()
        self._view: JobView | None = None
        self._job: Job | None = None

    def job_at(self, view: JobView) -> Job | None:
        """The job that `keep` was given for this very event."""
        return self._job if view is self._view else None

    def keep(self, view: JobView, job: Job) -> None:
        self._view, self._job = view, job


class Listener:
    """Room for one view of one job."""

    def __init__(self, audience: Audience, subscribe_steps: Callable[[], None]) -> None:
        self.audience = audience
        #: Subscribes to the job's steps, for as long as it listens. Once.
        self.subscribe_steps = subscribe_steps
        self._waiter: asyncio.Future[None] | None = None
        self._is_woken = False
        self._newest: JobView | None = None
        #: One timer for many waits, as most end before it: it is moved when it rings, and not with every wait.
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = self._due_at = 0.0
        #: Events may have been missed since the last snapshot.
        self.stale = False

    def offer(self, view: JobView) -> None:
        """A newer view takes the place of an unread one."""
        if self._newest is None or view.revision > self._newest.revision:
            self._newest = view
            self.wake()

    def mark_stale(self) -> None:
        self.stale = True
        self.wake()

    def wake(self) -> None:
        self._is_woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self, timeout_s: float) -> JobView | None:
        """The newest unread view; None when there was none in time, or the listener went stale or is being closed."""
        if not self._is_woken:
            loop = asyncio.get_running_loop()
            self._set_timer(loop, loop.time() + timeout_s)
            self._waiter = loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_woken = False
        newest, self._newest = self._newest, None
        return newest

    def close(self) -> None:
        """Wake the reader for the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop, due_at: float) -> None:
        self._due_at = due_at
        if self._timer is not None:
            if self._rings_at <= due_at:
                return
            self._timer.cancel()
        self._rings_at = due_at
        self._timer = loop.call_at(due_at, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if loop.time() < self._due_at:
            self._set_timer(loop, self._due_at)
        else:
            self._waiter.set_result(None)


class Hub:
    """Takes the broker's events (`on_event`, `on_gap`) and hands them to listeners."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.memory = Memory(clock)
        #: Which steps the broker is to send.
        self.steps = StepInterest(clock)
        self.closed = False
        self._audiences: dict[str, Audience] = {}
        self._on_event: list[Callable[[JobView], None]] = []
        self._on_success: list[Callable[[str], None]] = []
        self._on_gap: list[Callable[[], None]] = []
        self._on_gone: list[Callable[[tuple[str, ...]], None]] = []

    def when_succeeded(self, callback: Callable[[str], None]) -> None:
        """Call this with the id of every job that succeeds."""
        self._on_success.append(callback)

    def when_changed(self, callback: Callable[[JobView], None]) -> None:
        """Call this with every event."""
        self._on_event.append(callback)

    def when_gone(self, callback: Callable[[tuple[str, ...]], None]) -> None:
        """Call this with the ids of jobs whose records were deleted."""
        self._on_gone.append(callback)

    def when_gap(self, callback: Callable[[], None]) -> None:
        """Call this after events were lost."""
        self._on_gap.append(callback)

    def job_for_client(self, job_id: str) -> Job | None:
        """The job for a client that reads it, if its view is still fresh."""
        job = self.memory.get(job_id)
        if job is not None:
            self.steps.read(job_id)
        elif self.memory.is_polled(job_id):
            self.steps.polled(job_id)
        return job

    def on_event(self, view: JobView) -> None:
        """Take an event of the broker."""
        self.memory.update(view)
        if view.state in FINAL_NAMES:
            self.steps.over(view.id)
        self.steps.expire()
        audience = self._audiences.get(view.id)
        for listener in audience.listeners if audience else ():
            listener.offer(view)
        for notify in self._on_event:
            notify(view)
        if view.state == "succeeded":
            for callback in self._on_success:
                callback(view.id)

    def on_gone(self, job_ids: Iterable[str]) -> None:
        """Take the ids of deleted records."""
        ids = tuple(job_ids)
        for job_id in ids:
            self.memory.drop(job_id)
        for callback in self._on_gone:
            callback(ids)

    def on_gap(self) -> None:
        """Note that events were lost: remembered views may be old, and listeners need a snapshot."""
        self.memory.clear()
        for listener in self._all():
            listener.mark_stale()
        for callback in self._on_gap:
            callback()

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[Listener]:
        """A listener on one job for as long as the context lasts. Take the first snapshot inside it, or an event may be missed."""
        audience = self._audiences.setdefault(job_id, Audience())
        with contextlib.ExitStack() as at_end:

            def subscribe_steps() -> None:
                self.steps.opened(job_id)
                at_end.callback(self.steps.closed, job_id)

            listener = Listener(audience, subscribe_steps)
            audience.listeners.add(listener)
            at_end.callback(self._leave, job_id, listener)
            yield listener

    def _leave(self, job_id: str, listener: Listener) -> None:
        audience = listener.audience
        listener.close()
        audience.listeners.discard(listener)
        if not audience.listeners:
            del self._audiences[job_id]

    @property
    def listeners(self) -> int:
        """Number of listeners."""
        return sum(len(audience.listeners) for audience in self._audiences.values())

    def close(self) -> None:
        """Wake all listeners for the last time: streams end, waits give up."""
        self.closed = True
        for listener in self._all():
            listener.wake()

    def _all(self) -> list[Listener]:
        return [listener for audience in self._audiences.values() for listener in audience.listeners]
