"""Cost of parking a job for an engine, and of going on with it.

Reads a JSON object from stdin (`bench.suites.parking.Order`), draws jobs of the model's own size through the worker's runner, parks each at
a random moment of its denoising and gives it to the engine again at once. Prints the seconds of each part (`bench.suites.parking.Park`).

    .venv/bin/python -m bench resume --renders 0 --long-pairs 0 --kills 0 --parks 12
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from msgspec import Struct

from bench.report.report import progress
from bench.suites.parking import Order, Park
from broker.wire.jobspec import JobSpec, encode_spec
from workers.engine.checkpoints import Checkpoints
from workers.engine.loop import SWITCH_S
from workers.engine.registry import Registry
from workers.engine.resuming import Resumption
from workers.engine.runner import Runner
from workers.ipc.messages import JobFinished, JobParked, RunJob, Setup
from workers.ipc.shared import SharedCounters, Slot
from workers.models.catalogue import model_for


class Marks:
    """Times at which the parts of one attempt ended, by the clock; of each the first time."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.flushed_s = 0.0

    def set(self, what: str) -> None:
        """Note the end of a part."""
        self.at.setdefault(what, time.perf_counter())

    def between(self, first: str, last: str) -> float:
        """Seconds from one to the other."""
        return self.at[last] - self.at[first]


@contextlib.contextmanager
def marked(marks: Marks) -> Iterator[None]:
    """Note the parts of an attempt inside the block."""

    def after(owner: Any, name: str, what: str) -> Any:
        own = getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            answer = own(*args, **kwargs)
            marks.set(what)
            return answer

        return patch.object(owner, name, noted)

    own_ended, own_keep, own_fsync = Resumption.step_ended, Checkpoints.keep_now, os.fsync

    def step_ended(self: Resumption, step: int, *args: Any) -> Any:
        if "put back" in marks.at:
            marks.set("new step")
        if self._monitor.park_requested():
            marks.set("step")
        return own_ended(self, step, *args)

    def keep_now(self: Checkpoints, *args: Any) -> bool:
        marks.set("copied")
        answer = own_keep(self, *args)
        marks.set("kept")
        return answer

    def fsync(descriptor: int) -> None:
        begun_s = time.perf_counter()
        own_fsync(descriptor)
        marks.flushed_s += time.perf_counter() - begun_s

    with (
        patch.object(Resumption, "step_ended", step_ended),
        patch.object(Checkpoints, "keep_now", keep_now),
        patch.object(os, "fsync", fsync),
        after(Checkpoints, "find", "read"),
        after(Resumption, "begin", "loop"),
        after(Resumption, "_put_back", "put back"),
    ):
        yield


class Studio:
    """The model, loaded, and the runner that draws with it."""

    def __init__(self, order: Order) -> None:
        model = model_for(order.model, "measured", {})
        self._card = model.card
        setup = Setup(
            models=(self._card,), preload=self._card.name, device=order.device, threads=order.threads,
            setups={self._card.name: model.setup},
        )  # fmt: skip
        registry = Registry(setup)
        registry.engine(self._card).load(self._card)
        self._counters = SharedCounters.create()
        self._answers: list[Struct] = []
        self._answered = threading.Semaphore(0)
        self._marks = Marks()
        self._runner = Runner(
            registry, {self._card.name: self._card}, self._counters, self._send, lambda: None, checkpoint_s=1e6
        )
        self._fence = 0

    @property
    def steps(self) -> int:
        """Denoising steps of a job."""
        return self._card.defaults.num_inference_steps

    def spec(self, seed: int) -> JobSpec:
        """A job of the model's own size."""
        usual = self._card.defaults
        return JobSpec(
            model=self._card.name, output=self._card.output, prompt="a red circle moving right on a black background",
            width=usual.width, height=usual.height, num_frames=usual.num_frames, fps=usual.fps, seed=seed,
            guidance_scale=usual.guidance_scale, num_inference_steps=usual.num_inference_steps,
            max_sequence_length=usual.max_sequence_length,
        )  # fmt: skip

    def _send(self, message: Struct) -> None:
        if isinstance(message, JobParked | JobFinished):
            self._marks.set("answered")
            self._answers.append(message)
            self._answered.release()
        elif "Failed" in type(message).__name__:
            raise SystemExit(f"a job did not end well: {message}")

    def attempt(self, spec: JobSpec, place: Path, kept: int = 0, park_after: float = 0.0) -> tuple[Marks, Struct]:
        """Draw; `park_after` so many steps, and a part of the next, the job is wanted back (0.0: it is not)."""
        self._fence += 1
        out = place / str(self._fence)
        out.mkdir()
        job = RunJob(
            job_id="parked", fence=self._fence, body=encode_spec(spec), out_dir=str(out), checkpoints=str(place / "kept"), kept=kept
        )  # fmt: skip
        self._marks = Marks()
        with marked(self._marks), self._parked(park_after) if park_after else contextlib.nullcontext():
            self._marks.set("begun")
            self._runner.run(job)
            self._answered.acquire()
            for writing in [one for one in threading.enumerate() if one.name == "checkpoint"]:
                writing.join()
        return self._marks, self._answers[-1]

    @contextlib.contextmanager
    def _parked(self, after: float) -> Iterator[None]:
        """Request the job back inside the block, within the step behind so many."""
        slot, own, shown = self._counters.slots[0], Slot.report, dict[int, float]()

        def request() -> None:
            self._marks.set("word")
            slot.request_park(self._fence)

        def report(self: Slot, phase: str, step: int, total: int) -> None:
            own(self, phase, step, total)
            if phase != "denoise" or step in shown:
                return
            shown[step] = time.perf_counter()
            if step == int(after):
                threading.Timer(after % 1 * (shown[step] - shown[0]) / step, request).start()

        with patch.object(Slot, "report", report):
            yield


def measure(order: Order) -> list[Park]:
    """Park so many jobs."""
    studio = Studio(order)
    sys.setswitchinterval(SWITCH_S)
    draw = random.Random(order.seed)
    found: list[Park] = []
    with tempfile.TemporaryDirectory() as base:
        # The first warms up.
        for number in itertools.count():
            if len(found) > order.parks:
                break
            progress(f"a job is parked, {len(found) + 1} of {order.parks + 1}")
            place = Path(base, str(number))
            place.mkdir()
            out, parked = studio.attempt(studio.spec(number), place, park_after=draw.uniform(1.0, studio.steps - 2.0))
            if not isinstance(parked, JobParked):  # it was done before
                continue
            again, _ = studio.attempt(studio.spec(number), place, kept=parked.kept)
            found.append(park_of(parked.kept, out, again))
    return found[1:]


def park_of(kept: int, out: Marks, again: Marks) -> Park:
    """The parts of one parking."""
    return Park(
        kept=kept,
        step=out.between("word", "step"),
        copied=out.between("step", "copied"),
        written=out.between("copied", "kept"),
        flushed=out.flushed_s,
        left=out.between("kept", "answered"),
        read=again.between("begun", "read"),
        begun=again.between("read", "loop"),
        passed=again.between("loop", "put back"),
        stepped=again.between("put back", "new step"),
    )


def main() -> int:
    """Measure what the JSON on stdin describes."""
    logging.disable(logging.WARNING)
    found = measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
