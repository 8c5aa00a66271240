"""The shipped weights draw what the prompt says, through the pipeline and with the defaults that a request gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scripts.demo_model import evaluate
from scripts.demo_model.captions import HELD_OUT
from scripts.demo_model.evaluate import draw, prompts
from scripts.demo_model.judge import judge
from scripts.demo_model.world import is_held_out
from workers.models.catalogue import card_for, default_model

DEFAULTS = card_for(str(default_model())).defaults
_MOST_BYTES = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return evaluate.load(default_model())


@pytest.mark.parametrize(
    ("prompt", "seed", "colour", "motion", "background"),
    [
        ("a red circle moving right on a black background", 1, "red", "right", "black"),
        ("blue square going up, white background", 2, "blue", "up", "white"),
        ("still green triangle on grey", 3, "green", "still", "gray"),
    ],
)
def test_a_clip_shows_what_was_asked_for(
    pipeline: Any, prompt: str, seed: int, colour: str, motion: str, background: str
) -> None:
    clip = draw(pipeline, prompt, seed, DEFAULTS)
    verdict = judge(clip)

    assert tuple(clip.shape) == (17, 64, 64, 3)
    assert (verdict.colour, verdict.motion, verdict.background) == (colour, motion, background)


def test_the_seed_decides_the_clip(pipeline: Any) -> None:
    prompt = "a yellow star on black"
    first, again, other = (draw(pipeline, prompt, seed, DEFAULTS) for seed in (5, 5, 6))

    assert torch.allclose(first.float(), again.float(), atol=1)
    assert not torch.allclose(first.float(), other.float(), atol=64)


def test_one_frame_is_a_picture(pipeline: Any) -> None:
    clip = pipeline(
        "a red square on a white background", width=64, height=64, num_frames=1, num_inference_steps=10,
        guidance_scale=DEFAULTS.guidance_scale, max_sequence_length=32, generator=torch.Generator().manual_seed(1), output_type="pt",
    ).frames[0]  # fmt: skip
    verdict = judge((clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1))

    assert (verdict.colour, verdict.background) == ("red", "white")


@pytest.mark.parametrize("prompt", ["a horse galloping in the rain", "", "🎈", "word " * 200])
def test_strange_prompts_break_nothing(pipeline: Any, prompt: str) -> None:
    assert tuple(draw(pipeline, prompt, 1, DEFAULTS).shape) == (17, 64, 64, 3)


def test_the_directory_is_small() -> None:
    sizes = [path.stat().st_size for path in default_model().rglob("*.safetensors")]

    assert 0 < sum(sizes) <= _MOST_BYTES


def test_prompts_for_judging_are_kept_from_training() -> None:
    asked = prompts(120)

    assert asked == prompts(120)
    assert len(HELD_OUT) > 1
    assert all(is_held_out(scene.combination) for _, scene in asked)
    assert not any(is_held_out(scene.combination) for _, scene in prompts(120, held_out=False))
