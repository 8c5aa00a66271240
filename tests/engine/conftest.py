"""What the engine's tests share: the tiny models, one loaded engine process, one loaded demo pipeline."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

# Read when torch loads its OpenMP: two busy test processes on two cores must not spin against each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from broker.wire.jobspec import JobSpec, ModelCard
from tests.engine import tiny
from tests.engine.child import Child
from tests.engine.scripted import blank
from tests.engine.scripted_runner import Bench
from tests.support.waiting import wait_until
from workers.engine.device import Device
from workers.engine.memory import ProcessMemory
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Monitor
from workers.engine.video import VideoEngine
from workers.ipc.messages import Ready
from workers.ipc.shared import Slot
from workers.models.catalogue import card_for, default_model


def spec_for(card: ModelCard, **changes: object) -> JobSpec:
    """The job that a request with only a prompt becomes, with changes."""
    defaults = card.defaults
    fields: dict[str, object] = {
        "model": card.name,
        "output": card.output,
        "prompt": "a red circle moving right on a black background",
        "width": defaults.width,
        "height": defaults.height,
        "num_frames": defaults.num_frames,
        "fps": defaults.fps,
        "num_inference_steps": defaults.num_inference_steps,
        "guidance_scale": defaults.guidance_scale,
        "max_sequence_length": defaults.max_sequence_length,
        "seed": 7,
    }
    return JobSpec(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def demo_card() -> ModelCard:
    return card_for(str(default_model()))


@pytest.fixture(scope="session")
def tiny_table() -> dict[str, dict[str, float]]:
    """Settings that make the tiny models quick."""
    return {
        "defaults": {
            "width": 64, "height": 64, "num_frames": 9, "fps": 8.0, "num_inference_steps": 3, "max_sequence_length": 16,
        }
    }  # fmt: skip


@pytest.fixture(scope="session")
def image_card(tmp_path_factory: pytest.TempPathFactory, tiny_table: dict[str, dict[str, float]]) -> ModelCard:
    defaults = {name: value for name, value in tiny_table["defaults"].items() if name not in ("num_frames", "fps")}
    return card_for(str(tiny.save_chroma(tmp_path_factory.mktemp("chroma"))), "chroma", {"defaults": defaults})


@pytest.fixture(scope="session")
def i2v_card(tmp_path_factory: pytest.TempPathFactory, tiny_table: dict[str, dict[str, float]]) -> ModelCard:
    return card_for(str(tiny.save_wan_image_to_video(tmp_path_factory.mktemp("i2v"))), "i2v", tiny_table)


@pytest.fixture(scope="session")
def child(demo_card: ModelCard, image_card: ModelCard, i2v_card: ModelCard) -> Iterator[Child]:
    """One real engine process with the demo model in memory."""
    broken = card_for(str(default_model()), "broken")
    missing = ModelCard(
        name="broken", engine="video", output="video", source="/nowhere/at/all", pipeline=broken.pipeline
    )
    # Such as is there when an engine ends: what is drawn is none the worse for it.
    running = Child(spare=f"video:{demo_card.pipeline}")
    if sys.platform == "linux":
        wait_until(running.imported, what="the imports of a spare engine, before it knows a model")
    answer = running.setup(demo_card, image_card, i2v_card, missing)
    assert isinstance(answer, Ready), answer
    yield running
    running.close()


@pytest.fixture
def slot() -> Slot:
    return Slot(blank(), 0)


@pytest.fixture
def monitor(slot: Slot) -> Monitor:
    return Monitor(slot, 1, 1, ProcessMemory())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A photograph's worth of picture: 80x60, blue."""
    path = tmp_path / "first.png"
    Image.new("RGB", (80, 60), (0, 0, 255)).save(path)
    return path


@pytest.fixture(scope="session")
def device() -> Device:
    return Device("cpu", "auto", threads=1)


@pytest.fixture(scope="session")
def video_engine(device: Device, demo_card: ModelCard) -> VideoEngine:
    """An engine in this process, with the demo model in memory: what tests do to it must leave it as it was."""
    engine = VideoEngine(Pipelines(device))
    engine.load(demo_card)
    return engine


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A runner over a scripted engine."""
    made = Bench()
    yield made
    made.words.close()
