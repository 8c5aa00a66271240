"""Promised times in a busy pool: the real core on virtual time, with jobs that take longer or shorter than predicted.

Short and long jobs of several tenants arrive one by one (Poisson). Some request a promise to be done within a time, and take the time that
they are offered where that cannot be promised. By noise and load, for one queue first come first served, for this broker with every job run
to its end, and with preemption: how many promises were kept, how many of those broken were announced in time, how long short and long jobs
took relative to their time alone. What short jobs gain, long ones pay: the trade is measured over several draws, beside the best that any
order could do for the short ones. Another experiment: tenants with as much work each, all of it there from the start, of which one requests
a promise for every job and one has long jobs, which make room for the others'.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, structs

from bench.harness.policies import Job, first_come, long_first, short_first, shortest_left
from bench.harness.promisepool import STEPS, Delays, Group, Order, Outcome, PromisePool
from bench.report import plot
from bench.report.report import Grid, Metric, Report, progress
from bench.report.stats import percentile
from bench.suites import promises_live, promises_replica
from broker.core.policy import Policy
from broker.core.scheduling.costs import speed

NOISES = (0.0, 0.1, 0.2, 0.4)
LOADS = (0.5, 0.7, 0.9)
#: By how much longer a job may take for making room, in the trade between short and long ones.
DELAYS = (0.2, 0.5, 1.0, 2.0)
#: Pools of other sizes, and the most draws of each.
POOLS = (2, 4, 16)
POOL_DRAWS = 3
#: Pools in which pictures come among clips: `by_jobs`. In one of two workers no order that parks at steps meets the bar of short jobs.
PICTURE_POOLS = (2, 4, 8, 16)
PICTURE_BARS = (4, 8, 16)
PICTURES = "pictures among clips, "
#: A pool of single GPUs and of groups, which are slower than is believed of them before they have finished a job.
MIXED_POOL = "single GPUs (4) and groups of four (2)"
MIXED = (*[Group(gpus=4, speed=0.85 * speed(4))] * 2, *[Group()] * 4)
#: An order that uses every length beforehand lets short ones wait until they take so many times their length. One that predicts them with
#: an error of 20 % must aim at 1.7 for 95 of 100 to be within 2.
LATEST = (1.7, 2.0, 3.0, 5.0)
TO_END = "to the end"
SHORT_FIRST = "short ones first, at once but for the step"
#: The case that the bars are about.
BAR_NOISE, BAR_LOAD = 0.2, 0.9

#: Lengths of short and of long jobs, seconds, drawn evenly between.
SHORT = (2.0, 10.0)
PICTURE = (2.0, 5.0)
LONG = (60.0, 240.0)
#: What is shorter than that is a short job, to orders that distinguish them.
APART_S = (SHORT[1] + LONG[0]) / 2
#: A job is requested within so many times its length, drawn evenly, and so many seconds more.
WITHIN = (1.5, 8.0)
WITHIN_S = 5.0
#: Finished jobs that the core has learned from when the clock starts.
TAUGHT = 60


class PromisesPlan(Struct, frozen=True, kw_only=True):
    """What to simulate."""

    workers: Annotated[int, Meta(description="workers in the pool", ge=1, le=1_000)] = 8
    jobs: Annotated[int, Meta(description="jobs of each run", ge=50, le=100_000)] = 2_000
    tenants: Annotated[int, Meta(description="tenants that send them", ge=1, le=100)] = 3
    long: Annotated[float, Meta(description="share of the work that is in long jobs", ge=0.0, le=0.95)] = 0.3
    by_jobs: Annotated[
        bool,
        Meta(description="that share of the jobs is long, not of the work; the others are pictures of 2 to 5 seconds"),
    ] = False
    asked: Annotated[float, Meta(description="share of the jobs that ask for a promise", ge=0.05, le=1.0)] = 0.5
    confidence: Annotated[float, Meta(description="confidence of the promises", ge=0.5, le=0.999)] = 0.95
    delay: Annotated[
        float, Meta(description="by how much a job is delayed by making room, as a share of its time", ge=0.01, le=10.0)
    ] = Policy().preempt_delay
    draws: Annotated[int, Meta(description="draws of the trade between short and long jobs", ge=1, le=100)] = 6
    seed: Annotated[int, Meta(description="draws the jobs", ge=0, le=2**31)] = 0
    live: Annotated[
        float,
        Meta(
            description="seconds of jobs sent to two real workers on the CPU, in place of simulated ones; 0: simulate",
            ge=0.0,
            le=86_400.0,
        ),
    ] = 0.0
    replica: Annotated[
        bool, Meta(description="simulate what would be sent live, the draw of this seed and those that follow")
    ] = False


class Figures(Struct, frozen=True):
    """What one policy made of the jobs of a run."""

    #: Share of the promises that were kept: of those it gave itself, or, without promises, of those that were given without preemption.
    kept: float
    #: Time of short jobs from arrival to end over their length, p95; of long jobs the mean.
    short_p95: float
    long_mean: float
    #: By how much long jobs were longer in engines than alone, for being parked: a share of their work.
    long_lost: float = 0.0


class Result(Struct, frozen=True):
    """Figures of one run: first come first served, every job to its end, and with preemption."""

    fifo: Figures
    to_end: Figures
    ours: Figures
    #: What ours gave, and the share of what was requested that was given unchanged.
    promised: int
    as_asked: float
    #: Promises that were broken and not reported before the job was done, with and without preemption.
    silent: int
    #: How often a job made room.
    parks: int


def draw_orders(plan: PromisesPlan, noise: float, load: float) -> list[Order]:
    """Draw the orders of one run."""
    rng = random.Random(f"{plan.seed}-{noise}-{load}")
    short = PICTURE if plan.by_jobs else SHORT
    short_s, long_s = sum(short) / 2, sum(LONG) / 2
    weight_long, weight_short = plan.long / long_s, (1.0 - plan.long) / short_s
    share_long = plan.long if plan.by_jobs else weight_long / (weight_long + weight_short)
    rate = load * plan.workers / (share_long * long_s + (1.0 - share_long) * short_s)
    orders, at = [], 0.0
    for _ in range(plan.jobs):
        size = rng.uniform(*(LONG if rng.random() < share_long else short))
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
    to_end = _outcomes(plan, orders, noise, 0.0)
    ours = _outcomes(plan, orders, noise, plan.delay)
    starts = first_come([Job(order.at_s, order.length_s) for order in orders], plan.workers)
    fifo = [start + order.length_s for start, order in zip(starts, orders, strict=True)]
    promised = [number for number, outcome in enumerate(ours) if outcome.ready_by]
    as_asked = sum(abs(ours[n].ready_by - orders[n].at_s - orders[n].within_s) < 1e-6 for n in promised)
    return Result(
        fifo=_figures(orders, fifo, to_end),
        to_end=_figures(orders, [outcome.end_s for outcome in to_end], to_end),
        ours=own_figures(orders, ours),
        promised=len(promised),
        as_asked=as_asked / max(1, sum(order.within_s > 0 for order in orders)),
        silent=sum(_silent(outcome) for outcome in (*to_end, *ours)),
        parks=sum(outcome.parks for outcome in ours),
    )


def _outcomes(
    plan: PromisesPlan, orders: Sequence[Order], noise: float, delay: float, groups: Sequence[Group] = ()
) -> list[Outcome]:
    pool = PromisePool(
        orders,
        plan.workers,
        noise,
        plan.seed,
        confidence=plan.confidence,
        taught=_taught(plan.seed),
        preempt_delay=delay,
        groups=groups,
    )
    return pool.run()


def _silent(outcome: Outcome) -> bool:
    return outcome.ready_by > 0.0 and outcome.end_s > outcome.ready_by and not outcome.broken_at


def _figures(orders: Sequence[Order], ends: Sequence[float], promises: Sequence[Outcome]) -> Figures:
    """`promises`: the scheduler that gave them."""
    given = [(end, outcome.ready_by) for end, outcome in zip(ends, promises, strict=True) if outcome.ready_by]
    return Figures(
        kept=sum(end <= ready_by for end, ready_by in given) / max(1, len(given)),
        short_p95=percentile(_stretches(orders, ends, SHORT), 0.95),
        long_mean=_mean(_stretches(orders, ends, LONG)),
    )


def _lost(orders: Sequence[Order], outcomes: Sequence[Outcome]) -> float:
    """Share of the work of long jobs that parking them costs: what they were longer in engines than they take alone."""
    long = [pair for pair in zip(orders, outcomes, strict=True) if pair[0].size_s >= LONG[0]]
    took = sum(end - start for _, outcome in long for start, end in outcome.spans)
    alone = sum(order.length_s for order, _ in long)
    return took / alone - 1.0 if alone else 0.0


def own_figures(orders: Sequence[Order], outcomes: Sequence[Outcome]) -> Figures:
    """What this broker made of the orders, with what parking cost."""
    found = _figures(orders, [outcome.end_s for outcome in outcomes], outcomes)
    return structs.replace(found, long_lost=_lost(orders, outcomes))


def _means(found: dict[str, list[Figures]]) -> dict[str, Figures]:
    names = Figures.__struct_fields__
    return {
        label: Figures(*(_mean([getattr(one, name) for one in each]) for name in names))
        for label, each in found.items()
    }


def by_pool(plan: PromisesPlan, pools: Sequence[int] = POOLS) -> dict[str, Figures]:
    """Means over some draws at the bar's noise and load for pools of these sizes, with every job to its end, and with preemption."""
    found: dict[str, list[Figures]] = {}
    for workers in pools:
        for draw in range(min(plan.draws, POOL_DRAWS)):
            drawn = structs.replace(plan, seed=plan.seed + draw, workers=workers)
            orders = draw_orders(drawn, BAR_NOISE, BAR_LOAD)
            for label, delay in ((TO_END, 0.0), (_longer(plan), plan.delay)):
                outcomes = _outcomes(drawn, orders, BAR_NOISE, delay)
                found.setdefault(f"{workers} workers: {label}", []).append(own_figures(orders, outcomes))
            jobs = [Job(order.at_s, order.length_s, order.length_s / STEPS) for order in orders]
            ends = short_first(jobs, workers, APART_S, Delays().checkpoint_s)
            found.setdefault(f"{workers} workers: {SHORT_FIRST}", []).append(_figures(orders, ends, outcomes))
    return _means(found)


def by_mixed_pool(plan: PromisesPlan) -> dict[str, Figures]:
    """As `by_pool`, of `MIXED`, with as much work as for as many single GPUs as it is as fast as."""
    found: dict[str, list[Figures]] = {}
    as_fast_as = round(sum(group.speed for group in MIXED))
    for draw in range(min(plan.draws, POOL_DRAWS)):
        orders = draw_orders(structs.replace(plan, seed=plan.seed + draw, workers=as_fast_as), BAR_NOISE, BAR_LOAD)
        drawn = structs.replace(plan, seed=plan.seed + draw, workers=len(MIXED))
        for label, delay in ((TO_END, 0.0), (_longer(plan), plan.delay)):
            outcomes = _outcomes(drawn, orders, BAR_NOISE, delay, MIXED)
            # Lengths are those on one GPU: what a group saves would hide what parking costs.
            figures = structs.replace(own_figures(orders, outcomes), long_lost=0.0)
            found.setdefault(f"{MIXED_POOL}: {label}", []).append(figures)
    return _means(found)


def trade_off(plan: PromisesPlan) -> dict[str, Figures]:
    """Means over several draws at the bar's noise and load, by how much a job may be delayed; and what orders make of it that use all
    lengths.
    """
    found: dict[str, list[Figures]] = {}
    for draw in range(plan.draws):
        drawn = structs.replace(plan, seed=plan.seed + draw)
        orders = draw_orders(drawn, BAR_NOISE, BAR_LOAD)
        for delay in (0.0, *DELAYS):
            outcomes = _outcomes(drawn, orders, BAR_NOISE, delay)
            label = f"{delay * 100:.0f} % longer" if delay else TO_END
            found.setdefault(label, []).append(own_figures(orders, outcomes))
        jobs = [Job(order.at_s, order.length_s, order.length_s / STEPS) for order in orders]
        ends = shortest_left(jobs, plan.workers)
        found.setdefault("shortest left first", []).append(_figures(orders, ends, outcomes))
        ends = short_first(jobs, plan.workers, APART_S, Delays().checkpoint_s)
        found.setdefault(SHORT_FIRST, []).append(_figures(orders, ends, outcomes))
        for stretch in LATEST:
            ends = long_first(jobs, plan.workers, APART_S, stretch)
            label = f"long ones first, short ones within {stretch:g} x"
            found.setdefault(label, []).append(_figures(orders, ends, outcomes))
    return _means(found)


def _stretches(orders: Sequence[Order], ends: Sequence[float], sizes: tuple[float, float]) -> list[float]:
    """Time from arrival to end over the length, of the jobs of these sizes, ascending."""
    pairs = zip(orders, ends, strict=True)
    return sorted((end - order.at_s) / order.length_s for order, end in pairs if sizes[0] <= order.size_s <= sizes[1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def share_error(plan: PromisesPlan, delay: float) -> float:
    """By how much a tenant's share of the work done while all of them had some was off its fair share at most, as a share of that.

    The first tenant requests a promise for every job, the last one sends long jobs, which make room for those of the others; with `delay`
    0 every job runs to its end.
    """
    rng = random.Random(plan.seed)
    orders = []
    for tenant in range(plan.tenants):
        sizes = LONG if tenant and tenant == plan.tenants - 1 else SHORT
        # So many that what is in engines at the end, paid for and not done, weighs little.
        left_s = plan.jobs * sum(SHORT) / 2
        while left_s > 0.0:
            left_s -= (size := rng.uniform(*sizes))
            orders.append(
                Order(
                    at_s=0.0,
                    size_s=size,
                    length_s=size * rng.lognormvariate(0.0, BAR_NOISE),
                    tenant=f"tenant-{tenant}",
                    # As soon as it can be promised.
                    within_s=0.0 if tenant else 0.001,
                )
            )
    outcomes = _outcomes(plan, orders, BAR_NOISE, delay)
    last: dict[str, float] = {}
    for order, outcome in zip(orders, outcomes, strict=True):
        last[order.tenant] = max(last.get(order.tenant, 0.0), *(start for start, _ in outcome.spans))
    until = min(last.values())
    done = dict.fromkeys(last, 0.0)
    for order, outcome in zip(orders, outcomes, strict=True):
        done[order.tenant] += sum(max(0.0, min(end, until) - start) for start, end in outcome.spans)
    fair = sum(done.values()) / len(done)
    return max(abs(work - fair) for work in done.values()) / fair


def run(plan: PromisesPlan) -> Report:
    """Simulate, or send jobs to real workers. Raises `BenchError` when those are not to be had."""
    if plan.live:
        live = promises_live.LivePlan(
            seconds=plan.live,
            load=BAR_LOAD,
            long=plan.long,
            by_jobs=plan.by_jobs,
            asked=plan.asked,
            confidence=plan.confidence,
            tenants=plan.tenants,
            delay=plan.delay,
            seed=plan.seed,
        )
        return promises_replica.run(live, plan.draws) if plan.replica else promises_live.run(live)
    results = {}
    for noise in NOISES:
        for load in LOADS:
            progress(f"noise {noise:g}, load {load:g}")
            results[noise, load] = run_one(plan, noise, load)
    progress("shares of tenants")
    off = share_error(plan, plan.delay), share_error(plan, 0.0)
    progress("what long jobs pay for short ones")
    traded = trade_off(plan)
    progress("pools of other sizes")
    pools = by_pool(plan) | by_mixed_pool(plan)
    progress("pictures among clips")
    pictures = by_pool(structs.replace(plan, by_jobs=True), PICTURE_POOLS)
    return report_of(plan, results, off, traded, pools, pictures)


_HEAD = ["", "promises kept, %", "short jobs, p95", "long jobs, mean", "of long jobs' work lost, %"]


def report_of(
    plan: PromisesPlan,
    results: dict[tuple[float, float], Result],
    off: tuple[float, float],
    traded: dict[str, Figures],
    pools: dict[str, Figures],
    pictures: dict[str, Figures],
) -> Report:
    """Shares of promises kept, times of short and long jobs, shares of tenants."""
    rows = []
    for (noise, load), found in results.items():
        label = f"noise {noise * 100:.0f} %, load {load:g}"
        rows.append(_row(label, (found.fifo, found.to_end, found.ours)))
    rows += [_traded(f"{plan.draws} draws: {label}", figures, traded[TO_END]) for label, figures in traded.items()]
    for prefix, found_by in (("", pools), (PICTURES, pictures)):
        rows += [
            _traded(prefix + label, figures, found_by[f"{label.split(':')[0]}: {TO_END}"])
            for label, figures in found_by.items()
        ]
    where = f"at noise {BAR_NOISE * 100:.0f} %, load {BAR_LOAD:g}"
    return Report(
        bench="promises",
        title=f"promises: jobs with a promised time on {plan.workers} workers, virtual time",
        settings=msgspec.to_builtins(plan),
        metrics=[*_metrics(results, off, where), *_picture_metrics(plan, pictures)],
        grid=Grid(head=_HEAD, rows=rows),
        panels=[
            plot.bars(
                f"promises kept at load {BAR_LOAD:g}, %",
                "%",
                {f"noise {noise * 100:.0f} %": results[noise, BAR_LOAD].ours.kept * 100 for noise in NOISES},
            )
        ],
        warnings=[
            "simulated: the real core decides, what jobs take is drawn",
            f"{plan.long * 100:.0f} % of the {'jobs take' if plan.by_jobs else 'work is in jobs of'} {LONG[0]:g} to {LONG[1]:g} s, the"
            f" others take {(PICTURE if plan.by_jobs else SHORT)[1]:g} s at most; {plan.asked * 100:.0f} % of the jobs ask"
            f" for a promise with a confidence of {plan.confidence:g}; times are over those of the job alone",
            f"first come first served / every job to its end / with preemption, which delays no job by more than"
            f" {plan.delay * 100:.0f} % of its own time",
            f"the last rows: means of {plan.draws} draws {where} (at most {POOL_DRAWS} for pools of other sizes), by how much longer a job"
            " may take for making room; shortest left first and long ones first know every length beforehand, heed no tenant and park for"
            " nothing; short ones first parks at the end of a step; in brackets: by how much longer long jobs took than with every job to"
            " its end",
        ],
    )


def _metrics(results: dict[tuple[float, float], Result], off: tuple[float, float], where: str) -> list[Metric]:
    """The figures of the case that the bars are about, `where`, and what holds in all."""
    bar = results[BAR_NOISE, BAR_LOAD]

    def beside(fifo: float, to_end: float) -> str:
        return f"first come first served {fifo:.2f}, to the end {to_end:.2f}"

    return [
        Metric("kept_pct", f"promises kept {where}", bar.ours.kept * 100, "%", f"of {bar.promised}"),
        Metric(
            "least_kept_pct",
            "promises kept, the least of all",
            100 * min(one.ours.kept for one in results.values()),
            "%",
        ),
        Metric("as_asked_pct", f"promises given as asked {where}", bar.as_asked * 100, "%"),
        Metric("silent", "promises broken untold, in all", sum(found.silent for found in results.values())),
        Metric(
            "short_p95_x",
            f"short jobs over their time alone, p95, {where}",
            bar.ours.short_p95,
            "x",
            beside(bar.fifo.short_p95, bar.to_end.short_p95),
        ),
        Metric(
            "long_mean_x",
            f"long jobs over their time alone, mean, {where}",
            bar.ours.long_mean,
            "x",
            beside(bar.fifo.long_mean, bar.to_end.long_mean),
        ),
        Metric("parks", f"jobs made room {where}", bar.parks, "times"),
        Metric("long_lost_pct", f"work of long jobs lost by making room {where}", bar.ours.long_lost * 100, "%"),
        Metric(
            "share_error_pct",
            "tenants' shares, one with promises, one with long jobs: off by",
            off[0] * 100,
            "%",
            f"each to its end {off[1] * 100:.1f}",
        ),
    ]


def _picture_metrics(plan: PromisesPlan, pictures: dict[str, Figures]) -> list[Metric]:
    """Of pictures among clips, the worst of the pools that its bars are about."""
    pairs = [
        (pictures[f"{workers} workers: {TO_END}"], pictures[f"{workers} workers: {_longer(plan)}"])
        for workers in PICTURE_BARS
    ]
    where = f"among clips, the worst of {', '.join(map(str, PICTURE_BARS))} workers"
    longer = [(ours.long_mean / to_end.long_mean - 1.0) * 100 for to_end, ours in pairs if to_end.long_mean]
    return [
        Metric("pictures_kept_pct", f"promises kept, pictures {where}", 100 * min(ours.kept for _, ours in pairs), "%"),
        Metric(
            "pictures_short_p95_x",
            f"pictures over their time alone, p95, {where}",
            max(ours.short_p95 for _, ours in pairs),
            "x",
            f"each to its end {max(to_end.short_p95 for to_end, _ in pairs):.2f}",
        ),
        Metric(
            "pictures_long_pct",
            f"clips longer than each to its end, mean, {where}",
            max(longer, default=None),
            "%",
        ),
    ]


def _longer(plan: PromisesPlan) -> str:
    return f"{plan.delay * 100:.0f} % longer"


def _traded(label: str, figures: Figures, to_end: Figures) -> list[str]:
    """A row with what long jobs lose: over every job to its end, and of their work."""
    more = (
        f"{figures.long_mean:.2f} ({(figures.long_mean / to_end.long_mean - 1) * 100:+.1f} %)"
        if to_end.long_mean
        else ""
    )
    return [*_row(label, (figures,))[:-2], more, f"{figures.long_lost * 100:.1f}"]


def _row(label: str, policies: Sequence[Figures]) -> list[str]:
    return [
        label,
        " / ".join(f"{one.kept * 100:.1f}" for one in policies),
        " / ".join(f"{one.short_p95:.2f}" for one in policies),
        " / ".join(f"{one.long_mean:.2f}" for one in policies),
        f"{policies[-1].long_lost * 100:.1f}",
    ]
