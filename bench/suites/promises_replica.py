"""What `bench promises --live` sends, simulated: the same arrivals, lengths and steps, the real core, two simulated workers.

A live run takes twelve minutes and has some ten long jobs, whose mean moves by several percent with which of them comes first. Here a draw
takes a second, so that rules are judged by many; the first draw is the one that is sent live.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec import Struct, structs

from bench.harness.policies import Job, short_first
from bench.harness.promisepool import Delays, Order, Outcome, PromisePool
from bench.report.report import Grid, Metric, Report, progress
from bench.report.stats import percentile
from bench.suites import promises_live
from bench.suites.promises_live import CLIP, SHORT, TAUGHT, WORKERS, LivePlan, Pace

#: About that of the demo model on two cores of its own.
PACE = Pace(0.35, 0.1)
#: More than an engine takes: steps passed over when a job goes on take it some 0.3 to 0.5 ms each, its checkpoint a few.
DELAYS = Delays(checkpoint_s=0.03, resume_s=0.3, resume_elsewhere_s=0.4, before_s=0.15, after_s=0.2)
#: How far what a job takes is off.
NOISE = 0.03
#: What is longer is a long job, to an order that distinguishes them.
APART_S = (SHORT[1] + CLIP[0]) / 2


class Draw(Struct, frozen=True):
    """Times of the jobs of one draw over those alone, ascending: each to its end, jobs make room, short ones first."""

    short: tuple[list[float], list[float], list[float]]
    long: tuple[list[float], list[float], list[float]]
    kept: int
    promised: int
    silent: int
    parks: int

    def short_p95(self, order: int) -> float:
        """Of the short jobs."""
        return percentile(self.short[order], 0.95) if self.short[order] else 0.0

    def longer_pct(self, order: int) -> float:
        """By how much the mean of the long jobs is above that with each to its end."""
        return 100.0 * (sum(self.long[order]) / sum(self.long[0]) - 1.0) if self.long[0] else 0.0


def draw(plan: LivePlan) -> Draw:
    """Simulate one draw."""
    drawn = promises_live.draw_orders(plan, PACE)
    rng = random.Random(f"noise {plan.seed}")
    alone = [PACE.alone_s(order.steps) for order in drawn]
    orders = [
        Order(order.at_s, alone_s, alone_s * rng.lognormvariate(0.0, NOISE), order.tenant, order.within_s, order.steps)
        for order, alone_s in zip(drawn, alone, strict=True)
    ]
    to_end, ours = _outcomes(plan, orders, 0.0), _outcomes(plan, orders, plan.delay)
    jobs = [Job(order.at_s, order.length_s, PACE.step_s) for order in orders]
    ends = (
        [outcome.end_s for outcome in to_end],
        [outcome.end_s for outcome in ours],
        short_first(jobs, WORKERS, APART_S, DELAYS.checkpoint_s),
    )

    def stretches(order: int, *, long: bool) -> list[float]:
        of = zip(drawn, alone, ends[order], strict=True)
        return sorted((end - one.at_s) / alone_s for one, alone_s, end in of if one.long is long)

    promised = [outcome for outcome in ours if outcome.ready_by]
    broken = [outcome for outcome in promised if outcome.end_s > outcome.ready_by]
    return Draw(
        short=(stretches(0, long=False), stretches(1, long=False), stretches(2, long=False)),
        long=(stretches(0, long=True), stretches(1, long=True), stretches(2, long=True)),
        kept=len(promised) - len(broken),
        promised=len(promised),
        silent=sum(not outcome.broken_at for outcome in broken),
        parks=sum(outcome.parks for outcome in ours),
    )


def _outcomes(plan: LivePlan, orders: Sequence[Order], delay: float) -> list[Outcome]:
    taught = [PACE.alone_s(steps) for steps in TAUGHT for _ in range(WORKERS)]
    pool = PromisePool(
        orders,
        WORKERS,
        NOISE,
        plan.seed,
        confidence=plan.confidence,
        taught=taught,
        preempt_delay=delay,
        delays=DELAYS,
    )
    return pool.run()


def run(plan: LivePlan, draws: int) -> Report:
    """Simulate so many draws, the one of the plan's own seed first."""
    found = []
    for number in range(draws):
        progress(f"draw {number + 1} of {draws}")
        found.append(draw(structs.replace(plan, seed=plan.seed + number)))
    return report_of(plan, found)


_HEAD = ["draw", "jobs", "promises kept", "short jobs, p95", "long jobs, mean", "made room"]


def report_of(plan: LivePlan, draws: Sequence[Draw]) -> Report:
    """Each draw on a line, and all of them together."""
    rows = [
        [
            str(plan.seed + number),
            f"{len(one.short[0]) + len(one.long[0])}, {len(one.long[0])} long",
            f"{one.kept} of {one.promised}",
            " / ".join(f"{one.short_p95(order):.2f}" for order in range(3)),
            f"{one.longer_pct(1):+.1f} % / {one.longer_pct(2):+.1f} %",
            str(one.parks),
        ]
        for number, one in enumerate(draws)
    ]
    all_short = [sorted(value for one in draws for value in one.short[order]) for order in range(3)]
    p95s = [one.short_p95(1) for one in draws]
    longer = [one.longer_pct(1) for one in draws]
    promised = sum(one.promised for one in draws)
    return Report(
        bench="promises",
        title=f"promises: what is sent live, simulated, {len(draws)} draws",
        settings={"seconds": plan.seconds, "load": plan.load, "long": plan.long, "seed": plan.seed},
        metrics=[
            Metric(
                "kept_pct",
                "promises kept",
                100.0 * sum(one.kept for one in draws) / max(1, promised),
                "%",
                f"of {promised}; bar: 99 %",
            ),
            Metric("silent", "promises broken untold", sum(one.silent for one in draws), "", "bar: 0"),
            Metric(
                "short_p95_x",
                "short jobs of all draws over their time alone, p95",
                percentile(all_short[1], 0.95),
                "x",
                f"bar: 2; each to its end {percentile(all_short[0], 0.95):.2f}, short ones first {percentile(all_short[2], 0.95):.2f}",
            ),
            Metric(
                "draws_met", "draws whose p95 is 2 or less", sum(value <= 2.0 for value in p95s), "", f"of {len(draws)}"
            ),
            Metric(
                "long_lost_pct",
                "long jobs longer than each to its end, mean of the draws",
                sum(longer) / len(longer),
                "%",
                f"bar: 2 %; {min(longer):+.1f} to {max(longer):+.1f}",
            ),
        ],
        grid=Grid(head=_HEAD, rows=rows),
        warnings=[
            "simulated: the real core decides; the pace of the demo model and what parking costs are assumed",
            "short jobs: each to its end / jobs make room / short ones first, at once but for the step; long jobs: by how much longer than"
            " with each to its end, with jobs that make room / short ones first, of those that wait the one with the least left",
        ],
    )
