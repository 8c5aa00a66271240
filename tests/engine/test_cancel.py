"""A cancel is heard in every phase and inside the models, and afterwards the pipeline draws as if nothing had happened."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from broker.wire.jobspec import Artefact, ModelCard
from tests.engine.conftest import spec_for
from tests.engine.raw_frames import written
from tests.engine.scripted import CancelAt, Recorder
from workers.engine.base import complete
from workers.engine.failures import classify
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot

Run = Callable[..., tuple[Artefact, ...]]

SHORT = {"num_frames": 9, "num_inference_steps": 6}


@pytest.fixture
def run(video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path) -> Run:
    def run(slot: Slot, **changes: object) -> tuple[Artefact, ...]:
        spec = spec_for(demo_card, **{**SHORT, **changes})
        monitor = Monitor(slot, 1, spec.num_outputs, video_engine.pipelines.device.meter)
        return complete(video_engine.generate(demo_card, spec, tmp_path, monitor, "normal"))

    return run


@pytest.fixture(scope="module")
def untouched(video_engine: VideoEngine, demo_card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The frames of the standard job before any cancel."""
    directory = tmp_path_factory.mktemp("untouched")
    slot = Recorder.recording()
    monitor = Monitor(slot, 1, 1, video_engine.pipelines.device.meter)
    spec = spec_for(demo_card, **SHORT)
    return written(lambda: complete(video_engine.generate(demo_card, spec, directory, monitor, "normal")))


def _hooks(engine: VideoEngine, card: ModelCard) -> int:
    pipe = engine.pipelines.get(card)
    models = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(len(module._forward_pre_hooks) for model in models for module in model.modules())


@pytest.mark.parametrize(
    ("phase", "step", "hits", "inside"),
    [
        ("encode", 0, 0, "enter"),
        ("encode", 0, 2, "encode_prompt"),
        ("denoise", 0, 0, "enter"),
        ("denoise", 4, 0, "on_step_end"),
        ("denoise", 4, 5, "transformer_wan.py"),
        ("decode", 0, 0, "enter"),
        ("decode", 2, 0, "_decode"),
        ("decode", 2, 4, "autoencoder_kl_wan.py"),
        ("save", 0, 0, "enter"),
    ],
)
def test_cancel_stops_the_job_where_it_is(
    run: Run, video_engine: VideoEngine, demo_card: ModelCard, untouched: Any, tmp_path: Path,
    phase: str, step: int, hits: int, inside: str,
) -> None:  # fmt: skip
    slot = CancelAt.at(phase, step, hits)

    with pytest.raises(Cancelled) as caught:
        # A prompt of its own: one that was encoded before is not encoded again.
        run(slot, prompt=f"a blue circle, cancelled in {phase} {step} {hits}")

    shown = slot.progress()
    assert (shown.phase, shown.step) == (phase, step)
    assert inside in "".join(traceback.format_tb(caught.value.__traceback__))
    assert list(tmp_path.iterdir()) == []
    assert _hooks(video_engine, demo_card) == 0
    again = Recorder.recording()
    assert np.array_equal(written(lambda: run(again)), untouched)


def test_a_job_shows_every_step_of_every_phase(run: Run) -> None:
    slot = Recorder.recording()

    run(slot, num_frames=9, num_inference_steps=3, num_outputs=2)

    assert slot.seen == [
        ("encode", 0, 0),
        *[("denoise", step, 6) for step in (0, 1, 2, 3, 3, 4, 5, 6)],
        *[("decode", step, 6) for step in (0, 1, 2, 3, 3, 4, 5, 6)],
        ("save", 0, 0),
    ]


def test_out_of_memory_in_a_model_fails_the_job_alone(
    run: Run, video_engine: VideoEngine, demo_card: ModelCard, untouched: Any, tmp_path: Path
) -> None:
    def fail(module: torch.nn.Module, inputs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    slot = Recorder.recording()
    handle = video_engine.pipelines.get(demo_card).transformer.blocks[3].register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(slot)
    handle.remove()
    verdict = classify(caught.value, slot.progress().phase)
    video_engine.free_cache()

    assert (verdict.kind, verdict.fatal) == ("out_of_memory", False)
    assert "20.00 GiB" in verdict.message
    assert np.array_equal(written(lambda: run(slot)), untouched)
