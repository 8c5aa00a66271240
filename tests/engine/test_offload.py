"""The offload profile: models on the device only while they run. On a CPU that stands in for the GPU, through the same hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from broker.wire.jobspec import ModelCard
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import written
from tests.engine.scripted import CancelAt, Recorder
from workers.engine import pipelines as module
from workers.engine.base import Profile, complete
from workers.engine.device import Device
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot


class PretendGpu(Device):
    """A "GPU" whose memory is the machine's."""

    def __init__(self) -> None:
        super().__init__("cpu", "auto", threads=1)
        self.kind = "cuda"

    def synchronise(self) -> None:
        """Nothing runs behind."""

    def release(self) -> None:
        """Nothing is cached."""

    def free_bytes(self) -> int:
        return 2**40


@pytest.fixture
def engine() -> VideoEngine:
    return VideoEngine(Pipelines(PretendGpu()))


def _draw(engine: VideoEngine, card: ModelCard, slot: Slot, directory: Path, profile: Profile) -> Any:
    spec = spec_for(card, num_frames=5, num_inference_steps=3)
    monitor = Monitor(slot, 1, 1, engine.pipelines.device.meter)
    return written(lambda: complete(engine.draw(card, spec, directory, monitor, profile))).astype(int)


def _offloaded(pipe: Any) -> bool:
    return all(hasattr(model, "_hf_hook") for model in (pipe.text_encoder, pipe.transformer, pipe.vae))


@pytest.mark.parametrize(("phase", "step", "hits"), [("encode", 0, 2), ("denoise", 1, 4), ("decode", 1, 3)])
def test_cancelled_job_leaves_the_offload_in_order(
    engine: VideoEngine, demo_card: ModelCard, tmp_path: Path, phase: str, step: int, hits: int
) -> None:
    before = _draw(engine, demo_card, Recorder.recording(), tmp_path, "offload")
    with pytest.raises(Cancelled):
        _draw(engine, demo_card, CancelAt.at(phase, step, hits), tmp_path, "offload")

    after = _draw(engine, demo_card, Recorder.recording(), tmp_path, "offload")

    assert _offloaded(engine.pipelines.get(demo_card, "offload"))
    assert np.abs(before - after).max() <= 2


def test_each_job_has_the_profile_it_asked_for(engine: VideoEngine, demo_card: ModelCard, tmp_path: Path) -> None:
    drawn, offloaded = [], []
    profiles: tuple[Profile, ...] = ("normal", "offload", "normal", "normal")
    for profile in profiles:
        drawn.append(_draw(engine, demo_card, Recorder.recording(), tmp_path, profile))
        offloaded.append(_offloaded(engine.pipelines.get(demo_card, profile)))

    assert offloaded == [False, True, False, False]
    assert max(np.abs(drawn[0] - other).max() for other in drawn) <= 2


def test_offload_makes_room_by_dropping_the_others(
    engine: VideoEngine, demo_card: ModelCard, image_card: ModelCard
) -> None:
    engine.pipelines.get(image_card)

    engine.pipelines.get(demo_card, "offload")

    assert engine.pipelines.names() == (demo_card.name,)


def test_model_too_big_for_the_gpu_is_offloaded_for_good(
    engine: VideoEngine, demo_card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def full(pipe: Any, device: Device) -> None:
        tries.append(device)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module, "_bring_whole", full)

    assert _offloaded(engine.pipelines.get(demo_card, "normal"))
    assert _offloaded(engine.pipelines.get(demo_card, "normal"))
    assert len(tries) == 1


def test_others_go_before_a_model_is_offloaded(
    engine: VideoEngine, demo_card: ModelCard, image_card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.pipelines.get(image_card)
    whole = module._bring_whole

    def crowded(pipe: Any, device: Device) -> None:
        if engine.pipelines.names():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        whole(pipe, device)

    monkeypatch.setattr(module, "_bring_whole", crowded)

    assert not _offloaded(engine.pipelines.get(demo_card, "normal"))
    assert engine.pipelines.names() == (demo_card.name,)
