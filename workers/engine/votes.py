"""Votes of the ranks of a group while they draw a job: to go on, or to leave it together.

Between two passes of a denoiser each rank computes alone, and may find a reason to leave: a cancel from the agent, which rank 0 alone
receives, or an exception. Within one all must stay, as the others would wait for a rank that leaves: on a GPU for good. So before each pass
all vote, and the strongest vote counts for all. A rank that leaves between two passes votes so; the others get it with their next vote. An
exception within a pass ends the process, and its agent makes the group anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum

import msgspec

from broker.wire.failures import FailureKind
from workers.engine.errors import EngineError, InvalidInput, OutOfMemory
from workers.engine.failures import Verdict, classify, is_out_of_memory
from workers.engine.group import Group, GroupLost, GroupOutOfMemory
from workers.engine.progress import Cancelled, DraftKept, Monitor, Parked
from workers.engine.resuming import UnknownState

#: Seconds for which rank 0 waits for the others: before the first pass of a job, as they may have to read its model or encode its prompt;
#: later at least, and as a multiple of the longest pass of the job.
_FIRST_S, _LEAST_S, _PASSES = 1800.0, 60.0, 2

#: Places at which ranks vote. Those that all find themselves at must be the same one.
_PASS, _SHARE, _PUT_BACK, _END = range(4)


class Vote(IntEnum):
    """Values of a vote, from the weakest."""

    GO_ON = 0
    #: Leave the pipeline's call: the draft of this output is drawn, the next one follows.
    NEXT_OUTPUT = 1
    #: Leave the call and make it again, without what an earlier attempt left.
    CALL_AGAIN = 2
    #: The job is cancelled or parked.
    LEAVE = 3
    FAILED = 4


#: Failures that stay what they are when another rank reports them.
_KINDS: dict[FailureKind, type[EngineError]] = {
    FailureKind.INVALID_INPUT: InvalidInput,
    FailureKind.OUT_OF_MEMORY: OutOfMemory,
}


class Votes:
    """The votes of one job in one rank. `monitor`: of that job."""

    def __init__(self, group: Group, monitor: Monitor) -> None:
        self._group = group
        self._monitor = monitor
        #: Whether the other ranks count on this one to come to the end of a pass.
        self.inside = False
        #: Whether all have left the job.
        self.left = False
        self._count = 0
        self._longest_s = 0.0
        #: Exception by which this rank left the last call: raised by a vote, so that it needs no vote of its own.
        self._left_by: BaseException | None = None

    @contextmanager
    def together(self, number: int = 0) -> Iterator[int]:
        """Inside is a pass that all ranks compute, after a vote: the highest `number` of any rank. Raises as `share`."""
        try:
            self._monitor.check()
        except Cancelled as error:
            self.leave(error)
            raise
        highest = self._vote(Vote.GO_ON, _PASS, number)
        self.inside = True
        began = time.monotonic()
        yield highest
        self._longest_s = max(self._longest_s, time.monotonic() - began)
        self.inside = False

    def share(self, data: bytes | bytearray = b"") -> bytes:
        """Return the bytes of rank 0. Raises `Cancelled`, `DraftKept`, `UnknownState` or `EngineError` when the ranks leave."""
        self._vote(Vote.GO_ON, _SHARE)
        return self._group.broadcast(data)

    def put_back(self) -> None:
        """Vote that a checkpoint's state is put back, as there may be no pass after it. Raises as `share`."""
        self._vote(Vote.GO_ON, _PUT_BACK)

    def end(self) -> None:
        """Vote that all passes are done. Raises as `share`."""
        self._vote(Vote.GO_ON, _END)

    def leave_call(self, error: UnknownState | DraftKept) -> UnknownState | DraftKept:
        """Vote that this rank leaves a call of its pipeline by this exception; return the one by which all do."""
        if error is self._left_by:
            return error
        try:
            self._vote(Vote.NEXT_OUTPUT if isinstance(error, DraftKept) else Vote.CALL_AGAIN, _PASS)
        except (UnknownState, DraftKept) as stronger:
            return stronger
        return error

    def leave(self, error: BaseException) -> None:
        """Vote that this rank leaves the job by this exception; the others do the same."""
        if self.left:
            return
        if isinstance(error, Cancelled | Parked):
            self._vote(Vote.LEAVE, _PASS)
            return
        verdict = classify(error, self._monitor.phase)
        self._vote(Vote.FAILED, _PASS, reason=msgspec.msgpack.encode(_cut(verdict)))

    def _vote(self, own: Vote, place: int, number: int = 0, reason: bytes = b"") -> int:
        self._count += 1
        mark = self._count * 4 + place
        level, highest, last, first = self._group.highest([own, number, mark, -mark], self._patience())
        strongest = Vote(level)
        if strongest is Vote.GO_ON:
            if last != -first:
                raise GroupLost(f"{self._group.rank}: the ranks came to different places of a job")
            return highest
        self.left = strongest >= Vote.LEAVE
        reasons = self._group.reasons(reason) if strongest is Vote.FAILED else []
        if own in (strongest, Vote.LEAVE, Vote.FAILED):
            return highest  # its own exception has more detail
        self._left_by = _exception_of(strongest, reasons, self._group.rank.of)
        raise self._left_by

    def _patience(self) -> timedelta | None:
        if self._group.rank.follows:
            return None
        return timedelta(seconds=max(_LEAST_S, _PASSES * self._longest_s) if self._longest_s else _FIRST_S)


def lost(group: Group, error: BaseException) -> GroupLost:
    """Return the exception by which a rank ends after one within a pass."""
    kind = GroupOutOfMemory if is_out_of_memory(error) else GroupLost
    return kind(f"{group.rank}, within a pass that the ranks compute together: {type(error).__name__}: {error}")


def _exception_of(vote: Vote, reasons: list[bytes], ranks: int) -> BaseException:
    match vote:
        case Vote.NEXT_OUTPUT:
            return DraftKept()
        case Vote.CALL_AGAIN:
            return UnknownState("another rank could not put the state back")
        case Vote.LEAVE:
            return Cancelled()
    number, reason = next((number, reason) for number, reason in enumerate(reasons) if reason)
    verdict = msgspec.msgpack.decode(reason, type=Verdict)
    error = _KINDS.get(verdict.kind, EngineError)(f"rank {number} of {ranks}: {verdict.message}")
    error.elsewhere = True
    return error


def _cut(verdict: Verdict) -> Verdict:
    return Verdict(verdict.kind, verdict.message[:900])
