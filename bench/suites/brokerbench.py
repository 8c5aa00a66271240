"""Cost of the broker itself: no-op jobs through a real broker process, real sockets and the real journal.

One thread drives everything but the broker: a client that submits and simulated workers that finish at once. Two figures come out.
Throughput: `window` jobs are kept between submit and committed result, and the broker's processor time is divided by the jobs done. Each
repeat runs a bare echo right after it, and their ratio is taken pair by pair: the speed of a shared machine drifts between runs.
Latency: one job at a time, timed from its submit to `Accepted`, to its `Run` reaching the worker, and to its committed result.

Every commit waits for the disk, so the flush time of the moment is measured first and printed beside each rate.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bench.harness.driver import Driver, padded_spec
from bench.harness.procs import BrokerProcess, cores, pinned, temporary_home
from bench.report import plot
from bench.report.plans import check
from bench.report.report import Metric, Panel, Report, progress
from bench.report.stats import Summary, filesystem, median, probe_fdatasync, summarise
from bench.suites import sweep
from bench.suites.ceiling import ECHOES, Echo, echo

#: Jobs before the first measured one: caches, allocator and the journal's first pages.
WARM_UP = 500
#: Shorter runs do not wait for the broker's own counts.
COUNT_FROM = 1_000
COUNT_WAIT_S = 8.0


class BrokerPlan(Struct, frozen=True, kw_only=True):
    """What to measure.

    A real worker holds one job; 4 workers with credit 16 cost the broker as much as 64 real ones.
    """

    workers: Annotated[int, Meta(description="simulated workers", ge=1, le=1_000)] = 4
    credit: Annotated[int, Meta(description="jobs a worker may hold", ge=1, le=32)] = 16
    window: Annotated[int, Meta(description="jobs outstanding in the rate run", ge=1, le=4_096)] = 256
    jobs: Annotated[int, Meta(description="jobs of the rate run", ge=1, le=10_000_000)] = 20_000
    latency_jobs: Annotated[int, Meta(description="jobs one by one", ge=1, le=1_000_000)] = 2_000
    repeats: Annotated[int, Meta(description="fresh brokers; medians", ge=1, le=100)] = 3
    sweep_jobs: Annotated[
        int, Meta(description="jobs of each further window and worker count; 0: none of them", ge=0, le=1_000_000)
    ] = 4_000
    ceiling_s: Annotated[float, Meta(description="seconds of each bare ZeroMQ echo; 0: none", ge=0, le=60)] = 2.0
    body_bytes: Annotated[int, Meta(description="size of a job spec", ge=200, le=20_000)] = 600
    watch: Annotated[bool, Meta(description="have the client watch all jobs, as an edge does")] = False
    watched_jobs: Annotated[
        int, Meta(description="jobs of a second rate run with such a watcher; 0: none", ge=0, le=1_000_000)
    ] = 5_000
    pin: Annotated[bool, Meta(description="leave cores to the system instead of giving the broker its own")] = True
    directory: Annotated[str, Meta(description="where the journal is put (default: the temporary directory)")] = ""


class Round(Struct, frozen=True, kw_only=True):
    """Measurements of one repeat, seconds."""

    jobs_per_s: float
    cpu_per_job: float
    #: With a client that watches all jobs; None when it was not measured.
    watched_cpu_per_job: float | None
    #: Processor time of one bare echo, just after; None when it was not measured.
    echo_cpu: float | None = None
    #: Of the warm-up and the throughput run.
    commits: int
    messages_per_job: float
    accept: list[float]
    start: list[float]
    end: list[float]
    fdatasync: Summary
    memory_mb: float
    journal_bytes_per_job: float


def one_round(plan: BrokerPlan, process: BrokerProcess, home: Path) -> Round:
    """Measure one broker that has just been started."""
    flushes = probe_fdatasync(home)
    driver = Driver(process, plan.workers, plan.credit, padded_spec(plan.body_bytes))
    with contextlib.closing(driver):
        driver.await_workers()
        if plan.watch:
            driver.watch()
        driver.run(WARM_UP, plan.window)
        driver.jobs.done.clear()
        messages, cpu_s, journal, begun = driver.messages, process.cpu_s(), journal_bytes(home), time.monotonic()
        driver.run(plan.jobs, plan.window)
        took = time.monotonic() - begun
        cpu_s, messages, journal = process.cpu_s() - cpu_s, driver.messages - messages, journal_bytes(home) - journal
        memory_mb, now = process.memory_mb(), time.time()
        if plan.jobs >= COUNT_FROM:
            # The broker writes its own counts every few seconds; meanwhile nothing is committed.
            give_up = time.monotonic() + COUNT_WAIT_S
            driver.pump(lambda: process.commits(since=now) is not None or time.monotonic() > give_up)
        commits = process.commits(since=now)
        driver.jobs.done.clear()
        driver.run(plan.latency_jobs, 1)
        done = list(driver.jobs.done)
        return Round(
            jobs_per_s=plan.jobs / took,
            cpu_per_job=cpu_s / plan.jobs,
            watched_cpu_per_job=_watched(plan, driver, process),
            commits=commits or 0,
            messages_per_job=messages / plan.jobs,
            accept=[times.accepted - times.submitted for times in done],
            start=[times.started - times.submitted for times in done],
            end=[times.ended - times.submitted for times in done],
            fdatasync=flushes,
            memory_mb=memory_mb,
            journal_bytes_per_job=journal / plan.jobs,
        )


def _watched(plan: BrokerPlan, driver: Driver, process: BrokerProcess) -> float | None:
    """Processor seconds of the broker a job while a client watches all of them."""
    if plan.watch or not plan.watched_jobs:
        return None
    driver.watch()
    cpu_s = process.cpu_s()
    driver.run(plan.watched_jobs, plan.window)
    return (process.cpu_s() - cpu_s) / plan.watched_jobs


def journal_bytes(home: Path) -> int:
    """Size of the journal and its write-ahead log."""
    return sum(path.stat().st_size for path in home.glob("jobs.sqlite*"))


def run(plan: BrokerPlan) -> Report:
    """Measure `plan.repeats` fresh brokers, one after the other. Raises `BenchError`."""
    check(plan)
    usable = cores() if plan.pin else []
    # The broker gets the last core to itself, the driver the others; on one core they share.
    broker_cores, driver_cores = (set(usable[-1:]), set(usable[:-1])) if len(usable) > 1 else (set(), set())
    rounds = []
    filesystem_name = ""
    for number in range(1, plan.repeats + 1):
        progress(f"run {number} of {plan.repeats}")
        with temporary_home(plan.directory) as home:
            filesystem_name = filesystem(home)
            process = BrokerProcess(home, broker_cores)
            try:
                process.await_sockets()
                with pinned(driver_cores):
                    measured = one_round(plan, process, home)
            finally:
                process.stop()
            if plan.ceiling_s:
                with pinned(driver_cores):
                    bare = echo("router", home, plan.ceiling_s, plan.window, plan.body_bytes, broker_cores)
                measured = msgspec.structs.replace(measured, echo_cpu=bare.cpu_s or None)
            rounds.append(measured)
    points, echoes = beside(plan, broker_cores, driver_cores)
    return report_of(plan, rounds, filesystem_name, bool(broker_cores), points, echoes)


def beside(
    plan: BrokerPlan, broker_cores: set[int], driver_cores: set[int]
) -> tuple[list[sweep.Point], dict[str, Echo]]:
    """Other windows and worker counts, and what ZeroMQ does without a broker."""
    points: list[sweep.Point] = []
    echoes: dict[str, Echo] = {}
    with temporary_home(plan.directory) as home:
        if plan.sweep_jobs:
            progress("other windows and worker counts")
            process = BrokerProcess(home, broker_cores)
            try:
                process.await_sockets()
                with pinned(driver_cores):
                    body = padded_spec(plan.body_bytes)
                    points = sweep.sweep(process, plan.sweep_jobs, plan.window, plan.workers, plan.credit, body)
            finally:
                process.stop()
        for kind in ECHOES if plan.ceiling_s else ():
            progress(f"ceiling: {ECHOES[kind]}")
            with pinned(driver_cores):
                echoes[kind] = echo(kind, home, plan.ceiling_s, plan.window, plan.body_bytes, broker_cores)
    return points, echoes


def figures(measured: Round, jobs: int) -> dict[str, float]:
    """The figures of one repeat by their names in JSON."""
    result = {
        "jobs_per_s": measured.jobs_per_s,
        "cpu_us_per_job": measured.cpu_per_job * 1e6,
        "messages_per_job": measured.messages_per_job,
        "journal_bytes_per_job": measured.journal_bytes_per_job,
        "memory_mb": measured.memory_mb,
        "fdatasync_p50_ms": measured.fdatasync.p50 * 1e3,
        "fdatasync_p99_ms": measured.fdatasync.p99 * 1e3,
    }
    if measured.echo_cpu is not None:
        result["echo_ratio"] = measured.cpu_per_job / measured.echo_cpu
    if measured.watched_cpu_per_job is not None:
        result["watcher_us"] = (measured.watched_cpu_per_job - measured.cpu_per_job) * 1e6
    if measured.commits:
        result["jobs_per_commit"] = (WARM_UP + jobs) / measured.commits
    for name, values in (("accepted", measured.accept), ("start", measured.start), ("result", measured.end)):
        summary = summarise(values)
        assert summary is not None
        result[f"submit_{name}_p50_ms"] = summary.p50 * 1e3
        result[f"submit_{name}_p99_ms"] = summary.p99 * 1e3
    return result


#: Name in JSON, words for people, unit.
_ROWS = (
    ("jobs_per_s", "throughput", "jobs/s"),
    ("cpu_us_per_job", "broker processor time a job", "us"),
    ("echo_ratio", "the same over a bare ROUTER echo of the same repeat", "x"),
    ("watcher_us", "more with a client that watches all jobs", "us"),
    ("jobs_per_commit", "jobs a commit of the journal", ""),
    ("messages_per_job", "messages a job, both directions", ""),
    ("journal_bytes_per_job", "journal growth a job", "bytes"),
    ("memory_mb", "broker memory after the run", "MB"),
    ("submit_accepted_p50_ms", "submit to accepted, p50", "ms"),
    ("submit_accepted_p99_ms", "submit to accepted, p99", "ms"),
    ("submit_start_p50_ms", "submit to start at the worker, p50", "ms"),
    ("submit_start_p99_ms", "submit to start at the worker, p99", "ms"),
    ("submit_result_p50_ms", "submit to committed result, p50", "ms"),
    ("submit_result_p99_ms", "submit to committed result, p99", "ms"),
    ("fdatasync_p50_ms", "one flush of this disk just before, p50", "ms"),
    ("fdatasync_p99_ms", "one flush of this disk just before, p99", "ms"),
)


def report_of(
    plan: BrokerPlan,
    rounds: list[Round],
    filesystem_name: str,
    pinned_apart: bool,
    points: list[sweep.Point],
    echoes: dict[str, Echo],
) -> Report:
    """Medians of the repeats, with notes."""
    repeats = [figures(measured, plan.jobs) for measured in rounds]
    middle = {key: median([repeat[key] for repeat in repeats]) for key in repeats[0] if all(key in r for r in repeats)}
    notes = {
        "jobs_per_s": f"window {plan.window}, {plan.workers} workers with credit {plan.credit}",
        "submit_accepted_p50_ms": "one job outstanding",
        "submit_start_p50_ms": f"{middle['submit_start_p50_ms'] / middle['fdatasync_p50_ms']:.1f} x one flush",
        "submit_start_p99_ms": f"{middle['submit_start_p99_ms'] / middle['fdatasync_p50_ms']:.1f} x one flush",
        "fdatasync_p50_ms": f"{filesystem_name}, 4 KiB",
    }
    metrics = [Metric(key, label, middle.get(key), unit, notes.get(key, "")) for key, label, unit in _ROWS]
    return Report(
        bench="broker",
        title=f"broker: {plan.jobs:,} no-op jobs of {plan.body_bytes} B, median of {plan.repeats}",
        settings={**msgspec.structs.asdict(plan), "filesystem": filesystem_name, "pinned_apart": pinned_apart},
        metrics=[*metrics, *sweep.metrics(points), *ceiling_metrics(echoes, middle)],
        repeats=repeats,
        panels=_panels(rounds, points),
        warnings=cautions(filesystem_name, repeats, pinned_apart),
    )


def ceiling_metrics(echoes: dict[str, Echo], middle: dict[str, float]) -> list[Metric]:
    """Build the metrics of ZeroMQ alone, and the number of its round trips that the broker's processor time for one job would pay."""
    metrics = []
    for kind, measured in echoes.items():
        label = f"ceiling: {ECHOES[kind]}"
        metrics.append(Metric(f"{kind}_per_s", label, measured.per_s, "1/s", "round trips, nothing decoded or written"))
        ratio = middle["cpu_us_per_job"] / (measured.cpu_s * 1e6) if measured.cpu_s else None
        note = "" if ratio is None else f"a job costs the broker {ratio:.1f} of these"
        metrics.append(Metric(f"{kind}_cpu_us", f"{label}, processor time", measured.cpu_s * 1e6, "us", note))
    return metrics


def _panels(rounds: list[Round], points: list[sweep.Point]) -> list[Panel]:
    runs = plot.bars("throughput", "jobs/s", {f"run {n}": r.jobs_per_s for n, r in enumerate(rounds, start=1)})
    latencies = plot.distribution(
        "one job outstanding",
        "milliseconds since submit",
        {
            "accepted": [value * 1e3 for measured in rounds for value in measured.accept],
            "start at the worker": [value * 1e3 for measured in rounds for value in measured.start],
            "committed result": [value * 1e3 for measured in rounds for value in measured.end],
        },
        log_x=True,
    )
    return [sweep.panel(points) if points else runs, latencies]


def cautions(filesystem_name: str, repeats: list[dict[str, float]], pinned_apart: bool) -> list[str]:
    """Circumstances under which the figures should not be quoted."""
    result = []
    if filesystem_name in ("tmpfs", "ramfs"):
        result.append(f"the journal was on {filesystem_name}, where a flush costs nothing: use --directory on a disk")
    if max(repeat["fdatasync_p50_ms"] for repeat in repeats) > 1.0:
        result.append(
            "the disk was slow or busy (a flush over 1 ms): latencies say more about it than about the broker"
        )
    if not pinned_apart:
        result.append("broker and driver shared their cores")
    return result
