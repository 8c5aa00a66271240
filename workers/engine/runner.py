"""Runs jobs one after another, and lets the tail of each run beside the front of the next.

A job's *front* (load, encode the prompt, denoise) runs on the caller's thread, its *tail* (`base.Stage`: decode, encode, save) on another.
Who may go on when is decided by `overlap.OverlapPlanner`; the threads here carry it out, wait and measure. Memory that ran out while both
were under way is nobody's fault: what ran out is done again alone. Whoever waits gives signs of life and hears its own cancel.

Owners: `_turn` guards `_planner`, `_tail` and `_ran_out`, which both threads use. Everything else is the caller's thread's, but for an
`EngineJob` that was handed over, which from then on is the tail's thread's alone (the caller's reads its engine and notes its peak).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from broker.runtime import log_context
from broker.runtime.log_actions import Action
from broker.wire.failures import FailureKind
from broker.wire.jobspec import JobSpec, ModelCard, Result, decode_spec, trace_id_of
from workers.engine.as_asked import differences
from workers.engine.base import Engine, Outcome, Stage
from workers.engine.errors import LoadError, OutOfMemory
from workers.engine.failures import classify, is_out_of_memory
from workers.engine.overlap import Candidate, OverlapPlanner, shape_of
from workers.engine.progress import Cancelled, Keeping, Monitor, Parked
from workers.engine.registry import Registry
from workers.ipc.messages import JobCancelled, JobEnding, JobFailed, JobFinished, JobParked, PostprocessBegun, RunJob
from workers.ipc.shared import SharedCounters, Slot

logger = logging.getLogger(__name__)

#: How often a thread that waits looks whether its job is cancelled: the cancel word is another process's, and wakes nobody.
_LOOK_S = 0.02


class EngineJob(Struct, frozen=True, kw_only=True):
    """A job that can be drawn."""

    job: RunJob
    spec: JobSpec
    card: ModelCard
    engine: Engine
    monitor: Monitor
    candidate: Candidate


class Runner:
    """Draws jobs for one agent. `send` may be called from two threads; `lost` ends the process, whose device is not to be trusted."""

    def __init__(
        self,
        registry: Registry,
        cards: dict[str, ModelCard],
        words: SharedCounters,
        send: Callable[[Struct], None],
        lost: Callable[[], None],
        marks: log_context.Marks | None = None,
        *,
        overlap: bool = True,
        checkpoint_s: float = 0.0,
    ) -> None:
        self._registry = registry
        self._checkpoint_s = checkpoint_s
        self._cards = cards
        self._words = words
        self._send = send
        self._lost = lost
        self._marks = marks or log_context.Marks()
        self._thread = ThreadPoolExecutor(1, "tail")
        self._turn = threading.Condition()
        self._planner = OverlapPlanner(enabled=overlap, learned=registry.peaks)
        #: The job whose tail is under way.
        self._tail: EngineJob | None = None
        #: The engine to reclaim memory from when nothing uses any: a job of its ran out.
        self._ran_out: Engine | None = None

    def run(self, job: RunJob) -> None:
        """Draw a job; returns when the next may be given. Every job is answered exactly once, now or by its tail."""
        self._marks.set(job_id=job.job_id, trace_id=trace_id_of(job.body))
        logger.info("job begins", extra={"action": Action.RUN_JOB, "fence": job.fence})
        ending = self._front(job)
        if ending is not None:
            self._answer(ending)
        self._reclaim()
        self._marks.set()

    def _answer(self, ending: JobEnding) -> None:
        self._send(ending)
        if isinstance(ending, JobFailed) and ending.fatal:
            self._lost()

    # ------------------------------------------------------------ waiting

    @contextmanager
    def _when(self, may: Callable[[], bool], look: Callable[[], None]) -> Iterator[None]:
        """Wait until `may()`, calling `look` meanwhile, which raises `Cancelled` for a job that is to stop; inside, the turn is held."""
        with self._turn:
            while not may():
                self._turn.wait(_LOOK_S)
                look()
            yield
            self._turn.notify_all()

    def _reclaim(self) -> None:
        """After a job ran out of memory, and when nothing uses any."""
        with self._turn:
            if self._planner.tail_under_way:
                return
            engine, self._ran_out = self._ran_out, None
        if engine is not None:
            engine.reclaim()

    # ------------------------------------------------------------ the front

    def _front(self, job: RunJob) -> JobEnding | None:
        """The job's end; None when its tail will tell."""
        slot = self._words.slots[job.slot]
        read = self._read(job)
        if isinstance(read, JobFailed):
            return read
        spec, card = read
        try:
            self._wait_for_turn(job, spec, card, slot)
        except Cancelled:
            model, loras = self._loaded()
            return JobCancelled(fence=job.fence, model=model, loaded_loras=loras)
        except Parked as parked:
            model, loras = self._loaded()
            return JobParked(fence=job.fence, kept=parked.kept, model=model, loaded_loras=loras)
        slot.begin(job.fence, job.kept)
        try:
            engine = self._registry.engine(card)
        except Exception as error:  # the process's outermost loop
            return _failed(job, None, error, "load")
        with self._turn:
            if self._tail is not None:
                self._tail.monitor.memory.note_peak()
        monitor = Monitor(slot, job.fence, spec.num_outputs, self._registry.meter)
        monitor.signer = self._registry.signer
        if job.checkpoints:
            request = hashlib.sha256(job.body).hexdigest()
            monitor.keeping = Keeping(job.checkpoints, self._checkpoint_s, request, job.park_at)
        stays = engine.stays(card, job.profile, shape_of(spec))
        candidate = Candidate(shape=shape_of(spec), alone=job.alone, stays=stays)
        order = EngineJob(job=job, spec=spec, card=card, engine=engine, monitor=monitor, candidate=candidate)
        return self._ended(order, lambda: self._run(order))

    def _read(self, job: RunJob) -> tuple[JobSpec, ModelCard] | JobFailed:
        try:
            spec = decode_spec(job.body)
        except ValueError as error:
            text = f"the job spec cannot be read: {error}"[:2000]
            return JobFailed(fence=job.fence, kind=FailureKind.INVALID_INPUT, message=text)
        card = self._cards.get(spec.model)
        if card is None:
            message = f"model {spec.model[:256]!r} is not one of {', '.join(self._cards)}"
            return JobFailed(fence=job.fence, kind=FailureKind.ENGINE_ERROR, message=message)
        return spec, card

    def _wait_for_turn(self, job: RunJob, spec: JobSpec, card: ModelCard, slot: Slot) -> None:
        """Return when this job may begin. Raises `Cancelled` or `Parked` when it is to stop before."""
        shape = shape_of(spec)

        def may_begin() -> bool:
            stays = self._tail is None or self._tail.engine.stays(card, job.profile, shape)
            candidate = Candidate(shape=shape, alone=job.alone, stays=stays)
            return self._planner.may_begin(candidate, self._registry.meter.limit_mb())

        def look() -> None:
            if slot.cancelled(job.fence):
                raise Cancelled
            if card.resumes and job.checkpoints and slot.park_requested(job.fence):
                raise Parked(job.kept)

        with self._when(may_begin, look):
            pass
        self._reclaim()

    def _run(self, order: EngineJob) -> Outcome | None:
        """Files, or None when the tail was handed over."""
        outcome = self._draw(order)
        while isinstance(outcome, Stage):
            self._wait_for_tail(order.monitor)
            if self._hand_over(order, outcome):
                return None
            where = outcome.where
            outcome, _, took_mb = self._measured(order, outcome.run)
            with self._turn:
                self._planner.stage_ran_alone(order.candidate, where, took_mb)
        return outcome

    def _draw(self, order: EngineJob) -> Outcome:
        while True:
            with self._when(lambda: self._may_begin(order), order.monitor.check):
                measured = self._planner.begin(order.candidate)
            try:
                return self._begun(order, measured)
            except Exception as error:  # told apart at once
                if not (is_out_of_memory(error) and self._may_draw_again(order, error)):
                    raise
                _again(error)
            finally:
                with self._turn:
                    self._planner.end()
                    self._turn.notify_all()
            self._wait_for_tail(order.monitor)
            order.engine.reclaim()

    def _may_draw_again(self, order: EngineJob, error: Exception) -> bool:
        """After the front ran out of memory: whether it was beside a tail, or can be had in less. A refusal is the engine's last word."""
        with self._turn:
            if self._planner.excuse_front():
                return True
            if self._planner.tail_under_way:
                return False
        return not isinstance(error, OutOfMemory) and order.engine.ran_out(order.card, order.spec, order.job.profile)

    def _may_begin(self, order: EngineJob) -> bool:
        return self._planner.may_begin(order.candidate, self._registry.meter.limit_mb())

    def _begun(self, order: EngineJob, measured: bool) -> Outcome:
        def generate() -> Outcome:
            return order.engine.generate(
                order.card, order.spec, Path(order.job.out_dir), order.monitor, order.job.profile
            )

        if not measured:
            return generate()
        outcome, weights_mb, took_mb = self._measured(order, generate)
        with self._turn:
            self._planner.measured(took_mb, weights_mb)
        return outcome

    def _measured(self, order: EngineJob, act: Callable[[], Outcome]) -> tuple[Outcome, float, float]:
        """Run `act` alone on the device; return its result, the memory held before, and its peak on top of that, MB."""
        meter = self._registry.meter
        order.monitor.memory.note_peak()
        meter.reset_peak()
        before = meter.held_mb()
        outcome = act()
        return outcome, before, max(0.0, meter.peak_held_mb() - before)

    def _hand_over(self, order: EngineJob, stage: Stage) -> bool:
        """Give the tail to the other thread, if a next job could be drawn beside it."""
        with self._turn:
            if not self._planner.may_hand_over(order.candidate, stage.where, self._registry.meter.limit_mb()):
                return False
            self._planner.enter_stage(order.candidate.shape, stage.where)
            self._tail = order
        self._send(
            PostprocessBegun(
                fence=order.job.fence, model=order.engine.loaded(), loaded_loras=order.engine.loaded_loras()
            )
        )
        self._thread.submit(self._run_tail, order, stage)
        return True

    def _wait_for_tail(self, monitor: Monitor) -> None:
        with self._when(lambda: not self._planner.tail_under_way, monitor.check):
            pass

    # ------------------------------------------------------------ the tail, on its own thread

    def _run_tail(self, order: EngineJob, first: Stage) -> None:
        self._marks.set(job_id=order.job.job_id, trace_id=trace_id_of(order.job.body))

        def stages() -> Outcome:
            outcome: Outcome = first
            while isinstance(outcome, Stage):
                outcome = self._run_stage(order, outcome)
            return outcome

        try:
            ending = self._ended(order, stages)
            if ending is not None:
                self._answer(ending)
        finally:
            self._marks.set()
            with self._turn:
                self._tail = None
                self._planner.end_tail()
                self._turn.notify_all()

    def _run_stage(self, order: EngineJob, stage: Stage) -> Outcome:
        with self._turn:
            self._planner.enter_stage(order.candidate.shape, stage.where)
            self._turn.notify_all()
        try:
            return stage.run()
        except Exception as error:  # told apart at once
            with self._turn:
                excused = is_out_of_memory(error) and self._planner.excuse_stage()
            if not excused:
                raise
            _again(error)
        with self._when(self._planner.may_repeat, order.monitor.check):
            pass
        order.engine.reclaim()
        return stage.run()

    # ------------------------------------------------------------ ends

    def _ended(self, order: EngineJob, act: Callable[[], Outcome | None]) -> JobEnding | None:
        """The job's end, as `act` makes it; None when it has not come yet."""
        monitor, engine = order.monitor, order.engine
        try:
            monitor.check()
            artefacts = act()
            if artefacts is None:
                return None
            assert not isinstance(artefacts, Stage)
            for text in differences(order.spec, artefacts):
                monitor.warn(text)
            result = Result(
                artefacts=artefacts,
                stage_durations=monitor.times.durations(),
                peak_memory_mb=round(monitor.memory.peak_mb(), 1),
                seed=order.spec.seed,
                warnings=monitor.warnings,
                used=monitor.used,
            )
            ending: JobEnding = JobFinished(
                fence=order.job.fence,
                result=result,
                run_s=monitor.times.run_s(),
                model=engine.loaded(),
                loaded_loras=engine.loaded_loras(),
            )
        except Cancelled:
            ending = JobCancelled(fence=order.job.fence, model=engine.loaded(), loaded_loras=engine.loaded_loras())
        except Parked as parked:
            ending = JobParked(
                fence=order.job.fence, kept=parked.kept, model=engine.loaded(), loaded_loras=engine.loaded_loras()
            )
        except Exception as error:  # the process's outermost loop
            ending = _failed(order.job, engine, error, monitor.phase)
        if isinstance(ending, JobFailed) and ending.fatal:
            return ending  # the device is not to be asked anything any more
        if monitor.keeping is not None:
            monitor.keeping.settle()
        if isinstance(ending, JobFailed) and ending.kind == FailureKind.OUT_OF_MEMORY:
            with self._turn:
                self._ran_out = engine
        monitor.memory.tell()
        return ending

    def _loaded(self) -> tuple[str, tuple[str, ...]]:
        with self._turn:
            engine = self._tail.engine if self._tail is not None else None
            return (engine.loaded(), engine.loaded_loras()) if engine is not None else ("", ())


def _again(error: Exception) -> None:
    """Let go of what failed because two halves did not fit; it is about to be done again."""
    _forget_frames(error)
    logger.warning(
        "memory ran out: once more, alone or with the model placed to take less", extra={"action": Action.RUN_AGAIN}
    )


def _failed(job: RunJob, engine: Engine | None, error: Exception, phase: str) -> JobFailed:
    verdict = classify(error, phase)
    log = {"action": Action.JOB_FAILED, "job_id": job.job_id, "fence": job.fence, "kind": verdict.kind, "phase": phase}
    # A refused input is the client's affair, and a model that cannot be loaded is told in our words: neither needs a traceback.
    told = verdict.kind.rules.fault == "input" or isinstance(error, LoadError)
    logger.error("job failed: %s", verdict.message, exc_info=not told, extra=log)
    _forget_frames(error)
    loaded, loras = (engine.loaded(), engine.loaded_loras()) if engine else ("", ())
    return JobFailed(
        fence=job.fence,
        kind=verdict.kind,
        message=verdict.message,
        fatal=verdict.fatal,
        model=loaded,
        loaded_loras=loras,
    )


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of a traceback hold: their tensors fill the memory that the next job needs."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
