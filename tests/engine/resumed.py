"""A tiny pipeline whose jobs are interrupted and drawn again; time is what its denoiser computes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.wire.jobspec import JobSpec
from tests.engine.conftest import spec_for
from tests.engine.families import parts
from tests.engine.raw_frames import tapped
from tests.engine.scripted import CancelAt, Recorder
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.image import ImageEngine
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Cancelled, Keeping, Monitor, Parked
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot
from workers.models.catalogue import model_for

STEPS = 6


class Rig:
    """A tiny pipeline, and the engine that draws its jobs; `place / "kept"` is where a job's checkpoints lie."""

    def __init__(self, place: Path, pipe: Any, table: dict[str, Any] | None = None) -> None:
        self.place = place
        parts.wake(pipe)
        pipe.save_pretrained(place / "model")
        self.model = model_for(str(place / "model"), "m", table or {})
        self.start()
        self.kept = place / "kept"
        self.used: dict[str, str] = {}
        self.asked = self.ticks = 0

    def start(self) -> None:
        """Load the model anew, as another engine does."""
        self.pipelines = Pipelines(Device("cpu", "float32", threads=1), {"m": self.model.setup})
        kind = VideoEngine if self.model.card.output == "video" else ImageEngine
        self.engine = kind(self.pipelines)

    def spec(self, **changes: Any) -> JobSpec:
        limits = self.model.card.limits
        frames = 5 if self.model.card.output == "video" else 1
        sides = {"width": limits.min_side, "height": limits.min_side, "num_frames": frames}
        return spec_for(self.model.card, **{**sides, "prompt": "a red circle", "num_inference_steps": STEPS, **changes})

    def draw(
        self, slot: Slot | None = None, every_s: float = 0.0, request: str = "r", park_at: int = 0, **changes: Any
    ) -> list[Any]:
        """The raw frames of each output of a job; `used` and the number of the denoiser's answers stay behind."""
        out = self.place / "out"
        out.mkdir(exist_ok=True)
        self.slot = slot or Recorder.recording()
        spec = self.spec(**changes)
        # Time is what the denoiser computes.
        monitor = Monitor(self.slot, 1, spec.num_outputs, self.pipelines.device.meter, lambda: float(self.ticks))
        monitor.keeping = Keeping(str(self.kept), every_s, request, park_at)
        try:
            with tapped() as frames, self._counted():
                made = complete(self.engine.generate(self.model.card, spec, out, monitor, "normal"))
        finally:
            monitor.keeping.settle()
            self.used, self.monitor = monitor.used, monitor
            self.denoise_s = monitor.times.durations()["denoise"]
        if frames:
            return [np.concatenate(clip) for _, clip in sorted(frames.items())]
        return [np.asarray(Image.open(out / one.name)) for one in made]

    def stop_after(self, step: int, **changes: Any) -> None:
        """Interrupt a job once this step is shown. `step` counts those of all outputs."""
        with pytest.raises(Cancelled):
            self.draw(CancelAt.at("denoise", step, 1), **changes)

    def park(self, slot: Slot | None = None, park_at: int = 0, every_s: float = math.inf, **changes: Any) -> int:
        """Draw a job until it ends as parked, as its slot asks or at a step: the steps that lie in a checkpoint then."""
        with pytest.raises(Parked) as parked:
            self.draw(slot, every_s, park_at=park_at, **changes)
        assert self.slot.progress().kept == parked.value.kept
        return parked.value.kept

    def files(self) -> list[str]:
        return sorted(path.name for path in self.kept.iterdir()) if self.kept.is_dir() else []

    def forget(self) -> None:
        for path in self.kept.iterdir() if self.kept.is_dir() else ():
            path.unlink()

    def _counted(self) -> Any:
        """Counts, in `asked`, how often the denoiser really computes."""
        pipe = self.pipelines.get(self.model.card)
        block = next(iter((pipe.transformer if hasattr(pipe, "transformer") else pipe.unet).children()))
        rig = self
        rig.asked = 0

        class Counted:
            def __enter__(self) -> None:
                def count(*_: Any) -> None:
                    rig.asked += 1
                    rig.ticks += 1

                self.handle = block.register_forward_hook(count)

            def __exit__(self, *_: object) -> None:
                self.handle.remove()

        return Counted()


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
