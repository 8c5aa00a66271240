"""The five runs that every peer goes through, over its `PeerAdapter`; the result of each is a small struct.

a: many no-ops at once, timed to the last finish. b: one job at a time. c: Poisson arrivals of short sleeps. d: `kill -9` of a worker in
the middle of a job. e: `kill -9` of the queue with acknowledged jobs that no worker has taken.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import Struct

from bench.peers.peerkit import BARE, WORKERS, Done, PeerAdapter, Start
from bench.report.errors import BenchError
from bench.report.stats import Summary, summarise
from bench.suites.workload import poisson_times

#: Runs of a peer, and what each is called in the table.
PARTS = {
    "a": "no-ops a second",
    "b": "one job at a time",
    "c": "Poisson arrivals of sleeps",
    "d": "a worker killed in the middle of a job",
    "e": "the queue killed with acknowledged jobs in it",
}
#: Run c: arrivals a second, seconds each, slots.
ARRIVALS_PER_S, SLEEP_S, SLOTS = 50.0, 0.1, 8
#: Run d: seconds of the job, and how far it has come when its worker dies.
HELD_S, KILL_AFTER_S = 4.0, 0.5
#: Run e: how long no further one must come out before the rest counts as lost.
QUIET_S, DRAIN_S = 5.0, 45.0
_WARM_UP = 50
#: Submitting for the rate stops after so long, for a peer that takes jobs slowly.
_SUBMIT_S = 12.0
#: First job numbers of the runs: no two jobs of an adapter share one.
_A, _B, _C, _D, _E, _STEP = 1_000_000, 20_000_000, 30_000_000, 40_000_000, 50_000_000, 1_000_000


class Sizes(Struct, frozen=True, kw_only=True):
    """Sizes of the parts: no-ops and repeats of a, seconds of b and c, seconds to wait for a new start in d, jobs of e."""

    jobs: int
    repeats: int
    seconds: float
    patience_s: float
    kept: int = 1_000


class Rate(Struct, frozen=True, kw_only=True):
    """Run a: jobs a second of each repeat, and how many jobs the smallest of them was."""

    per_s: list[float]
    jobs: int


class Latency(Struct, frozen=True, kw_only=True):
    """Run b, seconds since the submit: to the job's start, and to its end by the worker's clock."""

    start: Summary
    end: Summary


class Waits(Struct, frozen=True, kw_only=True):
    """Run c: share of the slots' time that was spent in jobs, seconds from submit to start, and how late submits left."""

    busy: float
    offered: float
    wait: Summary
    late_p99_s: float


class Crash(Struct, frozen=True, kw_only=True):
    """Run d: what was killed, seconds until the job started again (None: not within `waited_s`), its starts, whether it ended."""

    what: str
    again_s: float | None
    waited_s: float
    starts: int
    ended: bool
    given_up: str = ""


class Survival(Struct, frozen=True, kw_only=True):
    """Run e: jobs acknowledged, how many came out afterwards, seconds from the kill to the first of them."""

    acknowledged: int
    out: int
    first_s: float | None
    note: str = ""


def rate(adapter: PeerAdapter, done: Done, sizes: Sizes) -> Rate:
    """Run a. Raises `BenchError`."""
    warm = list(range(_WARM_UP))
    adapter.submit_all(warm, BARE)
    done.wait(warm)
    found, least = [], sizes.jobs
    for repeat in range(sizes.repeats):
        first = _A + repeat * _STEP
        taken: list[int] = []
        begun = time.monotonic()
        adapter.submit_all(_until(begun + _SUBMIT_S, range(first, first + sizes.jobs), taken), BARE)
        done.wait(taken)
        found.append(len(taken) / (max(done.at[number] for number in taken) - begun))
        least = min(least, len(taken))
    return Rate(per_s=found, jobs=least)


def _until(end: float, numbers: range, taken: list[int]) -> Iterator[int]:
    """Yield these numbers as long as there is time; `taken` gets those given out."""
    for number in numbers:
        if time.monotonic() > end:
            return
        taken.append(number)
        yield number


def latency(adapter: PeerAdapter, done: Done, sizes: Sizes) -> Latency:
    """Run b. Raises `BenchError`."""
    starts, ends = [], []
    give_up = time.monotonic() + sizes.seconds
    for number in itertools.count(_B):
        begun = time.monotonic()
        adapter.submit(number, 0.0)
        done.wait([number])
        starts.append(done.starts[number][0].at - begun)
        ends.append(done.at[number] - begun)
        if time.monotonic() > give_up:
            break
    start, end = summarise(starts), summarise(ends)
    assert start is not None
    assert end is not None
    return Latency(start=start, end=end)


def waits(adapter: PeerAdapter, done: Done, sizes: Sizes) -> Waits:
    """Run c. Raises `BenchError`."""
    warm = range(_C - SLOTS, _C)
    adapter.submit_all(warm, SLEEP_S)
    done.wait(warm)
    times = poisson_times(ARRIVALS_PER_S, max(2, int(sizes.seconds * ARRIVALS_PER_S)), random.Random(1))
    begun = time.monotonic() + 0.1
    submitted: dict[int, float] = {}
    late = []
    for number, at in enumerate(times, start=_C):
        time.sleep(max(0.0, begun + at - time.monotonic()))
        submitted[number] = time.monotonic()
        late.append(submitted[number] - begun - at)
        adapter.submit(number, SLEEP_S)
    done.wait(list(submitted))
    return judge_waits(submitted, done.starts, done.at, late)


def judge_waits(
    submitted: Mapping[int, float], starts: Mapping[int, list[Start]], ends: Mapping[int, float], late: Sequence[float]
) -> Waits:
    """Busy share, offered share and waits, from times of one clock; `late`: seconds of each submit behind its time."""
    span = max(ends[number] for number in submitted) - min(submitted.values())
    run = sum(ends[number] - starts[number][-1].at for number in submitted)
    wait = summarise(starts[number][0].at - at for number, at in submitted.items())
    lateness = summarise(late)
    assert wait is not None
    assert lateness is not None
    offered = len(submitted) * SLEEP_S / (SLOTS * span)
    return Waits(busy=run / (SLOTS * span), offered=offered, wait=wait, late_p99_s=lateness.p99)


def crashes(adapter: PeerAdapter, done: Done, sizes: Sizes) -> list[Crash]:
    """Run d, and where workers have a parent once more with that one killed, too. Raises `BenchError`."""
    found = [_crash(adapter, done, sizes, _D, "the process that runs the job", adapter.kill_worker)]
    # It waits to the end of the patience in every mode: once is enough.
    kill_all = adapter.kill_all_workers
    if kill_all is not None and adapter.mode == "default":
        found.append(_crash(adapter, done, sizes, _D + 1, "the whole worker", lambda _: kill_all()))
    return found


def _crash(
    adapter: PeerAdapter, done: Done, sizes: Sizes, number: int, what: str, kill: Callable[[int], object]
) -> Crash:
    adapter.submit(number, HELD_S)
    if not done.holds(lambda: number in done.starts, 60.0):
        raise BenchError("the job to be killed did not start within 60 s")
    time.sleep(KILL_AFTER_S)
    killed = time.monotonic()
    kill(done.starts[number][0].pid)
    given_up = ""
    while time.monotonic() < killed + sizes.patience_s and not given_up:
        if done.holds(lambda: len(done.starts[number]) > 1 or number in done.at, 0.5):
            break
        given_up = adapter.given_up(number)
    starts = done.starts[number]
    waited = time.monotonic() - killed
    again = starts[1].at - killed if len(starts) > 1 else None
    if again is not None:
        done.holds(lambda: number in done.at, HELD_S + 10.0)
    return Crash(
        what=what,
        again_s=again,
        waited_s=waited,
        starts=len(done.starts[number]),
        ended=number in done.at,
        given_up=given_up,
    )


def survival(adapter: PeerAdapter, done: Done, sizes: Sizes) -> Survival:
    """Run e, on a adapter whose queue runs and that has no workers yet. Raises `BenchError`."""
    numbers = range(_E, _E + sizes.kept)
    adapter.fill(numbers)
    killed = time.monotonic()
    adapter.kill_server()
    adapter.start_server()
    adapter.start_workers(WORKERS)
    return drained(done, numbers, killed, adapter.survival_note)


def drained(done: Done, numbers: range, killed: float, note: str = "") -> Survival:
    """Count what comes out until all has, or nothing more does."""

    def out() -> int:
        return sum(number in done.at for number in numbers)

    give_up, count = time.monotonic() + DRAIN_S, 0
    # Workers need some seconds to come up: the first job is waited for longer.
    patience = 2 * QUIET_S
    while count < len(numbers) and time.monotonic() < give_up:
        if not done.holds(lambda: out() > count, patience):  # noqa: B023  # called at once
            break
        count, patience = out(), QUIET_S
    times = [done.at[number] for number in numbers if number in done.at]
    return Survival(
        acknowledged=len(numbers), out=len(times), first_s=min(times) - killed if times else None, note=note
    )
