"""docs/benchmarks.md: one page from all reports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from bench.report import bars
from bench.report.report import Grid, Metric, Report, number_text

_HEAD = """# Benchmarks

Written by `python -m bench all`, which measures everything below on the machine it runs on; `python -m bench COMMAND --help` says
how each part is made, and each has its figures as JSON beside its picture. Latencies of a durable queue are the disk's: one flush
(`fdatasync` of 4 KiB) of the same directory, taken just before, stands beside them. Other queues are measured where they are installed:
`pip install .[peers]`, and redis-server (Debian: `apt-get install redis-server`). What was measured once, and longer, is in
[measurements](measurements.md)."""

_QUICK = "**These are quick runs: they show that the bench works, not how fast anything is.**"


class Section(Struct, frozen=True, kw_only=True):
    """Section of the page: a measurement's report, or the reason why there is none."""

    name: str
    report: Report | None
    problem: str = ""
    picture: str = ""
    took_s: float = 0.0
    #: Load average at its end.
    load: float | None = None


def render(sections: Sequence[Section], about: Mapping[str, Any], at: float, hot: str, *, quick: bool) -> str:
    """Markdown. `hot`: the profile's table, "" for none."""
    found = {
        section.name: {metric.key: metric.value for metric in section.report.metrics}
        for section in sections
        if section.report is not None
    }
    parts = [_HEAD]
    if quick:
        parts.append(_QUICK)
    parts += ["## Machine", _machine(about, at), "## Bars", bars.table(found)]
    if hot:
        parts += [
            "## Where the broker's time goes",
            "No-op jobs, watched by one edge, through codec, core and journal in one process without sockets, one message a pass"
            " (under load many share a commit); under a profiler, which makes calls dearer than they are.",
            hot,
        ]
    for section in sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


_BUSY = " **The machine was busy with other work: rates, latencies and bars were measured beside it and say little of a quiet one.**"


def _machine(about: Mapping[str, Any], at: float) -> str:
    busy = _BUSY if (about["load_1min"] or 0.0) > 0.5 * about["cores"] else ""
    versions = ", ".join(
        f"{name} {about[name]}" for name in ("zoetrope", "python", "pyzmq", "libzmq", "msgspec", "sqlite")
    )
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, {about['system']}; {versions}."
        f" {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(at))}, load average {number_text(about['load_1min'])} at the start.{busy}"
    )


def _section(section: Section) -> list[str]:
    if section.report is None:
        return [f"## {section.name}", f"Could not be measured: {section.problem}."]
    report = section.report
    parts = [
        f"## {section.name}",
        f"{report.title}. Took {section.took_s:.0f} s, load average {number_text(section.load)} at the end.",
        *([_grid(report.grid)] if report.grid else []),
        _table([metric for metric in report.metrics if metric.shown]),
    ]
    if report.warnings:
        parts.append("\n".join(f"- {_cell(warning)}" for warning in report.warnings))
    if section.picture:
        parts.append(f"![{section.name}]({section.picture})")
    return parts


def _table(metrics: Sequence[Metric]) -> str:
    lines = ["| | | |", "|---|---:|---|"]
    for metric in metrics:
        value = f"{number_text(metric.value)} {metric.unit}".rstrip()
        lines.append(f"| {_cell(metric.label)} | {value} | {_cell(metric.note)} |")
    return "\n".join(lines)


def _grid(grid: Grid) -> str:
    rows = [grid.head, ["---"] * len(grid.head), *grid.rows]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
