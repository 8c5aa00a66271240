"""Promised times, and how the order of the queue keeps them: a pure plan of when each promised job must start at the latest.

Jobs with a promise wait in the queue like any other, and most are given out when their turn comes. The plan is laid from the end: the
promise that ends last is put as late as it may be, the others before it, on as many machines as there are workers for them (`plan_back`).
What it leaves free before the first start of each machine is slack, free for any job. Before a worker is given to a job, `holds` checks
whether all promises could still be kept with that worker busy; if not, the promised job with the least laxity goes instead
(`core.promised.guarded`). So an urgent job passes others only when it must, and as many as it must.

A promise is given only for an end that the queue as it stands leads to anyway (`forecast`), so that it takes nothing from jobs that wait
already: it protects from those that come later. What the tenant of an urgent job is given early is charged to it, and never more than
`MAX_LEAD_S` ahead of the others.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from math import inf

from msgspec import Struct

from broker.core.scheduling.queue import Lane
from broker.core.scheduling.run_times import RunTimes
from broker.wire import messages as m

#: Run times are reserved that long: most jobs need less, which evens out those that need more.
RESERVED = 0.85

#: Jobs with a promise that may wait at once: what is worked out for each new one stays within milliseconds.
MAX_WAITING = 512

#: Seconds of work, on the smallest worker that could do it, by which urgent jobs, promised or short, may put a tenant ahead.
MAX_LEAD_S = 900.0


class Demand(Struct, frozen=True, gc=False):
    """Need of a promised job that waits."""

    job_id: str
    lane: Lane
    ready_by: float
    #: Reserved run time, with loading its model, seconds.
    takes_s: float
    #: How much longer it may take, with the confidence of its promise.
    margin_s: float = 0.0


class Reservation(Struct, frozen=True):
    """The plan for workers that can run the same jobs."""

    workers: frozenset[str]
    demands: tuple[Demand, ...]
    #: When the first promised job of each machine must start, ascending; as many as workers.
    firsts: tuple[float, ...]
    #: (latest start, job), ascending.
    latest: tuple[tuple[float, str], ...]

    def without(self, job_id: str) -> Reservation:
        """The plan less one job."""
        left = tuple(demand for demand in self.demands if demand.job_id != job_id)
        return self if len(left) == len(self.demands) else plan_back(left, self.workers)


def plan_back(demands: Iterable[Demand], workers: frozenset[str]) -> Reservation:
    """Put every job as late as it may be, the one that ends last first, each on the machine that is taken last."""
    kept = tuple(demands)
    taken = [-inf] * len(workers)  # negated: from when on each machine is taken
    latest: list[tuple[float, str]] = []
    for demand in sorted(kept, key=_ready_by, reverse=True):
        start = min(-taken[0], demand.ready_by - demand.margin_s) - demand.takes_s
        heapq.heapreplace(taken, -start)
        latest.append((start, demand.job_id))
    latest.sort()
    return Reservation(workers, kept, tuple(sorted(-start for start in taken)), tuple(latest))


def holds(reservation: Reservation, free_at: Sequence[float]) -> bool:
    """Whether the plan can be kept by workers that are free at these times: each machine of the plan needs one by its first start."""
    return all(free <= first for free, first in zip(sorted(free_at), reservation.firsts, strict=True))


def lacking(reservation: Reservation, free_at: Sequence[float]) -> int:
    """Number of machines that its plan needs sooner than a worker is free; 0: `holds`."""
    return sum(free > first for free, first in zip(sorted(free_at), reservation.firsts, strict=True))


def lateness_s(reservation: Reservation, free_at: Sequence[float]) -> float:
    """By how much the worst of its starts cannot be kept; 0: `holds`."""
    late = (free - first for free, first in zip(sorted(free_at), reservation.firsts, strict=True))
    return max(0.0, *late) if reservation.firsts else 0.0


def _ready_by(demand: Demand) -> float:
    return demand.ready_by


def demand_of(
    job_id: str, submission: m.Submission, units: float, promise: m.Promise, run_times: RunTimes, load_s: float
) -> Demand:
    """Need of this job for the work that is left of it, by what is known of such jobs, where loading its model takes so long."""
    reserved = run_times.quantile(submission, units, RESERVED)
    if reserved is None:  # it was known when the promise was given
        reserved = run_times.predict(submission, units)
    whole = run_times.quantile(submission, units, promise.confidence) or reserved
    return Demand(
        job_id=job_id,
        lane=Lane(submission.model, submission.gpus, submission.pinned),
        ready_by=promise.ready_by,
        takes_s=reserved + load_s,
        margin_s=max(0.0, whole - reserved),
    )


class Promises:
    """The promised jobs that wait, and the plan for them."""

    def __init__(self) -> None:
        #: Job id -> what it needs.
        self.waiting: dict[str, Demand] = {}
        self._plan: tuple[Reservation, ...] | None = None
        self._pool: frozenset[str] = frozenset()

    def add(self, demand: Demand) -> None:
        """Plan for a job that waits, in place of what was known of it before."""
        self.waiting[demand.job_id] = demand
        self._plan = None

    def discard(self, job_id: str) -> None:
        """Plan no more for a job that waits no more, if it did."""
        if self.waiting.pop(job_id, None) is not None:
            self._plan = None

    def plan(self, pool: frozenset[str], able: Callable[[Lane], frozenset[str]]) -> tuple[Reservation, ...]:
        """The reservations on the workers in service; `able`: those of them that could run a lane.

        Jobs that share a worker are planned together: with lanes that overlap in part, each set of workers counts the jobs of all that
        meet it, which is rather too much than too little.
        """
        if self._plan is None or pool != self._pool:
            self._pool = pool
            self._plan = plan_all(self.waiting.values(), able)
        return self._plan


def plan_all(demands: Iterable[Demand], able: Callable[[Lane], frozenset[str]]) -> tuple[Reservation, ...]:
    """The reservations for these jobs, one a set of workers. A job that no worker in service could run is left out."""
    by_lane: dict[Lane, list[Demand]] = {}
    for demand in demands:
        by_lane.setdefault(demand.lane, []).append(demand)
    sets = {lane: able(lane) for lane in by_lane}
    plans = []
    for workers in dict.fromkeys(found for found in sets.values() if found):
        met = [demand for lane, found in sets.items() if found & workers for demand in by_lane[lane]]
        plans.append(plan_back(met, workers))
    return tuple(plans)


def earliest(feasible: Callable[[float], bool], least: float, most: float, precision: float) -> float | None:
    """The earliest time from `least` on that is feasible, and all later ones with it, to this precision; None: not even `most` is."""
    if feasible(least):
        return least
    if not feasible(most):
        return None
    low, high = least, most
    while high - low > precision:
        middle = (low + high) / 2
        low, high = (low, middle) if feasible(middle) else (middle, high)
    return high
