"""The worker's one place for a job: the engine's life and the attempt in it, and how each attempt ends.

- What the engine reports before its process is gone is the attempt's result. Else `Attempt.ending` says why it was killed, and nothing
  there means that it crashed. An attempt that the engine never took up is handed back, not failed.
- A killed engine holds its job until the process is gone: only then is the GPU free and the result true. A process that even SIGKILL
  does not end (it sits in the kernel) gives up its job after `unkillable_s`, but never takes another.

Results go to the outbox; everything else that must happen is emitted as an effect.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import trace_id_of
from workers.agent import effects as fx
from workers.agent.attempt import Attempt, Ending
from workers.agent.engine_life import EngineLife
from workers.agent.outbox import Outbox, keeps_files
from workers.agent.policy import AgentPolicy
from workers.ipc import FromEngine, JobCancelled, JobFailed, JobFinished, LoadFailed, Progress, Ready, RunJob, Setup
from workers.link import EngineReady, LoadTrouble

#: Longest free text in a header, in bytes: a header has 4 KiB in all.
MAX_TEXT = 2000
MAX_REASON = 250


class Slot:
    """Engine and attempt of one worker."""

    def __init__(
        self, setup: Setup, policy: AgentPolicy, outbox: Outbox, emit: Callable[[fx.Effect], None], now: float
    ) -> None:
        self.policy = policy
        self.engine = EngineLife(policy, now)
        self.attempt: Attempt | None = None
        #: The model in memory; "" when none.
        self.model = ""
        self._setup = setup
        self._outbox = outbox
        self._emit = emit
        self._load_trouble = ""

    def holds(self, job_id: str, fence: int) -> bool:
        """Whether the engine has this very attempt."""
        return self.attempt is not None and (self.attempt.job_id, self.attempt.fence) == (job_id, fence)

    def deadlines(self, detached_at: float) -> list[float]:
        """Times at which `timers` has something to do."""
        times = self.engine.deadlines()
        if self.attempt is not None and self.engine.state == "busy":
            times += [self.attempt.stuck_at(self.policy), detached_at]
            if self.attempt.cancel_by is not None:
                times.append(self.attempt.cancel_by)
        return times

    # ------------------------------------------------------------ a job begins, and is told to stop

    def begin(self, run: m.Run, body: bytes, out_dir: str, now: float) -> None:
        """Give the engine, which must be idle, a job."""
        self.engine.run()
        self.attempt = Attempt(run.job_id, run.fence, run.predicted_s, now, trace_id_of(body))
        job = RunJob(job_id=run.job_id, fence=run.fence, body=body, out_dir=out_dir, profile=run.profile)
        self._emit(fx.StartJob(job))
        self._note("attempt_started", self.attempt)

    def begin_failed(self, fence: int, reason: str, now: float) -> None:
        """The job of this fence could not be given to the engine."""
        if self.attempt is not None and self.attempt.fence == fence and self.engine.state == "busy":
            self.engine.done()
            self._fail(self.attempt, "engine_error", f"the worker could not begin: {reason}", now)

    def cancel(self, order: m.Cancel, now: float) -> bool:
        """Ask the engine to stop this attempt; False when it has another or none. Asking again never extends the time."""
        attempt = self.attempt
        if attempt is None or not self.holds(order.job_id, order.fence):
            return False
        if attempt.cancel_by is None:
            attempt.cancel_by = now + (order.grace_s or attempt.grace_s(self.policy))
            self._emit(fx.SetCancelWord(attempt.fence))
            self._note("cancel", attempt, attempt.describe())
        elif order.grace_s:
            attempt.cancel_by = min(attempt.cancel_by, now + order.grace_s)
        return True

    # ------------------------------------------------------------ what the engine says and does

    def told(self, message: FromEngine, now: float) -> None:
        """A message of the engine."""
        match message:
            case Ready() if self.engine.state == "loading":
                self._ready(message, now)
            case LoadFailed() if self.engine.state == "loading":
                self._load_trouble = f"model {message.model!r} cannot be loaded: {message.message}"
                self.engine.ending(now)
                self._emit(fx.Note(action="load_failed", level="error", detail=self._load_trouble))
            case JobFinished() | JobFailed() | JobCancelled() if self.attempt and self.attempt.fence == message.fence:
                self._job_ended(self.attempt, message, now)
            case _:
                self._emit(fx.Note(action="stray_engine_message", level="warning", detail=type(message).__name__))

    def _ready(self, message: Ready, now: float) -> None:
        self.engine.ready(now)
        self.model = message.model
        self._emit(fx.Report(EngineReady()))
        self._emit(fx.Note(action="engine_ready", detail=f"{message.model} loaded in {message.load_s:.1f} s"))

    def _job_ended(self, attempt: Attempt, message: JobFinished | JobFailed | JobCancelled, now: float) -> None:
        # A failure may not say which model is in memory; then it is the one that was.
        self.model = message.model or (self.model if isinstance(message, JobFailed) else "")
        if self.engine.state == "busy":
            self.engine.done(proved=isinstance(message, JobFinished))
        match message:
            case JobFinished():
                result = m.Finished(job_id=attempt.job_id, fence=attempt.fence, run_s=message.run_s)
                self._conclude(attempt, result, codec.encode_body(message.result), now)
            case JobFailed():
                self._fail(attempt, message.kind, message.message, now)
                if message.fatal and self.engine.state == "idle":
                    self.engine.ending(now)
            case JobCancelled() if attempt.cancel_by is None:
                self._fail(attempt, "engine_error", "the engine stopped the job without being asked to", now)
            case _:
                self._conclude(attempt, m.Cancelled(job_id=attempt.job_id, fence=attempt.fence), None, now)

    def observe(self, progress: Progress, now: float) -> None:
        """What the shared words show."""
        if self.attempt is not None:
            self.attempt.observe(progress, now)

    def closed(self, now: float) -> None:
        """The engine closed its socket, and its process is still there."""
        if self.engine.state in ("loading", "idle", "busy"):
            self.engine.ending(now)

    def exited(self, how: str, now: float) -> None:
        """The engine's process is gone, or could not be started; the next one is planned."""
        was_ready = self.engine.was_ready
        delay_s = self.engine.exited(now)
        self.model = ""
        self._emit(fx.Note(action="engine_exited", level="warning", detail=f"{how}; next start in {delay_s:g} s"))
        if self.attempt is not None:
            self._end_killed(self.attempt, how, now)
        if not was_ready:
            trouble = self._load_trouble or f"the engine ended before its model was loaded: {how}"
            self._emit(fx.Report(LoadTrouble(message=clip(trouble, MAX_TEXT))))
        self._engine_timers(now)

    def abandon(self, now: float) -> None:
        """The engine's process is gone, and there will be no other."""
        self.engine.exited(now)
        self.model = ""
        if self.attempt is not None:
            self._drop(self.attempt)

    # ------------------------------------------------------------ time

    def timers(self, now: float, detached_at: float) -> None:
        """Do what is due. `detached_at`: when a job is pointless because the broker is gone."""
        if self.attempt is not None and self.engine.state == "busy":
            self._attempt_timers(self.attempt, now, detached_at)
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
            self._emit(fx.Note(action="engine_unkillable", level="error"))
            if self.attempt is not None:
                self._end_killed(self.attempt, "killed, and still there", now)

    def _attempt_timers(self, attempt: Attempt, now: float, detached_at: float) -> None:
        if attempt.cancel_by is not None and now >= attempt.cancel_by:
            attempt.ending = Ending("cancelled")
            self.kill(f"the cancel was not heard in {attempt.describe()}", now, blamed=False)
        elif now >= attempt.stuck_at(self.policy):
            text = f"no sign of life in {attempt.describe()}"
            attempt.ending = Ending("failed", "hung", text)
            self.kill(text, now, blamed=True)
        elif now >= detached_at:
            attempt.ending = Ending("dropped")
            self.kill("the broker has been away for too long", now, blamed=False)

    def kill(self, reason: str, now: float, *, blamed: bool) -> None:
        """SIGKILL the engine, which must be alive. `blamed`: for a fault of its own."""
        self.engine.killed(now, blamed=blamed)
        self._emit(fx.KillEngine(reason))

    # ------------------------------------------------------------ ends of attempts

    def _end_killed(self, attempt: Attempt, how: str, now: float) -> None:
        """The engine is gone (or given up) and left no result of this attempt."""
        ending = attempt.ending
        if ending is None and not attempt.begun:
            self._drop(attempt)
            reason = clip(f"the engine ended before it began: {how}", MAX_REASON)
            self._emit(fx.SendBroker(m.Refused(job_id=attempt.job_id, fence=attempt.fence, reason=reason)))
            return
        ending = ending or Ending("failed", "engine_crashed", f"the engine ended in {attempt.describe()}: {how}")
        match ending.kind:
            case "cancelled":
                self._conclude(attempt, m.Cancelled(job_id=attempt.job_id, fence=attempt.fence), None, now)
            case "failed":
                self._fail(attempt, ending.failure, ending.message, now)
            case _:
                self._drop(attempt)

    def _conclude(self, attempt: Attempt, result: m.AgentResult, body: bytes | None, now: float) -> None:
        self.attempt = None
        self._outbox.add(result, body, now)
        if not keeps_files(result):
            self._emit(fx.RemoveDir(attempt.job_id, attempt.fence))
        self._note(f"attempt_{type(result).__name__.lower()}", attempt, getattr(result, "message", ""))

    def _fail(self, attempt: Attempt, kind: m.FailureKind, message: str, now: float) -> None:
        text = clip(message, MAX_TEXT)
        failed = m.Failed(job_id=attempt.job_id, fence=attempt.fence, kind=kind, message=text)
        self._conclude(attempt, failed, None, now)

    def _drop(self, attempt: Attempt) -> None:
        self.attempt = None
        self._emit(fx.RemoveDir(attempt.job_id, attempt.fence))
        self._note("attempt_dropped", attempt)

    def _note(self, action: str, attempt: Attempt, detail: str = "") -> None:
        note = fx.Note(
            action=action, job_id=attempt.job_id, fence=attempt.fence, detail=detail, trace_id=attempt.trace_id
        )
        self._emit(note)


def clip(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    return data[: limit - 3].decode("utf-8", "ignore") + "…"
