"""Workers that die at random: how long the same jobs take then, and how much is drawn again, with checkpoints and without."""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec import Struct

from bench.harness.policies import Job, lower_bound, makespan, mean_wait
from bench.harness.promisepool import Order
from bench.harness.rescuepool import LEASE_S, REPAIR_S, Deaths, RescuePool
from bench.report.report import Metric
from broker.wire.promises import CONFIDENCE


class Arrangement(Struct, frozen=True, kw_only=True):
    """Arrangement of the pool: seconds between a worker's deaths and between two checkpoints, each 0 for none; whether jobs make room."""

    key: str
    name: str
    die_every_s: float
    checkpoint_s: float
    preempt_delay: float = 0.0


class Rescued(Struct, frozen=True, kw_only=True):
    """Outcome of the jobs of one arrangement: all at once, and one by one."""

    makespan_x: float
    wait_s: float
    #: Of the jobs that came one by one.
    deaths: Deaths
    parks: int
    work_s: float


def arrangements(die_every_s: float, checkpoint_s: float, preempt_delay: float) -> tuple[Arrangement, ...]:
    """Those that are compared."""
    dying = {"die_every_s": die_every_s}
    kept = {**dying, "checkpoint_s": checkpoint_s}
    return (
        Arrangement(key="calm", name="no worker dies", die_every_s=0.0, checkpoint_s=0.0),
        Arrangement(key="plain", name="workers die, no checkpoints", checkpoint_s=0.0, **dying),
        Arrangement(key="kept", name="workers die, checkpoints", **kept),
        Arrangement(
            key="kept_room", name="workers die, checkpoints, jobs make room", preempt_delay=preempt_delay, **kept
        ),
    )


def rescue(
    at_once: Sequence[Job],
    arriving: Sequence[Job],
    workers: int,
    error: float,
    seed: int,
    taught: Sequence[float],
    arrangement: Arrangement,
) -> Rescued:
    """Run both sets of jobs."""

    def run(jobs: Sequence[Job]) -> tuple[list[float], RescuePool]:
        rng = random.Random(seed)
        pool = RescuePool(
            [Order(job.at_s, job.length_s * rng.lognormvariate(0.0, error), job.length_s) for job in jobs],
            workers,
            error,
            seed,
            taught=taught,
            confidence=CONFIDENCE,
            die_every_s=arrangement.die_every_s,
            checkpoint_s=arrangement.checkpoint_s,
            preempt_delay=arrangement.preempt_delay,
        )
        # As if each had run without a break until its end: all that it waits, and all that is drawn again, counts as its wait.
        return [outcome.end_s - job.length_s for outcome, job in zip(pool.run(), jobs, strict=True)], pool

    first, _ = run(at_once)
    starts, pool = run(arriving)
    return Rescued(
        makespan_x=makespan(at_once, first) / lower_bound(at_once, workers),
        wait_s=mean_wait(arriving, starts),
        deaths=pool.deaths,
        parks=sum(outcome.parks for outcome in pool.outcomes),
        work_s=sum(job.length_s for job in arriving),
    )


def metrics_of(found: dict[Arrangement, Rescued]) -> list[Metric]:
    """The columns of each arrangement."""
    metrics: list[Metric] = []
    for one, rescued in found.items():
        deaths, key, name = rescued.deaths, f"rescue_{one.key}", one.name
        metrics += [
            Metric(f"{key}_makespan", f"makespan over the lower bound, {name}", rescued.makespan_x, "x"),
            Metric(f"{key}_wait_s", f"mean wait, {name}", rescued.wait_s, "s"),
        ]
        if one.die_every_s:
            share = deaths.repeated_s / rescued.work_s * 100
            note = f"{deaths.hit} of {deaths.count} deaths in the middle of a job; {deaths.longest_s:.1f} s at most"
            metrics.append(Metric(f"{key}_repeated_pct", f"work drawn twice, {name}", share, "%", note))
            metrics.append(Metric(f"{key}_given_up", f"jobs that lost too many workers, {name}", deaths.given_up))
        if one.checkpoint_s:
            label = f"deaths that cost more than an interval or a step, {name}"
            metrics.append(Metric(f"{key}_over_interval", label, deaths.over_interval, "", "bar: 0"))
        if one.preempt_delay:
            metrics.append(Metric(f"{key}_parked", f"times that a job was parked, {name}", rescued.parks))
    return metrics


def warning(die_every_s: float, checkpoint_s: float) -> str:
    """Describe how the deaths are drawn."""
    return (
        f"workers that die: each every {die_every_s:g} s on average, at the same moments in each row; its job waits {LEASE_S:g} s"
        f" for the lease to end, the worker is back after {REPAIR_S:g} s; a checkpoint each {checkpoint_s:g} s, on a disk that all share"
    )
