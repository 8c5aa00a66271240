"""Reports of measurements, for machines and for people."""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil
import zmq
from msgspec import Struct

from bench.report.errors import BenchError
from bench.report.stats import Summary, filesystem, probe_fdatasync


class Metric(Struct, frozen=True):
    """Figure of a report. `key` is its name in JSON and ends in its unit; a value of None was not to be had."""

    key: str
    label: str
    value: float | int | str | None
    unit: str = ""
    note: str = ""
    #: False where the report's grid shows it to people.
    shown: bool = True


class Panel(Struct, frozen=True, kw_only=True):
    """Drawing in a plot: series by name as lines (or steps) through (x values, y values), or a bar for each first y."""

    title: str
    kind: Literal["line", "steps", "bar"] = "line"
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    series: dict[str, tuple[list[float], list[float]]]


class Grid(Struct, frozen=True, kw_only=True):
    """Several things measured alike, a row each; the first cell is its name."""

    head: list[str]
    rows: list[list[str]]


class Report(Struct, frozen=True, kw_only=True):
    """Measurement with its circumstances."""

    bench: str
    title: str
    settings: dict[str, Any]
    metrics: list[Metric]
    #: The figures of each repeat, where the measurement was repeated; `metrics` then holds medians.
    repeats: list[dict[str, float]] = msgspec.field(default_factory=list)
    panels: list[Panel] = msgspec.field(default_factory=list)
    grid: Grid | None = None
    #: Notes to be read before quoting a figure.
    warnings: list[str] = msgspec.field(default_factory=list)


class Flush(Struct, frozen=True, kw_only=True):
    """Times of one flush of the disk just before a measurement, and its filesystem."""

    times: Summary
    filesystem: str

    def metrics(self) -> list[Metric]:
        """The rows that stand beside latencies."""
        note = f"{self.filesystem}, 4 KiB"
        return [
            Metric("fdatasync_p50_ms", "one flush of this disk just before, p50", self.times.p50 * 1e3, "ms", note),
            Metric("fdatasync_p99_ms", "one flush of this disk just before, p99", self.times.p99 * 1e3, "ms"),
        ]


def flush_of(directory: Path) -> Flush:
    """Flush this directory's disk, now. Raises `OSError`."""
    return Flush(times=probe_fdatasync(directory), filesystem=filesystem(directory))


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures hold for."""
    return {
        "zoetrope": code_version(),
        "cpu": cpu_name(),
        "cores": psutil.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": load_average(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "msgspec": metadata.version("msgspec"),
        "sqlite": sqlite3.sqlite_version,
    }


def code_version() -> str:
    """Return the version of the code that is measured, with its commit where there is a git checkout."""
    try:
        version = metadata.version("zoetrope")
    except metadata.PackageNotFoundError:
        version = "not installed"
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        return f"{version} ({commit})"
    return version


def load_average() -> float | None:
    """Return the load average of the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def cpu_name() -> str:
    """The processor as its maker calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def as_json(report: Report, about: dict[str, Any], at: float) -> bytes:
    """The report for machines: `results` maps keys to values. Times are UTC."""
    document = {
        "bench": report.bench,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
        "machine": about,
        "settings": report.settings,
        "results": {metric.key: metric.value for metric in report.metrics},
        "repeats": report.repeats,
        "warnings": report.warnings,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def as_table(report: Report, about: dict[str, Any]) -> str:
    """The report for people."""
    lines = [report.title, f"{about['cpu']}, {about['cores']} cores, load {number_text(about['load_1min'])}", ""]
    lines += _blocks(report.grid) if report.grid else []
    shown = [metric for metric in report.metrics if metric.shown]
    width = max((len(metric.label) for metric in shown), default=0)
    values = [number_text(metric.value) for metric in shown]
    value_width = max((len(value) for value in values), default=0)
    for metric, value in zip(shown, values, strict=True):
        lines.append(
            f"  {metric.label:<{width}}  {value:>{value_width}} {metric.unit:<7} {metric.note}".rstrip(),
        )
    lines += ["", *(f"note: {warning}" for warning in report.warnings)] if report.warnings else []
    return "\n".join(lines)


def _blocks(grid: Grid) -> list[str]:
    """A block a row: a grid's cells are too long to stand side by side."""
    width = max(map(len, grid.head[1:]), default=0)
    lines = []
    for name, *cells in grid.rows:
        lines += [name, *(f"  {head:<{width}}  {cell}" for head, cell in zip(grid.head[1:], cells, strict=True)), ""]
    return lines


def number_text(value: float | int | str | None) -> str:
    """Three or four digits that count, thousands apart; "-" for none."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def progress(text: str) -> None:
    """Show a waiting person how far a measurement is."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def write(path: str, content: bytes) -> None:
    """Write a report's file. Raises `BenchError`."""
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise BenchError(f"{path!r} cannot be written: {error.strerror}") from None
