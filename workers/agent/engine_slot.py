"""The worker's place for jobs: its engine, the attempts in it, and what each does to the other.

- At most three attempts: one that is denoised, before it one in its postprocessing (decode, encode, save), and behind it one that is
  prepared, which the engine requests shortly before the last step of the one that is denoised. The prepared one may be denoised before
  the end of the one before it is reported, and before that one where it ran out of memory and is drawn again.
- What the engine reports before its process is gone is the attempt's result. Else `Attempt.ending` has why it was killed, and nothing
  there means that it crashed, whichever of its attempts did it. An attempt that the engine never took up is handed back, not failed,
  and so is one that had to go because the engine was killed for the other.
- Where a machine of the group is lost, what the engine left is handed back: neither engine nor job is to blame. What rank 0 reports of a
  crash counts only once all processes are gone, as it may be the first sign of such a loss.
- A killed engine holds its job until the process is gone: only then is the GPU free and the result true. A process that even SIGKILL
  does not end (it sits in the kernel) gives up its job after `unkillable_s`, but never takes another.
- A cancel that has no effect by `Attempt.cancel_by` is escalated: the engine is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from broker.runtime.log_actions import Action
from broker.wire import codec
from broker.wire import messages as m
from workers.agent import effects as fx
from workers.agent.attempt import Attempt, Ending
from workers.agent.attempt_control import AttemptControl
from workers.agent.attempts import Attempts
from workers.agent.engine import Engine
from workers.agent.identity import Identity
from workers.agent.parked import ParkedAttempts
from workers.agent.unacked_results import UnackedResults
from workers.ipc.messages import (
    FromEngine,
    JobCancelled,
    JobEnding,
    JobFailed,
    JobFinished,
    JobParked,
    LoadFailed,
    NextRequested,
    PostprocessBegun,
    Ready,
)
from workers.ipc.shared import SLOTS, Progress
from workers.supervisor.agent_policy import AgentPolicy


class EngineSlot:
    """Engine and attempts of one worker."""

    def __init__(
        self,
        identity: Identity,
        policy: AgentPolicy,
        unacked_results: UnackedResults,
        emit: Callable[[fx.Effect], None],
        now: float,
    ) -> None:
        dirs = identity.dirs
        self.policy = policy
        self.engine = Engine(identity.setup, policy, emit, now)
        self.attempts = Attempts(unacked_results, emit)
        self.parked = ParkedAttempts(self.attempts, unacked_results, policy, emit, remote=dirs.remote)
        self.control = AttemptControl(self.attempts, self.engine.life, policy, dirs, emit)
        #: Whether the engine was killed because of one of its attempts: then none of the others is to blame, even if that one is done.
        self._replaced = False
        self._emit = emit
        self._remote = dirs.remote
        #: Whether its engine has processes on other machines.
        self.spread = identity.machines > 1

    def refusal_reason(self) -> str:
        """Return the reason why the engine takes no job now; "" when it does."""
        if self.engine.fault:
            return f"the device is broken: {self.engine.fault}"
        if self.engine.life.state != "idle":
            return f"the engine is {self.shown}"
        if len(self.attempts) >= SLOTS:
            return f"the engine has {len(self.attempts)} jobs"
        if any(attempt.alone for attempt in self.attempts):
            return "the engine has a job that must be alone"
        return ""

    @property
    def shown(self) -> m.EngineState:
        """The engine's state in a heartbeat's words."""
        return "busy" if self.attempts and self.engine.life.state == "idle" else self.engine.life.shown

    def deadlines(self, detached_at: float) -> list[float]:
        """Times at which `timers` has something to do."""
        times = self.engine.life.deadlines()
        if (due := self.parked.next_due()) is not None:
            times.append(due)
        if self._served:
            times.append(detached_at)
            times += [attempt.stuck_at(self.policy) for attempt in self.attempts if not self.attempts.waits(attempt)]
            times += [attempt.cancel_by for attempt in self.attempts if attempt.cancel_by is not None]
        return times

    @property
    def _served(self) -> bool:
        """Whether there are attempts, and an engine that still works on them."""
        return bool(self.attempts) and self.engine.life.state in ("idle", "busy")

    # ------------------------------------------------------------ messages and end of the engine

    def receive(self, message: FromEngine, now: float) -> None:
        """A message of the engine."""
        match message:
            case Ready() if self.engine.life.state == "loading":
                self.engine.ready(message, now)
            case LoadFailed() if self.engine.life.state == "loading":
                self.engine.load_failed(message, now)
            case NextRequested() if (drawn := self.attempts.pass_turn(message.fence)) is not None:
                self._next_requested(drawn)
            case PostprocessBegun() if (drawn := self.attempts.pass_turn(message.fence)) is not None:
                self._postprocess_begun(drawn, message)
            case JobFinished() | JobFailed() | JobCancelled() | JobParked() if (
                attempt := self.attempts.of(message.fence)
            ) is not None:
                self._job_ended(attempt, message, now)
            case _:
                self._emit(fx.Note(action=Action.STRAY_ENGINE_MESSAGE, level="warning", detail=type(message).__name__))

    def _next_requested(self, attempt: Attempt) -> None:
        if not attempt.next_requested:
            attempt.stage = "last_steps"
            self.engine.life.free()

    def _postprocess_begun(self, attempt: Attempt, message: PostprocessBegun) -> None:
        self.engine.holds(message.model, message.loaded_loras)
        self._takes_next(attempt)
        attempt.stage = "postprocess"

    def _takes_next(self, attempt: Attempt) -> None:
        """This attempt is denoised: the engine takes the next job, unless it may have been given one since it requested that."""
        if not attempt.next_requested:
            self.engine.life.free()

    def _job_ended(self, attempt: Attempt, message: JobEnding, now: float) -> None:
        if attempt is self.attempts.denoising:
            # A failure may not name the model in memory; then it is the one that was. One in postprocessing never does: another may be
            # loading.
            if message.model or not isinstance(message, JobFailed):
                self.engine.holds(message.model, message.loaded_loras)
            self._takes_next(attempt)
        elif not attempt.postprocessing:
            # It was prepared, or waited, behind the one that is denoised.
            self.engine.life.free()
        match message:
            case JobFinished():
                self.engine.finished_one()
                result = m.Finished(
                    job_id=attempt.job_id,
                    fence=attempt.fence,
                    run_s=message.run_s,
                    body=codec.encode_body(message.result),
                )
                self.attempts.conclude(attempt, result, now, message.result.artefacts if self._remote else ())
            case JobFailed():
                self._job_failed(attempt, message, now)
            case JobParked() if attempt.parks is not None and attempt.cancel_by is None:
                self.parked.add(attempt, message.kept, now)
            case JobCancelled() | JobParked() if attempt.cancel_by is None:
                unasked = "the engine stopped the job without a request"
                self.attempts.fail(attempt, m.FailureKind.ENGINE_ERROR, unasked, now)
            case _:
                self.attempts.cancelled(attempt, now)

    def _job_failed(self, attempt: Attempt, message: JobFailed, now: float) -> None:
        alive = self.engine.life.state in ("idle", "busy")
        if message.fatal and message.kind == m.FailureKind.ENGINE_CRASHED and self.spread and alive:
            # A rank that is gone, and perhaps its machine with it, which shows by the end of all.
            attempt.ending = Ending("failed", message.kind, message.message)
            self.engine.life.ending(now)
            return
        self.attempts.fail(attempt, message.kind, message.message, now)
        if message.fatal and alive:
            self.engine.life.ending(now)
        elif message.kind != m.FailureKind.OUT_OF_MEMORY:
            self.engine.failed_one()
        elif reason := self.engine.has_leaked(attempt.job_id, now):
            self._replace(reason, now, blamed=False)

    def observe(self, progress: Iterable[Progress], now: float) -> None:
        """Take the progress in the shared counters."""
        for number, shown in enumerate(progress):
            if number == 0:  # its counters are those of the model that is made ready, before there is a job
                self.engine.life.observe(shown)
            for attempt in self.attempts:
                attempt.observe(shown, now)

    def exited(self, how: str, now: float, lost: str = "") -> None:
        """The engine's process is gone, or could not be started; its attempts end. `lost`: why a machine of the group is gone."""
        was_ready = self.engine.life.was_ready
        self.engine.exited(how, now, blamed=not lost)
        self._end_all_killed(how, now, lost)
        if not was_ready and not lost:
            self.engine.report_load_trouble(how)
        self._engine_timers(now)

    def abandon(self, now: float) -> None:
        """The engine's process is gone, and there will be no other."""
        self.engine.abandon(now)
        for attempt in self.attempts:
            self.attempts.drop(attempt, now)

    # ------------------------------------------------------------ time

    def timers(self, now: float, detached_at: float) -> None:
        """Do what is due. `detached_at`: when a job is pointless because the broker is gone."""
        self.parked.timers(now)
        if self._served and now >= detached_at:
            for attempt in self.attempts:
                attempt.ending = Ending("dropped")
            self.engine.kill("the broker has been away for too long", now, blamed=False)
        for attempt in self.attempts:
            if self._served:
                self._attempt_timers(attempt, now)
        self._engine_timers(now)

    def _engine_timers(self, now: float) -> None:
        if self.engine.timers(now):
            self._end_all_killed("killed, and still there", now)

    def _attempt_timers(self, attempt: Attempt, now: float) -> None:
        if attempt.cancel_by is not None and now >= attempt.cancel_by:
            attempt.ending = Ending("cancelled")
            self._replace(f"the cancel had no effect in {attempt.describe()}", now, blamed=False)
        elif not self.attempts.waits(attempt) and now >= attempt.stuck_at(self.policy):
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
        self.engine.kill(reason, now, blamed=blamed)

    def _end_all_killed(self, how: str, now: float, lost: str = "") -> None:
        """The engine is gone (or given up) and left no result of these attempts."""
        for attempt in self.attempts:
            if attempt.ending is None and not attempt.begun:
                self.attempts.hand_back(attempt, f"the engine ended before it began: {how}", now)
            elif attempt.ending is None and self._replaced:
                self.attempts.hand_back(attempt, "the engine was replaced because of another job", now)
            elif lost and (attempt.ending is None or attempt.ending.kind == "failed"):
                self.parked.add(attempt, attempt.kept, now, lost)
            else:
                self.attempts.end_killed(attempt, how, now)
        self._replaced = False
