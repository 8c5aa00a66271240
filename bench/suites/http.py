"""Throughput of one edge process: status reads and event streams, beside a bare Starlette application in the same run.

The server under test has a core of its own (with more than one core); client, broker and the simulated worker share the others. Streams
are judged by processor time an event: `sent` events a second that one core could send.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import psutil
from msgspec import Meta, Struct

from bench.harness.flood import Streams, flood
from bench.harness.process import clean_environ, cpu_seconds, free_port
from bench.harness.procs import cores, pinned, temporary_home
from bench.harness.service import Service
from bench.harness.stepper import StepFeeder
from bench.report import plot
from bench.report.errors import BenchError
from bench.report.report import Flush, Metric, Report, flush_of, progress
from bench.report.stats import median

BAR_PER_S = 12_000
_UP_S = 20.0


class HttpPlan(Struct, frozen=True, kw_only=True):
    """What to request, and how long."""

    connections: Annotated[int, Meta(description="connections that read the status", ge=1, le=1_000)] = 16
    streams: Annotated[int, Meta(description="open event streams", ge=1, le=5_000)] = 200
    steps: Annotated[int, Meta(description="events sent to every stream", ge=1, le=10_000)] = 60
    seconds: Annotated[float, Meta(description="length of each flood", ge=0.2, le=300)] = 4.0
    repeats: Annotated[int, Meta(description="floods of each server in turn; medians", ge=1, le=100)] = 3
    directory: Annotated[str, Meta(description="where the journal is put")] = ""


class Fan(Struct, frozen=True, kw_only=True):
    """Result of a fan-out: events received, the share that reached the streams, processor seconds of the server."""

    events: int
    share: float
    cpu_s: float
    bytes_each: float


class Measured(Struct, frozen=True, kw_only=True):
    """Rates of each flood; the fans."""

    queued: list[float]
    final: list[float]
    bare: list[float]
    fan: Fan
    bare_fan: Fan
    #: Server processor seconds a read, by flood.
    cpu_s: dict[str, float]


@contextlib.contextmanager
def bare(size: int, event: int, chosen: set[int]) -> Iterator[tuple[int, psutil.Process]]:
    """(port, process) of a bare application."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "bench.suites.bare_http",
        "--port",
        str(port),
        "--bytes",
        str(size),
        "--event",
        str(event),
    ]
    with pinned(chosen):
        process = subprocess.Popen(command, env=clean_environ())
    try:
        await_url(f"http://127.0.0.1:{port}/status")
        yield port, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def await_url(url: str) -> httpx.Response:
    """The first answer 200. Raises `BenchError`."""
    give_up = time.monotonic() + _UP_S
    while time.monotonic() < give_up:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(url, timeout=5, trust_env=False)
            if answer.status_code == 200:
                return answer
        time.sleep(0.05)
    raise BenchError(f"{url} does not answer")


def run(plan: HttpPlan) -> Report:
    """Raises `BenchError`."""
    usable = cores()
    server_cores, other_cores = (set(usable[-1:]), set(usable[:-1])) if len(usable) > 1 else (set(), set())
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        service = Service(home)
        try:
            service.start("broker", cores=other_cores)
            service.start("edge", cores=server_cores)
            with pinned(other_cores):
                measured = measure(plan, service, home, server_cores)
        finally:
            service.stop()
    return report_of(plan, measured, flush)


def measure(plan: HttpPlan, service: Service, home: Path, server_cores: set[int]) -> Measured:
    """Floods in turn, so that both servers meet the same moods of the machine; then the streams."""
    with contextlib.closing(StepFeeder(service.settings)) as stepper:
        waiting, running, final = stepper.begin()
        status = await_url(f"{service.url}/v1/jobs/{waiting}")
        rates: dict[str, list[float]] = {"queued": [], "final": [], "bare": []}
        event_bytes = 300
        with bare(len(status.content), event_bytes, server_cores) as (bare_port, bare_process):
            paths = {"queued": f"/v1/jobs/{waiting}", "final": f"/v1/jobs/{final}", "bare": "/status"}
            edge = service.processes["edge"].stats
            used = dict.fromkeys(paths, 0.0)
            for number in range(plan.repeats):
                for name, path in paths.items():
                    progress(f"status reads, {name}, {number + 1} of {plan.repeats}")
                    port, server = (bare_port, bare_process) if name == "bare" else (service.port, edge)
                    cpu_s = cpu_seconds(server)
                    rates[name].append(flood(port, path, plan.connections, plan.seconds) / plan.seconds)
                    used[name] += cpu_seconds(server) - cpu_s
                    stepper.beat()
            each = {name: used[name] / max(1.0, sum(rates[name]) * plan.seconds) for name in paths}
            progress(f"{plan.streams} event streams of the edge")
            fan = fan_out(plan, service.port, f"/v1/jobs/{running}/events", edge, stepper.step)
        with bare(len(status.content), round(fan.bytes_each), server_cores) as (bare_port, bare_process):
            progress(f"{plan.streams} event streams of a bare application")

            def step() -> None:
                httpx.post(f"http://127.0.0.1:{bare_port}/step", trust_env=False)

            bare_fan = fan_out(plan, bare_port, "/events", bare_process, step)
    return Measured(
        queued=rates["queued"], final=rates["final"], bare=rates["bare"], fan=fan, bare_fan=bare_fan, cpu_s=each
    )


def fan_out(plan: HttpPlan, port: int, path: str, process: psutil.Process, step: Callable[[], None]) -> Fan:
    """Make `steps` changes, each when all streams have had the one before or half a second has passed."""
    with contextlib.closing(Streams(port, path, plan.streams)) as streams:
        streams.serve(1.0)
        events, read, cpu_s = streams.events, streams.bytes, cpu_seconds(process)
        for number in range(1, plan.steps + 1):
            step()
            target = events + number * plan.streams
            streams.serve(0.5, lambda: streams.events >= target)  # noqa: B023  # called at once
        streams.serve(0.3)
        count = streams.events - events
        return Fan(
            events=count,
            share=count / (plan.steps * plan.streams),
            cpu_s=cpu_seconds(process) - cpu_s,
            bytes_each=(streams.bytes - read) / count if count else 0.0,
        )


def report_of(plan: HttpPlan, measured: Measured, flush: Flush) -> Report:
    """Rates, and their ratio to the bare application of the same moment."""
    bare_rate = median(measured.bare)
    queued, final = median(measured.queued), median(measured.final)
    ratios = [ours / theirs for ours, theirs in zip(measured.queued, measured.bare, strict=True)]
    fan, bare_fan = _per_core(measured.fan), _per_core(measured.bare_fan)
    share = f"{measured.fan.share * 100:.0f} % of {plan.steps} steps x {plan.streams} streams arrived"
    metrics = [
        Metric("status_per_s", "status reads of a waiting job", queued, "1/s", f"{plan.connections} connections; bar: {BAR_PER_S:,}"),
        Metric("final_per_s", "status reads of a finished job", final, "1/s"),
        Metric("bare_per_s", "a bare Starlette route, same size", bare_rate, "1/s", "uvloop + httptools, same core, in turn"),
        Metric("status_ratio", "waiting job over the bare route", median(ratios), "x", "median of the pairs"),
        *(
            Metric(f"{name}_cpu_us", f"processor time a read, {label}", measured.cpu_s[name] * 1e6, "us")
            for name, label in (("queued", "waiting job"), ("final", "finished job"), ("bare", "bare route"))
        ),
        Metric("cpu_ratio", "waiting job over the bare route, by processor time", _over(measured.cpu_s), "x"),
        Metric("fan_per_s", "events that one core sends", fan, "1/s", share),
        Metric("bare_fan_per_s", "the same of a bare stream", bare_fan, "1/s", f"{measured.fan.bytes_each:.0f} bytes each"),
        Metric("fan_ratio", "events over the bare stream", fan / bare_fan if fan and bare_fan else None, "x"),
        *flush.metrics(),
    ]  # fmt: skip
    return Report(
        bench="http",
        title="http: one edge process beside a bare Starlette application",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[
            plot.bars("status reads", "1/s", {"waiting job": queued, "finished job": final, "bare route": bare_rate}),
            plot.bars("events a core", "1/s", {"edge": fan or 0.0, "bare stream": bare_fan or 0.0}),
        ],
        warnings=[
            "the client is one Python process on another core: at the bare route's rate it is near its own limit"
        ],
    )


def _over(cpu_s: dict[str, float]) -> float | None:
    """Return the bare route's processor time over that of reading a waiting job; unlike rates, it hardly depends on the machine's load."""
    return cpu_s["bare"] / cpu_s["queued"] if cpu_s["queued"] else None


def _per_core(fan: Fan) -> float | None:
    return fan.events / fan.cpu_s if fan.cpu_s else None
