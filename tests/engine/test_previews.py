"""Previews are real, come at the right steps, cost the picture nothing, and never fail a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from broker.wire.job_files import preview_name
from broker.wire.jobspec import JobSpec, ModelCard
from tests.engine.conftest import spec_for
from tests.engine.families import build_hunyuan, build_videos
from tests.engine.resumed import Rig
from tests.engine.scripted import blank
from workers.engine import previews
from workers.engine.arguments import call_arguments
from workers.engine.base import Engine, complete
from workers.engine.errors import EngineError
from workers.engine.fake import FakeEngine
from workers.engine.frames import image_pixels
from workers.engine.image import ImageEngine
from workers.engine.memory import ProcessMemory
from workers.engine.previews import aim, can_preview, decode, preview_at
from workers.engine.progress import Cancelled, Monitor
from workers.engine.video import VideoEngine
from workers.ipc.shared import Slot


@pytest.fixture
def image_engine(video_engine: VideoEngine) -> ImageEngine:
    return ImageEngine(video_engine.pipelines)


def _run(engine: Engine, card: ModelCard, spec: JobSpec, out: Path, slot: Slot | None = None) -> list[Path]:
    """The previews that are in the directory after the job, in their order."""
    out.mkdir(exist_ok=True)
    own = slot or Slot(blank(), 0)
    own.begin(1)
    complete(engine.generate(card, spec, out, Monitor(own, 1, spec.num_outputs, ProcessMemory()), "normal"))
    return sorted(out.glob("preview-*"), key=lambda path: int(path.stem.split("-")[1]))


def _pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize(
    ("wanted", "total", "steps"),
    [(1, 10, [5]), (3, 10, [2, 5, 7]), (2, 50, [16, 33]), (3, 2, [1]), (3, 1, []), (0, 10, [])],
)
def test_previews_are_spread_over_the_steps_before_the_last(wanted: int, total: int, steps: list[int]) -> None:
    assert [done for done in range(1, total + 1) if preview_at(done, total, wanted)] == steps
    assert preview_at(total, total, wanted) == 0


def test_a_picture_comes_out_of_the_noise(video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path) -> None:
    spec = spec_for(demo_card, output="image", num_frames=1, previews=3)

    shown = [_pixels(path) for path in _run(video_engine, demo_card, spec, tmp_path)]
    final = _pixels(tmp_path / "image.png")

    far = [float(np.abs(pixels - final).mean()) for pixels in shown]
    assert [pixels.shape for pixels in shown] == [(64, 64, 3)] * 3
    assert far[0] > far[1] > far[2] > 0, "each is nearer to the picture than the one before"
    assert far[2] < 12, "the last looks like the picture"


def test_previews_do_not_change_the_picture(video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path) -> None:
    spec = spec_for(demo_card, output="image", num_frames=1)
    _run(video_engine, demo_card, spec, tmp_path / "plain")
    _run(video_engine, demo_card, spec_for(demo_card, output="image", num_frames=1, previews=2), tmp_path / "shown")

    assert (tmp_path / "plain" / "image.png").read_bytes() == (tmp_path / "shown" / "image.png").read_bytes()


def test_each_output_has_its_own(image_engine: ImageEngine, image_card: ModelCard, tmp_path: Path) -> None:
    spec = spec_for(image_card, num_inference_steps=4, num_outputs=2, previews=2)

    shown = _run(image_engine, image_card, spec, tmp_path)

    assert [path.name for path in shown] == [f"preview-{number}.png" for number in (1, 2, 3, 4)]
    assert not np.array_equal(_pixels(shown[0]), _pixels(shown[2]))


def test_the_decoding_is_the_pipelines_own(image_engine: ImageEngine, image_card: ModelCard) -> None:
    """What the last latents decode to is the finished picture."""
    pipe = image_engine.pipelines.get(image_card)
    spec = spec_for(image_card)
    latents = pipe(**{**call_arguments(pipe, spec, 7), "output_type": "latent"}).images

    whole = image_pixels(pipe(**call_arguments(pipe, spec, 7)))

    assert np.array_equal(decode(pipe, latents, spec).movedim(0, -1).numpy(), whole)


def test_a_video_shows_its_first_frame(video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path) -> None:
    shown = _run(video_engine, demo_card, spec_for(demo_card, num_frames=9, previews=1), tmp_path)

    assert _pixels(shown[0]).shape == (64, 64, 3)
    assert (tmp_path / "video.mp4").is_file()


@pytest.mark.parametrize(
    "scheduler", [FlowMatchEulerDiscreteScheduler(), EulerDiscreteScheduler()], ids=lambda item: type(item).__name__
)
def test_a_step_aims_at_the_clean_picture(scheduler: Any) -> None:
    """A prediction that is right from the start aims at the truth in the very first step."""
    scheduler.set_timesteps(6)
    truth, noise = torch.full((1, 4, 2, 2), 0.5), torch.randn(1, 4, 2, 2)
    sigma = scheduler.sigmas[0]
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    sample = (1 - sigma) * truth + sigma * noise if flow else truth + sigma * noise
    prediction = noise - truth if flow else noise

    moved = scheduler.step(prediction, scheduler.timesteps[0], sample, return_dict=False)

    assert torch.allclose(aim(scheduler, prediction, sample, moved), truth, atol=1e-4)
    assert not torch.allclose(moved[0], truth, atol=0.1)


def test_unknown_latents_give_none_and_the_job_goes_on(
    video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "can_preview", lambda pipe: False)

    assert _run(video_engine, demo_card, spec_for(demo_card, previews=3), tmp_path) == []
    assert (tmp_path / "video.mp4").is_file()


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), EngineError("1 of the 9 values are no numbers")])
def test_a_preview_that_fails_does_not_fail_the_job(
    video_engine: VideoEngine,
    demo_card: ModelCard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(previews, "decode", broken)

    assert _run(video_engine, demo_card, spec_for(demo_card, previews=3), tmp_path) == []
    assert [record.action for record in caplog.records if hasattr(record, "action")].count("preview_failed") == 1
    assert (tmp_path / "video.mp4").is_file()


def test_a_cancel_reaches_into_a_preview(
    video_engine: VideoEngine, demo_card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: Slot
) -> None:
    def cancelled_meanwhile(pipe: Any, latents: torch.Tensor, spec: JobSpec) -> torch.Tensor:
        slot.request_cancel(1)
        return decode(pipe, latents, spec)

    monkeypatch.setattr(previews, "decode", cancelled_meanwhile)

    with pytest.raises(Cancelled):
        _run(video_engine, demo_card, spec_for(demo_card, previews=1), tmp_path, slot)
    assert list(tmp_path.iterdir()) == []
    scheduler = video_engine.pipelines.get(demo_card).scheduler
    assert "step" not in vars(scheduler), "the scheduler is as it was"


def test_an_offloaded_pipeline_gives_none(video_engine: VideoEngine, demo_card: ModelCard) -> None:
    pipe = video_engine.pipelines.get(demo_card)
    assert can_preview(pipe)
    pipe._all_hooks = [object()]
    try:
        assert not can_preview(pipe)
    finally:
        pipe._all_hooks = []


def test_the_fake_engine_brightens(tmp_path: Path) -> None:
    card = ModelCard(name="fake", engine="fake", output="video", also_image=True)
    spec = JobSpec(
        model="fake", output="image", prompt="p", width=32, height=16, num_inference_steps=8, seed=1, previews=3
    )

    shown = [int(_pixels(path).max()) for path in _run(FakeEngine(), card, spec, tmp_path)]

    assert len(shown) == 3
    assert shown[0] < shown[1] < shown[2] < int(_pixels(tmp_path / "image.png").max())


@pytest.mark.parametrize("name", ["HunyuanVideoPipeline", "HunyuanVideo15Pipeline"])
def test_a_clip_that_the_pipeline_decodes_shows_its_first_frame(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    builders = {**build_hunyuan.BUILDERS, **build_videos.BUILDERS}
    rig = Rig(tmp_path, builders[name]())
    [clip] = rig.draw(every_s=1000.0, previews=1)
    assert _pixels(tmp_path / "out" / preview_name(1)).shape == clip[0].shape

    pipe, spec = rig.pipelines.get(rig.model.card), rig.spec()
    latents = pipe(**{**call_arguments(pipe, spec, spec.seed), "output_type": "latent"}).frames
    first = decode(pipe, latents, spec).movedim(0, -1).numpy().astype(int)
    far = [float(np.abs(first - frame).mean()) for frame in clip]
    assert min(far) == far[0] < 8
