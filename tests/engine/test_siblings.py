"""A text-to-video model whose weights also continue a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from broker.wire.jobspec import ModelCard
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import written
from workers.engine.base import complete
from workers.engine.progress import Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot


def draw(engine: VideoEngine, card: ModelCard, slot: Slot, out: Path, image: str = "") -> np.ndarray:
    out.mkdir()
    spec = spec_for(card, image=image, prompt="a blue square moving right on a white background")
    monitor = Monitor(slot, 1, 1, engine.pipelines.device.meter)
    return written(lambda: complete(engine.generate(card, spec, out, monitor, "normal")))


def test_a_clip_begins_with_its_picture_and_the_next_job_draws_from_text_again(
    video_engine: VideoEngine, demo_card: ModelCard, slot: Slot, tmp_path: Path
) -> None:
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[24:44, 8:28] = (0, 0, 255)
    path = tmp_path / "first.png"
    Image.fromarray(picture).save(path)

    before = draw(video_engine, demo_card, slot, tmp_path / "before")
    continued = draw(video_engine, demo_card, slot, tmp_path / "continued", str(path))
    after = draw(video_engine, demo_card, slot, tmp_path / "after")

    assert np.abs(continued[0].astype(int) - picture).mean() < 6
    assert np.abs(before[0].astype(int) - picture).mean() > 6
    assert np.array_equal(before, after)
