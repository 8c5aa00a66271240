"""The demo model's own LoRA, by its name and from its table: what it was trained for shows in the frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from broker.wire.loras import LoraUse
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import tapped
from tests.engine.scripted import Recorder
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Monitor
from workers.engine.video import VideoEngine
from workers.models.catalogue import default_model, model_for

Clip = npt.NDArray[np.uint8]
PROMPT = "a yellow square growing on a navy background"


@pytest.fixture(scope="module")
def clips(device: Device, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clip]:
    """Raw frames `(17, 64, 64, 3)` of one prompt and seed, in the order in which they were drawn."""
    model = model_for(str(default_model()))
    engine = VideoEngine(Pipelines(device, {model.card.name: model.setup}))

    def draw(*loras: LoraUse) -> Any:
        monitor = Monitor(Recorder.recording(), 1, 1, engine.pipelines.device.meter)
        spec = spec_for(model.card, prompt=PROMPT, seed=3, loras=loras)
        place: Path = tmp_path_factory.mktemp("clip")
        with tapped() as frames:
            complete(engine.generate(model.card, spec, place, monitor, "normal"))
        return np.concatenate(next(iter(frames.values())))

    scales = {"half": 0.5, "whole": 1.0, "none": 0.0}
    return {"plain": draw()} | {name: draw(LoraUse(name="boomerang", scale=scale)) for name, scale in scales.items()}


def yellow(frame: Clip) -> int:
    """Number of pixels that are more yellow than navy."""
    red, _, blue = np.moveaxis(frame.astype(int), -1, 0)
    return int((red > blue).sum())


def test_its_name_is_on_the_card() -> None:
    model = model_for(str(default_model()))
    assert model.card.loras["boomerang"].components == ("transformer",)
    assert Path(model.setup.loras["boomerang"].files["transformer"]).stat().st_size <= 300_000


def test_what_grows_shrinks_again_with_it(clips: dict[str, Clip]) -> None:
    plain, whole = ([yellow(clips[name][at]) for at in (0, 8, 16)] for name in ("plain", "whole"))
    assert plain[0] < plain[1] < plain[2]
    assert whole[0] < whole[1]
    assert whole[2] < 0.9 * whole[1]


def test_a_scale_between_lies_between_and_none_leaves_no_trace(clips: dict[str, Clip]) -> None:
    last = {name: yellow(clip[16]) for name, clip in clips.items()}
    assert last["whole"] < last["half"] < last["plain"]
    assert np.array_equal(clips["none"], clips["plain"])
