"""Putting a large file into an edge's depot, as a worker on another machine does: signed, streamed, hashed, flushed to the disk.

A child (`scripts/depot_put.py`) is the worker's side; broker and edge are real, and a simulated worker holds the job.
"""

from __future__ import annotations

import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bench.harness.process import run_child
from bench.harness.procs import temporary_home
from bench.harness.service import Service
from bench.harness.stepper import StepFeeder
from bench.report import plot
from bench.report.errors import BenchError
from bench.report.report import Metric, Report, flush_of, progress
from bench.report.stats import median
from bench.suites.http import await_url

_BEAT_S = 0.5


class DepotPlan(Struct, frozen=True, kw_only=True):
    """What is put, and how often."""

    size_mb: Annotated[int, Meta(description="size of the file, millions of bytes", ge=1, le=1_000)] = 10
    repeats: Annotated[int, Meta(description="files that are put, one after the other", ge=1, le=1_000)] = 20
    directory: Annotated[str, Meta(description="where journal and depot are put")] = ""


class Order(Struct, frozen=True, kw_only=True):
    """Order to the child: put the file so often, under a name of its own each time."""

    url: str
    #: The service's directory, with the secret that the worker's key is made of.
    home: str
    worker: str
    job_id: str
    fence: int
    path: str
    repeats: int


class Puts(Struct, frozen=True, kw_only=True):
    """Seconds of each put; of each question whether the file is there, which comes before a put that is repeated."""

    put_s: list[float]
    asked_s: list[float]


def run(plan: DepotPlan) -> Report:
    """Raises `BenchError`."""
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        service = Service(home)
        try:
            service.start("broker", "edge")
            await_url(f"{service.url}/livez")
            puts = _measure(plan, service, home)
        finally:
            service.stop()
    metrics = [
        Metric("put_p50_s", f"{plan.size_mb} MB put into an edge's depot, p50", median(puts.put_s), "s"),
        Metric("put_worst_s", "the slowest of them", max(puts.put_s), "s", f"{plan.repeats} files; bar: 2 s for 10 MB"),
        Metric("put_mb_per_s", "bytes that arrive", plan.size_mb / median(puts.put_s), "MB/s"),
        Metric("asked_p50_ms", "asked whether a file is there, p50", median(puts.asked_s) * 1e3, "ms"),
        *flush.metrics(),
    ]
    return Report(
        bench="depot",
        title="depot: a large file from a worker on another machine to the edge",
        settings=msgspec.to_builtins(plan),
        metrics=metrics,
        panels=[plot.bars("seconds a file", "s", {"p50": median(puts.put_s), "slowest": max(puts.put_s)})],
        warnings=["both ends are on this machine: no network is between them"],
    )


def _measure(plan: DepotPlan, service: Service, home: Path) -> Puts:
    """Have the child put while the simulated worker stays alive."""
    file = home / "clip.mp4"
    file.write_bytes(secrets.token_bytes(plan.size_mb * 1_000_000))
    stepper = StepFeeder(service.settings)
    try:
        stepper.begin()
        attempt = stepper.attempt
        order = Order(
            url=service.url,
            home=service.settings.home,
            worker=attempt.worker,
            job_id=attempt.job_id,
            fence=attempt.fence,
            path=str(file),
            repeats=plan.repeats,
        )
        progress(f"{plan.repeats} files of {plan.size_mb} MB")
        with ThreadPoolExecutor(1) as threads:
            answer = _answer(threads.submit(run_child, "scripts.depot_put", order), stepper)
    finally:
        stepper.close()
    if answer is None:
        raise BenchError("no file could be put; why is said above")
    return msgspec.json.decode(answer, type=Puts)


def _answer(future: Future[bytes | None], stepper: StepFeeder) -> bytes | None:
    while True:
        try:
            return future.result(_BEAT_S)
        except TimeoutError:
            stepper.beat()
