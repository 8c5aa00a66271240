"""One watch on the broker per edge process, fanned out to event streams and waiters, and a short memory of job views.

Rules. A listener has room for one view, the newest: a slow reader skips steps and costs no memory. When events were lost (a gap),
every listener is marked stale and the memory is emptied; whoever listens then asks for a snapshot. A remembered view of a live job
is believed only for a moment, so that a watch that died unnoticed cannot lie for long. Nothing here is needed for correctness
over a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from broker.wire.jobspec import JobSpec, decode_spec
from broker.wire.messages import JobView

FINAL_STATES = ("succeeded", "failed", "cancelled")

#: Jobs remembered, in number and in bytes of their specs, and for how long a view of one is believed: progress comes as events, a
#: queue position does not.
_REMEMBERED = 2048
_REMEMBERED_BYTES = 16 * 1024 * 1024
_RUNNING_FRESH_S = 1.0
_WAITING_FRESH_S = 0.25

#: How long answers about a deleted job may still be under way.
_GONE_REMEMBERED_S = 30.0


class Job(Struct, frozen=True, kw_only=True):
    """A job as the edge handles it: the broker's view and the spec, decoded once."""

    view: JobView
    #: None when a newer edge wrote a spec that this one cannot read.
    spec: JobSpec | None
    #: Why the client's own path (`JobSpec.save_to`) could not be filled; "" when it was, or there is none.
    save_error: str = ""
    #: How long finished jobs are kept, seconds; 0: for ever.
    kept_s: float = 0.0

    @classmethod
    def of(cls, view: JobView, kept_s: float) -> Job:
        """The job of a full view."""
        try:
            return cls(view=view, spec=decode_spec(view.body), kept_s=kept_s)
        except ValueError:
            return cls(view=view, spec=None, kept_s=kept_s)

    @property
    def expires_at(self) -> float:
        """When record and files go, Unix time; 0 when that is not known: the job is not over, or is kept for ever."""
        return self.view.finished_at + self.kept_s if self.kept_s and self.is_final else 0.0

    @property
    def id(self) -> str:
        return self.view.id

    @property
    def is_final(self) -> bool:
        return self.view.state in FINAL_STATES

    def moved_to(self, view: JobView) -> Job:
        """This job in a later view; events bring neither spec nor story."""
        if not view.body:
            view = msgspec.structs.replace(view, body=self.view.body, story=view.story or self.view.story)
        return Job(view=view, spec=self.spec, kept_s=self.kept_s)


class Memory:
    """The newest full view of jobs that were asked for lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: OrderedDict[str, tuple[Job, float]] = OrderedDict()
        self._bytes = 0
        #: Job -> revision of its last event: an answer that was overtaken by an event is not worth keeping.
        self._heard: OrderedDict[str, int] = OrderedDict()
        #: Deleted job -> when that was heard.
        self._gone: OrderedDict[str, float] = OrderedDict()

    def get(self, job_id: str) -> Job | None:
        """The job, if what is remembered can still be believed."""
        held = self._jobs.get(job_id)
        if held is None:
            return None
        job, at = held
        # What became of a webhook's deliveries comes with no event.
        if not job.is_final or job.view.webhook:
            fresh_s = _WAITING_FRESH_S if job.view.state in ("queued", "delayed", "assigned") else _RUNNING_FRESH_S
            if self._clock() - at > fresh_s:
                return None
        self._jobs.move_to_end(job_id)
        return job

    def put(self, job: Job) -> None:
        """Remember a full view, unless a newer one is here."""
        if self._clock() - self._gone.get(job.id, -math.inf) < _GONE_REMEMBERED_S:
            return
        held = self._jobs.get(job.id)
        newest = max(held[0].view.revision if held else 0, self._heard.get(job.id, 0))
        if newest > job.view.revision:
            return
        self.forget(job.id)
        self._jobs[job.id] = (job, self._clock())
        self._bytes += len(job.view.body)
        while len(self._jobs) > _REMEMBERED or self._bytes > _REMEMBERED_BYTES:
            self.forget(next(iter(self._jobs)))

    def learn(self, view: JobView) -> None:
        """Follow an event: progress is taken over; a change of state is forgotten, as its story is not in the event."""
        self._heard[view.id] = view.revision
        self._heard.move_to_end(view.id)
        if len(self._heard) > _REMEMBERED:
            self._heard.popitem(last=False)
        held = self._jobs.get(view.id)
        if held is None:
            return
        old = held[0].view
        if view.revision <= old.revision:
            return
        same = (view.state, view.attempts, view.cancel_requested) == (old.state, old.attempts, old.cancel_requested)
        if same:
            self._jobs[view.id] = (held[0].moved_to(view), self._clock())
        else:
            self.forget(view.id)

    def drop(self, job_id: str) -> None:
        """The job's record was deleted: an answer that left before is not worth keeping."""
        self.forget(job_id)
        self._gone[job_id] = self._clock()
        self._gone.move_to_end(job_id)
        if len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)

    def forget(self, job_id: str) -> None:
        held = self._jobs.pop(job_id, None)
        if held is not None:
            self._bytes -= len(held[0].view.body)

    def clear(self) -> None:
        self._jobs.clear()
        self._bytes = 0


class Listener:
    """Room for one view of one job."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._newest: JobView | None = None
        #: Events may have been missed since the last snapshot.
        self.stale = False

    def offer(self, view: JobView) -> None:
        """A newer view takes the place of an unread one."""
        if self._newest is None or view.revision > self._newest.revision:
            self._newest = view
            self._wake.set()

    def mark_stale(self) -> None:
        self.stale = True
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    async def next(self, timeout_s: float) -> JobView | None:
        """The newest unread view; None when there was none in time, or the listener went stale or is being closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        self._wake.clear()
        newest, self._newest = self._newest, None
        return newest


class Hub:
    """Takes the broker's events (`on_event`, `on_gap`) and hands them to whoever listens."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.memory = Memory(clock)
        self.closed = False
        self._listeners: dict[str, set[Listener]] = {}
        self._on_event: list[Callable[[JobView], None]] = []
        self._on_success: list[Callable[[str], None]] = []
        self._on_gap: list[Callable[[], None]] = []
        self._on_gone: list[Callable[[tuple[str, ...]], None]] = []

    def when_succeeded(self, callback: Callable[[str], None]) -> None:
        """Call this with the id of every job that succeeds."""
        self._on_success.append(callback)

    def when_told(self, callback: Callable[[JobView], None]) -> None:
        """Call this with every event."""
        self._on_event.append(callback)

    def when_gone(self, callback: Callable[[tuple[str, ...]], None]) -> None:
        """Call this with the ids of jobs whose records were deleted."""
        self._on_gone.append(callback)

    def when_gap(self, callback: Callable[[], None]) -> None:
        """Call this after events were lost."""
        self._on_gap.append(callback)

    def on_event(self, view: JobView) -> None:
        """An event arrived."""
        self.memory.learn(view)
        for listener in self._listeners.get(view.id, ()):
            listener.offer(view)
        for tell in self._on_event:
            tell(view)
        if view.state == "succeeded":
            for callback in self._on_success:
                callback(view.id)

    def on_gone(self, job_ids: Iterable[str]) -> None:
        """Records were deleted."""
        ids = tuple(job_ids)
        for job_id in ids:
            self.memory.drop(job_id)
        for callback in self._on_gone:
            callback(ids)

    def on_gap(self) -> None:
        """Events were lost: what is remembered may be old, and listeners need a snapshot."""
        self.memory.clear()
        for listener in self._all():
            listener.mark_stale()
        for callback in self._on_gap:
            callback()

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[Listener]:
        """A listener on one job for as long as the context lasts. Take the first snapshot inside it, or an event may be missed."""
        listener = Listener()
        self._listeners.setdefault(job_id, set()).add(listener)
        try:
            yield listener
        finally:
            others = self._listeners[job_id]
            others.discard(listener)
            if not others:
                del self._listeners[job_id]

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return sum(len(group) for group in self._listeners.values())

    def close(self) -> None:
        """Wake everyone for the last time: streams end, waits give up."""
        self.closed = True
        for listener in self._all():
            listener.wake()

    def _all(self) -> list[Listener]:
        return [listener for group in self._listeners.values() for listener in group]
