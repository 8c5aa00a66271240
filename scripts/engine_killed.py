"""Kills an engine's process while it draws, again and again, and draws on from what it left.

Reads a JSON object from stdin (`bench.suites.renders.Order`), loads the model once, and draws every picture in a fork of this process,
with one thread. Forks are killed at random steps, at a random moment of that step; the next one goes on from the checkpoints. Prints what
each kill cost, whether the pixels are those of undisturbed pictures, and what the checkpoints of long pictures take.

    .venv/bin/python -m bench resume --renders 500
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
from msgspec import Struct
from PIL import Image

from bench.report.report import progress
from bench.suites.renders import Drawn, Kill, Order, Pair, Render, kill_of
from broker.wire.jobspec import JobSpec, ModelCard, encode_spec
from workers.engine.base import complete
from workers.engine.checkpoints import Checkpoints
from workers.engine.progress import Keeping, Monitor
from workers.engine.registry import Registry
from workers.engine.resuming import Resumption
from workers.ipc.messages import Setup
from workers.ipc.shared import SharedCounters, Slot
from workers.models.catalogue import model_for

_LOOK_S = 0.001
#: One of so many renders is killed a second time.
_TWICE = 4
#: How often a checkpoint is written to see what that takes.
_WRITES = 20


class Said(Struct, frozen=True, kw_only=True):
    """Outcome of a fork that came to its end."""

    pixels: str = ""
    resumed: int = 0
    cpu_s: float = 0.0
    checkpoints: int = 0
    bytes: int = 0
    copy_ms: float = 0.0
    write_ms: float = 0.0
    write_cpu_ms: float = 0.0
    error: str = ""


class Clocked(Slot):
    """A slot that notes when each denoising step was shown, and when the first began; readable from outside."""

    times: Any
    #: Processor seconds at the first and the last of them: what a process does once, before, is no part of a checkpoint's price.
    begun_s = ended_s = 0.0

    def report(self, phase: str, step: int, total: int) -> None:
        if phase == "denoise" and step < len(self.times):
            self.times[step] = time.monotonic()
            self.ended_s = time.process_time()
            self.begun_s = self.begun_s or self.ended_s
        super().report(phase, step, total)


class Fork:
    """One attempt at a picture, in a process of its own."""

    def __init__(self, studio: Studio, spec: JobSpec, place: Path, every_s: float, *, priced: bool = False) -> None:
        self._answer = place / "answer.json"
        self._answer.unlink(missing_ok=True)
        self._counters = SharedCounters.create()
        self.times: Any = memoryview(mmap.mmap(-1, 8 * 1024)).cast("d")
        self.pid = os.fork()
        if self.pid == 0:
            self._draw(studio, spec, place, every_s, priced=priced)

    def _draw(self, studio: Studio, spec: JobSpec, place: Path, every_s: float, *, priced: bool) -> None:
        try:
            slot: Any = self._counters.slots[0]
            slot.__class__ = Clocked
            slot.times = self.times
            said = studio.draw(spec, place, slot, every_s, priced=priced)
        except BaseException as error:  # a fork ends here, whatever it met
            traceback.print_exc()
            said = Said(error=f"{type(error).__name__}: {error}")
        part = self._answer.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(said))
        part.rename(self._answer)
        os._exit(0)

    @property
    def step(self) -> int:
        """Denoising steps that are done; -1 before the first begins."""
        shown = self._counters.progress()[0]
        if shown.phase in ("decode", "save"):
            return int(np.flatnonzero(self.times)[-1])
        return shown.step if shown.phase == "denoise" else -1

    @property
    def ended(self) -> bool:
        """Whether the process is gone; it is reaped then."""
        return self.pid == 0 or self._reap(os.WNOHANG)

    def wait(self) -> Said:
        """The outcome, at its end."""
        if self.pid:
            self._reap(0)
        try:
            return msgspec.json.decode(self._answer.read_bytes(), type=Said)
        except OSError:
            return Said(error="it ended without a word")

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap(0)

    def _reap(self, how: int) -> bool:
        if os.waitpid(self.pid, how)[0]:
            self.pid = 0
        return self.pid == 0


class Studio:
    """The model, loaded, and the engine that draws with it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        model = model_for(order.model, "measured", {})
        self.card: ModelCard = model.card
        setup = Setup(
            models=(self.card,), preload=self.card.name, device="cpu", threads=1, setups={self.card.name: model.setup}
        )
        self._registry = Registry(setup)
        self._engine: Any = self._registry.engine(self.card)
        self._engine.load(self.card)

    def spec(self, seed: int, steps: int, side: int) -> JobSpec:
        """The picture of this seed."""
        usual = self.card.defaults
        return JobSpec(
            model=self.card.name, output="image", prompt="a red circle moving right on a black background", width=side, height=side,
            num_frames=1, fps=usual.fps, seed=seed, guidance_scale=usual.guidance_scale, num_inference_steps=steps,
            max_sequence_length=usual.max_sequence_length,
        )  # fmt: skip

    def draw(self, spec: JobSpec, place: Path, slot: Clocked, every_s: float, *, priced: bool) -> Said:
        """Draw here; the checkpoints lie in `place / "kept"`. `every_s` 0: there are none. `priced`: see what they take."""
        out = place / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        slot.begin(1)
        monitor = Monitor(slot, 1, 1, self._registry.meter)
        if every_s:
            request = hashlib.sha256(encode_spec(spec)).hexdigest()
            monitor.keeping = Keeping(str(place / "kept"), every_s, request)
        with watched() as seen:
            [made] = complete(self._engine.generate(self.card, spec, out, monitor, "normal"))
        with Image.open(out / made.name) as image:
            pixels = hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
        resumed = monitor.used.get("resumed", "").removeprefix("after step ").split(" ")[0]
        cpu_s = slot.ended_s - slot.begun_s
        said = Said(pixels=pixels, resumed=int(resumed) if resumed.isdigit() else 0, cpu_s=cpu_s)
        return msgspec.structs.replace(said, **seen.price(place / "priced")) if priced and seen.kept else said


class Seen:
    """The checkpoints of one picture."""

    def __init__(self) -> None:
        self.kept: list[tuple[Any, Any]] = []
        self.copies_ms: list[float] = []

    def price(self, place: Path) -> dict[str, float]:
        """Times of the checkpoints, and of writing the last one again."""
        state, binding = self.kept[-1]
        checkpoints = Checkpoints(place, 0.0)
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        for _ in range(_WRITES):
            checkpoints.keep_now(state, binding)
        took_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
        return {
            "checkpoints": len(self.kept),
            "bytes": max(path.stat().st_size for path in place.iterdir()),
            "copy_ms": median(self.copies_ms),
            "write_ms": took_s / _WRITES * 1e3,
            "write_cpu_ms": cpu_s / _WRITES * 1e3,
        }


@contextlib.contextmanager
def watched() -> Iterator[Seen]:
    """Note the checkpoints that are taken inside the block."""
    seen = Seen()
    own_keep, own_ended = Checkpoints.keep, Resumption.step_ended

    def keep(self: Checkpoints, state: Any, binding: Any) -> None:
        seen.kept.append((state, binding))
        own_keep(self, state, binding)

    def step_ended(self: Resumption, *args: Any) -> Any:
        before, begun_s = len(seen.kept), time.perf_counter()
        answer = own_ended(self, *args)
        if len(seen.kept) > before:
            seen.copies_ms.append((time.perf_counter() - begun_s) * 1e3)
        return answer

    with patch.object(Checkpoints, "keep", keep), patch.object(Resumption, "step_ended", step_ended):
        yield seen


class Killing:
    """One picture whose process is killed once or twice, until it is there."""

    def __init__(self, studio: Studio, number: int, place: Path, pixels: list[str], draw: random.Random) -> None:
        order = studio.order
        self._studio, self._draw, self._place = studio, draw, place
        self._spec = studio.spec(number % order.seeds, order.steps, order.side)
        self._pixels = pixels[number % order.seeds]
        self._todo = 2 if draw.randrange(_TWICE) == 0 else 1
        #: The kill of which it is not known yet where the next fork went on: when each step was done, when it was, what was kept then.
        self._struck: tuple[list[float], float, int] | None = None
        self._kills: list[Kill] = []
        self.render: Render | None = None
        self._fork = self._start()

    def _start(self) -> Fork:
        self._at = self._draw.randrange(self._studio.order.steps + 1)
        self._after: float | None = None
        return Fork(self._studio, self._spec, self._place, self._studio.order.checkpoint_s)

    def look(self) -> bool:
        """Take the next step of the picture; return whether it is over."""
        if self._fork.ended:
            self._ended(self._fork.wait())
        elif self._todo and self._after is None and self._fork.step >= self._at:
            self._after = time.monotonic() + self._draw.random() * self._step_s(list(self._fork.times))
        elif self._after is not None and time.monotonic() >= self._after:
            self._strike()
        return self.render is not None

    def _strike(self) -> None:
        at = time.monotonic()
        self._fork.kill()
        if self._fork.wait().error == "":  # it was done before
            return
        self._todo, self._after = self._todo - 1, None
        self._settle(resumed=None)
        self._struck = (list(self._fork.times[: self._studio.order.steps + 1]), at, self._newest())
        self._fork = self._start()

    def _newest(self) -> int:
        """The step of the newest checkpoint; 0: there is none."""
        names = [path.stem for path in (self._place / "kept").glob("0-*.safetensors")]
        return max((int(name.removeprefix("0-")) for name in names), default=0)

    def _settle(self, resumed: int | None) -> None:
        """The kill before: where its job went on. Killed again before it could say so, it went on from what lay there at that kill."""
        if self._struck is not None:
            times, at, newest = self._struck
            resumed = newest if resumed is None else resumed
            self._kills.append(kill_of(times, at, resumed, self._studio.order.checkpoint_s))
            self._struck = None

    @staticmethod
    def _step_s(times: list[float]) -> float:
        """A usual step, within one of which the kill comes."""
        shown = [at for at in times if at]
        return median([after - before for before, after in itertools.pairwise(shown)] or [0.05])

    def _ended(self, said: Said) -> None:
        if self._todo and not said.error:
            # It was done before it could be killed: once more, from the beginning.
            shutil.rmtree(self._place / "kept", ignore_errors=True)
            self._settle(said.resumed)
            self._fork = self._start()
            return
        self._settle(said.resumed)
        self.render = Render(kills=self._kills, same=said.pixels == self._pixels, error=said.error)
        shutil.rmtree(self._place)


def pairs(studio: Studio, place: Path) -> Iterator[Pair]:
    """Long pictures with checkpoints and without, in turn."""
    order = studio.order
    for number in range(order.pairs):
        said: dict[bool, Said] = {}
        times: list[float] = []
        for keeps in (True, False) if number % 2 else (False, True):
            progress(f"a picture {'with' if keeps else 'without'} checkpoints, pair {number + 1} of {order.pairs}")
            own = place / f"pair-{number}-{keeps}"
            own.mkdir()
            spec = studio.spec(0, order.pair_steps, order.pair_side)
            fork = Fork(studio, spec, own, order.pair_checkpoint_s if keeps else 0.0, priced=keeps)
            said[keeps] = fork.wait()
            if said[keeps].error:
                raise SystemExit(f"an undisturbed picture failed: {said[keeps].error}")
            times = [at for at in fork.times if at]
        one = said[True]
        yield Pair(
            with_s=one.cpu_s, without_s=said[False].cpu_s, step_s=(times[-1] - times[0]) / (len(times) - 1),
            checkpoints=one.checkpoints, bytes=one.bytes, copy_ms=one.copy_ms, write_ms=one.write_ms, write_cpu_ms=one.write_cpu_ms,
        )  # fmt: skip


def measure(order: Order) -> Drawn:
    """Draw all pictures."""
    studio = Studio(order)
    draw = random.Random(order.seed)
    with tempfile.TemporaryDirectory() as base:
        place = Path(base)
        priced = list(pairs(studio, place))
        pixels = []
        for seed in range(order.seeds if order.renders else 0):
            own = place / f"calm-{seed}"
            own.mkdir()
            calm = Fork(studio, studio.spec(seed, order.steps, order.side), own, 0.0).wait()
            if calm.error:
                raise SystemExit(f"an undisturbed picture failed: {calm.error}")
            pixels.append(calm.pixels)
        found: list[Render] = []
        running: list[Killing] = []
        begun = 0
        while len(found) < order.renders:
            while begun < order.renders and len(running) < order.at_once:
                own = place / f"render-{begun}"
                own.mkdir()
                running.append(Killing(studio, begun, own, pixels, draw))
                begun += 1
            for one in [one for one in running if one.look()]:
                running.remove(one)
                assert one.render is not None
                found.append(one.render)
                if len(found) % 20 == 0:
                    progress(f"kill -9 of what draws a picture, {len(found)} of {order.renders}")
            time.sleep(_LOOK_S)
    return Drawn(renders=found, pairs=priced)


def main(run: Callable[[Order], Drawn] = measure) -> int:
    """Measure what the JSON on stdin describes."""
    logging.disable(logging.WARNING)
    found = run(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
