"""A day of a large pool in minutes: the real core and journal, a million jobs, machines that die, a broker that is killed.

Pictures, clips and films come in the shares of `MIX`, more of them at noon than at midnight, so that at noon more comes than the pool can
do; how long a job takes is stretched to the load that is requested. At the end the state of every job is read from the journal itself.
"""

from __future__ import annotations

import math
import random
import sqlite3
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bench.harness.procs import temporary_home
from bench.report import plot
from bench.report.report import Metric, Report, progress
from bench.report.stats import percentile
from bench.suites.day_broker import PASS_S, Clock, DayBroker, Outcome
from bench.suites.day_pool import AWAY_S, EDGE, LEASE_S, MACHINE, REPAIR_S, Clients, DayJob, Workers
from broker.wire.terms import FINAL

#: Model -> (share of the jobs, shortest, longest), seconds at a stretch of 1, drawn evenly between.
MIX = {"pictures": (0.50, 4.0, 15.0), "clips": (0.42, 120.0, 1200.0), "films": (0.08, 1800.0, 5400.0)}
_DAY_S = 86_400.0
_TENANTS = 20
#: A cancel comes within this after the submit, if the job is not over.
_CANCEL_WITHIN_S = 1800.0


class DayPlan(Struct, frozen=True, kw_only=True):
    """What to simulate."""

    workers: Annotated[int, Meta(description="workers in the pool, eight to a machine", ge=8, le=100_000)] = 10_000
    jobs: Annotated[int, Meta(description="jobs of the day", ge=100, le=10_000_000)] = 1_000_000
    load: Annotated[float, Meta(description="work that comes over what the pool can do, all day", ge=0.05, le=1.5)] = (
        0.8
    )
    swing: Annotated[float, Meta(description="how much more comes at noon (1: twice as much)", ge=0.0, le=1.0)] = 0.5
    error: Annotated[float, Meta(description="error of predicted lengths (0.2: about 20 %)", ge=0.0, le=3.0)] = 0.2
    deaths: Annotated[float, Meta(description="how often a machine dies in a day", ge=0.0, le=100.0)] = 0.15
    kills: Annotated[int, Meta(description="how often the broker is killed", ge=0, le=100)] = 3
    cancels: Annotated[float, Meta(description="share of jobs that are cancelled", ge=0.0, le=1.0)] = 0.02
    crashes: Annotated[float, Meta(description="share of jobs that take their engine down once", ge=0.0, le=1.0)] = (
        0.005
    )
    seed: Annotated[int, Meta(description="draws everything", ge=0, le=2**31)] = 0
    directory: Annotated[str, Meta(description="where the journal is put (a million jobs: 1.5 GB)")] = ""


class Ended(Struct, frozen=True, kw_only=True):
    """Totals of the journal at the end: jobs by state, its size, and processor time of the broker's part and of the whole, seconds."""

    states: dict[str, int]
    journal_bytes: int
    cpu_s: float
    took_s: float


def draw_day(plan: DayPlan) -> list[DayJob]:
    """The jobs of the day, in no order."""
    rng = random.Random(plan.seed)
    mean_s = sum(share * (low + high) / 2 for share, low, high in MIX.values())
    stretch = plan.load * plan.workers * _DAY_S / (plan.jobs * mean_s)
    models, shares = list(MIX), [share for share, _, _ in MIX.values()]
    jobs = []
    for _ in range(plan.jobs):
        model = rng.choices(models, shares)[0]
        _, low, high = MIX[model]
        jobs.append(
            DayJob(
                at_s=_draw_second(rng, plan.swing),
                model=model,
                length_s=stretch * rng.uniform(low, high),
                error=rng.lognormvariate(0.0, plan.error),
                # The busiest tenant has some twenty times the jobs of the least busy one.
                tenant=f"tenant-{int(_TENANTS * rng.random() ** 2):02}",
                cancel_after_s=rng.uniform(1.0, _CANCEL_WITHIN_S) if rng.random() < plan.cancels else 0.0,
                crashes=rng.random() < plan.crashes,
            )
        )
    return jobs


def _draw_second(rng: random.Random, swing: float) -> float:
    """A second of the day, most likely at noon."""
    while True:
        second = rng.uniform(0.0, _DAY_S)
        if rng.uniform(0.0, 1.0 + swing) <= 1.0 - swing * math.cos(2.0 * math.pi * second / _DAY_S):
            return second


def simulate(plan: DayPlan, jobs: list[DayJob], path: Path) -> Outcome:
    """Run the day until all jobs are over."""
    rng = random.Random(plan.seed + 1)
    clock, outcome = Clock(), Outcome.of(len(jobs))
    broker = DayBroker(path, outcome)
    clients = Clients(clock, broker, jobs, rng)
    workers = Workers(clock, broker, jobs, plan.workers, rng, outcome)
    machines = plan.workers // MACHINE
    for _ in range(round(plan.deaths * machines)):
        clock.at(rng.uniform(0.0, _DAY_S), workers.die, rng.randrange(machines))

    def kill(now: float) -> None:
        back_at = now + AWAY_S
        for peer, message in broker.kill():
            if peer == EDGE:
                clients.repeat(message, back_at)
        clock.at(back_at, broker.start)
        workers.reconnect(back_at)

    for number in range(plan.kills):
        # Apart, so that none is killed while it is away.
        clock.at(_DAY_S * (number + rng.uniform(0.2, 0.8)) / plan.kills, kill)
    hour = 1
    # A job's state is written once it is over.
    while 0 in outcome.states:
        end = (int(clock.next_at / PASS_S) + 1) * PASS_S
        clock.run_until(end, broker.tick)
        for send in broker.end_pass(end):
            if send.peer == EDGE:
                clients.receive(send.message)
            else:
                workers.receive(send, end)
        if end >= 3600.0 * hour:
            progress(f"hour {hour}: {len(jobs) - outcome.states.count(0):,} of {len(jobs):,} jobs are over")
            hour += 1
    broker.close()
    return outcome


def run(plan: DayPlan) -> Report:
    """Simulate. Raises `BenchError`."""
    progress(f"drawing {plan.jobs:,} jobs")
    jobs = draw_day(plan)
    with temporary_home(plan.directory) as home:
        path = home / "jobs.sqlite"
        cpu_s, took_s = time.process_time(), time.monotonic()
        outcome = simulate(plan, jobs, path)
        ended = Ended(
            states=_states_in(path),
            journal_bytes=sum(part.stat().st_size for part in home.glob(f"{path.name}*")),
            cpu_s=time.process_time() - cpu_s,
            took_s=time.monotonic() - took_s,
        )
    return report_of(plan, jobs, outcome, ended)


def _states_in(path: Path) -> dict[str, int]:
    """How many jobs the journal has in each state."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return dict(
            connection.execute(
                "SELECT coalesce(outcome.state, job.state), count(*) FROM job LEFT JOIN outcome ON outcome.n = job.n GROUP BY 1"
            )
        )
    finally:
        connection.close()


def report_of(plan: DayPlan, jobs: list[DayJob], outcome: Outcome, ended: Ended) -> Report:
    """Waits by model, and that every job has one end."""
    metrics = [Metric("jobs", "jobs", len(jobs), "", f"{plan.workers:,} workers, load {plan.load:g}")]
    waits: dict[str, list[float]] = {
        model: sorted(
            outcome.starts[number] - job.at_s
            for number, job in enumerate(jobs)
            if job.model == model and outcome.starts[number] >= 0.0
        )
        for model in MIX
    }
    for model, values in waits.items():
        for share in (0.50, 0.95, 0.99) if values else ():
            key, label = f"{model}_wait_p{share * 100:.0f}_s", f"wait of {model}, p{share * 100:.0f}"
            metrics.append(Metric(key, label, percentile(values, share), "s"))
    final = sum(count for state, count in ended.states.items() if state in {one.value for one in FINAL})
    over_at = max(outcome.ends)
    last_at = max(job.at_s for job in jobs)
    metrics += [
        Metric("over_after_s", "from the last job's arrival until all are over", over_at - last_at, "s"),
        Metric("most_waiting", "jobs that wait at once, at most", outcome.most_waiting),
        Metric("lost", "jobs without an end in the journal", len(jobs) - final, "", "bar: 0"),
        Metric("ended_twice", "jobs with more than one end", outcome.ended_twice, "", "bar: 0"),
        Metric("published_twice", "of these, published twice", outcome.published_twice, "", "bar: 0"),
        *(Metric(f"state_{state}", f"jobs that {state}", count) for state, count in sorted(ended.states.items())),
        Metric("lost_attempts", "attempts that died with their machine", outcome.lost_attempts),
        Metric("kills", "broker killed, and started again", outcome.kills),
        Metric("slowest_start_s", "processor time of its slowest start", outcome.slowest_start_s, "s"),
        Metric("wasted_share", "work that came to nothing", 100.0 * outcome.wasted_s / _worked(jobs), "%"),
        Metric("messages", "messages to the broker", outcome.messages, "", "heartbeats that change nothing left out"),
        Metric("cpu_us", "processor time a job", ended.cpu_s / len(jobs) * 1e6, "us", "broker, workers and clients"),
        Metric("took_s", "the day took", ended.took_s, "s"),
        Metric("journal_mb", "journal at the end", ended.journal_bytes / 2**20, "MB", "nothing was deleted"),
        Metric("journal_bytes", "journal a job", ended.journal_bytes / len(jobs), "bytes"),
    ]
    return Report(
        bench="day",
        title=f"day: {len(jobs):,} jobs over {plan.workers:,} workers, virtual time",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[plot.distribution("wait by model", "seconds", {k: v for k, v in waits.items() if v}, log_x=True)],
        warnings=[
            "simulated: core and journal are the broker's, sockets and clock are made up; a pass is a quarter of a second",
            f"a machine that dies is noticed after {LEASE_S:g} s and back after {REPAIR_S:g} s; its jobs begin anew, without checkpoints",
        ],
    )


def _worked(jobs: list[DayJob]) -> float:
    return sum(job.length_s for job in jobs)
