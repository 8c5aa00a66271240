"""How long a device stands idle when one job follows another: the part of a hand-over in which no model computes.

What is measured runs in a child (`scripts/engine_idle.py`), which is the worker's engine without its service; the time that the service
takes to bring the next job is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bench.harness.process import run_child
from bench.report.errors import BenchError


class Order(Struct, frozen=True, kw_only=True):
    """What the child is to measure."""

    model: str
    device: str = "cpu"
    threads: int = 0
    jobs: int = 8
    #: Seconds from the engine's request for a job to the grant.
    after_s: float = 0.0


class Span(NamedTuple):
    """One call of a model, in seconds."""

    what: str
    begin: float
    end: float


def idle_ms(spans: Sequence[Span], forwards: int) -> list[float]:
    """Milliseconds of each hand-over in which no span is. A job has so many spans of the denoiser."""
    steps = sorted(span for span in spans if span.what == "denoiser")
    found = []
    for first in range(forwards, len(steps), forwards):
        begin, until = steps[first - 1].end, steps[first].begin
        idle, at = 0.0, begin
        for span in sorted(spans, key=lambda span: span.begin):
            if span.end <= begin or span.begin >= until:
                continue
            idle += max(0.0, span.begin - at)
            at = max(at, span.end)
        found.append((idle + max(0.0, until - at)) * 1e3)
    return found


def run(order: Order) -> list[float]:
    """Milliseconds of each hand-over. Raises `BenchError`."""
    answer = run_child("scripts.engine_idle", order)
    if answer is None:
        raise BenchError(f"idle time between jobs of {Path(order.model).name} could not be measured; why is said above")
    return msgspec.json.decode(answer, type=list[float])
