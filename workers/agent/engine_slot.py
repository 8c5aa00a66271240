"""The worker's place for jobs: the engine's life and the attempts in it, and how each attempt ends.

- At most two attempts: one that is drawn, and before it one in its postprocessing (decode, encode, save). A job that crashed before
  is alone, so that no other is blamed if it does so again.
- What the engine reports before its process is gone is the attempt's result. Else `Attempt.ending` says why it was killed, and nothing
  there means that it crashed, whichever of its attempts did it. An attempt that the engine never took up is handed back, not failed,
  and so is one that had to go because the engine was killed for the other.
- A killed engine holds its job until the process is gone: only then is the GPU free and the result true. A process that even SIGKILL
  does not end (it sits in the kernel) gives up its job after `unkillable_s`, but never takes another.
- An attempt that is asked to park ends when the engine says so, and is handed back; until then, or should it end otherwise, nothing else
  is different. A cancel of it counts for more.
- A cancel that is not heard by `Attempt.cancel_by` is escalated: the engine is killed.

Results go to `UnackedResults`; everything else that must happen is emitted as an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from broker.runtime.log_actions import Action
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import CHECKPOINTS, Artefact, trace_id_of
from broker.wire.loras import short_list
from workers.agent import effects as fx
from workers.agent.attempt import Attempt, Ending
from workers.agent.dirs import WorkerDirs
from workers.agent.engine_life import EngineLife
from workers.agent.truncate import MAX_REASON, MAX_TEXT, clip
from workers.agent.unacked_results import UnackedResults, keeps_files
from workers.depot.job_inputs import input_names, with_local_inputs
from workers.ipc.messages import (
    FromEngine,
    JobCancelled,
    JobEnding,
    JobFailed,
    JobFinished,
    JobParked,
    LoadFailed,
    PostprocessBegun,
    Ready,
    RunJob,
    Setup,
)
from workers.ipc.shared import SLOTS, Progress
from workers.supervisor.agent_policy import AgentPolicy
from workers.supervisor.messages import EngineReady, LoadTrouble


class EngineSlot:
    """Engine and attempts of one worker."""

    def __init__(
        self,
        setup: Setup,
        policy: AgentPolicy,
        unacked_results: UnackedResults,
        emit: Callable[[fx.Effect], None],
        now: float,
        dirs: WorkerDirs,
    ) -> None:
        self.policy = policy
        self.engine = EngineLife(policy, now)
        #: In the order in which they began: the last one is denoised, unless it is in its postprocessing too.
        self.attempts: list[Attempt] = []
        #: The model in memory; "" when none. LoRAs beside its weights, as a heartbeat names them.
        self.model = ""
        self.loaded_loras: tuple[str, ...] = ()
        #: Whether the engine was killed because of one of its attempts: then none of the others is to blame, even if that one is done.
        self._replaced = False
        #: Why the device is not to be used; "": it is.
        self.fault = ""
        self._setup = setup
        self._results = unacked_results
        self._emit = emit
        self._dirs = dirs
        #: Jobs whose inputs are being fetched, by their fences: the engine has not been given them.
        self._fetching: dict[int, RunJob] = {}
        self._load_trouble = ""
        #: Ids of the jobs in a row that ran out of memory in this engine.
        self._out_of_memory: set[str] = set()

    def refusal_reason(self) -> str:
        """Return the reason why the engine takes no job now; "" when it does."""
        if self.fault:
            return f"the device is broken: {self.fault}"
        if self.engine.state != "idle":
            return f"the engine is {self.shown}"
        if len(self.attempts) >= SLOTS:
            return f"the engine has {len(self.attempts)} jobs"
        if any(attempt.alone for attempt in self.attempts):
            return "the engine has a job that must be alone"
        return ""

    @property
    def shown(self) -> m.EngineState:
        """The engine's state in a heartbeat's words."""
        return "busy" if self.attempts and self.engine.state == "idle" else self.engine.shown

    def holds(self, job_id: str, fence: int) -> bool:
        """Whether the engine has this very attempt."""
        return self._find(job_id, fence) is not None

    def _find(self, job_id: str, fence: int) -> Attempt | None:
        attempt = self._of(fence)
        return attempt if attempt is not None and attempt.job_id == job_id else None

    def _of(self, fence: int) -> Attempt | None:
        return next((attempt for attempt in self.attempts if attempt.fence == fence), None)

    @property
    def _denoising(self) -> Attempt | None:
        """The attempt that is drawn."""
        return self.attempts[-1] if self.attempts and not self.attempts[-1].postprocessing else None

    def deadlines(self, detached_at: float) -> list[float]:
        """Times at which `timers` has something to do."""
        times = self.engine.deadlines()
        if self._served:
            times.append(detached_at)
            times += [attempt.stuck_at(self.policy) for attempt in self.attempts if not self._waits(attempt)]
            times += [attempt.cancel_by for attempt in self.attempts if attempt.cancel_by is not None]
        return times

    @property
    def _served(self) -> bool:
        """Whether there are attempts, and an engine that still works on them."""
        return bool(self.attempts) and self.engine.state in ("idle", "busy")

    def _waits(self, attempt: Attempt) -> bool:
        """Whether it has not begun because its inputs are on their way, or of the one before it, whose silence is the one that counts."""
        return attempt.fence in self._fetching or (not attempt.begun and attempt is not self.attempts[0])

    # ------------------------------------------------------------ a job begins, and is told to stop

    def begin(self, run: m.Run, now: float) -> None:
        """Give the engine, which must take jobs (`refusal_reason`), a job; its inputs are fetched before where there is a depot."""
        self.engine.run()
        taken = {attempt.slot for attempt in self.attempts}
        slot = next(number for number in range(SLOTS) if number not in taken)
        trace_id = trace_id_of(run.body)
        attempt = Attempt(
            run.job_id,
            run.fence,
            run.predicted_s,
            now,
            trace_id,
            slot=slot,
            alone=run.alone,
            kept=run.kept,
            parks=run.park_at > 0,
        )
        self.attempts.append(attempt)
        job = RunJob(
            job_id=run.job_id,
            fence=run.fence,
            body=run.body,
            out_dir=f"{self._dirs.out_root}/{run.job_id}/{run.fence}",
            profile=run.profile,
            slot=slot,
            alone=run.alone,
            checkpoints=f"{self._dirs.artefacts}/{CHECKPOINTS}/{run.job_id}",
            kept=run.kept,
            park_at=run.park_at,
        )
        names = input_names(run.body) if self._dirs.remote else ()
        if names:
            self._fetching[run.fence] = job
            self._emit(fx.FetchInputs(run.fence, names))
        else:
            self._emit(fx.StartJob(job))
        self._note(Action.ATTEMPT_STARTED, attempt)

    def inputs_fetched(self, fence: int, fault: str, now: float, *, gone: bool) -> None:
        """The inputs of this attempt are here, unless there is a `fault`; `gone`: nowhere else either."""
        attempt, job = self._of(fence), self._fetching.pop(fence, None)
        if attempt is None or job is None:
            return
        if not fault:
            attempt.wait_no_more(now)
            local = with_local_inputs(job.body, self._dirs.inputs)
            self._emit(fx.StartJob(replace(job, body=local, kept=attempt.kept)))
            return
        if self.engine.state == "busy":
            self.engine.done()
        if gone:
            self._fail(attempt, m.FailureKind.INVALID_INPUT, fault, now)
        else:
            self._hand_back(attempt, f"its inputs cannot be fetched: {fault}", now)

    def begin_failed(self, fence: int, reason: str, now: float) -> None:
        """The job of this fence could not be given to the engine."""
        attempt = self._denoising
        if attempt is not None and attempt.fence == fence and self.engine.state == "busy":
            self.engine.done()
            self._fail(attempt, m.FailureKind.ENGINE_ERROR, f"the worker could not begin: {reason}", now)

    def cancel(self, order: m.Cancel, now: float) -> bool:
        """Ask the engine to stop this attempt; False when it has another or none. Asking again never extends the time."""
        attempt = self._find(order.job_id, order.fence)
        if attempt is None:
            return False
        if self._take_back(attempt):
            self._conclude(attempt, m.Cancelled(job_id=attempt.job_id, fence=attempt.fence), now)
        elif attempt.cancel_by is None:
            attempt.cancel_by = now + attempt.grace_s(self.policy, order.grace_s)
            self._emit(fx.RequestCancel(attempt.slot, attempt.fence))
            self._note(Action.CANCEL, attempt, attempt.describe())
        elif order.grace_s:
            attempt.cancel_by = min(attempt.cancel_by, now + order.grace_s)
        return True

    def _take_back(self, attempt: Attempt) -> bool:
        """Fetch no more for an attempt that the engine has not been given; False when it has."""
        if attempt.fence not in self._fetching:
            return False
        if self.engine.state == "busy":
            self.engine.done()
        return True

    def park(self, job_id: str, fence: int, now: float) -> bool:
        """Ask the engine to hand this attempt back with a checkpoint; False when it has another or none."""
        attempt = self._find(job_id, fence)
        if attempt is not None:
            self._park(attempt, now)
        return attempt is not None

    def park_all(self, now: float) -> None:
        """The same of all that it has: an attempt whose model does not resume goes on."""
        for attempt in [*self.attempts]:
            self._park(attempt, now)

    def _park(self, attempt: Attempt, now: float) -> None:
        if self._take_back(attempt):
            self._hand_back(attempt, "its inputs were still on their way", now)
        elif not attempt.postprocessing:  # else there is no step left
            attempt.parks = True
            self._emit(fx.RequestPark(attempt.slot, attempt.fence))

    # ------------------------------------------------------------ what the engine says and does

    def told(self, message: FromEngine, now: float) -> None:
        """A message of the engine."""
        match message:
            case Ready() if self.engine.state == "loading":
                self._ready(message, now)
            case LoadFailed() if self.engine.state == "loading":
                named = message.message.startswith(("model ", "[models."))
                self._load_trouble = (
                    message.message if named else f"model {message.model!r} cannot be loaded: {message.message}"
                )
                self.engine.ending(now)
                self._emit(fx.Note(action=Action.LOAD_FAILED, level="error", detail=self._load_trouble))
            case PostprocessBegun() if (denoising := self._denoising) is not None and denoising.fence == message.fence:
                self._postprocess_begun(denoising, message)
            case JobFinished() | JobFailed() | JobCancelled() | JobParked() if (
                attempt := self._of(message.fence)
            ) is not None:
                self._job_ended(attempt, message, now)
            case _:
                self._emit(fx.Note(action=Action.STRAY_ENGINE_MESSAGE, level="warning", detail=type(message).__name__))

    def _ready(self, message: Ready, now: float) -> None:
        self.engine.ready(now)
        self.model = message.model
        self._emit(fx.Report(EngineReady()))
        if self.policy.spare_engine:
            self._emit(fx.StartSpare())
        self._emit(fx.Note(action=Action.ENGINE_READY, detail=f"{message.model} loaded in {message.load_s:.1f} s"))

    def _postprocess_begun(self, attempt: Attempt, message: PostprocessBegun) -> None:
        attempt.postprocessing = True
        self.model, self.loaded_loras = message.model, short_list(message.loaded_loras)
        if self.engine.state == "busy":
            self.engine.done()

    def _job_ended(self, attempt: Attempt, message: JobEnding, now: float) -> None:
        if attempt is self._denoising:
            # A failure may not say which model is in memory; then it is the one that was. A tail says nothing: another may be loading.
            if message.model or not isinstance(message, JobFailed):
                self.model, self.loaded_loras = message.model, short_list(message.loaded_loras)
            if self.engine.state == "busy":
                self.engine.done()
        if isinstance(message, JobFinished):
            self.engine.finished_one()
            self._out_of_memory.clear()
        match message:
            case JobFinished():
                result = m.Finished(
                    job_id=attempt.job_id,
                    fence=attempt.fence,
                    run_s=message.run_s,
                    body=codec.encode_body(message.result),
                )
                self._conclude(attempt, result, now, message.result.artefacts if self._dirs.remote else ())
            case JobFailed():
                self._fail(attempt, message.kind, message.message, now)
                if message.fatal and self.engine.state in ("idle", "busy"):
                    self.engine.ending(now)
                else:
                    self._note_memory(attempt, message, now)
            case JobParked() if attempt.parks and attempt.cancel_by is None:
                attempt.kept = message.kept
                if self._dirs.remote:
                    self._emit(fx.PutDraft(attempt.job_id, attempt.fence))
                self._hand_back(
                    attempt,
                    f"parked with {message.kept} steps in a checkpoint",
                    now,
                    keep_files=not self._dirs.remote,
                )
            case JobCancelled() | JobParked() if attempt.cancel_by is None:
                self._fail(
                    attempt, m.FailureKind.ENGINE_ERROR, "the engine stopped the job without being asked to", now
                )
            case _:
                self._conclude(attempt, m.Cancelled(job_id=attempt.job_id, fence=attempt.fence), now)

    def _note_memory(self, attempt: Attempt, message: JobFailed, now: float) -> None:
        """Replace the engine when it may have lost memory. A job that is tried again says no more than it did: it may be too large."""
        if message.kind != m.FailureKind.OUT_OF_MEMORY:
            self._out_of_memory.clear()
            return
        self._out_of_memory.add(attempt.job_id)
        jobs = len(self._out_of_memory)
        if self.engine.state in ("idle", "busy") and self.engine.has_leaked(jobs, now):
            self._replace(f"{jobs} jobs in a row ran out of memory", now, blamed=False)

    def observe(self, progress: Iterable[Progress], now: float) -> None:
        """Take the progress in the shared words."""
        for number, shown in enumerate(progress):
            if number == 0:  # whose words are those of the model that is made ready, before there is a job
                self.engine.observe(shown)
            for attempt in self.attempts:
                attempt.observe(shown, now)

    def closed(self, now: float) -> None:
        """The engine closed its socket, and its process is still there."""
        if self.engine.state in ("loading", "idle", "busy"):
            self.engine.ending(now)

    def exited(self, how: str, now: float) -> None:
        """The engine's process is gone, or could not be started; the next one is planned."""
        self._out_of_memory.clear()
        was_ready = self.engine.was_ready
        delay_s = self.engine.exited(now)
        self.model, self.loaded_loras = "", ()
        then = f"next start in {delay_s:g} s"
        if self.fault:
            self.engine.hold_back()
            then = "not started again, as the device is broken"
        self._emit(fx.Note(action=Action.ENGINE_EXITED, level="warning", detail=f"{how}; {then}"))
        self._end_all_killed(how, now)
        if not was_ready:
            trouble = self._load_trouble or f"the engine ended before its model was loaded: {how}"
            self.engine.could_not_load(clip(trouble, MAX_TEXT))
            self._emit(fx.Report(LoadTrouble(message=clip(trouble, MAX_TEXT))))
        self._engine_timers(now)

    def condemn(self, fault: str) -> None:
        """The device is broken: no more jobs, and no other engine once this one has ended."""
        self.fault = fault
        if not self.engine.alive:
            self.engine.hold_back()
        self._emit(fx.Note(action=Action.DEVICE_FAULT, level="error", detail=f"no more jobs: {fault}"))

    def abandon(self, now: float) -> None:
        """The engine's process is gone, and there will be no other."""
        self.engine.exited(now)
        self.model, self.loaded_loras = "", ()
        for attempt in [*self.attempts]:
            self._drop(attempt, now)

    # ------------------------------------------------------------ time

    def timers(self, now: float, detached_at: float) -> None:
        """Do what is due. `detached_at`: when a job is pointless because the broker is gone."""
        if self._served and now >= detached_at:
            for attempt in self.attempts:
                attempt.ending = Ending("dropped")
            self.kill("the broker has been away for too long", now, blamed=False)
        for attempt in [*self.attempts]:
            if self._served:
                self._attempt_timers(attempt, now)
        self._engine_timers(now)

    def _engine_timers(self, now: float) -> None:
        engine = self.engine
        if engine.start_at is not None and now >= engine.start_at:
            engine.spawn(now)
            self._load_trouble = ""
            self._emit(fx.StartEngine(self._setup))
        elif engine.load_by is not None and now >= engine.load_by:
            self._load_trouble = f"model {self._setup.preload!r} did not load in {self.policy.load_budget_s:g} s"
            self.kill(self._load_trouble, now, blamed=True)
        elif engine.kill_at is not None and now >= engine.kill_at:
            self.kill("it did not end by itself", now, blamed=True)
        elif engine.unkillable_at is not None and now >= engine.unkillable_at:
            engine.unkillable_at = None
            self._emit(fx.Note(action=Action.ENGINE_UNKILLABLE, level="error"))
            self._end_all_killed("killed, and still there", now)

    def _attempt_timers(self, attempt: Attempt, now: float) -> None:
        if attempt.cancel_by is not None and now >= attempt.cancel_by:
            attempt.ending = Ending("cancelled")
            self._replace(f"the cancel was not heard in {attempt.describe()}", now, blamed=False)
        elif not self._waits(attempt) and now >= attempt.stuck_at(self.policy):
            self._hung(attempt, now)

    def _hung(self, attempt: Attempt, now: float) -> None:
        """End an attempt without a sign of life. The whole process may be stuck: another attempt as silent may be the cause."""
        enough_s = attempt.silence_s(now) / 2
        for silent in self.attempts:
            if silent is attempt or (silent.begun and silent.silence_s(now) >= enough_s):
                silent.ending = Ending("failed", m.FailureKind.HUNG, f"no sign of life in {silent.describe()}")
        self._replace(f"no sign of life in {attempt.describe()}", now, blamed=True)

    def _replace(self, reason: str, now: float, *, blamed: bool) -> None:
        """Kill the engine because of those attempts that have an ending."""
        self._replaced = True
        self.kill(reason, now, blamed=blamed)

    def kill(self, reason: str, now: float, *, blamed: bool) -> None:
        """SIGKILL the engine, which must be alive. `blamed`: for a fault of its own."""
        self.engine.killed(now, blamed=blamed)
        self._emit(fx.KillEngine(reason))

    # ------------------------------------------------------------ ends of attempts

    def _end_all_killed(self, how: str, now: float) -> None:
        """The engine is gone (or given up) and left no result of these attempts."""
        for attempt in [*self.attempts]:
            if attempt.ending is None and not attempt.begun:
                self._hand_back(attempt, f"the engine ended before it began: {how}", now)
            elif attempt.ending is None and self._replaced:
                self._hand_back(attempt, "the engine was replaced because of another job", now)
            else:
                self._end_killed(attempt, how, now)
        self._replaced = False

    def _hand_back(self, attempt: Attempt, reason: str, now: float, *, keep_files: bool = False) -> None:
        """Give an attempt back. `keep_files`: its pictures show how far it is, while the job waits."""
        self._drop(attempt, now, keep_files=keep_files)
        refusal = m.Refused(
            job_id=attempt.job_id,
            fence=attempt.fence,
            reason=clip(reason, MAX_REASON),
            age_s=max(0.0, now - attempt.given_at),
            kept=attempt.held(now).kept,
        )
        self._emit(fx.SendBroker(refusal))

    def _end_killed(self, attempt: Attempt, how: str, now: float) -> None:
        ending = attempt.ending
        ending = ending or Ending(
            "failed", m.FailureKind.ENGINE_CRASHED, f"the engine ended in {attempt.describe()}: {how}"
        )
        match ending.kind:
            case "cancelled":
                self._conclude(attempt, m.Cancelled(job_id=attempt.job_id, fence=attempt.fence), now)
            case "failed":
                self._fail(attempt, ending.failure, ending.message, now)
            case _:
                self._drop(attempt, now)

    def _conclude(self, attempt: Attempt, result: m.AgentResult, now: float, put: tuple[Artefact, ...] = ()) -> None:
        self._leave(attempt, now)
        self._results.add(result, attempt.given_at, now, sum(file.size for file in put) if put else -1)
        if put:
            self._emit(fx.PutFiles(attempt.job_id, attempt.fence, put))
        if not keeps_files(result):
            self._emit(fx.RemoveDir(attempt.job_id, attempt.fence))
        self._note(Action(f"attempt_{type(result).__name__.lower()}"), attempt, getattr(result, "message", ""))

    def _fail(self, attempt: Attempt, kind: m.FailureKind, message: str, now: float) -> None:
        text = clip(message, MAX_TEXT)
        failed = m.Failed(job_id=attempt.job_id, fence=attempt.fence, kind=kind, message=text)
        self._conclude(attempt, failed, now)

    def _drop(self, attempt: Attempt, now: float, *, keep_files: bool = False) -> None:
        self._leave(attempt, now)
        if not keep_files:
            self._emit(fx.RemoveDir(attempt.job_id, attempt.fence))
        self._note(Action.ATTEMPT_DROPPED, attempt)

    def _leave(self, attempt: Attempt, now: float) -> None:
        self.attempts.remove(attempt)
        if self._fetching.pop(attempt.fence, None) is not None:
            self._emit(fx.Revoke(attempt.fence))
        for other in self.attempts:
            other.wait_no_more(now)

    def _note(self, action: Action, attempt: Attempt, detail: str = "") -> None:
        note = fx.Note(
            action=action, job_id=attempt.job_id, fence=attempt.fence, detail=detail, trace_id=attempt.trace_id
        )
        self._emit(note)
