"""Other ways to spread jobs over workers, simulated: what a pool of servers behind a balancer, or a polling script, would do.

Each takes jobs as (arrival, length) pairs in order of arrival, in seconds, and returns each job's start. None uses lengths.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from math import inf

from msgspec import Struct


class Job(Struct, frozen=True):
    """Job: its arrival and length, seconds."""

    at_s: float
    length_s: float
    #: Of each of its steps, at whose ends it can be parked; 0: it cannot.
    step_s: float = 0.0


Policy = Callable[[Sequence[Job], int], list[float]]


def round_robin(jobs: Sequence[Job], workers: int) -> list[float]:
    """Job i goes to worker i mod n at once, and waits there."""
    free = [0.0] * workers
    starts = []
    for number, job in enumerate(jobs):
        worker = number % workers
        starts.append(max(job.at_s, free[worker]))
        free[worker] = starts[-1] + job.length_s
    return starts


def least_connections(jobs: Sequence[Job], workers: int) -> list[float]:
    """A job goes at once to the worker with the fewest unfinished jobs, the first of them in a tie, and waits there."""
    ends: list[list[float]] = [[] for _ in range(workers)]
    free = [0.0] * workers
    starts = []
    for job in jobs:
        for waiting in ends:
            while waiting and waiting[0] <= job.at_s:
                heapq.heappop(waiting)
        worker = min(range(workers), key=lambda number: len(ends[number]))
        starts.append(max(job.at_s, free[worker]))
        free[worker] = starts[-1] + job.length_s
        heapq.heappush(ends[worker], free[worker])
    return starts


def polling(jobs: Sequence[Job], workers: int, period_s: float = 5.0) -> list[float]:
    """One client with all jobs polls the servers for an idle one, in order of arrival; when none is, it sleeps `period_s`."""
    free = [0.0] * workers
    clock = 0.0
    starts = []
    for job in jobs:
        clock = max(clock, job.at_s)
        while min(free) > clock:
            clock += period_s
        worker = free.index(min(free))
        starts.append(clock)
        free[worker] = clock + job.length_s
    return starts


def first_come(jobs: Sequence[Job], workers: int) -> list[float]:
    """One queue for all, in order of arrival: a free worker takes the next job."""
    free = [0.0] * workers
    starts = []
    for job in jobs:
        soonest = heapq.heappop(free)
        starts.append(max(job.at_s, soonest))
        heapq.heappush(free, starts[-1] + job.length_s)
    return starts


def shortest_left(jobs: Sequence[Job], workers: int) -> list[float]:
    """Each job's end when those with the least left always run, whatever ran before, and parking costs nothing. It uses all lengths."""
    ends = [0.0] * len(jobs)
    live: list[tuple[float, int]] = []
    now, arrived = 0.0, 0
    while arrived < len(jobs) or live:
        running = heapq.nsmallest(workers, live)
        arrival = jobs[arrived].at_s if arrived < len(jobs) else inf
        at = min(arrival, now + running[0][0]) if running else arrival
        for left, number in running:
            live.remove((left, number))
            if left - (at - now) > 1e-9:
                live.append((left - (at - now), number))
            else:
                ends[number] = at
        now = at
        if arrival <= at:
            live.append((jobs[arrived].length_s, arrived))
            arrived += 1
    return ends


def long_first(jobs: Sequence[Job], workers: int, long_s: float, stretch: float, waived: int = 0) -> list[float]:
    """Each job's end when those of at least `long_s` run first, and a shorter one runs before them only when it could else not end within
    `stretch` times its length.

    Parking costs nothing and all lengths are known: what long jobs lose here is lost in any order that serves the short ones so well, but
    for a better choice among equals. `waived`: every so many-th short job has no such time (0: none), so that a share of them may be late.
    """
    latest = [
        inf if job.length_s >= long_s or (waived and number % waived == 0) else job.at_s + stretch * job.length_s
        for number, job in enumerate(jobs)
    ]
    left = [job.length_s for job in jobs]
    ends = [0.0] * len(jobs)
    live: list[int] = []
    now, arrived = 0.0, 0

    def rank(number: int) -> tuple[int, float]:
        due = latest[number] - left[number]
        if due <= now + 1e-9:
            return 0, due
        return (1 if jobs[number].length_s >= long_s else 2), left[number]

    while arrived < len(jobs) or live:
        live.sort(key=rank)
        running, waiting = live[:workers], live[workers:]
        arrival = jobs[arrived].at_s if arrived < len(jobs) else inf
        due = min((latest[number] - left[number] for number in waiting if rank(number)[0]), default=inf)
        done = now + min((left[number] for number in running), default=inf)
        at = min(arrival, due, done)
        for number in running:
            left[number] -= at - now
            if left[number] <= 1e-9:
                ends[number] = at
                live.remove(number)
        now = at
        if arrival <= at:
            live.append(arrived)
            arrived += 1
    return ends


class _Run(Struct, eq=False):
    """A job on a worker: since when, with how much left then; when it leaves, with how much left."""

    number: int
    since: float
    left_s: float
    until: float
    left_then_s: float = 0.0


def short_first(jobs: Sequence[Job], workers: int, long_s: float, park_s: float = 0.0) -> list[float]:
    """Each job's end when those shorter than `long_s` go first, in order of arrival, and long ones make room at once, but at the end of a
    step: the long one whose step ends first is parked, which takes `park_s`. Of those that wait the one with the least left goes on.

    What short ones take here they take in any order that parks no sooner, but for those that give some short ones up.
    """
    left = [job.length_s for job in jobs]
    ends = [0.0] * len(jobs)
    short: list[int] = []
    long: list[tuple[float, int]] = []
    runs: list[_Run] = []
    arrived, now = 0, 0.0
    while arrived < len(jobs) or runs:
        at = jobs[arrived].at_s if arrived < len(jobs) else inf
        leaving = min(runs, key=lambda run: run.until) if runs else None
        if leaving is not None and leaving.until <= at:
            now, number = leaving.until, leaving.number
            runs.remove(leaving)
            left[number] = leaving.left_then_s
            if left[number] > 0.0:
                heapq.heappush(long, (left[number], number))
            else:
                ends[number] = now
        else:
            now = at
            if jobs[arrived].length_s < long_s:
                short.append(arrived)
            else:
                heapq.heappush(long, (left[arrived], arrived))
            arrived += 1
        while len(runs) < workers and (short or long):
            number = short.pop(0) if short else heapq.heappop(long)[1]
            runs.append(_Run(number, now, left[number], now + left[number]))
        for _ in range(len(short) - sum(run.left_then_s > 0.0 for run in runs)):
            found: tuple[float, float, _Run] | None = None
            for run in runs:
                job = jobs[run.number]
                if run.left_then_s > 0.0 or job.length_s < long_s or not job.step_s:
                    continue
                done_s = (int((now - run.since) / job.step_s) + 1) * job.step_s
                if run.left_s - done_s > park_s and (found is None or run.since + done_s < found[0]):
                    found = run.since + done_s, run.left_s - done_s, run
            if found is not None:
                found[2].until, found[2].left_then_s = found[0] + park_s, found[1]
    return ends


def makespan(jobs: Sequence[Job], starts: Sequence[float]) -> float:
    """Return the seconds from the first arrival to the last end."""
    return max(start + job.length_s for job, start in zip(jobs, starts, strict=True)) - jobs[0].at_s


def mean_wait(jobs: Sequence[Job], starts: Sequence[float]) -> float:
    """Mean of start minus arrival."""
    return sum(start - job.at_s for job, start in zip(jobs, starts, strict=True)) / len(jobs)


def lower_bound(jobs: Sequence[Job], workers: int) -> float:
    """No schedule of jobs that all wait from the start ends sooner: max(total / workers, the longest job)."""
    return max(sum(job.length_s for job in jobs) / workers, max(job.length_s for job in jobs))
