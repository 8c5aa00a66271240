"""Begin, cancel and park of attempts, as the broker orders them, with the inputs that are fetched before.

- A job that crashed before is alone in the engine, so that no other is blamed if it does so again.
- An attempt that is to park ends when the engine reports it, and is handed back; until then, or should it end otherwise, nothing else
  is different. A cancel of it counts for more.
- A cancel that has no effect by `Attempt.cancel_by` is escalated by `EngineSlot`: the engine is killed.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from broker.runtime.log_actions import Action
from broker.wire import messages as m
from broker.wire.job_files import CHECKPOINTS
from broker.wire.jobspec import trace_id_of
from workers.agent import effects as fx
from workers.agent.attempt import Attempt
from workers.agent.attempts import Attempts
from workers.agent.dirs import WorkerDirs
from workers.agent.engine_life import EngineLife
from workers.depot.job_inputs import input_names, with_local_inputs
from workers.ipc.messages import RunJob
from workers.ipc.shared import SLOTS
from workers.supervisor.agent_policy import AgentPolicy


class AttemptControl:
    """Orders about the attempts of one engine."""

    def __init__(
        self,
        attempts: Attempts,
        life: EngineLife,
        policy: AgentPolicy,
        dirs: WorkerDirs,
        emit: Callable[[fx.Effect], None],
    ) -> None:
        self._attempts = attempts
        self._life = life
        self._policy = policy
        self._dirs = dirs
        self._emit = emit

    def begin(self, run: m.Run, now: float) -> None:
        """Give the engine, which must take jobs, a job; its inputs are fetched before where there is a depot."""
        self._life.run()
        taken = {attempt.slot for attempt in self._attempts}
        slot = next(number for number in range(SLOTS) if number not in taken)
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
        # A broker that has restarted since may lack what an attempt left.
        goes_on = self._dirs.remote and (run.kept > 0 or run.attempt > 1)
        if names or goes_on:
            self._attempts.fetching[run.fence] = job
            self._emit(fx.FetchInputs(run.fence, names, run.job_id if goes_on else ""))
        else:
            self._emit(fx.StartJob(job))
        self._attempts.add(
            Attempt(
                run.job_id,
                run.fence,
                run.predicted_s,
                now,
                trace_id_of(run.body),
                slot=slot,
                alone=run.alone,
                kept=run.kept,
                parks="" if run.park_at > 0 else None,
            )
        )

    def inputs_fetched(self, fence: int, fault: str, now: float, *, gone: bool) -> None:
        """The inputs of this attempt are here, unless there is a `fault`; `gone`: nowhere else either."""
        attempt, job = self._attempts.of(fence), self._attempts.fetching.pop(fence, None)
        if attempt is None or job is None:
            return
        if not fault and self._life.state == "busy":
            attempt.wait_no_more(now)
            # What is no spec is refused by the engine.
            local = with_local_inputs(job.body, self._dirs.inputs) if input_names(job.body) else job.body
            self._emit(fx.StartJob(replace(job, body=local, kept=attempt.kept)))
            return
        self._life.free()
        if gone:
            self._attempts.fail(attempt, m.FailureKind.INVALID_INPUT, fault, now)
        elif fault:
            self._attempts.hand_back(attempt, f"its inputs cannot be fetched: {fault}", now)
        else:
            self._attempts.hand_back(attempt, "the engine ended while its inputs were on their way", now)

    def begin_failed(self, fence: int, reason: str, now: float) -> None:
        """The job of this fence could not be given to the engine."""
        attempt = self._attempts.of(fence)
        if attempt is not None and self._life.state == "busy":
            self._life.free()
            self._attempts.fail(attempt, m.FailureKind.ENGINE_ERROR, f"the worker could not begin: {reason}", now)

    def cancel(self, order: m.Cancel, now: float) -> bool:
        """Request that the engine stop this attempt; False when it has another or none. A repeated request never extends the time."""
        attempt = self._attempts.find(order.job_id, order.fence)
        if attempt is None:
            return False
        if self._take_back(attempt):
            self._attempts.cancelled(attempt, now)
        elif attempt.cancel_by is None:
            attempt.cancel_by = now + attempt.grace_s(self._policy, order.grace_s)
            self._emit(fx.RequestCancel(attempt.slot, attempt.fence))
            self._attempts.note(Action.CANCEL, attempt, attempt.describe())
        elif order.grace_s:
            attempt.cancel_by = min(attempt.cancel_by, now + order.grace_s)
        return True

    def park(self, job_id: str, fence: int, now: float) -> bool:
        """Request that the engine hand this attempt back with a checkpoint; False when it has another or none."""
        attempt = self._attempts.find(job_id, fence)
        if attempt is not None:
            self._park(attempt, now)
        return attempt is not None

    def park_all(self, why: str, now: float) -> None:
        """The same of all that it has, for this reason: an attempt whose model does not resume goes on."""
        for attempt in self._attempts:
            self._park(attempt, now, why)

    def _park(self, attempt: Attempt, now: float, why: str = "") -> None:
        if self._take_back(attempt):
            self._attempts.hand_back(attempt, "its inputs were still on their way", now)
        elif not attempt.postprocessing:  # else there is no step left
            attempt.parks = why or attempt.parks or ""
            self._emit(fx.RequestPark(attempt.slot, attempt.fence))

    def hand_back_fetching(self, why: str, now: float) -> None:
        """Hand back, for this reason, what the engine has not been given."""
        for attempt in self._attempts:
            if self._take_back(attempt):
                self._attempts.hand_back(attempt, why, now)

    def _take_back(self, attempt: Attempt) -> bool:
        """Fetch no more for an attempt that the engine has not been given; False when it has."""
        if attempt.fence not in self._attempts.fetching:
            return False
        self._life.free()
        return True
