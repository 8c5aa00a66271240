"""Orders to a worker's transfer threads, and when one is tried again: pure, the time is an argument.

An order is tried again with growing pauses until it is done, revoked, or over its budget of time. Each that waits for a store which is away
is so one request in `LONGEST_PAUSE_S`, and done that soon after the store is back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from workers.depot.depot import DepotFile

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0

#: Removals of what does not count are tried so often: the edge's sweep finds the rest.
_DISCARD_TRIES = 5


class Put(Struct, frozen=True, kw_only=True):
    """Put an attempt's files. Done: `Outcome` of this fence."""

    job_id: str
    fence: int
    files: tuple[DepotFile, ...]
    budget_s: float
    #: Some may be there already.
    again: bool = False


class Kept(Struct, frozen=True, kw_only=True):
    """Directory of the checkpoints of an attempt's job on this machine."""

    job_id: str
    fence: int
    directory: Path


class Fetch(Struct, frozen=True, kw_only=True):
    """Fetch the inputs of an attempt. Done: `Outcome` of this fence.

    `kept`: with the checkpoints of its job that are newer than those here, if they can be had now.
    """

    fence: int
    names: tuple[str, ...]
    budget_s: float
    kept: Kept | None = None


class Discard(Struct, frozen=True, kw_only=True):
    """Remove what was put of an attempt. No job waits for it."""

    job_id: str
    fence: int


class PutExtra(Struct, frozen=True, kw_only=True):
    """Put a picture of a job that is not over, if it can be put now; no job waits for it.

    `parked`: it shows a job that is being parked. It comes before the checkpoints that are ordered next, and is tried for `budget_s`.
    """

    fence: int
    key: str
    path: Path
    parked: bool = False
    budget_s: float = 0.0


class PutCheckpoints(Struct, frozen=True, kw_only=True):
    """Put the newest checkpoint of each output of a job, if it can be put now: no caller waits for it.

    `budget_s`: the attempt is parked, and handed back when they are there; tried for so long. Done: `Outcome` of this fence.
    """

    fence: int
    kept: Kept
    budget_s: float = 0.0

    @property
    def awaited(self) -> bool:
        """Whether an attempt waits for it."""
        return self.budget_s > 0.0


Order = Put | Fetch | Discard | PutExtra | PutCheckpoints


class Outcome(Struct, frozen=True, kw_only=True):
    """An order of this fence is over. `fault`: why it failed; "": it did not."""

    order: Order
    fault: str = ""
    #: An input is not there any more, and never will be.
    gone: bool = False


class Delay(Struct, frozen=True, kw_only=True):
    """An order of this fence could not be carried out now, for this reason, which is not that of its last try; it is tried again."""

    fence: int
    fault: str


class Attempted:
    """An order and its tries."""

    def __init__(self, order: Order, now: float) -> None:
        self.order = order
        self.next_at = now
        self.began_at = now
        self.tries = 0
        #: Of its files, those that need no further try.
        self.done = 0
        #: Of the last try; "": there was none, or it had none.
        self.fault = ""


class Backlog:
    """The orders that are not over, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[Attempted] = []

    def __contains__(self, one: Attempted) -> bool:
        return one in self._waiting

    def __iter__(self) -> Iterator[Attempted]:
        return iter(self._waiting)

    def add(self, order: Order, now: float) -> None:
        """Do this as soon as it can be. Checkpoints that wait are the newest of their job when their turn comes: behind those that are
        being put, no more than once."""
        if isinstance(order, PutCheckpoints) and sum(one.order == order for one in self._waiting) > 1:
            return
        self._waiting.append(Attempted(order, now))

    def next(self) -> Attempted | None:
        """The order to be tried next, at its `next_at`; None: there is none."""
        return min(self._waiting, key=lambda one: one.next_at, default=None)

    def hurry(self) -> None:
        """Try all at once: they are likely to succeed now."""
        for one in self._waiting:
            one.next_at = 0.0

    def revoke(self, fence: int) -> None:
        """Drop what was to be put or fetched for an attempt; what is to be removed of it stays."""
        self._waiting = [one for one in self._waiting if isinstance(one.order, Discard) or one.order.fence != fence]

    def clear(self) -> None:
        """Drop all."""
        self._waiting.clear()

    def done(self, one: Attempted) -> None:
        """This order is over."""
        if one in self._waiting:
            self._waiting.remove(one)

    def put_off(self, one: Attempted, fault: str, now: float) -> Outcome | None:
        """A try failed for this reason; the outcome if it was the last, or None: the order is tried again."""
        one.tries += 1
        one.fault = fault
        waited_s = now - one.began_at
        match one.order:
            case Discard():
                over = one.tries >= _DISCARD_TRIES
            case _:
                over = waited_s >= one.order.budget_s
        if over:
            return Outcome(order=one.order, fault=f"{fault} (tried {one.tries} times in {waited_s:.0f} s)")
        one.next_at = now + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(one.tries - 1, 8))
        return None
