"""Promised times with real workers: the demo model on two CPU workers, short and long jobs of several tenants one by one; the same
jobs twice, first each to its end, then with preemption.

What a job takes alone follows from its steps: jobs of several lengths are drawn one after the other first, which also teaches the broker.
Times are the broker's own; how far predictions are off is what the machine makes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from bench.harness.job_client import JobClient, spec_of
from bench.harness.procs import temporary_home
from bench.harness.service import Service, demo_model
from bench.report.errors import BenchError
from bench.report.report import Metric, Report, progress
from bench.report.stats import percentile
from broker.client.errors import SubmitRejected
from broker.wire import messages as m
from broker.wire.jobspec import MAX_STEPS, ModelCard, cost_units, encode_spec

#: Lengths of short and of long jobs, seconds, drawn evenly between.
SHORT = (1.5, 5.0)
LONG = (30.0, 60.0)
#: The same where so many of the jobs are long, not so much of the work.
PICTURE = (1.0, 2.0)
CLIP = (20.0, 60.0)
#: A job is requested within so many times its length, drawn evenly, and so many seconds more.
WITHIN = (2.0, 8.0)
WITHIN_S = 5.0
#: Steps of the jobs that are drawn alone first, each on both workers at once; the first of all warms the engines up, and is not counted.
TAUGHT = (8, 8, 60, 160, 320, 60)
WORKERS = 2


class LivePlan(Struct, frozen=True, kw_only=True):
    """What is sent, for how long."""

    seconds: float
    load: float
    long: float
    #: That share of the jobs is long, not of the work.
    by_jobs: bool = False
    asked: float
    confidence: float
    tenants: int
    delay: float
    seed: int


class Order(Struct, frozen=True, kw_only=True):
    """A job as its client orders it: when, of how many steps, by whom; within how many seconds it is requested, 0: whenever."""

    at_s: float
    steps: int
    long: bool
    tenant: str
    within_s: float


class Pace(Struct, frozen=True):
    """Seconds that a job takes alone: so many, and so many for each step."""

    fixed_s: float
    step_s: float

    def alone_s(self, steps: int) -> float:
        """Seconds of a job of so many steps."""
        return self.fixed_s + self.step_s * steps

    def steps(self, seconds: float) -> int:
        """Steps of a job of about so many seconds."""
        return max(2, min(MAX_STEPS, round((seconds - self.fixed_s) / self.step_s)))


def pace_of(taken: Sequence[tuple[int, float]]) -> Pace:
    """The straight line through (steps, seconds)."""
    slope, start = np.polyfit([steps for steps, _ in taken], [seconds for _, seconds in taken], 1)
    return Pace(max(0.0, float(start)), max(1e-4, float(slope)))


def _lengths(plan: LivePlan) -> tuple[tuple[float, float], tuple[float, float]]:
    return (PICTURE, CLIP) if plan.by_jobs else (SHORT, LONG)


def draw_orders(plan: LivePlan, pace: Pace) -> list[Order]:
    """Jobs that keep both workers busy for the share of the time that is requested."""
    rng = random.Random(plan.seed)
    shorts, longs = _lengths(plan)
    short_s, long_s = sum(shorts) / 2, sum(longs) / 2
    weight_long, weight_short = plan.long / long_s, (1.0 - plan.long) / short_s
    share_long = plan.long if plan.by_jobs else weight_long / (weight_long + weight_short)
    rate = plan.load * WORKERS / (share_long * long_s + (1.0 - share_long) * short_s)
    orders, at = [], 0.0
    while at < plan.seconds:
        long = rng.random() < share_long
        steps = pace.steps(rng.uniform(*(longs if long else shorts)))
        within = pace.alone_s(steps) * rng.uniform(*WITHIN) + WITHIN_S
        orders.append(
            Order(
                at_s=at,
                steps=steps,
                long=long,
                tenant=f"tenant-{rng.randrange(plan.tenants)}",
                within_s=within if rng.random() < plan.asked else 0.0,
            )
        )
        at += rng.expovariate(rate)
    return orders


class _Desk:
    """Hands in jobs of the demo model, and waits for their ends."""

    def __init__(self, client: JobClient, card: ModelCard, confidence: float, prefix: str) -> None:
        self._client = client.client
        self._card = card
        self._confidence = confidence
        self._prefix = prefix
        self._count = 0

    async def submit(self, steps: int, tenant: str = "default", within_s: float = 0.0) -> str:
        """The id of the job, promised for that time or, where that cannot be, for the first that can; unpromised where none can."""
        self._count += 1
        job_id = f"{self._prefix}-{self._count}"
        spec = spec_of(self._card, num_inference_steps=steps)
        fixed = m.Submission(model=spec.model, units=cost_units(spec, self._card), tenant=tenant, steps=steps)
        for attempt in range(4):
            wish = m.PromiseWish(within_s=within_s, confidence=self._confidence) if within_s and attempt < 3 else None
            try:
                await self._client.submit(
                    m.Submit(req=0, job_id=job_id, submission=fixed, promise=wish, body=encode_spec(spec))
                )
            except SubmitRejected as error:
                if wish is None:
                    raise BenchError(f"job {job_id} was not taken: {error}") from None
                within_s = error.earliest_s * 1.001
            else:
                break
        return job_id

    async def final(self, job_id: str) -> m.JobView:
        """The job once it is over. Raises `BenchError` when it did not succeed."""
        while True:
            view = await self._client.get(job_id)
            if view is None or view.state in ("failed", "cancelled"):
                raise BenchError(f"job {job_id} ended as {view and view.state}")
            if view.state == "succeeded":
                return view
            await asyncio.sleep(0.1)


async def _learn(service: Service, confidence: float) -> Pace:
    """The pace of this machine, which the broker learns, too. Raises `BenchError`."""
    async with JobClient(service.settings.front_endpoint) as client:
        card = (await service.idle(client.client, WORKERS)).workers[0].models[0]
        desk = _Desk(client, card, confidence, "alone")
        taken = []
        for steps in TAUGHT:
            progress(f"jobs of {steps} steps alone, one on each worker")
            ids = [await desk.submit(steps) for _ in range(WORKERS)]
            taken += [(steps, (await desk.final(job_id)).run_s) for job_id in ids]
        return pace_of(taken[WORKERS:])


async def _send(orders: Sequence[Order], service: Service, confidence: float, prefix: str) -> list[m.JobView]:
    """What became of each. Raises `BenchError`."""
    async with JobClient(service.settings.front_endpoint) as client:
        card = (await service.idle(client.client, WORKERS)).workers[0].models[0]
        desk = _Desk(client, card, confidence, prefix)
        begun = asyncio.get_running_loop().time()
        waits = []
        for order in orders:
            await asyncio.sleep(max(0.0, begun + order.at_s - asyncio.get_running_loop().time()))
            job_id = await desk.submit(order.steps, order.tenant, order.within_s)
            waits.append(asyncio.create_task(desk.final(job_id)))
        return list(await asyncio.gather(*waits))


def run(plan: LivePlan) -> Report:
    """Run a service and send it jobs. Raises `BenchError`."""
    pace: Pace | None = None
    orders: list[Order] = []
    ended: list[list[m.JobView]] = []
    with temporary_home("") as home:
        for preempt in ("false", "true"):
            options = ("--preempt", preempt, "--preempt-delay", str(plan.delay))
            service = Service(home, f"cpu:{WORKERS}", str(demo_model()), broker_options=options)
            with contextlib.ExitStack() as stack:
                stack.callback(service.stop)
                service.start("broker", "workers")
                if pace is None:
                    pace = asyncio.run(_learn(service, plan.confidence))
                    orders = draw_orders(plan, pace)
                what = "jobs make room" if ended else "each to its end"
                progress(f"{len(orders)} jobs over {plan.seconds:g} s, {pace.step_s * 1e3:.0f} ms a step: {what}")
                ended.append(asyncio.run(_send(orders, service, plan.confidence, f"preempt-{preempt}")))
    assert pace is not None
    return report_of(plan, orders, ended[1], ended[0], pace)


def report_of(
    plan: LivePlan, orders: Sequence[Order], views: Sequence[m.JobView], to_end: Sequence[m.JobView], pace: Pace
) -> Report:
    """Promises kept, and what short and long jobs took beside their time alone; beside the same jobs, each to its end."""
    promised = [view for view in views if view.promise is not None]
    kept = [view for view in promised if _kept(view)]
    unreported = [
        view for view in promised if not _kept(view) and view.promise is not None and not view.promise.broken_at
    ]
    short, long = _stretches(orders, views, pace)
    short_to_end, long_to_end = _stretches(orders, to_end, pace)
    lost = 100.0 * (sum(long) / sum(long_to_end) - 1.0) if long else None
    given_to_end = [view for view in to_end if view.promise is not None]
    kept_to_end = 100.0 * sum(map(_kept, given_to_end)) / max(1, len(given_to_end))
    parks = sum(view.parking.preemptions for view in views if view.parking is not None)
    return Report(
        bench="promises",
        title=f"promises: jobs with a promised time on {WORKERS} CPU workers with the demo model",
        settings={"seconds": plan.seconds, "load": plan.load, "long": plan.long, "seed": plan.seed},
        metrics=[
            Metric("jobs", "jobs", len(orders), "", f"{sum(order.long for order in orders)} long"),
            Metric("step_s", "a step", pace.step_s, "s", f"and {pace.fixed_s:.2f} s a job"),
            Metric("promised", "promises given", len(promised)),
            Metric(
                "kept_pct",
                "promises kept",
                100.0 * len(kept) / max(1, len(promised)),
                "%",
                f"bar: 99 %; each to its end {kept_to_end:.1f}",
            ),
            Metric("silent", "promises broken untold", len(unreported), "", "bar: 0"),
            Metric(
                "short_p95_x",
                "short jobs over their time alone, p95",
                percentile(short, 0.95),
                "x",
                f"bar: 2; each to its end {percentile(short_to_end, 0.95):.2f}",
            ),
            Metric("short_p50_x", "short jobs over their time alone, p50", percentile(short, 0.50), "x"),
            Metric(
                "long_mean_x", "long jobs over their time alone, mean", sum(long) / len(long) if long else None, "x"
            ),
            Metric("long_lost_pct", "long jobs longer than each to its end", lost, "%", "bar: 2 %"),
            Metric("parks", "jobs made room", parks, "times"),
        ],
        warnings=[
            f"{plan.long * 100:.0f} % of the {'jobs take' if plan.by_jobs else 'work is in jobs of'} {_lengths(plan)[1][0]:g} to"
            f" {_lengths(plan)[1][1]:g} s, the others {_lengths(plan)[0][0]:g} to {_lengths(plan)[0][1]:g} s, load {plan.load:g};"
            f" {plan.asked * 100:.0f} % ask for a promise with a confidence of {plan.confidence:g}",
            "the time alone is that of jobs drawn one on each worker, before the run",
        ],
    )


def _stretches(orders: Sequence[Order], views: Sequence[m.JobView], pace: Pace) -> tuple[list[float], list[float]]:
    """Time from arrival to end over the time alone, ascending: of short jobs, and of long ones."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for order, view in zip(orders, views, strict=True):
        found[order.long].append((view.finished_at - view.submitted_at) / pace.alone_s(order.steps))
    return sorted(found[False]), sorted(found[True])


def _kept(view: m.JobView) -> bool:
    assert view.promise is not None
    return view.finished_at <= (view.promise.first_ready_by or view.promise.ready_by)
