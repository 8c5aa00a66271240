"""The judge is right on every rendered clip, and says nothing where there is nothing."""

from __future__ import annotations

import pytest
import torch

from scripts.demo_model.judge import Verdict, judge
from scripts.demo_model.world import SHAPES, Scene, draw_scenes, render, silhouette


def clips_of(scenes: list[Scene], frames: int, seed: int = 0) -> torch.Tensor:
    """The clips as 8-bit pixels `(scenes, frames, height, width, 3)`."""
    clips, _ = render(scenes, frames, torch.Generator().manual_seed(seed))
    return ((clips + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)


@pytest.mark.parametrize("frames", [9, 17, 33])
@pytest.mark.parametrize("held_out", [False, True])
def test_judge_is_right_on_rendered_clips(frames: int, held_out: bool) -> None:
    scenes = draw_scenes(800 // frames, torch.Generator().manual_seed(frames), held_out)

    for scene, clip in zip(scenes, clips_of(scenes, frames), strict=True):
        assert all(judge(clip).agrees_with(scene).values()), (scene, judge(clip))


def test_judge_forgives_noise() -> None:
    scenes = draw_scenes(40, torch.Generator().manual_seed(5))
    clips = clips_of(scenes, 17).float()
    noisy = (
        (clips + 12 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(6)))
        .clamp(0, 255)
        .to(torch.uint8)
    )

    for scene, clip in zip(scenes, noisy, strict=True):
        assert all(judge(clip).agrees_with(scene).values()), (scene, judge(clip))


def test_a_picture_has_no_motion() -> None:
    scene = Scene("green", "star", "left", "gray")

    verdict = judge(clips_of([scene], 1)[0])

    assert (verdict.colour, verdict.shape, verdict.background, verdict.motion) == ("green", "star", "gray", "")


def test_an_empty_clip_is_only_background() -> None:
    assert judge(torch.zeros(9, 64, 64, 3, dtype=torch.uint8)) == Verdict("black")


def test_a_shape_that_is_none_of_the_four_has_no_name() -> None:
    clip = torch.zeros(9, 64, 64, 3, dtype=torch.uint8)
    clip[:, 30:33, 8:56] = 255

    verdict = judge(clip)

    assert (verdict.colour, verdict.shape, verdict.motion) == ("white", "", "still")


def test_a_wrong_clip_is_told_from_a_right_one() -> None:
    asked = Scene("red", "circle", "right", "black")
    shown = Scene("blue", "square", "left", "white")

    assert judge(clips_of([shown], 17)[0]).agrees_with(asked) == dict.fromkeys(
        ("colour", "background", "motion", "shape"), False
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_judge_works_at_other_sizes(shape: str) -> None:
    centre = torch.stack([torch.linspace(40, 90, 9), torch.full((9,), 48.0)], 1)
    masks = silhouette(shape, centre, torch.full((9,), 22.0), 96, 128)
    clip = (masks[..., None] * torch.tensor([255, 0, 0])).to(torch.uint8)

    verdict = judge(clip)

    assert (verdict.colour, verdict.shape, verdict.motion, verdict.background) == ("red", shape, "right", "black")
