"""How long a device stands idle when one job follows another: the part of a hand-over in which no model computes.

What is measured runs in a child (`scripts/engine_idle.py`), which is the worker's engine without its service; the time that the service
takes to bring the next job is given.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from bench.harness.process import ROOT, clean_environ
from bench.report.errors import BenchError

_CHILD_S = 3_600.0


class Order(Struct, frozen=True, kw_only=True):
    """What the child is to measure."""

    model: str
    device: str = "cpu"
    threads: int = 0
    jobs: int = 8
    #: Seconds from the engine's asking for a job to its being given one.
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
    done = subprocess.run(
        [sys.executable, "-m", "scripts.engine_idle"],
        input=msgspec.json.encode(order),
        env={**clean_environ(), "OMP_WAIT_POLICY": "PASSIVE"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=_CHILD_S,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"idle time between jobs of {Path(order.model).name} could not be measured; why is said above")
    return msgspec.json.decode(done.stdout, type=list[float])
