"""Promised times in a busy pool: the real core on virtual time, with jobs that take longer or shorter than predicted.

Short and long jobs of several tenants arrive one by one (Poisson). Some ask to be done within a time, and take the time that they are
offered where that cannot be promised. By noise and load: how many promises were kept, how many of those broken were told in time, how long
short jobs took relative to their time alone, and how many of the same times one queue, first come first served, would have kept. A
second experiment: tenants with as much work each, all of it there from the start, of which one asks for a promise for every job.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bench.harness.policies import Job, first_come
from bench.harness.promisepool import Order, Outcome, PromisePool
from bench.report import plot
from bench.report.report import Metric, Report, progress
from bench.report.stats import percentile

NOISES = (0.0, 0.1, 0.2, 0.4)
LOADS = (0.5, 0.7, 0.9)
#: The case that the bars are about.
BAR_NOISE, BAR_LOAD = 0.2, 0.9

#: Lengths of short and of long jobs, seconds, drawn evenly between.
SHORT = (2.0, 10.0)
LONG = (60.0, 240.0)
#: A job is asked for within so many times its length, drawn evenly, and so many seconds more.
WITHIN = (1.5, 8.0)
WITHIN_S = 5.0
#: Finished jobs that the core has learned from when the clock starts.
TAUGHT = 60
#: Jobs of each tenant in the second experiment.
EACH = 200


class PromisesPlan(Struct, frozen=True, kw_only=True):
    """What to simulate."""

    workers: Annotated[int, Meta(description="workers in the pool", ge=1, le=1_000)] = 8
    jobs: Annotated[int, Meta(description="jobs of each run", ge=50, le=100_000)] = 2_000
    tenants: Annotated[int, Meta(description="tenants that send them", ge=1, le=100)] = 3
    long: Annotated[float, Meta(description="share of the work that is in long jobs", ge=0.0, le=0.95)] = 0.3
    asked: Annotated[float, Meta(description="share of the jobs that ask for a promise", ge=0.05, le=1.0)] = 0.5
    confidence: Annotated[float, Meta(description="confidence of the promises", ge=0.5, le=0.999)] = 0.95
    seed: Annotated[int, Meta(description="draws the jobs", ge=0, le=2**31)] = 0


class Result(Struct, frozen=True):
    """Figures of one run."""

    promised: int
    #: Shares: of promises, what was kept, and what first come first served would have kept; of those asked for, what was given as asked.
    kept: float
    kept_fifo: float
    as_asked: float
    #: Promises broken without a word before the job was done.
    silent: int
    #: Time of short jobs from arrival to end over their length, p95; of long jobs the mean.
    short_p95: float
    short_p95_fifo: float
    long_mean: float
    long_mean_fifo: float


def draw_orders(plan: PromisesPlan, noise: float, load: float) -> list[Order]:
    """Draw the orders of one run."""
    rng = random.Random(f"{plan.seed}-{noise}-{load}")
    short_s, long_s = sum(SHORT) / 2, sum(LONG) / 2
    weight_long, weight_short = plan.long / long_s, (1.0 - plan.long) / short_s
    share_long = weight_long / (weight_long + weight_short)
    rate = load * plan.workers / (share_long * long_s + (1.0 - share_long) * short_s)
    orders, at = [], 0.0
    for _ in range(plan.jobs):
        size = rng.uniform(*(LONG if rng.random() < share_long else SHORT))
        within = size * rng.uniform(*WITHIN) + WITHIN_S
        orders.append(
            Order(
                at_s=at,
                size_s=size,
                length_s=size * rng.lognormvariate(0.0, noise),
                tenant=f"tenant-{rng.randrange(plan.tenants)}",
                within_s=within if rng.random() < plan.asked else 0.0,
            )
        )
        at += rng.expovariate(rate)
    return orders


def _taught(seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.uniform(SHORT[0], LONG[1]) for _ in range(TAUGHT)]


def run_one(plan: PromisesPlan, noise: float, load: float) -> Result:
    """Simulate one noise and load."""
    orders = draw_orders(plan, noise, load)
    pool = PromisePool(orders, plan.workers, noise, plan.seed, confidence=plan.confidence, taught=_taught(plan.seed))
    return _result(plan, orders, pool.run())


def _result(plan: PromisesPlan, orders: Sequence[Order], outcomes: Sequence[Outcome]) -> Result:
    starts = first_come([Job(order.at_s, order.length_s) for order in orders], plan.workers)
    fifo = [start + order.length_s for start, order in zip(starts, orders, strict=True)]
    promised = [number for number, outcome in enumerate(outcomes) if outcome.ready_by]
    late = [number for number in promised if outcomes[number].end_s > outcomes[number].ready_by]
    as_asked = sum(abs(outcomes[n].ready_by - orders[n].at_s - orders[n].within_s) < 1e-6 for n in promised)
    ends = [outcome.end_s for outcome in outcomes]
    return Result(
        promised=len(promised),
        kept=1.0 - len(late) / max(1, len(promised)),
        kept_fifo=sum(fifo[n] <= outcomes[n].ready_by for n in promised) / max(1, len(promised)),
        as_asked=as_asked / max(1, sum(order.within_s > 0 for order in orders)),
        silent=sum(not outcomes[number].told_at for number in late),
        short_p95=percentile(_stretches(orders, ends, SHORT), 0.95),
        short_p95_fifo=percentile(_stretches(orders, fifo, SHORT), 0.95),
        long_mean=_mean(_stretches(orders, ends, LONG)),
        long_mean_fifo=_mean(_stretches(orders, fifo, LONG)),
    )


def _stretches(orders: Sequence[Order], ends: Sequence[float], sizes: tuple[float, float]) -> list[float]:
    """Time from arrival to end over the length, of the jobs of these sizes, ascending."""
    pairs = zip(orders, ends, strict=True)
    return sorted((end - order.at_s) / order.length_s for order, end in pairs if sizes[0] <= order.size_s <= sizes[1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def share_error(plan: PromisesPlan) -> float:
    """By how much a tenant's share of the work done while all of them had some was off its fair share at most, as a share of that."""
    rng = random.Random(plan.seed)
    orders = [
        Order(
            at_s=0.0,
            size_s=(size := rng.uniform(*SHORT)),
            length_s=size * rng.lognormvariate(0.0, BAR_NOISE),
            tenant=f"tenant-{number % plan.tenants}",
            # The first tenant asks for all of its jobs, as soon as they can be promised.
            within_s=0.001 if number % plan.tenants == 0 else 0.0,
        )
        for number in range(EACH * plan.tenants)
    ]
    pool = PromisePool(
        orders, plan.workers, BAR_NOISE, plan.seed, confidence=plan.confidence, taught=_taught(plan.seed)
    )
    outcomes = pool.run()
    last: dict[str, float] = {}
    for order, outcome in zip(orders, outcomes, strict=True):
        last[order.tenant] = max(last.get(order.tenant, 0.0), outcome.start_s)
    until = min(last.values())
    done = dict.fromkeys(last, 0.0)
    for order, outcome in zip(orders, outcomes, strict=True):
        done[order.tenant] += max(0.0, min(outcome.end_s, until) - outcome.start_s)
    fair = sum(done.values()) / len(done)
    return max(abs(work - fair) for work in done.values()) / fair


def run(plan: PromisesPlan) -> Report:
    """Simulate."""
    results = {}
    for noise in NOISES:
        for load in LOADS:
            progress(f"noise {noise:g}, load {load:g}")
            results[noise, load] = run_one(plan, noise, load)
    progress("shares of tenants")
    return report_of(plan, results, share_error(plan))


def report_of(plan: PromisesPlan, results: dict[tuple[float, float], Result], off: float) -> Report:
    """Shares of promises kept, times of short and long jobs, shares of tenants."""
    metrics = []
    for (noise, load), found in results.items():
        key = f"n{noise * 100:.0f}_l{load * 100:.0f}"
        note = f"of {found.promised}; first come first served {found.kept_fifo * 100:.1f} %; as asked {found.as_asked * 100:.0f} %"
        label = f"noise {noise * 100:.0f} %, load {load:g}: promises kept"
        metrics.append(Metric(f"kept_{key}_pct", label, found.kept * 100, "%", note))
    bar = results[BAR_NOISE, BAR_LOAD]
    where = f"at noise {BAR_NOISE * 100:.0f} %, load {BAR_LOAD:g}"
    metrics += [
        Metric("kept_pct", f"promises kept {where}", bar.kept * 100, "%", shown=False),
        Metric("silent", "promises broken untold, in all", sum(found.silent for found in results.values())),
        Metric(
            "short_p95_x",
            f"short jobs over their time alone, p95, {where}",
            bar.short_p95,
            "x",
            f"first come first served {bar.short_p95_fifo:.1f}",
        ),
        Metric(
            "long_mean_x",
            f"long jobs over their time alone, mean, {where}",
            bar.long_mean,
            "x",
            f"first come first served {bar.long_mean_fifo:.2f}",
        ),
        Metric("share_error_pct", "tenants' shares, one of them with promises alone: off by", off * 100, "%"),
    ]
    return Report(
        bench="promises",
        title=f"promises: jobs with a promised time on {plan.workers} workers, virtual time",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[
            plot.bars(
                f"promises kept at load {BAR_LOAD:g}, %",
                "%",
                {f"noise {noise * 100:.0f} %": results[noise, BAR_LOAD].kept * 100 for noise in NOISES},
            )
        ],
        warnings=[
            "simulated: the real core decides, what jobs take is drawn",
            f"{plan.long * 100:.0f} % of the work is in jobs of {LONG[0]:g} to {LONG[1]:g} s; {plan.asked * 100:.0f} % of the jobs ask"
            f" for a promise with a confidence of {plan.confidence:g}; jobs run to their end, none is preempted",
        ],
    )
