"""The broker's rate and processor time over windows and over worker counts, on one broker process."""

from __future__ import annotations

import contextlib
import time

from msgspec import Struct

from bench.harness.driver import Driver
from bench.harness.procs import BrokerProcess
from bench.report.report import Metric, Panel

WINDOWS = (1, 16, 64, 256, 1024)
WORKERS = (1, 4, 16, 64)


class Point(Struct, frozen=True, kw_only=True):
    """Run of the sweep. `cpu_s`: processor seconds a job."""

    window: int
    workers: int
    jobs_per_s: float
    cpu_s: float


def plan_points(window: int, workers: int) -> list[tuple[int, int]]:
    """(window, workers) of each run: every window with the given workers, every worker count with the given window."""
    return [(each, workers) for each in WINDOWS] + [(window, each) for each in WORKERS if each != workers]


def sweep(process: BrokerProcess, jobs: int, window: int, workers: int, credit: int, body: bytes) -> list[Point]:
    """Run them one after the other. Raises `BenchError`."""
    points = []
    for each_window, each_workers in plan_points(window, workers):
        # A window of one waits for the disk twice a job: fewer of them suffice.
        count = jobs if each_window > 1 else max(1, jobs // 8)
        with contextlib.closing(
            Driver(process, each_workers, credit, body, run=f"{each_window}-{each_workers}")
        ) as driver:
            driver.await_workers()
            driver.run(max(1, count // 10), each_window)
            begun, cpu_s = time.monotonic(), process.cpu_s()
            driver.run(count, each_window)
            took, used = time.monotonic() - begun, process.cpu_s() - cpu_s
        points.append(Point(window=each_window, workers=each_workers, jobs_per_s=count / took, cpu_s=used / count))
    return points


def metrics(points: list[Point]) -> list[Metric]:
    """A row a run."""
    return [
        Metric(
            f"window_{point.window}_workers_{point.workers}_per_s",
            f"window {point.window:,}, {point.workers} workers",
            point.jobs_per_s,
            "jobs/s",
            f"{point.cpu_s * 1e6:.0f} us of processor time a job",
        )
        for point in points
    ]


def panel(points: list[Point]) -> Panel:
    """Rate over window, for the worker count that had all windows."""
    workers = points[0].workers
    series = [point for point in points if point.workers == workers]
    values = ([float(point.window) for point in series], [point.jobs_per_s for point in series])
    return Panel(
        title="throughput by window",
        x_label="jobs outstanding",
        y_label="jobs/s",
        log_x=True,
        series={f"{workers} workers": values},
    )
