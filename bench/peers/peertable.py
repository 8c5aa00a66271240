"""Table of the comparison with peers: one row a peer and mode, ours over each, and the fastest of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from bench.peers.peerrun import Line
from bench.peers.scenarios import ARRIVALS_PER_S, SLEEP_S, SLOTS, Crash
from bench.report import plot
from bench.report.report import Flush, Grid, Metric, Panel, Report, number_text
from bench.report.stats import median

OURS = "zoetrope"
BAR = 3.0
#: A driver later than this, at the worst percent of its submits, was no open loop.
_LATE_S = 0.05
#: Flushes that differ by more than this factor make rows hard to compare.
_UNEVEN = 2.0

_HEAD = (
    "queue",
    "a job is acknowledged",
    "one flush just before, p50 ms",
    "a: jobs/s (this broker over it)",
    "b: submit to start, p50 / p99 ms (this broker's p50 over it)",
    "b: submit to end, p50 / p99 ms",
    f"c: {ARRIVALS_PER_S:g}/s of {SLEEP_S * 1e3:g} ms, of {SLOTS} slots busy; wait p50 / p99 ms",
    "d: worker killed, its job starts again",
    "e: queue killed, its acknowledged jobs that come out",
)


class Row(Struct, frozen=True, kw_only=True):
    """Row of the table: one mode of one peer, its figures part by part, or the reason why there are none."""

    peer: str
    mode: str
    label: str
    promise: str
    lines: list[Line]
    #: Seconds of one flush of this disk just before.
    flush_s: float | None = None

    @property
    def key(self) -> str:
        return f"{self.peer}_{self.mode}"

    @property
    def name(self) -> str:
        return f"{self.label}, {self.mode}"

    @property
    def versions(self) -> str:
        """With their numbers; "" when it was not there."""
        return next((line.about for line in self.lines if line.about), "")

    def part(self, part: str) -> Line | None:
        """The line of one part."""
        return next((line for line in self.lines if line.part == part), None)

    def missing(self, part: str) -> str:
        """Return the reason why a part has no figures."""
        line = self.part(part)
        return line.missing if line else ""

    @property
    def per_s(self) -> float | None:
        line = self.part("a")
        return median(line.rate.per_s) if line and line.rate else None

    @property
    def start_p50_s(self) -> float | None:
        line = self.part("b")
        return line.latency.start.p50 if line and line.latency else None


def report_of(rows: Sequence[Row], flush: Flush, plan: Struct, notes: Sequence[str]) -> Report:
    """All rows, the ratios, and notes on them."""
    ours = next((row for row in rows if row.peer == OURS), None)
    metrics = [metric for row in rows for metric in _figures(row, ours)]
    rates = {row.name.replace(", ", "\n"): row.per_s for row in rows if row.per_s}
    starts = {row.name.replace(", ", "\n"): row.start_p50_s * 1e3 for row in rows if row.start_p50_s}
    panels: list[Panel] = []
    if rates:
        panels.append(plot.bars("no-op jobs a second", "1/s", rates))
    if starts:
        panels.append(plot.bars("submit to start, one outstanding, p50", "ms", starts))
    return Report(
        bench="peers",
        title="peers: 600 B a job, four workers on one core, driver and server on the other",
        settings=msgspec.to_builtins(plan),
        metrics=[*_fastest(rows, ours), *metrics, *flush.metrics()],
        grid=Grid(head=list(_HEAD), rows=[_cells(row, ours) for row in rows]),
        panels=panels,
        warnings=[*_missing(rows), *_late(rows), *_uneven(rows), *notes],
    )


def _missing(rows: Sequence[Row]) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        for line in row.lines:
            if line.missing:
                found.setdefault(f"{row.name}: {line.missing}", []).append(line.part)
    return [f"{text} ({', '.join(parts)})" for text, parts in found.items()]


def _late(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row.name}: in c the worst 1 % of submits left {line.waits.late_p99_s * 1e3:.0f} ms late"
        for row in rows
        if (line := row.part("c")) and line.waits and line.waits.late_p99_s > _LATE_S
    ]


def _uneven(rows: Sequence[Row]) -> list[str]:
    times = [row.flush_s * 1e3 for row in rows if row.flush_s is not None]
    if not times or max(times) <= _UNEVEN * min(times):
        return []
    return [
        f"the disk was not the same for all: one flush took {number_text(min(times))} to {number_text(max(times))} ms, so ratios of"
        " durable modes say as much about the moment"
    ]


def fastest(rows: Sequence[Row], durable_only: bool) -> Row | None:
    """Return the peer with most jobs a second."""
    others = [row for row in rows if row.peer != OURS and row.per_s and (row.mode == "durable" or not durable_only)]
    return max(others, key=lambda row: row.per_s or 0.0, default=None)


def _fastest(rows: Sequence[Row], ours: Row | None) -> list[Metric]:
    metrics = []
    for key, label, durable_only in (
        ("fastest_durable", "the fastest of like durability", True),
        ("fastest", "the fastest of all", False),
    ):
        best = fastest(rows, durable_only)
        over = ours.per_s / best.per_s if ours and ours.per_s and best and best.per_s else None
        metrics.append(Metric(key, label, best.name if best else None))
        metrics.append(Metric(f"{key}_ratio", f"this broker over {label}", over, "x", f"bar: {BAR:g}"))
    return metrics


def _figures(row: Row, ours: Row | None) -> list[Metric]:
    """Each figure by its name in JSON; the grid shows them to people."""
    metrics: list[Metric] = []

    def add(key: str, label: str, value: Any, unit: str = "") -> None:
        metrics.append(Metric(f"{row.key}_{key}", f"{row.name}, {label}", value, unit, shown=False))

    add("versions", "versions", row.versions or None)
    if row.per_s:
        add("per_s", "jobs a second", row.per_s, "1/s")
        if ours and ours.per_s and row is not ours:
            add("ratio", "this broker over it", ours.per_s / row.per_s, "x")
    if (line := row.part("b")) and line.latency:
        for key, what in (("start", line.latency.start), ("end", line.latency.end)):
            add(f"{key}_p50_ms", f"submit to {key}, p50", what.p50 * 1e3, "ms")
            add(f"{key}_p99_ms", f"submit to {key}, p99", what.p99 * 1e3, "ms")
        if ours and ours.start_p50_s and row is not ours:
            add("start_ratio", "its submit to start over this broker's", line.latency.start.p50 / ours.start_p50_s, "x")
    if (line := row.part("c")) and line.waits:
        add("busy_pct", "slots busy", line.waits.busy * 100, "%")
        add(
            "wait_p99_ms", f"wait of {ARRIVALS_PER_S:g}/s of {SLEEP_S * 1e3:g} ms, p99", line.waits.wait.p99 * 1e3, "ms"
        )
    if (line := row.part("d")) and line.crashes:
        for name, crash in zip(("again", "whole_again"), line.crashes, strict=False):
            add(f"{name}_s", f"{crash.what} killed, its job starts again", crash.again_s, "s")
            add(f"{name}_starts", f"{crash.what} killed, starts of its job", crash.starts)
    if (line := row.part("e")) and line.survival:
        add("survivors", f"queue killed, come out of {line.survival.acknowledged:,}", line.survival.out)
    return metrics


def _cells(row: Row, ours: Row | None) -> list[str]:
    flush = "–" if row.flush_s is None else number_text(row.flush_s * 1e3)
    name = f"{row.name} ({row.versions})" if row.versions else row.name
    cells = [name, row.promise, flush]
    for part, cell in (("a", _rate), ("b", _start), ("b", _end), ("c", _waits), ("d", _crashes), ("e", _survival)):
        line = row.part(part)
        cells.append("–" if line is None or line.missing else line.same or cell(row, line, ours))
    return cells


def _rate(row: Row, line: Line, ours: Row | None) -> str:
    assert line.rate is not None
    ratio = f" ({ours.per_s / row.per_s:.1f} x)" if ours and row is not ours and ours.per_s and row.per_s else ""
    return number_text(row.per_s) + ratio


def _start(row: Row, line: Line, ours: Row | None) -> str:
    assert line.latency is not None
    start, base = line.latency.start, ours.start_p50_s if ours and row is not ours else None
    ratio = f" ({base / start.p50:.2g} x)" if base else ""
    return f"{number_text(start.p50 * 1e3)} / {number_text(start.p99 * 1e3)}{ratio}"


def _end(row: Row, line: Line, ours: Row | None) -> str:
    assert line.latency is not None
    return f"{number_text(line.latency.end.p50 * 1e3)} / {number_text(line.latency.end.p99 * 1e3)}"


def _waits(row: Row, line: Line, ours: Row | None) -> str:
    waits = line.waits
    assert waits is not None
    wait = waits.wait
    return f"{waits.busy * 100:.0f} %; {number_text(wait.p50 * 1e3)} / {number_text(wait.p99 * 1e3)}"


def _crashes(row: Row, line: Line, ours: Row | None) -> str:
    cells = [crash_text(crash) for crash in line.crashes]
    if len(cells) == 1:
        return cells[0]
    return "; ".join(f"{crash.what}: {text}" for crash, text in zip(line.crashes, cells, strict=True))


def crash_text(crash: Crash) -> str:
    """Describe the time until the next start, and the number of starts."""
    starts = "1 start" if crash.starts == 1 else f"{crash.starts} starts"
    if crash.again_s is not None:
        return f"{number_text(crash.again_s)} s, {starts}{'' if crash.ended else ', not ended'}"
    return f"never: {crash.given_up}" if crash.given_up else f"not within {crash.waited_s:.0f} s, {starts}"


def _survival(row: Row, line: Line, ours: Row | None) -> str:
    survival = line.survival
    assert survival is not None
    first = "" if survival.first_s is None else f", the first after {number_text(survival.first_s)} s"
    return f"{survival.out:,} of {survival.acknowledged:,}{first}{f' ({survival.note})' if survival.note else ''}"
