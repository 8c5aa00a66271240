"""Attempt at a job in the engine: its slot, progress and speed, when it counts as stuck, how long a cancel may take.

What the engine shows (`ipc.Progress`, read some twenty times a second) is all there is to go by. Its `tick` grows with every sign of
life, also inside a step; a phase is stuck when the tick has stood still for longer than that phase ever may.
"""

from __future__ import annotations

from typing import Literal, cast

from msgspec import Struct

from broker.wire.jobspec import Phase
from broker.wire.messages import FailureKind, Held
from workers.ipc.shared import Progress
from workers.supervisor.agent_policy import AgentPolicy

#: Weight of the newest step in the average: five steps after a change of pace, four fifths of the old pace are forgotten.
_WEIGHT = 0.3

#: A heartbeat's counters have an upper bound (`messages.Count`); beyond it only the display is wrong.
_MAX_COUNT = 1_000_000

#: A step is stuck after this many times its predicted length; a cancel may take so many.
_STUCK_STEPS = 5
_CANCEL_STEPS = 2


class Ending(Struct, frozen=True):
    """Reason why the agent ends an attempt by killing its engine; decides the report to the broker once the process is gone."""

    kind: Literal["cancelled", "failed", "dropped"]
    failure: FailureKind = FailureKind.ENGINE_CRASHED
    message: str = ""


class Pulse:
    """Progress that the engine shows of one attempt: where it is, when that last changed, and how long a step takes."""

    def __init__(self, predicted_s: float, now: float) -> None:
        self.begun = False
        self.phase: Phase = ""
        self.step = 0
        self.total = 0
        #: Time of the last sign of life.
        self.last_sign_at = now
        self._predicted_s = predicted_s
        self._tick = -1
        self._step_at = now
        self._average_s = 0.0

    def observe(self, progress: Progress, now: float) -> None:
        """Take in what the engine shows."""
        self.begun = True
        if progress.tick != self._tick:
            self._tick = progress.tick
            self.last_sign_at = now
        phase = cast("Phase", progress.phase)
        if phase != self.phase or progress.step < self.step:
            self._step_at = now
        elif progress.step > self.step:
            # The first steps that show may have been taken by an earlier attempt.
            if self.step or progress.step == 1:
                self._update_step_s((now - self._step_at) / (progress.step - self.step))
            self._step_at = now
        self.phase, self.step, self.total = phase, progress.step, progress.total

    def _update_step_s(self, step_s: float) -> None:
        if self.phase != "denoise":
            return
        self._average_s = step_s if self._average_s == 0.0 else self._average_s + _WEIGHT * (step_s - self._average_s)

    def step_s(self) -> float:
        """Seconds of a denoising step: as seen, else as predicted, else 0."""
        if self._average_s > 0.0:
            return self._average_s
        return self._predicted_s / self.total if self.phase == "denoise" and self.total else 0.0

    def budget_s(self, policy: AgentPolicy) -> float:
        """Seconds without a sign of life that are allowed where it is now."""
        match self.phase:
            case "load" | "warm_up":
                return policy.load_budget_s
            case "denoise":
                # Before the first step ends, kernels are compiled and tuned; no estimate covers that.
                floor = policy.step_floor_s if self.step else max(policy.step_floor_s, policy.first_step_budget_s)
                return max(floor, min(_STUCK_STEPS * self.step_s(), policy.step_budget_max_s))
            case "decode":
                return policy.decode_budget_s
            case "save" | "finished":
                return policy.save_budget_s
            case _:
                return policy.encode_budget_s

    def describe(self) -> str:
        """Describe it for people: "denoise, step 3 of 40"."""
        if not self.phase:
            return "not begun"
        return f"{self.phase}, step {self.step} of {self.total}" if self.total else self.phase


class Attempt:
    """A job that the engine holds. `slot`: its row of the shared counters. `alone`: no other job may be in the engine with it."""

    def __init__(
        self,
        job_id: str,
        fence: int,
        predicted_s: float,
        now: float,
        trace_id: str = "",
        *,
        slot: int = 0,
        alone: bool = False,
        kept: int = 0,
        parks: str | None = None,
    ) -> None:
        self.job_id = job_id
        self.fence = fence
        self.slot = slot
        self.alone = alone
        #: "last_steps": the engine has requested the next job, to prepare it beside them; "postprocess": that runs by itself.
        self.stage: Literal["denoise", "last_steps", "postprocess"] = "denoise"
        #: For log lines.
        self.trace_id = trace_id
        self.cancel_by: float | None = None
        #: Reason why it is to be handed back with a checkpoint, as was requested; "": for its own job's sake. None: it is not.
        self.parks = parks
        #: Denoising steps of its job in a checkpoint on disk.
        self.kept = kept
        self.ending: Ending | None = None
        self.given_at = now
        self._pulse = Pulse(predicted_s, now)

    def observe(self, progress: Progress, now: float) -> None:
        """Take in what the engine shows; that of another job is ignored."""
        if progress.fence == self.fence:
            self._pulse.observe(progress, now)
            self.kept = progress.kept

    @property
    def postprocessing(self) -> bool:
        """Whether its postprocessing runs by itself: the engine takes another job."""
        return self.stage == "postprocess"

    @property
    def next_requested(self) -> bool:
        """Whether the engine has requested the next job, to prepare it beside this one's last steps."""
        return self.stage == "last_steps"

    @property
    def begun(self) -> bool:
        """Whether the engine has shown this fence. A job that it never took up cannot have crashed it."""
        return self._pulse.begun

    def predicted_step_s(self) -> float:
        """Seconds one denoising step takes: as seen in this attempt, else as the broker predicted, else 0."""
        return self._pulse.step_s()

    def wait_no_more(self, now: float) -> None:
        """End its wait for another attempt: from now on its own silence counts."""
        if not self.begun:
            self._pulse.last_sign_at = now

    def grace_s(self, policy: AgentPolicy, requested_s: float) -> float:
        """Return the seconds that a cancel may take before the engine is killed: as requested, 0 for the agent's own rule.

        Neither an order nor a prediction, however large, takes the promise back.
        """
        own_s = _CANCEL_STEPS * self.predicted_step_s() + policy.cancel_grace_s
        return min(requested_s or own_s, policy.cancel_grace_max_s)

    def silence_s(self, now: float) -> float:
        """Seconds since its last sign of life."""
        return now - self._pulse.last_sign_at

    def stuck_at(self, policy: AgentPolicy) -> float:
        """Return the time at which this attempt counts as stuck, should no further sign of life come."""
        return self._pulse.last_sign_at + self._pulse.budget_s(policy)

    def describe(self) -> str:
        """Describe its progress for people: "denoise, step 3 of 40"."""
        return self._pulse.describe()

    @property
    def shown(self) -> tuple[int, Phase, int, int]:
        """Part of it whose change makes a heartbeat due sooner."""
        return self.fence, self._pulse.phase, self._pulse.step, self._pulse.total

    def held(self, now: float) -> Held:
        """The line of a heartbeat."""
        return Held(
            job_id=self.job_id,
            fence=self.fence,
            phase=self._pulse.phase,
            step=min(self._pulse.step, _MAX_COUNT),
            total=min(self._pulse.total, _MAX_COUNT),
            age_s=max(0.0, now - self.given_at),
            kept=min(self.kept, _MAX_COUNT),
        )
