"""Attempts that the engine has parked and that are not handed back yet: their checkpoints are on their way into the depot.

A job that is handed back may begin on another machine at once, and goes on there from what the depot has. So it is reported to the broker
when the checkpoints are there, after `park_put_s`, or when this worker leaves (the end of `stop_grace_s`), whichever comes first. Until
then the worker holds the attempt as one that runs, though its engine is free. A cancel ends it here.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from broker.wire import messages as m
from workers.agent import effects as fx
from workers.agent.attempt import Attempt
from workers.agent.attempts import Attempts
from workers.agent.unacked_results import UnackedResults
from workers.supervisor.agent_policy import AgentPolicy


class _Waiting(Struct, frozen=True):
    attempt: Attempt
    reason: str
    hand_back_at: float


class ParkedAttempts:
    """By their fences."""

    def __init__(
        self,
        attempts: Attempts,
        results: UnackedResults,
        policy: AgentPolicy,
        emit: Callable[[fx.Effect], None],
        *,
        remote: bool,
    ) -> None:
        """`remote`: files go to a depot."""
        self._attempts = attempts
        self._results = results
        self._policy = policy
        self._emit = emit
        self._remote = remote
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, attempt: Attempt, kept: int, now: float, lost: str = "") -> None:
        """The engine has parked this attempt, with so many steps in checkpoints, or has left them as a machine of the group is `lost`.
        Where there is nothing to put it is handed back."""
        attempt.kept = kept
        reason = lost or attempt.parks or f"parked with {kept} steps in a checkpoint"
        if self._remote:
            self._emit(fx.PutDraft(attempt.job_id, attempt.fence))
        if not (self._remote and kept and self._policy.checkpoint_put_s):
            self._attempts.hand_back(attempt, reason, now, keep_files=not self._remote)
            return
        self._attempts.drop(attempt, now)
        budget_s = self._policy.park_put_s
        self._waiting[attempt.fence] = _Waiting(attempt, reason, now + budget_s)
        self._emit(fx.PutParked(attempt.job_id, attempt.fence, budget_s))

    def put(self, fence: int, now: float) -> None:
        """The checkpoints of this attempt are in the depot, or will not be."""
        if (one := self._waiting.pop(fence, None)) is not None:
            self._attempts.return_to_broker(one.attempt, one.reason, now)

    def timers(self, now: float) -> None:
        """Hand back those whose time is over."""
        for fence, one in [*self._waiting.items()]:
            if now >= one.hand_back_at:
                self.put(fence, now)

    def hand_back_all(self, now: float) -> None:
        """Hand all back, as the worker leaves."""
        for fence in [*self._waiting]:
            self.put(fence, now)

    def cancel(self, job_id: str, fence: int, now: float) -> bool:
        """End this attempt as cancelled; False when it is none of these."""
        if not self.waits(job_id, fence):
            return False
        attempt = self._waiting.pop(fence).attempt
        self._emit(fx.Revoke(fence))
        self._results.add(m.Cancelled(job_id=job_id, fence=fence), attempt.given_at, now)
        return True

    def waits(self, job_id: str, fence: int) -> bool:
        """Whether the checkpoints of this attempt are being put."""
        one = self._waiting.get(fence)
        return one is not None and one.attempt.job_id == job_id

    def fences(self) -> frozenset[int]:
        """These attempts."""
        return frozenset(self._waiting)

    def held(self, now: float) -> tuple[m.Held, ...]:
        """The lines of a heartbeat."""
        return tuple(one.attempt.held(now) for one in self._waiting.values())

    def next_due(self) -> float | None:
        """The time at which the next is handed back, at the latest."""
        return min((one.hand_back_at for one in self._waiting.values()), default=None)
