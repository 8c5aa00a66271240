"""Forecast of a job's start: the queue ahead of it, simulated on the workers as they are.

Pure: each worker is free in so many seconds, and what is ahead is given out in the order of the queue, each job to the worker
that is free first among those that can run it. Expected times and their variances are carried along, so that the end can be given with a
confidence. At most `LOOK` jobs are played through; of the rest the sums are taken.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from math import sqrt

from msgspec import Struct

from broker.core.scheduling.costs import deviations
from broker.core.scheduling.queue import Lane

#: Jobs ahead that are looked at one by one.
LOOK = 256


class Availability(Struct):
    """Time from which a worker is free, seconds from now."""

    worker: str
    gpus: int
    free_s: float = 0.0
    variance: float = 0.0
    #: Model in memory by then.
    model: str = ""


class Work(Struct, frozen=True, gc=False):
    """A job to come: where it can run, and how long it takes."""

    lane: Lane
    tenant: str
    #: By GPUs of a worker: (seconds, their standard deviation); and what they are on the mean of the workers.
    by_size: Mapping[int, tuple[float, float]]
    takes_s: float
    sd_s: float


class Start(Struct, frozen=True):
    """Start of a job, seconds from now."""

    at_s: float
    variance: float = 0.0
    #: Seconds that its model takes to load then, and that it then runs on that worker.
    load_s: float = 0.0
    takes_s: float = 0.0


class Line:
    """The workers, and what is given out to them."""

    def __init__(
        self,
        workers: Sequence[Availability],
        able: Callable[[Lane], frozenset[str]],
        load_s: Callable[[str], float],
        limits: Mapping[str, int],
        running: Mapping[str, Sequence[float]],
    ) -> None:
        """`limits`: jobs that a tenant may have running at once; `running`: when those that run now end, by tenant, seconds from now."""
        self._free = [(worker.free_s, number, worker) for number, worker in enumerate(workers)]
        heapq.heapify(self._free)
        self._able = able
        self._load_s = load_s
        self._limits = limits
        self._ends = {tenant: sorted(running.get(tenant, ())) for tenant in limits}

    def give(self, work: Work) -> Start | None:
        """Give out the next job: its start; None: no worker can run it."""
        able, passed, found = self._able(work.lane), [], None
        while self._free:
            entry = heapq.heappop(self._free)
            if entry[2].worker not in able:
                passed.append(entry)
                continue
            if found is None:
                found = entry
            elif entry[0] > found[0]:
                passed.append(entry)
                break
            elif found[2].model != work.lane.model and entry[2].model == work.lane.model:
                # Free at the same time, and it need not load.
                passed.append(found)
                found = entry
            else:
                passed.append(entry)
            if found[2].model == work.lane.model:
                break
        for entry in passed:
            heapq.heappush(self._free, entry)
        if found is None:
            return None
        _, number, worker = found
        takes_s, sd_s = work.by_size.get(worker.gpus, (work.takes_s, work.sd_s))
        start = Start(
            at_s=max(worker.free_s, self._turn_s(work.tenant)),
            variance=worker.variance,
            load_s=0.0 if worker.model == work.lane.model else self._load_s(work.lane.model),
            takes_s=takes_s,
        )
        worker.free_s = start.at_s + start.load_s + takes_s
        worker.variance += sd_s * sd_s
        worker.model = work.lane.model
        heapq.heappush(self._free, (worker.free_s, number, worker))
        if work.tenant in self._ends:
            heapq.heappush(self._ends[work.tenant], worker.free_s)
        return start

    def fill(self, seconds: float, spread: float) -> None:
        """Give out so much work of jobs that are not looked at, evenly; its standard deviation is this share of it."""
        each = seconds / len(self._free) if self._free else 0.0
        for _, _, worker in self._free:
            worker.free_s += each
            worker.variance += (spread * each) ** 2
        self._free = [(worker.free_s, number, worker) for _, number, worker in self._free]
        heapq.heapify(self._free)

    def _turn_s(self, tenant: str) -> float:
        """From when on the tenant's limit lets one more run."""
        ends = self._ends.get(tenant)
        return heapq.heappop(ends) if ends is not None and len(ends) >= self._limits[tenant] else 0.0


def done_within(start: Start, takes_s: float, whole_s: float, confidence: float) -> float:
    """Seconds from now by which a job is done with this confidence, that is expected to run `takes_s`, and `whole_s` with it."""
    own = whole_s - takes_s
    waited = deviations(confidence) * sqrt(start.variance)
    # Independent of each other: the longest wait and the longest run seldom meet.
    more = sqrt(own * own + waited * waited) if own > 0 else own + waited
    return start.at_s + start.load_s + takes_s + more
