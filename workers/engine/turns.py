"""Turns of an engine's jobs: threads wait here for the planner's decisions.

One job at a time has the *turn*: from the beginning of its denoise stage until the next may begin its own. While it takes its last steps
one other may be prepared, and waits; one more, from before it, may be in its postprocess stages. A thread that waits gives signs of life
and obeys its own cancel. All state is guarded by one lock, and every change of it wakes all waiting threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from broker.wire.jobspec import JobSpec, ModelCard
from workers.engine.base import Engine
from workers.engine.memory import MemoryMeter
from workers.engine.overlap import Candidate, OverlapPlanner, Where, shape_of
from workers.engine.progress import Monitor
from workers.ipc.messages import NextRequested, PostprocessBegun, RunJob

#: How often a thread that waits checks whether its job is cancelled: the cancel flag is another process's, and wakes no thread.
_LOOK_S = 0.02

#: For at most this long a job that is denoised does nothing: two threads in Python would keep each other from the next one's first step.
_FIRST_STEP_S = 0.01


class EngineJob(Struct, frozen=True, kw_only=True):
    """A job that can be drawn."""

    job: RunJob
    spec: JobSpec
    card: ModelCard
    engine: Engine
    monitor: Monitor
    candidate: Candidate


class Turns:
    """The jobs under way in one engine. `meter()` reads its device's memory; `send` is called while the lock is held."""

    def __init__(
        self, planner: OverlapPlanner, meter: Callable[[], MemoryMeter], send: Callable[[Struct], None]
    ) -> None:
        self.planner = planner
        self.lock = threading.Condition()
        self._meter = meter
        self._send = send
        #: The job that has the turn, and the one that is postprocessed.
        self._denoising: EngineJob | None = None
        self._postprocessing: EngineJob | None = None
        #: The one that has the turn, if it takes its last steps.
        self._nearly_denoised: EngineJob | None = None
        #: Whether the next job was requested for that one.
        self._next_requested = False
        #: What the process could hold, as read when a job that waits last looked: reading takes up to a millisecond, and the moment in
        #: which one job follows another is not the time for it.
        self._limit_mb = 0.0
        #: How many prepared jobs have come to their first denoising step.
        self._first_steps = 0

    def under_way(self) -> list[EngineJob]:
        """The jobs that have the turn or are postprocessed."""
        with self.lock:
            return [one for one in (self._denoising, self._postprocessing) if one is not None]

    @contextmanager
    def when(self, may: Callable[[], bool], look: Callable[[], None]) -> Iterator[None]:
        """Wait until `may()`, calling `look` meanwhile, which raises `Cancelled` for a job that is to stop; inside, the lock is held."""
        with self.lock:
            self._read_limit()
            while not may():
                if not self.lock.wait(_LOOK_S):
                    self._read_limit()
                look()
            yield
            self.lock.notify_all()

    def _read_limit(self) -> None:
        self._limit_mb = self._meter().limit_mb()

    # ------------------------------------------------------------ before the denoise stage

    def wait_for_room(self, job: RunJob, spec: JobSpec, card: ModelCard, look: Callable[[], None]) -> Candidate | None:
        """Return when a job may begin: as what it counts where it is only to be prepared, else None. Raises what `look` raises."""
        shape = shape_of(spec)
        found: list[Candidate] = []

        def may_begin() -> bool:
            other = self._denoising or self._postprocessing
            resident = other is None or other.engine.resident(card, job.profile, shape)
            candidate = Candidate(shape=shape, alone=job.alone, resident=resident)
            if self._can_prepare(job, spec, card) and self.planner.may_prepare(candidate, self._limit_mb):
                found.append(candidate)
                return True
            return self._denoising is None and self.planner.may_begin(candidate, self._limit_mb)

        with self.when(may_begin, look):
            if found:
                self.planner.prepare(found[0])
        return found[0] if found else None

    def _can_prepare(self, job: RunJob, spec: JobSpec, card: ModelCard) -> bool:
        beside = self._denoising
        return (
            beside is not None
            and self._nearly_denoised is beside
            and beside.card is card
            and not job.kept
            and beside.engine.prepares(card, spec, beside.spec)
        )

    # ------------------------------------------------------------ the turn

    def take(self, order: EngineJob) -> bool:
        """Return when the job's denoise stage may go on: whether what it takes is to be measured. Raises `Cancelled`."""

        def may_begin() -> bool:
            return self._denoising is None and self.planner.may_begin(order.candidate, self._limit_mb)

        with self.lock:
            self.planner.prepared(order.candidate)
            self.lock.notify_all()
        with self.when(may_begin, order.monitor.check):
            self._denoising = order
            return self.planner.begin(order.candidate)
        raise AssertionError  # what `when` raises is the only other way out

    def end_denoise(self, order: EngineJob) -> None:
        """The denoise stage has ended, well or not. The job may keep the turn, for stages with nothing beside them."""
        with self.lock:
            if self._denoising is order:
                self.planner.end()
                self.lock.notify_all()

    def leave(self, order: EngineJob) -> None:
        """Give the turn back, if the job has it, or the place of one that is prepared."""
        with self.lock:
            self.planner.drop_prepared(order.candidate)
            if self._denoising is order:
                self._pass_on()
            self.lock.notify_all()

    def _pass_on(self) -> None:
        self.planner.end()
        self._denoising = self._nearly_denoised = None
        self._next_requested = False

    def request_next(self, order: EngineJob) -> None:
        """The job takes its last steps: request the next one, now or when there is room for it."""
        if not order.engine.prepares(order.card, order.spec, order.spec):
            return
        with self.lock:
            if self._denoising is order:
                self._nearly_denoised = order
                self._request_if_room()

    def _request_if_room(self) -> None:
        order = self._nearly_denoised
        if order is None or self._next_requested:
            return
        self._read_limit()
        if self.planner.may_prepare(order.candidate, self._limit_mb):
            self._next_requested = True
            self._send(NextRequested(fence=order.job.fence))

    def excuse(self, order: EngineJob) -> bool | None:
        """The job ran out of memory before its postprocessing. Whether another was beside it; None: one is now, and was not then."""
        with self.lock:
            if self.planner.excuse_prepared(order.candidate) or (self._denoising is order and self.planner.excuse()):
                return True
            return None if self.planner.postprocess_under_way else False

    # ------------------------------------------------------------ postprocess stages

    def open(self, order: EngineJob, where: Where) -> None:
        """The job is denoised, and its call not left yet: let one that is prepared go on at once, if it can beside a stage there."""
        with self.lock:
            if self._denoising is not order or not self.planner.has_prepared or not self._fits_after(order, where):
                return
            begun = self._first_steps
            self._enter(order, where)
            # The other thread's first step comes before this one's last words.
            self.lock.wait_for(lambda: self._first_steps != begun, _FIRST_STEP_S)

    def at_first_step(self) -> None:
        """A job that was prepared has come to its first denoising step."""
        with self.lock:
            self._first_steps += 1
            self.lock.notify_all()

    def hand_over(self, order: EngineJob, where: Where) -> bool:
        """Whether the job is to be postprocessed by another thread, so that the next may begin: it may already."""
        with self.when(lambda: self._postprocessing in (None, order), order.monitor.check):
            if self._postprocessing is order:
                return True
            if not self._fits_after(order, where):
                return False
            self._enter(order, where)
        return True

    def _fits_after(self, order: EngineJob, where: Where) -> bool:
        return self.planner.may_hand_over(order.candidate, where, self._limit_mb)

    def _enter(self, order: EngineJob, where: Where) -> None:
        self._pass_on()
        self.planner.enter_stage(order.candidate.shape, where)
        self._postprocessing = order
        engine = order.engine
        # While the lock is held: no message of the next job comes before it.
        self._send(PostprocessBegun(fence=order.job.fence, model=engine.loaded(), loaded_loras=engine.loaded_loras()))
        self.lock.notify_all()

    def leave_postprocess(self, order: EngineJob) -> None:
        """The job has been answered, if it was handed over."""
        with self.lock:
            if self._postprocessing is order:
                self._postprocessing = None
                self.planner.end_postprocess()
                self._request_if_room()
                self.lock.notify_all()

    def wait_for_postprocess(self, order: EngineJob) -> None:
        """Return when no job is postprocessed. Raises `Cancelled`."""
        with self.when(lambda: self._postprocessing is None, order.monitor.check):
            """Nothing is to be changed."""
