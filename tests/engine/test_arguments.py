"""A job spec becomes the arguments that a pipeline takes, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.wire.jobspec import JobSpec
from workers.engine.arguments import call_arguments
from workers.engine.errors import InvalidInput
from workers.engine.inputs import read_image


class TextToVideo:
    def __call__(
        self, prompt: Any, negative_prompt: Any = None, height: int = 1, width: int = 1, num_frames: int = 1,
        num_inference_steps: int = 1, guidance_scale: float = 1, guidance_scale_2: Any = None, generator: Any = None,
        max_sequence_length: int = 1, shift: float = 1, prompt_embeds: Any = None, output_type: str = "np",
    ) -> None: ...  # fmt: skip


class TwoExperts(TextToVideo):
    config = {"boundary_ratio": 0.875}


class Latte:
    def __call__(self, prompt: Any, video_length: int, frame_rate: float = 1) -> None: ...


class StableVideoDiffusion:
    def __call__(self, image: Any, num_frames: int, fps: int = 7) -> None: ...


class MaxGuidance:
    def __call__(self, image: Any, min_guidance_scale: float = 1.0, max_guidance_scale: float = 3.0) -> None: ...


class Embedded:
    """Guidance is an input of the model, and true classifier-free guidance is off until it is asked for, as in Flux."""

    def __call__(
        self, prompt: Any, negative_prompt: Any = None, true_cfg_scale: float = 1.0, guidance_scale: float = 3.5
    ) -> None: ...


class Ideogram:
    def __call__(
        self, prompt: Any, num_inference_steps: int = 8, guidance_scale: Any = None, guidance_schedule: Any = (7.0,) * 6 + (3.0,) * 2
    ) -> None: ...  # fmt: skip


class EasyAnimateTest:
    def __call__(self, prompt: Any, negative_prompt: Any = None) -> None: ...


class Binned:
    def __call__(self, prompt: Any, height: int = 1, width: int = 1, use_resolution_binning: bool = True) -> None: ...


class HunyuanVideoFramepackPipeline:
    vae_scale_factor_temporal = 4

    def __call__(self, prompt: Any, num_frames: int = 129) -> None: ...


class QwenImageTest:
    def __call__(
        self, prompt: Any, negative_prompt: Any = None, true_cfg_scale: float = 4, guidance_scale: Any = None
    ) -> None: ...


class TrueByDefault:
    """A scale that is an input of the model, and off, beside true guidance that is on."""

    def __call__(
        self, prompt: Any, negative_prompt: Any = None, true_cfg_scale: float = 4.0, guidance_scale: float = 1.0
    ) -> None: ...


class OmniGenPipeline:
    def __call__(self, prompt: Any, input_images: Any = None) -> None: ...


class FluxKontextTest:
    def __call__(
        self, image: Any, prompt: Any, height: int, width: int, max_area: int = 1024**2, _auto_resize: bool = True
    ) -> None: ...


class InstructPix2Pix:
    def __call__(self, image: Any, prompt: Any) -> None: ...


def _spec(**changes: Any) -> JobSpec:
    base = {
        "model": "m", "output": "video", "prompt": "p", "width": 32, "height": 16, "num_frames": 5, "fps": 23.976,
        "num_inference_steps": 4, "seed": 3,
    }  # fmt: skip
    return JobSpec(**{**base, **changes})


def _arguments(pipe: object, **changes: Any) -> dict[str, Any]:
    arguments = call_arguments(pipe, _spec(**changes), 3)
    arguments.pop("generator", None)
    return arguments


def test_fields_go_by_their_names_and_absent_ones_stay_the_pipelines() -> None:
    assert _arguments(TextToVideo()) == {
        "prompt": "p", "height": 16, "width": 32, "num_frames": 5, "num_inference_steps": 4,
    }  # fmt: skip


def test_all_that_was_asked_for_is_passed() -> None:
    arguments = _arguments(
        TwoExperts(), negative_prompt="n", guidance_scale=0.0, guidance_scale_2=2.0, max_sequence_length=9
    )

    assert arguments["negative_prompt"] == "n"
    assert (arguments["guidance_scale"], arguments["guidance_scale_2"], arguments["max_sequence_length"]) == (0, 2, 9)


def test_a_second_scale_goes_to_models_with_a_second_expert_alone() -> None:
    assert "guidance_scale_2" not in _arguments(TextToVideo(), guidance_scale_2=2.0)


def test_extra_arguments_are_passed_if_the_pipeline_takes_them() -> None:
    arguments = _arguments(TextToVideo(), extra={"shift": 3.0, "unheard_of": 1})

    assert arguments["shift"] == 3
    assert "unheard_of" not in arguments


def test_extra_arguments_cannot_take_the_engines_place() -> None:
    arguments = _arguments(TextToVideo(), extra={"output_type": "latent", "prompt_embeds": 1, "num_frames": 10_000})

    assert "output_type" not in arguments
    assert "prompt_embeds" not in arguments
    assert arguments["num_frames"] == 5


def test_noise_comes_from_the_seed_given() -> None:
    first, again, other = (call_arguments(TextToVideo(), _spec(), seed)["generator"] for seed in (3, 3, 2**63 + 8))

    assert first.initial_seed() == again.initial_seed() == 3
    assert first.device.type == "cpu"
    assert other.initial_seed() != 3


def test_other_names_for_the_same() -> None:
    assert _arguments(Latte()) == {"prompt": "p", "video_length": 5}


def test_models_conditioned_on_the_rate_are_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    arguments = _arguments(StableVideoDiffusion(), image=str(tmp_path / "a.png"))

    assert (arguments["num_frames"], arguments["fps"], arguments["image"].size) == (5, 24, (32, 16))
    assert "prompt" not in arguments


def test_guidance_of_qwen_is_the_true_one() -> None:
    assert _arguments(QwenImageTest(), guidance_scale=5.0) == {
        "prompt": "p",
        "negative_prompt": " ",
        "true_cfg_scale": 5,
    }
    assert _arguments(QwenImageTest(), extra={"true_cfg_scale": 2.5})["true_cfg_scale"] == 2.5


@pytest.mark.parametrize(
    ("job", "passed"),
    [
        ({"guidance_scale": 2.0}, {"guidance_scale": 2.0}),
        ({"negative_prompt": "n"}, {"negative_prompt": "n", "true_cfg_scale": 4.0}),
        ({"negative_prompt": "n", "extra": {"true_cfg_scale": 2.5}}, {"negative_prompt": "n", "true_cfg_scale": 2.5}),
        ({"extra": {"true_cfg_scale": 2.5}}, {"true_cfg_scale": 2.5}),
    ],
)
def test_a_negative_prompt_turns_true_guidance_on(job: Any, passed: Any) -> None:
    assert _arguments(Embedded(), **job) == {"prompt": "p", **passed}


def test_guidance_of_each_step_is_stretched_to_the_steps_of_the_job() -> None:
    for steps, scales in ((8, [7.0] * 6 + [3.0] * 2), (4, [7.0] * 3 + [3.0]), (12, [7.0] * 9 + [3.0] * 3), (1, [7.0])):
        assert _arguments(Ideogram(), num_inference_steps=steps)["guidance_schedule"] == scales
    given = _arguments(Ideogram(), num_inference_steps=4, guidance_scale=5.0)
    assert (given["guidance_scale"], given["guidance_schedule"]) == (5.0, None)


def test_guidance_that_grows_over_the_clip_ends_at_the_scale() -> None:
    assert _arguments(MaxGuidance(), guidance_scale=2.5) == {"min_guidance_scale": 1.0, "max_guidance_scale": 2.5}
    assert _arguments(MaxGuidance(), guidance_scale=0.5) == {"min_guidance_scale": 0.5, "max_guidance_scale": 0.5}
    assert _arguments(MaxGuidance()) == {}


def test_a_pipeline_that_must_have_a_negative_prompt_gets_an_empty_one() -> None:
    assert _arguments(EasyAnimateTest())["negative_prompt"] == ""


def test_sizes_are_not_rounded_to_those_of_the_training() -> None:
    assert _arguments(Binned())["use_resolution_binning"] is False
    assert _arguments(Binned(), extra={"use_resolution_binning": True})["use_resolution_binning"] is False


@pytest.mark.parametrize(("frames", "windows"), [(37, 1), (73, 2), (109, 3), (145, 4)])
def test_framepack_is_told_windows(frames: int, windows: int) -> None:
    """Each window is 33 frames to the pipeline, and adds 36 to the clip."""
    assert _arguments(HunyuanVideoFramepackPipeline(), num_frames=frames)["num_frames"] == 33 * windows


def test_editing_pipelines_get_the_picture_in_its_own_shape(tmp_path: Path) -> None:
    Image.new("RGB", (10, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (500, 700)).save(tmp_path / "large.png")

    small = _arguments(FluxKontextTest(), image=str(tmp_path / "small.png"))
    large = _arguments(FluxKontextTest(), image=str(tmp_path / "large.png"))

    assert (small["image"].size, small["max_area"], small["_auto_resize"]) == ((10, 20), 32 * 16, False)
    assert large["image"].size == (19, 27)


def test_a_pipeline_that_draws_in_the_pictures_size_gets_it_in_the_size_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (50, 70)).save(tmp_path / "a.png")

    assert _arguments(InstructPix2Pix(), image=str(tmp_path / "a.png"))["image"].size == (32, 16)


def test_picture_is_cropped_around_its_centre(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = (0, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    picture = np.asarray(read_image(tmp_path / "a.png", (10, 10)))

    assert picture.shape == (10, 10, 3)
    assert np.abs(picture[:, 2:8].astype(int) - (0, 255, 0)).max() <= 2


def test_picture_stands_upright_and_has_three_colours(tmp_path: Path) -> None:
    image = Image.new("L", (40, 20), 90)
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter, as telephones write it
    image.save(tmp_path / "a.jpg", exif=exif)

    picture = read_image(tmp_path / "a.jpg", None)

    assert (picture.size, picture.mode) == ((20, 40), "RGB")


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])

    for name, message in (
        ("text.png", "cannot"),
        ("half.png", "cannot"),
        ("none.png", "does not exist"),
        (".", "cannot"),
    ):
        with pytest.raises(InvalidInput, match=message):
            read_image(tmp_path / name, (8, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(InvalidInput, match=r"whole\.png.*pixels"):
        read_image(tmp_path / "whole.png", (8, 8))


def test_the_scale_is_that_of_the_guidance_that_is_on_by_default() -> None:
    assert _arguments(TrueByDefault(), guidance_scale=7.0) == {
        "prompt": "p",
        "negative_prompt": " ",
        "true_cfg_scale": 7.0,
    }


def test_a_prompt_gets_the_marks_that_it_lacks_of_its_pictures(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (32, 16)).save(path)
    given = {"image": str(path), "inputs": {"reference_images": (str(path),)}}

    without = _arguments(OmniGenPipeline(), prompt="a cat", **given)
    with_one = _arguments(OmniGenPipeline(), prompt="<img><|image_2|></img> as a cat", **given)

    assert without["prompt"] == "<img><|image_1|></img> <img><|image_2|></img> a cat"
    assert with_one["prompt"] == "<img><|image_1|></img> <img><|image_2|></img> as a cat"
    assert len(without["input_images"]) == 2
    assert _arguments(OmniGenPipeline(), prompt="a cat")["prompt"] == "a cat"
