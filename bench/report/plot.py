"""A report's panels as one PNG, side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

# The object interface: pyplot would look for a display and keep global state.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report.report import Panel, Report
from bench.report.stats import percentile

#: Points of a drawn distribution: more cannot be distinguished on paper.
_POINTS = 400
_INCHES = (5.5, 4.0)
#: Names of bars longer than this would overlap side by side: such bars lie.
_LONG_NAME = 10


def distribution(title: str, x_label: str, values: Mapping[str, Sequence[float]], log_x: bool = False) -> Panel:
    """The cumulative share of each series' values; empty series are left out."""
    shares = [number / (_POINTS - 1) for number in range(_POINTS)]
    series = {}
    for name, raw in values.items():
        ordered = sorted(raw)
        if ordered:
            series[name] = ([percentile(ordered, share) for share in shares], shares)
    return Panel(title=title, x_label=x_label, y_label="share of jobs", log_x=log_x, series=series)


def bars(title: str, y_label: str, values: Mapping[str, float]) -> Panel:
    """Draw a bar for each name."""
    series = {name: ([0.0], [value]) for name, value in values.items()}
    return Panel(title=title, kind="bar", y_label=y_label, series=series)


def render(report: Report, caption: str) -> bytes:
    """The report's panels as a PNG."""
    count = max(1, len(report.panels))
    figure = Figure(figsize=(_INCHES[0] * count, _INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.title}\n{caption}", fontsize=9)
    for number, panel in enumerate(report.panels, start=1):
        _draw(figure.add_subplot(1, count, number), panel)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw(ax: Any, panel: Panel) -> None:
    ax.set_title(panel.title, fontsize=10)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    if panel.kind == "bar":
        values = [ys[0] for _, ys in panel.series.values()]
        if max(map(len, panel.series), default=0) > _LONG_NAME:
            ax.barh(list(panel.series), values)
            ax.invert_yaxis()
            ax.set_xlabel(panel.y_label)
            ax.set_ylabel("")
        else:
            ax.bar(list(panel.series), values)
        return
    for name, (xs, ys) in panel.series.items():
        ax.plot(xs, ys, label=name, drawstyle="steps-post" if panel.kind == "steps" else "default")
    if panel.log_x and all(xs and xs[0] > 0 for xs, _ in panel.series.values()):
        ax.set_xscale("log")
    ax.grid(visible=True, alpha=0.3)
    if panel.series:
        ax.legend(fontsize=8)
