"""Runs jobs one after another, and lets the tail of each run beside the drawing of the next.

A job's *front* (load, encode the prompt, denoise) runs on the caller's thread, its *tail* (`base.Stage`: decode, encode, save) on another.
At most one tail is under way, so an engine has at most two jobs. The rules:

- A tail goes to the other thread only if a next job like it would fit beside it; the agent is told (`TailBegun`) and sends the next.
- A front waits for the tail before it when that needs the device and the two do not fit (`overlap.Needs`), when weights would have to move,
  and when its job is to run alone.
- Memory that runs out while both were running is nobody's fault: what ran out is done again with nothing beside it.
- Whoever waits gives signs of life and hears its own cancel.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from broker.wire.jobspec import JobSpec, ModelCard, Result, decode_spec, trace_id_of
from workers import logs
from workers.engine.base import Engine, Outcome, Stage
from workers.engine.failures import classify
from workers.engine.monitor import Cancelled, Monitor
from workers.engine.overlap import Needs, shape_of
from workers.engine.registry import Registry
from workers.ipc import JobCancelled, JobFailed, JobFinished, RunJob, Seat, TailBegun, Words

logger = logging.getLogger(__name__)

Ending = JobFinished | JobFailed | JobCancelled

#: How often whoever waits looks whether its job is cancelled.
_LOOK_S = 0.02


class Order(Struct, frozen=True, kw_only=True):
    """A job that can be drawn."""

    job: RunJob
    spec: JobSpec
    card: ModelCard
    engine: Engine
    monitor: Monitor
    shape: Hashable


class Tail:
    """The tail under way. `stage` is the one that runs now; `done` is set when its job has been answered."""

    def __init__(self, order: Order, stage: Stage) -> None:
        self.order = order
        self.stage = stage
        self.done = threading.Event()

    def let_go(self) -> None:
        """It has ended: latents and frames are not kept until the next job comes."""
        self.stage = Stage("host", tuple)
        self.done.set()


class Runner:
    """Draws jobs for one agent. `send` may be called from two threads; `lost` ends the process, whose device is not to be trusted."""

    def __init__(
        self,
        registry: Registry,
        cards: dict[str, ModelCard],
        words: Words,
        send: Callable[[Struct], None],
        lost: Callable[[], None],
        marks: logs.Marks | None = None,
        *,
        overlap: bool = True,
    ) -> None:
        self._registry = registry
        self._cards = cards
        self._words = words
        self._send = send
        self._lost = lost
        self._marks = marks or logs.Marks()
        self._overlap = overlap
        self._needs = Needs()
        self._weights_mb = 0.0
        self._tail: Tail | None = None
        self._thread = ThreadPoolExecutor(1, "tail")
        #: Held while a front is drawn, and by a tail that must have the device for itself.
        self._drawing = threading.Lock()
        #: How many fronts have begun, and the shape of the last.
        self._fronts = 0
        self._front_shape: Hashable = None
        self._ran_out: Engine | None = None

    def run(self, job: RunJob) -> None:
        """Draw a job; returns when the next may be given. Every job is answered exactly once, now or by its tail."""
        self._marks.set(job_id=job.job_id, trace_id=trace_id_of(job.body))
        logger.info("job begins", extra={"action": "run_job", "fence": job.fence})
        ending = self._front(job)
        if ending is not None:
            self._answer(ending)
        self._give_back()
        self._marks.set()

    def _answer(self, ending: Ending) -> None:
        self._send(ending)
        if isinstance(ending, JobFailed) and ending.fatal:
            self._lost()

    # ------------------------------------------------------------ the front

    def _front(self, job: RunJob) -> Ending | None:
        """The job's end; None when its tail will tell."""
        seat = self._words.seats[job.seat]
        read = self._read(job)
        if isinstance(read, JobFailed):
            return read
        spec, card = read
        if not self._take_turn(job, spec, card, seat):
            return JobCancelled(fence=job.fence, model=self._loaded())
        seat.begin(job.fence)
        try:
            engine = self._registry.engine(card)
        except Exception as error:  # the process's outermost loop
            return _failed(job, None, error, "load")
        if self._tail is not None:
            self._tail.order.monitor.note_peak()
        monitor = Monitor(seat, job.fence, spec.num_outputs, self._registry.meter)
        order = Order(job=job, spec=spec, card=card, engine=engine, monitor=monitor, shape=shape_of(spec))
        return self._ended(order, lambda: self._run(order))

    def _read(self, job: RunJob) -> tuple[JobSpec, ModelCard] | JobFailed:
        try:
            spec = decode_spec(job.body)
        except ValueError as error:
            text = f"the job spec cannot be read: {error}"[:2000]
            return JobFailed(fence=job.fence, kind="invalid_input", message=text)
        card = self._cards.get(spec.model)
        if card is None:
            message = f"model {spec.model[:256]!r} is not one of {', '.join(self._cards)}"
            return JobFailed(fence=job.fence, kind="engine_error", message=message)
        return spec, card

    def _take_turn(self, job: RunJob, spec: JobSpec, card: ModelCard, seat: Seat) -> bool:
        """Wait until this job may begin; False when it is cancelled before."""
        while (tail := self._running_tail()) is not None and not self._fits_beside(tail, job, spec, card):
            if seat.cancelled(job.fence):
                return False
            tail.done.wait(_LOOK_S)
        self._give_back()
        return True

    def _give_back(self) -> None:
        """After a job ran out of memory, and when nothing uses any."""
        engine = self._ran_out
        if engine is not None and self._running_tail() is None:
            self._ran_out = None
            engine.reclaim()

    def _running_tail(self) -> Tail | None:
        if self._tail is not None and self._tail.done.is_set():
            self._tail = None
        return self._tail

    def _fits_beside(self, tail: Tail, job: RunJob, spec: JobSpec, card: ModelCard) -> bool:
        if job.alone:
            return False
        if tail.stage.where == "host":
            return True
        return tail.order.engine.stays(card, job.profile) and self._room(shape_of(spec), tail.order.shape)

    def _room(self, front: Hashable, tail: Hashable) -> bool:
        return self._needs.fit(front, tail, self._registry.meter.limit_mb(), self._weights_mb)

    def _run(self, order: Order) -> Outcome | None:
        """Files, or None when the tail was handed over."""
        outcome = self._draw(order)
        while isinstance(outcome, Stage):
            self._wait_for_tail(order.monitor)
            if self._may_hand_over(order, outcome):
                self._hand_over(order, outcome)
                return None
            outcome, _, took_mb = self._measured(order, outcome.run)
            self._needs.tail_took(order.shape, took_mb)
        return outcome

    def _draw(self, order: Order) -> Outcome:
        def draw() -> Outcome:
            return order.engine.draw(order.card, order.spec, Path(order.job.out_dir), order.monitor, order.job.profile)

        tail = self._running_tail()
        beside = tail if tail is not None and tail.stage.where == "device" else None
        with self._exclusively(order.monitor):
            self._fronts += 1
            self._front_shape = order.shape
            # Loading is not part of what a job of this shape takes.
            if beside is None and order.engine.stays(order.card, order.job.profile):
                outcome, self._weights_mb, took_mb = self._measured(order, draw)
                self._needs.front_took(order.shape, took_mb)
                return outcome
            try:
                return draw()
            except Exception as error:  # told apart at once
                if beside is None or not self._excused(order, error, (order.shape, beside.order.shape)):
                    raise
        self._wait_for_tail(order.monitor)
        order.engine.reclaim()
        with self._exclusively(order.monitor):
            return draw()

    def _excused(self, order: Order, error: Exception, pair: tuple[Hashable, Hashable]) -> bool:
        """Whether memory ran out because of `pair`: a front and a tail, which are not tried together again."""
        if classify(error, order.monitor.phase).kind != "out_of_memory":
            return False
        self._needs.forbid(*pair)
        _forget_frames(error)
        logger.warning("two jobs do not fit into memory: once more, alone", extra={"action": "run_again"})
        return True

    def _measured(self, order: Order, act: Callable[[], Outcome]) -> tuple[Outcome, float, float]:
        """What `act` gives with nothing beside it on the device, what was held before, and what it took on top, in MB."""
        meter = self._registry.meter
        order.monitor.note_peak()
        meter.reset_peak()
        before = meter.held_mb()
        outcome = act()
        return outcome, before, max(0.0, meter.peak_held_mb() - before)

    def _may_hand_over(self, order: Order, stage: Stage) -> bool:
        """Whether a next job, taken to be like this one, could be drawn beside this stage."""
        if not self._overlap or order.job.alone or stage.where == "whole":
            return False
        return stage.where == "host" or self._room(order.shape, order.shape)

    def _hand_over(self, order: Order, stage: Stage) -> None:
        self._send(TailBegun(fence=order.job.fence, model=order.engine.loaded()))
        self._tail = Tail(order, stage)
        self._thread.submit(self._run_tail, self._tail)

    def _wait_for_tail(self, monitor: Monitor) -> None:
        while (tail := self._running_tail()) is not None:
            monitor.check()
            tail.done.wait(_LOOK_S)

    # ------------------------------------------------------------ the tail, on its own thread

    def _run_tail(self, tail: Tail) -> None:
        order = tail.order
        self._marks.set(job_id=order.job.job_id, trace_id=trace_id_of(order.job.body))

        def stages() -> Outcome:
            outcome: Outcome = tail.stage
            while isinstance(outcome, Stage):
                tail.stage = outcome
                outcome = self._run_stage(order, outcome)
            return outcome

        try:
            ending = self._ended(order, stages)
            if ending is not None:
                self._answer(ending)
        finally:
            self._marks.set()
            tail.let_go()

    def _run_stage(self, order: Order, stage: Stage) -> Outcome:
        fronts, drawing = self._fronts, self._drawing.locked()
        try:
            return stage.run()
        except Exception as error:  # told apart at once
            beside = drawing or self._fronts != fronts
            pair = (self._front_shape, order.shape)
            if stage.where != "device" or not beside or not self._excused(order, error, pair):
                raise
        with self._exclusively(order.monitor):
            order.engine.reclaim()
            return stage.run()

    @contextmanager
    def _exclusively(self, monitor: Monitor) -> Iterator[None]:
        """Inside, no front is drawn but the one that is inside."""
        while not self._drawing.acquire(timeout=_LOOK_S):
            monitor.check()
        try:
            yield
        finally:
            self._drawing.release()

    # ------------------------------------------------------------ ends

    def _ended(self, order: Order, act: Callable[[], Outcome | None]) -> Ending | None:
        """The job's end, as `act` makes it; None when it has not come yet."""
        monitor, engine = order.monitor, order.engine
        try:
            monitor.check()
            artefacts = act()
            if artefacts is None:
                return None
            assert not isinstance(artefacts, Stage)
            result = Result(
                artefacts=artefacts,
                stage_durations=monitor.stage_durations(),
                peak_memory_mb=round(monitor.peak_memory_mb(), 1),
                seed=order.spec.seed,
            )
            ending: Ending = JobFinished(
                fence=order.job.fence, result=result, run_s=monitor.run_s(), model=engine.loaded()
            )
        except Cancelled:
            ending = JobCancelled(fence=order.job.fence, model=engine.loaded())
        except Exception as error:  # the process's outermost loop
            ending = _failed(order.job, engine, error, monitor.phase)
        if isinstance(ending, JobFailed) and ending.fatal:
            return ending  # the device is not to be asked anything any more
        if isinstance(ending, JobFailed) and ending.kind == "out_of_memory":
            self._ran_out = engine
        monitor.report_memory()
        return ending

    def _loaded(self) -> str:
        return self._tail.order.engine.loaded() if self._tail is not None else ""


def _failed(job: RunJob, engine: Engine | None, error: Exception, phase: str) -> JobFailed:
    verdict = classify(error, phase)
    log = {"action": "job_failed", "job_id": job.job_id, "fence": job.fence, "kind": verdict.kind, "phase": phase}
    # A refused input is the client's affair and needs no traceback of ours.
    logger.error("job failed: %s", verdict.message, exc_info=verdict.kind != "invalid_input", extra=log)
    _forget_frames(error)
    loaded = engine.loaded() if engine else ""
    return JobFailed(fence=job.fence, kind=verdict.kind, message=verdict.message, fatal=verdict.fatal, model=loaded)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of a traceback hold: their tensors fill the memory that the next job needs."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
