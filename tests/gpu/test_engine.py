"""The engine on a GPU: placement, precision, cancel, offload and back.

The same on a CPU, where there is nothing to place: so that a test which only a GPU runs does not fall behind the code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from broker.wire.jobspec import ModelCard
from tests.engine.child import Child
from tests.engine.conftest import spec_for
from tests.engine.media import centre_of, colour_of
from tests.engine.raw_frames import written
from tests.engine.scripted import CancelAt, Recorder
from workers.engine.base import complete
from workers.engine.device import Device
from workers.engine.pipelines import Pipelines
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.messages import JobFinished, Ready
from workers.ipc.shared import Slot
from workers.models.catalogue import card_for, default_model

ON_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=ON_GPU)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return card_for(str(default_model()))


@pytest.fixture(scope="module")
def engine(card: ModelCard, kind: str) -> VideoEngine:
    made = VideoEngine(Pipelines(Device(kind, "auto", threads=0 if kind == "cuda" else 1)))
    made.load(card)
    return made


def _draw(engine: VideoEngine, card: ModelCard, slot: Slot, directory: Path, profile: Any = "normal") -> Any:
    monitor = Monitor(slot, 1, 1, engine.pipelines.device.meter)
    frames = written(lambda: complete(engine.generate(card, spec_for(card), directory, monitor, profile)))
    monitor.memory.report()
    assert monitor.memory.peak_mb() > 0
    return frames


def test_draws_the_red_circle(engine: VideoEngine, card: ModelCard, tmp_path: Path) -> None:
    slot = Recorder.recording()
    frames = _draw(engine, card, slot, tmp_path)

    assert np.abs(colour_of(frames[8]) - (255, 0, 0)).max() <= 32
    assert centre_of(frames[-1])[0] - centre_of(frames[0])[0] > 12
    used, total = slot.memory()
    assert 0 < used < total


@pytest.mark.parametrize(("phase", "step", "hits"), [("encode", 0, 2), ("denoise", 4, 5), ("decode", 2, 4)])
@pytest.mark.parametrize("profile", ["normal", "offload"])
def test_cancel_leaves_the_pipeline_as_it_was(
    engine: VideoEngine, card: ModelCard, tmp_path: Path, phase: str, step: int, hits: int, profile: str
) -> None:
    before = _draw(engine, card, Recorder.recording(), tmp_path, profile)

    with pytest.raises(Cancelled):
        _draw(engine, card, CancelAt.at(phase, step, hits), tmp_path, profile)

    after = _draw(engine, card, Recorder.recording(), tmp_path, profile)
    assert np.array_equal(before, after)


def test_offload_and_back_draw_the_same(engine: VideoEngine, card: ModelCard, tmp_path: Path) -> None:
    whole = _draw(engine, card, Recorder.recording(), tmp_path)
    pipe = engine.pipelines.get(card)
    kind = engine.pipelines.device.kind
    assert pipe.transformer.device.type == kind

    parts = _draw(engine, card, Recorder.recording(), tmp_path, "offload")
    assert pipe.transformer.device.type == "cpu"
    again = _draw(engine, card, Recorder.recording(), tmp_path)

    assert pipe.transformer.device.type == kind
    assert np.abs(whole.astype(int) - parts).max() <= 8
    assert np.abs(whole.astype(int) - again).max() <= 8


def test_jobs_that_overlap_are_drawn_as_if_alone(card: ModelCard, kind: str, tmp_path: Path) -> None:
    child = Child()
    assert isinstance(child.setup(card, device=kind), Ready)
    jobs = [spec_for(card, seed=seed, num_inference_steps=steps) for seed, steps in ((1, 10), (2, 4), (3, 10))]
    outs = {kind: [tmp_path / f"{kind}-{number}" for number in range(len(jobs))] for kind in ("alone", "beside")}
    for out in (*outs["alone"], *outs["beside"]):
        out.mkdir()
    for job, out in zip(jobs, outs["alone"], strict=True):
        assert isinstance(child.run(job, out), JobFinished)

    overlapped = child.run_all(jobs, outs["beside"])
    child.close()

    assert overlapped == len(jobs)
    for alone, beside in zip(outs["alone"], outs["beside"], strict=True):
        assert (alone / "video.mp4").read_bytes() == (beside / "video.mp4").read_bytes()
