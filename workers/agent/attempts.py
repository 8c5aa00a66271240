"""Attempts in the engine, at most three, and how each ends: with a result, handed back, or dropped.

An end is reported to the broker by its result, which goes to `UnackedResults`; to the rest of the agent by effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from broker.runtime.log_actions import Action
from broker.wire import messages as m
from broker.wire.jobspec import Artefact
from workers.agent import effects as fx
from workers.agent.attempt import Attempt, Ending
from workers.agent.truncate import MAX_REASON, MAX_TEXT, clip
from workers.agent.unacked_results import UnackedResults, keeps_files
from workers.ipc.messages import RunJob


class Attempts:
    """In the order in which they are denoised: see `denoising`."""

    def __init__(self, results: UnackedResults, emit: Callable[[fx.Effect], None]) -> None:
        #: Jobs whose inputs are being fetched, by their fences: the engine has not been given them.
        self.fetching: dict[int, RunJob] = {}
        self._held: list[Attempt] = []
        self._results = results
        self._emit = emit

    def __iter__(self) -> Iterator[Attempt]:
        """Iterate over a copy: an attempt may end meanwhile."""
        return iter([*self._held])

    def __len__(self) -> int:
        return len(self._held)

    def of(self, fence: int) -> Attempt | None:
        """The attempt of this fence."""
        return next((attempt for attempt in self._held if attempt.fence == fence), None)

    def find(self, job_id: str, fence: int) -> Attempt | None:
        """The attempt of this fence, if it is at this job."""
        attempt = self.of(fence)
        return attempt if attempt is not None and attempt.job_id == job_id else None

    @property
    def denoising(self) -> Attempt | None:
        """The attempt that is denoised: the first that is not in its postprocessing. One after it is prepared, or waits."""
        return next((attempt for attempt in self._held if not attempt.postprocessing), None)

    def pass_turn(self, fence: int) -> Attempt | None:
        """Make the attempt of this fence the one that is denoised, as the engine reports it; None where it cannot be."""
        attempt, before = self.of(fence), self.denoising
        if attempt is None or before is None or attempt.postprocessing or fence in self.fetching:
            return None
        if attempt is not before:
            if attempt.alone or not before.next_requested:
                return None
            self._overtake(before, attempt)
        return attempt

    def _overtake(self, before: Attempt, attempt: Attempt) -> None:
        """The first has lost its turn to the prepared one: it is about to end, or is denoised again when that one is."""
        before.stage, attempt.stage = "denoise", "last_steps"
        self._held.remove(before)
        self._held.append(before)

    def waits(self, attempt: Attempt) -> bool:
        """Whether it has not begun because its inputs are on their way, or of the one before it, whose silence is the one that counts."""
        return attempt.fence in self.fetching or (not attempt.begun and attempt is not self._held[0])

    def add(self, attempt: Attempt) -> None:
        """Begin it behind the others."""
        self._held.append(attempt)
        self.note(Action.ATTEMPT_STARTED, attempt)

    def conclude(self, attempt: Attempt, result: m.AgentResult, now: float, put: tuple[Artefact, ...] = ()) -> None:
        """End it with this result. `put`: files that go to the depot before it is reported."""
        self._remove(attempt, now)
        self._results.add(result, attempt.given_at, now, sum(file.size for file in put) if put else -1)
        if put and isinstance(result, m.Finished):
            self._emit(fx.KeepResult(result, max(0.0, now - attempt.given_at)))
            self._emit(fx.PutFiles(attempt.job_id, attempt.fence, put))
        if not keeps_files(result):
            self._emit(fx.RemoveDir(attempt.job_id, attempt.fence))
        self.note(Action(f"attempt_{type(result).__name__.lower()}"), attempt, getattr(result, "message", ""))

    def fail(self, attempt: Attempt, kind: m.FailureKind, message: str, now: float) -> None:
        """End it with a failure."""
        text = clip(message, MAX_TEXT)
        self.conclude(attempt, m.Failed(job_id=attempt.job_id, fence=attempt.fence, kind=kind, message=text), now)

    def cancelled(self, attempt: Attempt, now: float) -> None:
        """End it as cancelled."""
        self.conclude(attempt, m.Cancelled(job_id=attempt.job_id, fence=attempt.fence), now)

    def hand_back(self, attempt: Attempt, reason: str, now: float, *, keep_files: bool = False) -> None:
        """Give it back to the broker. `keep_files`: its pictures show how far it is, while the job waits."""
        self.drop(attempt, now, keep_files=keep_files)
        self.return_to_broker(attempt, reason, now)

    def return_to_broker(self, attempt: Attempt, reason: str, now: float) -> None:
        """Report that an attempt which was dropped is handed back."""
        refusal = m.Refused(
            job_id=attempt.job_id,
            fence=attempt.fence,
            reason=clip(reason, MAX_REASON),
            age_s=max(0.0, now - attempt.given_at),
            kept=attempt.held(now).kept,
        )
        self._emit(fx.SendBroker(refusal))

    def end_killed(self, attempt: Attempt, how: str, now: float) -> None:
        """End it as the engine, which is gone, was killed for; a crash when it was not."""
        crash = m.FailureKind.ENGINE_CRASHED
        ending = attempt.ending or Ending("failed", crash, f"the engine ended in {attempt.describe()}")
        if ending.kind == "failed" and ending.failure is crash:
            ending = replace(ending, message=f"{ending.message}: {how}")
        match ending.kind:
            case "cancelled":
                self.cancelled(attempt, now)
            case "failed":
                self.fail(attempt, ending.failure, ending.message, now)
            case _:
                self.drop(attempt, now)

    def drop(self, attempt: Attempt, now: float, *, keep_files: bool = False) -> None:
        """End it without a message to the broker."""
        self._remove(attempt, now)
        if not keep_files:
            self._emit(fx.RemoveDir(attempt.job_id, attempt.fence))
        self.note(Action.ATTEMPT_DROPPED, attempt)

    def note(self, action: Action, attempt: Attempt, detail: str = "") -> None:
        """Write a line of the log about it."""
        note = fx.Note(
            action=action, job_id=attempt.job_id, fence=attempt.fence, detail=detail, trace_id=attempt.trace_id
        )
        self._emit(note)

    def _remove(self, attempt: Attempt, now: float) -> None:
        self._held.remove(attempt)
        if self.fetching.pop(attempt.fence, None) is not None:
            self._emit(fx.Revoke(attempt.fence))
        for other in self._held:
            other.wait_no_more(now)
