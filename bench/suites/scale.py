"""A thousand workers, a hundred thousand waiting jobs: the broker's memory, its use of its core, how late jobs are given out.

Simulated workers hold each job for some seconds, so results come at a steady rate, each with room for the next job; a dispatch is timed
from sending that result to receiving the next `Run`, with the commit between. It is timed by a few of them that have a process of
their own, since the thread that plays thousands reads each late. Nothing is asserted: the bars are printed beside what was measured.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bench.harness.crowd import WorkerCrowd
from bench.harness.driver import Driver, padded_spec
from bench.harness.probes import Probed, ProbeOrder, Probes, probing
from bench.harness.procs import BrokerProcess, cores, pinned, raise_file_limit, temporary_home
from bench.report import plot
from bench.report.errors import BenchError
from bench.report.report import Flush, Metric, Report, flush_of, progress
from bench.report.stats import summarise

BAR_MB, BAR_CORES, BAR_DISPATCH_MS = 500, 1.0, 10
#: The workers register one after the other within this.
_JOIN_S = 60.0
#: Mean seconds for which probes hold a job, at most: enough dispatches for a p99; and how much later than the others they may begin.
_PROBE_HOLD_S, _PROBE_START_S = 0.5, 20.0
#: Descriptors of a simulated worker (connection, signal of its socket), and those of the process itself.
_FILES_EACH, _OWN_FILES = 2, 100


class ScalePlan(Struct, frozen=True, kw_only=True):
    """How much of everything."""

    workers: Annotated[int, Meta(description="simulated workers", ge=1, le=20_000)] = 1_000
    queued: Annotated[int, Meta(description="jobs that wait", ge=1, le=1_000_000)] = 100_000
    hold_s: Annotated[float, Meta(description="mean seconds that a worker holds a job", ge=0.05, le=600)] = 5.0
    seconds: Annotated[float, Meta(description="length of the measured run", ge=1, le=600)] = 15.0
    body_bytes: Annotated[int, Meta(description="size of a job spec", ge=200, le=20_000)] = 600
    probes: Annotated[
        int,
        Meta(
            description="workers in a process of their own, by which dispatches are timed; 0: by all others",
            ge=0,
            le=1_000,
        ),
    ] = 20
    seed: Annotated[int, Meta(description="draws how long each job is held", ge=0, le=2**31)] = 0
    directory: Annotated[str, Meta(description="where the journal is put")] = ""


class Measured(Struct, frozen=True, kw_only=True):
    """Measurements of one run; `cores`: seconds of processor time over seconds."""

    empty_mb: float
    queued_mb: float
    working_mb: float
    submits_per_s: float
    submit_cpu_us: float
    idle_cores: float
    beats_per_s: float
    working_cores: float
    #: Share of that time in which the broker could have run and had no processor.
    starved_share: float
    jobs_per_s: float
    joined: int
    #: Measured in the thread that simulates all workers; by probes, and what these were late by themselves.
    dispatches: list[float]
    probed: Probed | None


def run(plan: ScalePlan) -> Report:
    """Fill a queue, let the crowd in, watch the broker. Raises `BenchError`."""
    most = (raise_file_limit() - _OWN_FILES) // _FILES_EACH
    if plan.workers > most:
        raise BenchError(
            f"workers = {plan.workers}: the system gives a process descriptors for {most:,} of them; raise its limit (ulimit -n)"
        )
    usable = cores()
    broker_cores, driver_cores = (set(usable[-1:]), set(usable[:-1])) if len(usable) > 1 else (set(), set())
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        process = BrokerProcess(home, broker_cores, ("--queue-limit", str(plan.queued + 1_000)))
        try:
            process.await_sockets()
            with pinned(driver_cores):
                measured = measure(plan, process, home)
        finally:
            process.stop()
    return report_of(plan, measured, flush)


def measure(plan: ScalePlan, process: BrokerProcess, home: Path) -> Measured:
    """Everything on one broker."""
    empty_mb = process.memory_mb()
    progress(f"{plan.queued:,} submits")
    begun, cpu_s = time.monotonic(), process.cpu_s()
    with contextlib.closing(Driver(process, 0, 1, padded_spec(plan.body_bytes))) as driver:
        driver.queue(plan.queued)
    took, submit_cpu_s = time.monotonic() - begun, process.cpu_s() - cpu_s
    queued_mb = process.memory_mb()
    progress(f"{plan.workers:,} workers join")
    crowd = WorkerCrowd(process.settings.back_endpoint, plan.workers, plan.hold_s, plan.seed, process.check)
    with contextlib.closing(crowd):
        crowd.serve(_JOIN_S, lambda: crowd.busy >= plan.workers)
        joined = crowd.busy
        crowd.serve(min(2.0, plan.seconds))
        crowd.dispatches.clear()
        progress(f"{plan.seconds:g} s of work")
        with _probing(plan, process) as probes:
            begun, cpu_s, ended, queued_s = time.monotonic(), process.cpu_s(), crowd.ended, process.queued_s()
            crowd.serve(plan.seconds)
            span = time.monotonic() - begun
            starved_share = (process.queued_s() - queued_s) / span
            dispatches = [*crowd.dispatches]
            crowd.serve(_PROBE_START_S, lambda: probes is not None and probes.ended)
            probed = None if probes is None else probes.result()
        working_cores, jobs_per_s = (process.cpu_s() - cpu_s) / span, (crowd.ended - ended) / span
        working_mb = process.memory_mb()
        crowd.hold()
        cpu_s, begun, beats = process.cpu_s(), time.monotonic(), crowd.answered_beats
        crowd.serve(min(5.0, plan.seconds))
        span = time.monotonic() - begun
        idle_cores, beats_per_s = (process.cpu_s() - cpu_s) / span, (crowd.answered_beats - beats) / span
    return Measured(
        empty_mb=empty_mb,
        queued_mb=queued_mb,
        working_mb=working_mb,
        submits_per_s=plan.queued / took,
        submit_cpu_us=submit_cpu_s / plan.queued * 1e6,
        idle_cores=idle_cores,
        beats_per_s=beats_per_s,
        working_cores=working_cores,
        starved_share=starved_share,
        jobs_per_s=jobs_per_s,
        joined=joined,
        dispatches=dispatches,
        probed=probed,
    )


@contextlib.contextmanager
def _probing(plan: ScalePlan, process: BrokerProcess) -> Iterator[Probes | None]:
    """The probes of this run, if it has any."""
    if not plan.probes:
        yield None
        return
    order = ProbeOrder(
        endpoint=process.settings.back_endpoint,
        count=plan.probes,
        hold_s=min(plan.hold_s, _PROBE_HOLD_S),
        seconds=plan.seconds,
        seed=plan.seed + 1,
    )
    with probing(order) as probes:
        yield probes


def _p50_p99(seconds: Sequence[float]) -> tuple[float | None, float | None]:
    """In milliseconds."""
    summary = summarise(value * 1e3 for value in seconds)
    return (None, None) if summary is None else (summary.p50, summary.p99)


def _us_each(measured: Measured) -> float | None:
    return measured.idle_cores / measured.beats_per_s * 1e6 if measured.beats_per_s else None


def report_of(plan: ScalePlan, measured: Measured, flush: Flush) -> Report:
    """Figures beside their bars."""
    probed = measured.probed
    p50, p99 = _p50_p99(measured.dispatches if probed is None else probed.dispatches)
    _, crowd_p99 = _p50_p99(measured.dispatches)
    _, late_p99 = _p50_p99([] if probed is None else probed.late)
    timed = (
        "by all workers, with the delays of the thread that plays them"
        if probed is None
        else f"by {plan.probes} workers in a process of their own"
    )
    metrics = [
        Metric("empty_mb", "broker memory, nothing queued", measured.empty_mb, "MB"),
        Metric("queued", "jobs queued", plan.queued),
        Metric("queued_mb", f"broker memory, {plan.queued:,} queued", measured.queued_mb, "MB", f"bar at 100,000: {BAR_MB} MB"),
        Metric("working_mb", "broker memory after the run", measured.working_mb, "MB"),
        Metric("bytes_per_job", "memory a queued job", (measured.queued_mb - measured.empty_mb) * 2**20 / plan.queued, "bytes"),
        Metric("submits_per_s", "submits accepted", measured.submits_per_s, "1/s", "window 256, fsynced"),
        Metric("submit_cpu_us", "broker processor time a submit", measured.submit_cpu_us, "us"),
        Metric("workers_joined", "workers with a job", measured.joined, "", f"of {plan.workers:,}"),
        Metric("beats_per_s", "heartbeats that the broker answered", measured.beats_per_s, "1/s", f"{plan.workers:,} are due"),
        Metric("heartbeat_cores", "cores used by heartbeats alone", measured.idle_cores, "", "each worker holds a job"),
        Metric("heartbeat_us", "broker processor time a heartbeat", _us_each(measured), "us"),
        Metric("working_cores", "cores used at work", measured.working_cores, "", f"bar: {BAR_CORES:g}"),
        Metric("starved", "time in which the broker waited for a core", measured.starved_share * 100, "%", "not its own"),
        Metric("jobs_per_s", "jobs a second in that time", measured.jobs_per_s, "1/s", f"jobs of {plan.hold_s:g} s"),
        Metric("dispatch_p50_ms", "result to the next job, p50", p50, "ms", timed),
        Metric("dispatch_p99_ms", "result to the next job, p99", p99, "ms", f"bar: {BAR_DISPATCH_MS} ms"),
        Metric("probe_late_p99_ms", "delays of that process itself, p99", late_p99, "ms"),
        Metric("crowd_p99_ms", "the same, p99, as the thread sees it that plays the others", crowd_p99, "ms"),
        *flush.metrics(),
    ]  # fmt: skip
    return Report(
        bench="scale",
        title=f"scale: {plan.workers:,} simulated workers, {plan.queued:,} jobs queued",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[
            plot.distribution(
                "result to the next job",
                "milliseconds",
                {
                    "probes": [v * 1e3 for v in (probed.dispatches if probed else [])],
                    "crowd": [v * 1e3 for v in measured.dispatches],
                },
                log_x=True,
            ),
            plot.bars("broker memory", "MB", {"empty": measured.empty_mb, "queued": measured.queued_mb}),
        ],
        warnings=[]
        if probed
        else ["the driver of all workers is one Python thread: its delays are in the dispatch times"],
    )
