"""Placement of mixed jobs in a pool: the real core on virtual time, beside other policies with the same jobs.

Three experiments. All jobs at once: the makespan against its lower bound, max(total / workers, longest). Jobs one by one (Poisson): the
mean wait. Both again with workers that die (`rescue`). Images, clips and videos in the shares of `MIX`; the core predicts their lengths
with an error, the others ignore them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bench.harness.corepool import CorePool
from bench.harness.policies import (
    Job,
    first_come,
    least_connections,
    lower_bound,
    makespan,
    mean_wait,
    polling,
    round_robin,
)
from bench.harness.promisepool import Order, PromisePool
from bench.report import plot
from bench.report.report import Metric, Report, progress
from bench.report.stats import percentile
from bench.suites import rescue
from broker.core.policy import Policy
from broker.wire.promises import CONFIDENCE

#: (share, shortest, longest): images, clips, videos; seconds, drawn evenly between.
MIX = ((0.80, 0.1, 0.4), (0.15, 15.0, 30.0), (0.05, 60.0, 240.0))
OURS = "this broker"
#: The same where running jobs make room for short ones, each for so much of its own time at most.
MAKING_ROOM, PREEMPT_DELAY = "this broker, jobs make room", Policy().preempt_delay
#: Finished jobs that the core has learned from then, as a job without a prediction makes room for none.
_TAUGHT = 60
#: The makespan run is repeated with so many times the jobs: the last long job matters less.
MORE = 5


class PoolPlan(Struct, frozen=True, kw_only=True):
    """What to simulate."""

    workers: Annotated[int, Meta(description="workers in the pool", ge=1, le=1_000)] = 8
    jobs: Annotated[int, Meta(description="jobs that wait at once in the makespan run", ge=1, le=100_000)] = 1_000
    arrivals: Annotated[int, Meta(description="jobs of the Poisson run", ge=1, le=200_000)] = 10_000
    load: Annotated[
        float, Meta(description="of the Poisson run: work that arrives over what the pool can do", ge=0.05, le=0.98)
    ] = 0.8
    error: Annotated[float, Meta(description="error of predicted lengths (0.3: about 30 %)", ge=0.0, le=3.0)] = 0.3
    repeats: Annotated[int, Meta(description="draws of the makespan run; the worst is shown", ge=1, le=100)] = 5
    die_every_s: Annotated[
        float,
        Meta(description="seconds between a worker's deaths, on average, in the last runs; 0: none", ge=0.0, le=1e7),
    ] = 1_200.0
    checkpoint_s: Annotated[float, Meta(description="seconds between two checkpoints there", ge=0.1, le=600.0)] = 10.0
    seed: Annotated[int, Meta(description="draws the jobs", ge=0, le=2**31)] = 0


def draw_length(rng: random.Random) -> float:
    """Draw the length of a job of the mix, seconds."""
    _, low, high = rng.choices(MIX, [share for share, _, _ in MIX])[0]
    return rng.uniform(low, high)


def draw_jobs(count: int, seed: int, rate: float = 0.0) -> list[Job]:
    """Jobs of the mix, all at 0 or `rate` a second."""
    rng = random.Random(seed)
    at, jobs = 0.0, []
    for _ in range(count):
        jobs.append(Job(at, draw_length(rng)))
        at += rng.expovariate(rate) if rate else 0.0
    return jobs


def mean_length() -> float:
    """Return the mean length of the mix, seconds."""
    return sum(share * (low + high) / 2 for share, low, high in MIX)


def starts_by_policy(jobs: Sequence[Job], plan: PoolPlan, seed: int) -> dict[str, list[float]]:
    """Each job's start under each arrangement."""
    return {
        OURS: CorePool(jobs, plan.workers, plan.error, seed).run(),
        "one queue, first come first served": first_come(jobs, plan.workers),
        "round robin": round_robin(jobs, plan.workers),
        "least connections": least_connections(jobs, plan.workers),
        "polling client, 5 s": polling(jobs, plan.workers),
    }


def starts_making_room(jobs: Sequence[Job], plan: PoolPlan, seed: int) -> list[float]:
    """Each job's start, had it run without a break until its end, where running jobs make room for short ones."""
    rng = random.Random(seed)
    orders = [Order(job.at_s, job.length_s * rng.lognormvariate(0.0, plan.error), job.length_s) for job in jobs]
    lengths = draw_taught(rng)
    pool = PromisePool(
        orders, plan.workers, plan.error, seed, confidence=CONFIDENCE, taught=lengths, preempt_delay=PREEMPT_DELAY
    )
    return [outcome.end_s - job.length_s for outcome, job in zip(pool.run(), jobs, strict=True)]


def draw_taught(rng: random.Random) -> list[float]:
    """Draw the lengths of finished jobs that a core has learned from."""
    return [rng.uniform(MIX[0][1], MIX[-1][2]) for _ in range(_TAUGHT)]


def rescued(plan: PoolPlan) -> dict[rescue.Arrangement, rescue.Rescued]:
    """What becomes of jobs whose workers die."""
    if not plan.die_every_s:
        return {}
    at_once = draw_jobs(plan.jobs, plan.seed)
    arriving = draw_jobs(plan.arrivals, plan.seed, rate=plan.load * plan.workers / mean_length())
    found: dict[rescue.Arrangement, rescue.Rescued] = {}
    for one in rescue.arrangements(plan.die_every_s, plan.checkpoint_s, PREEMPT_DELAY):
        progress(one.name)
        taught = draw_taught(random.Random(plan.seed))
        found[one] = rescue.rescue(at_once, arriving, plan.workers, plan.error, plan.seed, taught, one)
    return found


def run(plan: PoolPlan) -> Report:
    """Simulate."""
    ratios: dict[str, list[float]] = {}
    waits: dict[str, float] = {}
    for number in range(plan.repeats):
        progress(f"makespan, draw {number + 1} of {plan.repeats}")
        jobs = draw_jobs(plan.jobs, plan.seed + number)
        bound = lower_bound(jobs, plan.workers)
        for name, starts in starts_by_policy(jobs, plan, number).items():
            ratios.setdefault(name, []).append(makespan(jobs, starts) / bound)
    progress(f"makespan of {MORE} times as many")
    jobs = draw_jobs(MORE * plan.jobs, plan.seed)
    more = makespan(jobs, CorePool(jobs, plan.workers, plan.error, plan.seed).run()) / lower_bound(jobs, plan.workers)
    progress(f"{plan.arrivals} arrivals at load {plan.load:g}")
    jobs = draw_jobs(plan.arrivals, plan.seed, rate=plan.load * plan.workers / mean_length())
    started = starts_by_policy(jobs, plan, plan.seed)
    progress("the same, where running jobs make room")
    started[MAKING_ROOM] = starts_making_room(jobs, plan, plan.seed)
    for name, starts in started.items():
        waits[name] = mean_wait(jobs, starts)
    return report_of(plan, ratios, more, waits, _image_p99(jobs, started), rescued(plan))


def _image_p99(jobs: Sequence[Job], started: dict[str, list[float]]) -> dict[str, float]:
    """The wait of short jobs, those that feel a queue most."""
    short = [number for number, job in enumerate(jobs) if job.length_s <= MIX[0][2]]
    return {
        name: percentile(sorted(starts[number] - jobs[number].at_s for number in short), 0.99) if short else 0.0
        for name, starts in started.items()
    }


def report_of(
    plan: PoolPlan,
    ratios: dict[str, list[float]],
    more: float,
    waits: dict[str, float],
    images: dict[str, float],
    dying: dict[rescue.Arrangement, rescue.Rescued],
) -> Report:
    """Makespans over the lower bound, mean waits; the same with workers that die."""
    metrics = [
        Metric(f"makespan_{_key(name)}", f"makespan over the lower bound, {name}", max(values), "x", _least(values))
        for name, values in ratios.items()
    ]
    label = f"makespan over the lower bound, {OURS}, {MORE * plan.jobs:,} jobs"
    metrics.insert(1, Metric("makespan_ours_more", label, more, "x", "one draw"))
    for name, wait in waits.items():
        note = "" if name == OURS else f"{wait / waits[OURS]:.1f} x this broker's"
        metrics.append(Metric(f"wait_{_key(name)}_s", f"mean wait, {name}", wait, "s", note))
    for name, wait in images.items():
        metrics.append(Metric(f"image_wait_p99_{_key(name)}_s", f"p99 wait of images, {name}", wait, "s"))
    metrics += rescue.metrics_of(dying)
    return Report(
        bench="pool",
        title=f"pool: mixed lengths on {plan.workers} workers, virtual time",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[
            plot.bars("makespan over the lower bound", "x", {name: max(values) for name, values in ratios.items()}),
            plot.bars(f"mean wait at load {plan.load:g}", "s", waits),
        ],
        warnings=[
            f"simulated: the real core decides, a job's lengths are drawn, {plan.error * 100:.0f} % error of prediction",
            f"jobs make room for others by {PREEMPT_DELAY:.0%} of their own time at most; all that they wait counts as their wait",
            f"makespan: {plan.jobs:,} jobs at once, worst of {plan.repeats} draws;"
            f" wait: {plan.arrivals:,} Poisson arrivals at load {plan.load:g}",
            *([rescue.warning(plan.die_every_s, plan.checkpoint_s)] if dying else []),
        ],
    )


def _least(values: list[float]) -> str:
    return f"worst of {len(values)}; best {min(values):.3f}"


def _key(name: str) -> str:
    return {
        OURS: "ours",
        MAKING_ROOM: "making_room",
        "one queue, first come first served": "fifo",
        "polling client, 5 s": "polling",
    }.get(name, name.replace(" ", "_"))
