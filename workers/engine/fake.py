"""An engine without torch: draws real small files at once, and fails in every way an engine can, on request.

Its behaviour is chosen by the job's `extra` alone:

- `fake`: "slow", "fail", "invalid", "oom", "poison" (a fatal device error), "die" (exit), "segfault", "hang" (no sign of life, deaf
  to cancel), "ignore_cancel" (alive, deaf to cancel), "load_fail"; absent: draws without fault.
- `fake_step_s`: seconds a step takes (default 0; 0.1 when slow or deaf).
- `fake_at`: the step after which it happens (default: half of them); with `fake_in`: "postprocess", the frame.
- `fake_in`: "postprocess" for a fault while frames are decoded and written; "steps" (default) for one while they are drawn.
- `fake_frame_s`: seconds that each frame takes there (default 0).
- `fake_once`: path of a counter file; the fault happens in the first `fake_times` (default 1) attempts only.

A card whose `source` is "load_fail" cannot be loaded at all.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from broker.wire.job_files import preview_name
from broker.wire.jobspec import Artefact, JobSpec, ModelCard, Profile
from workers.engine.artefacts import Mp4Writer, Pixels, artefact_name, save_png
from workers.engine.base import Outcome, Stage
from workers.engine.errors import DeviceLost, EngineError, InvalidInput, LoadError, OutOfMemory
from workers.engine.peaks import Shape
from workers.engine.progress import Cancelled, Monitor
from workers.engine.recipes import file_recipe

BEHAVIOURS = (
    "slow",
    "fail",
    "invalid",
    "oom",
    "poison",
    "die",
    "segfault",
    "hang",
    "ignore_cancel",
    "load_fail",
)

_SLOW_STEP_S = 0.1
#: Exit status of "die": not one that a signal or Python gives.
DIE_STATUS = 42


class FakeEngine:
    """Draws a bar that crosses the picture, in a colour given by the seed."""

    def __init__(self) -> None:
        self._loaded = ""
        self._loras: tuple[str, ...] = ()

    def load(self, card: ModelCard, monitor: Monitor | None = None) -> None:
        if card.source == "load_fail":
            raise LoadError(f"model {card.name!r}: told not to load")
        self._loaded, self._loras = card.name, ()

    def loaded(self) -> str:
        return self._loaded

    def loaded_loras(self) -> tuple[str, ...]:
        return self._loras

    def free_cache(self) -> None:
        """Do nothing: there is no cache."""

    def resident(self, card: ModelCard, profile: Profile, shape: Shape) -> bool:
        return self._loaded == card.name

    def prepares(self, card: ModelCard, spec: JobSpec, beside: JobSpec) -> bool:
        return False

    def ran_out(self, card: ModelCard, spec: JobSpec, profile: Profile) -> bool:
        return False

    def generate(self, card: ModelCard, spec: JobSpec, out_dir: Path, monitor: Monitor, profile: Profile) -> Outcome:
        script = _Script(spec)
        if self._loaded != card.name:
            script.report(monitor.enter, "load")
            self.load(card)
        if script.behaviour == "load_fail":
            raise LoadError(f"model {card.name!r}: told not to load")
        self._loras = tuple(dict.fromkeys((*(use.name for use in spec.loras), *self._loras)))
        made: list[Artefact] = []
        for index in range(spec.num_outputs):
            last = index == spec.num_outputs - 1
            monitor.output(index, "save" if last else "denoise")
            _steps(spec, script, monitor, out_dir, index)
            decode = partial(_decode, card, spec, out_dir, index, script, monitor)
            if not last:
                made.append(decode())
        return Stage("host", lambda: (*made, decode()))


class _Script:
    """Script in a job's `extra`. Raises `InvalidInput` naming the key that makes no sense."""

    def __init__(self, spec: JobSpec) -> None:
        requested = str(spec.extra.get("fake") or "")
        if requested and requested not in BEHAVIOURS:
            raise InvalidInput(f"extra.fake: {requested!r} is not one of {', '.join(BEHAVIOURS)}")
        self.behaviour = "" if requested and self._used_up(spec) else requested
        self.deaf = self.behaviour == "ignore_cancel"
        slow = self.behaviour in ("slow", "ignore_cancel")
        self.step_s = _number(spec, "fake_step_s", _SLOW_STEP_S if slow else 0.0)
        place = spec.extra.get("fake_in", "steps")
        if place == "tail":  # the name in 0.1.0
            place = "postprocess"
        if place not in ("steps", "postprocess"):
            raise InvalidInput(f"extra.fake_in: {place!r} is not one of steps, postprocess")
        self.postprocessing = place == "postprocess"
        self.frame_s = _number(spec, "fake_frame_s", 0.0)
        self.at = int(
            _number(spec, "fake_at", (spec.num_frames if self.postprocessing else spec.num_inference_steps) // 2)
        )

    @staticmethod
    def _used_up(spec: JobSpec) -> bool:
        """Count this attempt; whether the attempts that fail are over."""
        counter = spec.extra.get("fake_once")
        if not counter:
            return False
        with open(str(counter), "ab") as file:
            attempts = file.tell()
            file.write(b".")
        return attempts >= int(_number(spec, "fake_times", 1))

    def report(self, call: Callable[..., None], *args: object) -> None:
        """Call the monitor; a deaf engine ignores the cancel in its answer."""
        try:
            call(*args)
        except Cancelled:
            if not self.deaf:
                raise

    def misbehave(self) -> None:
        """Do what the job requested."""
        match self.behaviour:
            case "fail":
                raise EngineError("told to fail")
            case "invalid":
                raise InvalidInput("prompt: told to refuse it")
            case "oom":
                raise OutOfMemory("told to run out of memory")
            case "poison":
                raise DeviceLost("told that the device is lost")
            case "die":
                os._exit(DIE_STATUS)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                while True:
                    time.sleep(3600)


def _number(spec: JobSpec, key: str, default: float) -> float:
    value = spec.extra.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise InvalidInput(f"extra.{key}: {value!r} is not a number of 0 or more")
    return float(value)


def _steps(spec: JobSpec, script: _Script, monitor: Monitor, out_dir: Path, index: int) -> None:
    script.report(monitor.enter, "encode")
    script.report(monitor.enter, "denoise", spec.num_inference_steps)
    for done in range(spec.num_inference_steps + 1):
        if done:
            time.sleep(script.step_s)
            _preview(spec, out_dir, index, done)
            script.report(monitor.step, done, spec.num_inference_steps)
        if not script.postprocessing and done == min(script.at, spec.num_inference_steps):
            script.misbehave()


def _preview(spec: JobSpec, out_dir: Path, index: int, done: int) -> None:
    """The picture, as bright as the job is done: at the steps at which a real engine would show it."""
    total = spec.num_inference_steps
    for number in range(1, spec.previews + 1):
        if done == total * number // (spec.previews + 1) and done:
            pixels = (_frame(spec, index, 0.5) * (done / total)).astype(np.uint8)
            save_png(out_dir, preview_name(index * spec.previews + number), pixels)


def _decode(card: ModelCard, spec: JobSpec, out_dir: Path, index: int, script: _Script, monitor: Monitor) -> Artefact:
    script.report(monitor.enter, "decode", spec.num_frames)
    embedded = file_recipe(card, spec, index, monitor)
    if spec.output == "image":
        pixels = _frame(spec, index, 0.5)
        time.sleep(script.frame_s)
        if script.postprocessing:
            script.misbehave()
        script.report(monitor.enter, "save")
        return save_png(out_dir, artefact_name("image", "png", index), pixels, embedded)
    with Mp4Writer(out_dir, artefact_name("video", "mp4", index), spec.fps, embedded=embedded) as writer:
        for number in range(spec.num_frames):
            writer.write(_frame(spec, index, (number + 0.5) / spec.num_frames)[np.newaxis])
            time.sleep(script.frame_s)
            if script.postprocessing and number == min(script.at, spec.num_frames - 1):
                script.misbehave()
            script.report(monitor.step, number + 1, spec.num_frames)
        script.report(monitor.enter, "save")
        return writer.finish()


def _frame(spec: JobSpec, index: int, where: float) -> Pixels:
    """Black, with a bar of the seed's colour at `where` (0 to 1) of the width."""
    colour = np.random.default_rng(spec.seed + index).integers(64, 256, 3, dtype=np.uint8)
    pixels = np.zeros((spec.height, spec.width, 3), dtype=np.uint8)
    bar = max(1, spec.width // 8)
    left = round(where * (spec.width - bar))
    pixels[:, left : left + bar] = colour
    return pixels
