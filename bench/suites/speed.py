"""Ways to make a model quicker, side by side in one process on one device: seconds, memory, ratio to the plain model, difference of pixels.

What is measured runs in a child (`scripts/engine_speed.py`), which is the worker's engine without its service. Ratios are of one run alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench.harness.process import run_child
from bench.harness.procs import cores
from bench.report.errors import BadPlan, BenchError
from bench.report.report import Grid, Metric, Report, progress

#: A cache does nothing in fewer than twelve.
_STEPS = 12


class Order(Struct, frozen=True, kw_only=True):
    """Order to the child to measure; no variants: all."""

    model: str
    device: str = "cpu"
    threads: int = 0
    steps: int = _STEPS
    size: tuple[int, ...] | None = None
    variants: tuple[str, ...] = ()


class Row(Struct, kw_only=True):
    """Figures of a variant, as the child sends them. Times are seconds, memory MB; the ratio is of whole jobs; pixels are of 255."""

    variant: str
    error: str = ""
    steps: int = 0
    step_s: float = 0.0
    decode_s: float = 0.0
    whole_s: float = 0.0
    first_s: float = 0.0
    peak_mb: float = 0.0
    ratio: float = 0.0
    mean_pixel: float = 0.0
    worst_pixel: int = 0
    used: dict[str, str] = {}


def run(model: Path, names: str, size: str, steps: int, *, on_gpu: bool) -> list[Row]:
    """A row a variant, the plain model's first. Raises `BenchError`."""
    sides = re.fullmatch(r"(\d+)x(\d+)x(\d+)", size)
    if size and sides is None:
        raise BadPlan(f"--size: {size!r} must be WIDTHxHEIGHTxFRAMES")
    order = Order(
        model=str(model),
        device="cuda" if on_gpu else "cpu",
        threads=0 if on_gpu else len(cores()),
        steps=steps or _STEPS,
        size=tuple(int(side) for side in sides.groups()) if sides else None,
        variants=() if names == "all" else tuple(name.strip() for name in names.split(",")),
    )
    progress(f"variants of {model.name}: {names}")
    answer = run_child("scripts.engine_speed", order)
    if answer is None:
        raise BenchError("no variant could be measured; why is said above")
    return msgspec.json.decode(answer, type=list[Row])


def report_of(names: str, rows: Sequence[Row], plan: Struct) -> Report:
    """The variants as a grid, and their ratios as figures."""
    settings: dict[str, Any] = msgspec.to_builtins(plan)
    made = [row for row in rows if not row.error]
    return Report(
        bench="engine-speed",
        title=f"engine: {names} beside the plain model",
        settings=settings,
        metrics=[
            Metric(
                f"ratio_{row.variant.replace('-', '_')}",
                f"{row.variant} over the plain model",
                row.ratio,
                "x",
                shown=False,
            )
            for row in made
        ],
        grid=Grid(
            head=[
                "variant",
                "steps",
                "s a step",
                "decode s",
                "whole s",
                "first s",
                "peak MB",
                "ratio",
                "pixels apart, mean",
                "worst",
            ],
            rows=[_cells(row) for row in rows],
        ),
        warnings=[f"{row.variant}: {row.error}" for row in rows if row.error],
    )


def _cells(row: Row) -> list[str]:
    if row.error:
        return [row.variant, *["-"] * 9]
    times = [f"{row.step_s:.4f}", f"{row.decode_s:.3f}", f"{row.whole_s:.3f}", f"{row.first_s:.2f}"]
    return [
        row.variant,
        str(row.steps),
        *times,
        f"{row.peak_mb:.0f}",
        f"{row.ratio:.2f}",
        f"{row.mean_pixel:.2f}",
        str(row.worst_pixel),
    ]
