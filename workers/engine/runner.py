"""Runs jobs one after another: each is prepared beside the last steps of the one before, and postprocessed beside the one after.

A job's *denoise stage* (load, encode the prompt, denoise) runs on the caller's thread, its *postprocess stages* (`base.Stage`: decode,
encode, save) on a third. There may be two callers: while the job of one is denoised, that of the other is prepared up to its first step,
where it waits. Which may go on is decided by `overlap.OverlapPlanner` and waited for in `turns.Turns`; here the work is done and measured.
Memory that ran out while two were under way is no fault of either: what ran out is done again alone.

An `EngineJob` is its caller's thread's, and once it was handed over the third's alone (others read its engine and note its peak).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from msgspec import Struct

from broker.runtime import log_context
from broker.runtime.log_actions import Action
from broker.wire.failures import FailureKind
from broker.wire.jobspec import JobSpec, ModelCard, Result, decode_spec, digest_of, trace_id_of
from workers.engine.base import Engine, Outcome, Stage
from workers.engine.errors import LoadError, OutOfMemory
from workers.engine.failures import classify, forget_frames, is_out_of_memory
from workers.engine.overlap import Candidate, OverlapPlanner, shape_of
from workers.engine.progress import Cancelled, Keeping, Monitor, Parked
from workers.engine.registry import Registry
from workers.engine.result_check import differences
from workers.engine.turns import EngineJob, Turns
from workers.ipc.messages import JobCancelled, JobEnding, JobFailed, JobFinished, JobParked, RunJob
from workers.ipc.shared import SharedCounters

logger = logging.getLogger(__name__)


class Runner:
    """Draws jobs for one agent. `run` may be called from two threads, and `send` from three.

    `lost` ends the process, whose device is not to be trusted.
    """

    def __init__(
        self,
        registry: Registry,
        cards: dict[str, ModelCard],
        counters: SharedCounters,
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
        self._counters = counters
        self._send = send
        self._lost = lost
        self._marks = marks or log_context.Marks()
        self._thread = ThreadPoolExecutor(1, "postprocess")
        self._turns = Turns(OverlapPlanner(enabled=overlap, learned=registry.peaks), lambda: registry.meter, send)
        #: The engine to free memory of when nothing uses any: a job of its ran out.
        self._ran_out: Engine | None = None

    def run(self, job: RunJob) -> None:
        """Draw a job; returns when the next may be given. Every job is answered exactly once, now or by the thread it is handed to."""
        self._marks.set(job_id=job.job_id, trace_id=trace_id_of(job.body))
        logger.info("job begins", extra={"action": Action.RUN_JOB, "fence": job.fence})
        ending = self._denoise(job)
        if ending is not None:
            self._answer(ending)
        self._free_cache()
        self._marks.set()

    def _answer(self, ending: JobEnding) -> None:
        self._send(ending)
        if isinstance(ending, JobFailed) and ending.fatal:
            self._lost()

    def _free_cache(self) -> None:
        """After a job ran out of memory, and when nothing uses any."""
        with self._turns.lock:
            if not self._turns.planner.idle:
                return
            engine, self._ran_out = self._ran_out, None
        if engine is not None:
            engine.free_cache()

    # ------------------------------------------------------------ the denoise stage

    def _denoise(self, job: RunJob) -> JobEnding | None:
        """The job's end; None when that comes with its postprocessing."""
        slot = self._counters.slots[job.slot]
        read = self._read(job)
        if isinstance(read, JobFailed):
            return read
        spec, card = read

        def look() -> None:
            if slot.cancelled(job.fence):
                raise Cancelled
            if card.resumes and job.checkpoints and slot.park_requested(job.fence):
                raise Parked(job.kept)

        try:
            prepared = self._turns.wait_for_room(job, spec, card, look)
        except Cancelled:
            model, loras = self._loaded()
            return JobCancelled(fence=job.fence, model=model, loaded_loras=loras)
        except Parked as parked:
            model, loras = self._loaded()
            return JobParked(fence=job.fence, kept=parked.kept, model=model, loaded_loras=loras)
        self._free_cache()
        slot.begin(job.fence, job.kept)
        try:
            engine = self._registry.engine(card)
        except Exception as error:  # the process's outermost loop
            return _failed(job, None, error, "load")
        for other in self._turns.under_way():
            other.monitor.memory.note_peak()
        monitor = Monitor(slot, job.fence, spec.num_outputs, self._registry.meter)
        monitor.signer = self._registry.signer
        if job.checkpoints:
            monitor.keeping = Keeping(job.checkpoints, self._checkpoint_s, digest_of(spec), job.park_at)
        candidate = prepared or Candidate(
            shape=shape_of(spec), alone=job.alone, resident=engine.resident(card, job.profile, shape_of(spec))
        )
        order = EngineJob(job=job, spec=spec, card=card, engine=engine, monitor=monitor, candidate=candidate)
        monitor.ends.on_nearly = partial(self._turns.request_next, order)
        monitor.ends.on_denoised = partial(self._turns.open, order)
        try:
            return self._ended(order, lambda: self._run(order, prepared=prepared is not None))
        finally:
            self._turns.leave(order)

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

    def _run(self, order: EngineJob, *, prepared: bool) -> Outcome | None:
        """Files, or None when the job was handed over."""
        try:
            outcome = self._draw(order, prepared=prepared)
            while isinstance(outcome, Stage):
                if self._turns.hand_over(order, outcome.where):
                    self._thread.submit(self._postprocess, order, outcome)
                    return None
                where = outcome.where
                outcome, _, took_mb = self._measured(order, outcome.run)
                with self._turns.lock:
                    self._turns.planner.stage_ran_alone(order.candidate, where, took_mb)
            return outcome
        except BaseException:
            # It may have failed after the next was let on.
            self._turns.leave_postprocess(order)
            raise
        finally:
            self._turns.leave(order)

    def _draw(self, order: EngineJob, *, prepared: bool) -> Outcome:
        while True:
            try:
                return self._prepared(order) if prepared else self._begun(order, self._turns.take(order))
            except Exception as error:  # distinguished at once
                if not (_may_fit(error) and self._may_draw_again(order, error)):
                    raise
                _again(error)
            finally:
                self._turns.end_denoise(order)
            prepared = False
            order.monitor.turn.wait_by(None)
            self._turns.leave(order)
            self._turns.wait_for_postprocess(order)
            order.engine.free_cache()

    def _prepared(self, order: EngineJob) -> Outcome:
        order.monitor.turn.wait_by(partial(self._turns.take, order), self._turns.at_first_step)
        outcome = self._begun(order, measured=False)
        # There may have been no denoising step.
        order.monitor.turn.take()
        return outcome

    def _may_draw_again(self, order: EngineJob, error: Exception) -> bool:
        """After a denoise stage ran out of memory: whether another job was beside it, or it can be had in less.

        A refusal is the engine's last message.
        """
        excused = self._turns.excuse(order)
        if excused or excused is None:
            return bool(excused)
        return not isinstance(error, OutOfMemory) and order.engine.ran_out(order.card, order.spec, order.job.profile)

    def _begun(self, order: EngineJob, measured: bool) -> Outcome:
        def generate() -> Outcome:
            return order.engine.generate(
                order.card, order.spec, Path(order.job.out_dir), order.monitor, order.job.profile
            )

        if not measured:
            return generate()
        outcome, weights_mb, took_mb = self._measured(order, generate)
        with self._turns.lock:
            self._turns.planner.measured(order.candidate, took_mb, weights_mb)
        return outcome

    def _measured(self, order: EngineJob, act: Callable[[], Outcome]) -> tuple[Outcome, float, float]:
        """Run `act` alone on the device; return its result, the memory held before, and its peak on top of that, MB."""
        meter = self._registry.meter
        order.monitor.memory.note_peak()
        meter.reset_peak()
        before = meter.held_mb()
        outcome = act()
        return outcome, before, max(0.0, meter.peak_held_mb() - before)

    # ------------------------------------------------------------ postprocess stages, on their own thread

    def _postprocess(self, order: EngineJob, first: Stage) -> None:
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
            self._turns.leave_postprocess(order)

    def _run_stage(self, order: EngineJob, stage: Stage) -> Outcome:
        planner = self._turns.planner
        with self._turns.lock:
            planner.enter_stage(order.candidate.shape, stage.where)
            self._turns.lock.notify_all()
        try:
            return stage.run()
        except Exception as error:  # distinguished at once
            with self._turns.lock:
                excused = is_out_of_memory(error) and planner.excuse_stage()
            if not excused:
                raise
            _again(error)
        with self._turns.when(planner.may_repeat, order.monitor.check):
            """Nothing is to be changed."""
        order.engine.free_cache()
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
            return ending  # the device is not to be used any more
        if monitor.keeping is not None:
            monitor.keeping.settle()
        if isinstance(ending, JobFailed) and ending.kind == FailureKind.OUT_OF_MEMORY:
            with self._turns.lock:
                self._ran_out = engine
        monitor.memory.report()
        return ending

    def _loaded(self) -> tuple[str, tuple[str, ...]]:
        engine = next((one.engine for one in self._turns.under_way()), None)
        return (engine.loaded(), engine.loaded_loras()) if engine is not None else ("", ())


def _may_fit(error: Exception) -> bool:
    """Whether what failed may be done again in this process, alone: memory ran out, and nothing else is amiss."""
    verdict = classify(error, "load")
    return verdict.kind is FailureKind.OUT_OF_MEMORY and not verdict.fatal


def _again(error: Exception) -> None:
    """Let go of what failed because two halves did not fit; it is about to be done again."""
    forget_frames(error)
    logger.warning(
        "memory ran out: once more, alone or with the model placed to take less", extra={"action": Action.RUN_AGAIN}
    )


def _failed(job: RunJob, engine: Engine | None, error: Exception, phase: str) -> JobFailed:
    verdict = classify(error, phase)
    log = {"action": Action.JOB_FAILED, "job_id": job.job_id, "fence": job.fence, "kind": verdict.kind, "phase": phase}
    # A refused input is the client's affair, and a model that cannot be loaded is described in our words: neither needs a traceback.
    explained = verdict.kind.rules.fault == "input" or isinstance(error, LoadError)
    logger.error("job failed: %s", verdict.message, exc_info=not explained, extra=log)
    forget_frames(error)
    loaded, loras = (engine.loaded(), engine.loaded_loras()) if engine else ("", ())
    return JobFailed(
        fence=job.fence,
        kind=verdict.kind,
        message=verdict.message,
        fatal=verdict.fatal,
        model=loaded,
        loaded_loras=loras,
    )
