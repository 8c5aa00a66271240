"""Cost of parking for an engine, part by part: until it is free for another job, and until the job that it parked takes its next step.

What is measured runs in a child (`scripts/engine_parked.py`), which is the worker's engine without its service. What the service adds is a
message each way and one commit, as between any two jobs (`bench engine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec
from msgspec import Struct

from bench.harness.process import run_child
from bench.report.errors import BenchError
from bench.report.report import Metric


class Order(Struct, frozen=True, kw_only=True):
    """What the child is to park: so many jobs of the model's own size, each once, at a random moment of its denoising."""

    model: str
    parks: int
    seed: int = 0
    device: str = "cpu"
    threads: int = 0


class Park(Struct, frozen=True, kw_only=True):
    """One job that was parked, and went on. Seconds, each part from the end of the one before.

    From the request to the engine's answer: `step` (the one under way ends), `copied` (its state, to the host's memory), `written` (the
    file has its name), `left` (the pipeline is left, and the answer sent). `flushed`: until the disk has the file, beside what follows.
    From the next grant to the end of the first new step: `read` (up to the file's content in memory), `begun` (the pipeline has come to its
    loop), `passed` (steps are passed over and the state is put back), `stepped`.
    """

    kept: int
    step: float
    copied: float
    written: float
    left: float
    flushed: float
    read: float
    begun: float
    passed: float
    stepped: float

    @property
    def out(self) -> float:
        """From the end of the step to the engine's answer."""
        return self.copied + self.written + self.left

    @property
    def again(self) -> float:
        """From the grant to the beginning of the first new step."""
        return self.read + self.begun + self.passed


def run(order: Order) -> list[Park]:
    """Park and go on. Raises `BenchError`."""
    answer = run_child("scripts.engine_parked", order)
    if answer is None:
        raise BenchError("what parking costs could not be measured; why is said above")
    return msgspec.json.decode(answer, type=list[Park])


def metrics_of(parks: Sequence[Park]) -> list[Metric]:
    """Medians of all parts."""
    if not parks:
        return []

    def part(name: str, label: str) -> Metric:
        values = sorted(getattr(park, name) * 1e3 for park in parks)
        return Metric(f"park_{name}_ms", label, median(values), "ms", f"{values[0]:.1f} to {values[-1]:.1f}")

    a_step = median(park.passed / park.kept for park in parks) * 1e3
    return [
        Metric("parks", "jobs that were parked and went on", len(parks), "", "medians, least to most"),
        part("step", "from the word to the end of the step under way"),
        part("out", "from there to the engine's answer"),
        part("copied", "of this, copying the state"),
        part("written", "writing it"),
        part("left", "leaving the pipeline"),
        part("flushed", "beside what follows: until the disk has it"),
        part("again", "from the next grant to the first new step"),
        part("read", "of this, reading the state"),
        part("begun", "the pipeline up to its loop"),
        part("passed", "passing over the steps that were taken, and putting the state back"),
        Metric("park_passed_step_ms", "a step that is passed over", a_step, "ms"),
        part("stepped", "the first new step"),
    ]
