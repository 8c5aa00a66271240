"""What a pipeline cannot do of a job is refused, or told to the client."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler, PNDMScheduler

from broker.wire.jobspec import Defaults, JobSpec, ModelCard
from workers.engine.checks import (
    check_control_mode,
    check_guidance,
    check_inputs,
    check_steps,
    check_strength,
    guidance_was_off,
    without_effect,
)
from workers.engine.errors import InvalidInput


class Full:
    def __call__(
        self, prompt: Any, negative_prompt: Any = None, num_inference_steps: int = 4, guidance_scale: float = 1,
        guidance_scale_2: Any = None, max_sequence_length: int = 1, clip_skip: Any = None,
    ) -> None: ...  # fmt: skip


class TwoExperts(Full):
    config = {"boundary_ratio": 0.9}


class Bare:
    def __call__(self, batch_size: int = 1) -> None: ...


def _card(**changes: Any) -> ModelCard:
    defaults = Defaults(num_inference_steps=4, negative_prompt="usual", guidance_scale=5.0)
    return ModelCard(**{"name": "m", "engine": "image", "output": "image", "defaults": defaults, **changes})


def _spec(**changes: Any) -> JobSpec:
    base = {
        "model": "m", "output": "image", "prompt": "p", "negative_prompt": "usual", "width": 32, "height": 16,
        "num_inference_steps": 4, "guidance_scale": 5.0, "seed": 3,
    }  # fmt: skip
    return JobSpec(**{**base, **changes})


@pytest.mark.parametrize(
    ("pipe", "job", "fields"),
    [
        (Full(), {}, []),
        (Full(), {"negative_prompt": "n", "max_sequence_length": 9, "extra": {"clip_skip": 1, "flow_shift": 3}}, []),
        (Full(), {"guidance_scale_2": 3.0}, ["guidance_scale_2"]),
        (TwoExperts(), {"guidance_scale_2": 3.0}, []),
        (Full(), {"extra": {"unheard_of": 1, "num_frames": 5}}, ["extra.num_frames", "extra.unheard_of"]),
        (Bare(), {}, ["prompt"]),
        (
            Bare(),
            {"negative_prompt": "n", "num_inference_steps": 7, "max_sequence_length": 9},
            ["prompt", "num_inference_steps", "negative_prompt", "max_sequence_length"],
        ),
    ],
)
def test_what_has_no_effect_is_told_field_by_field(pipe: Any, job: Any, fields: list[str]) -> None:
    expected = list(without_effect(pipe, _card(), _spec(**job)))

    assert [text.split(":")[0] for text in expected] == fields


def test_a_model_without_guidance_says_so() -> None:
    card = _card(takes_guidance=False, defaults=Defaults(num_inference_steps=4, negative_prompt="usual"))

    assert [text.split(":")[0] for text in without_effect(Full(), card, _spec())] == ["guidance_scale"]
    assert list(without_effect(Full(), card, _spec(guidance_scale=None))) == []


@pytest.mark.parametrize(
    ("negative", "arguments", "on", "expected"),
    [
        ("n", {"guidance_scale": 1.0}, False, "at guidance_scale 1"),
        ("n", {}, False, "without guidance"),
        ("n", {"guidance_scale": 5.0}, True, ""),
        ("n", {"guidance_scale": 1.0}, None, ""),
        ("usual", {"guidance_scale": 1.0}, False, ""),
        ("n", {"true_cfg_scale": 1.0}, None, "at true_cfg_scale 1"),
        ("n", {"true_cfg_scale": 4.0}, False, ""),
    ],
)
def test_a_negative_prompt_without_guidance_is_told(negative: str, arguments: Any, on: Any, expected: str) -> None:
    pipe = Full()
    pipe.do_classifier_free_guidance = on  # type: ignore[attr-defined]

    texts = list(
        guidance_was_off(pipe, _card(), _spec(negative_prompt=negative), {"negative_prompt": negative, **arguments})
    )

    assert [text.endswith(expected) for text in texts] == ([True] if expected else [])


@pytest.mark.parametrize(
    ("steps", "strength", "least"), [(1, None, 4), (3, None, 4), (2, 0.1, 10), (10, 0.05, 20), (1, 0.99, 2)]
)
def test_a_strength_that_leaves_no_step_is_refused(steps: int, strength: float | None, least: int) -> None:
    card = _card(default_strength=0.3)
    extra = {} if strength is None else {"strength": strength}

    with pytest.raises(InvalidInput, match=f"num_inference_steps: {steps} at strength .* at least {least} are needed"):
        check_strength(card, _spec(num_inference_steps=steps, extra=extra))
    check_strength(card, _spec(num_inference_steps=least, extra=extra))
    check_strength(_card(), _spec(num_inference_steps=steps, extra=extra))


def test_no_strength_at_all_leaves_no_step() -> None:
    with pytest.raises(InvalidInput, match=r"50 at strength 0 leaves no step to draw$"):
        check_strength(_card(default_strength=0.3), _spec(num_inference_steps=50, extra={"strength": 0.0}))


def test_fewer_steps_than_pndm_takes_are_refused_in_one_sentence() -> None:
    with pytest.raises(
        InvalidInput, match="num_inference_steps: 3 is fewer than PNDMScheduler takes; at least 4 are needed"
    ):
        check_steps(_with(PNDMScheduler()), _spec(num_inference_steps=3))

    check_steps(_with(PNDMScheduler()), _spec(num_inference_steps=4))
    for scheduler in (PNDMScheduler(skip_prk_steps=True), EulerDiscreteScheduler(), None):
        check_steps(_with(scheduler), _spec(num_inference_steps=1))


def test_one_step_of_a_pipeline_that_parts_them_is_refused() -> None:
    pipe = type("MochiPipeline", (), {"scheduler": FlowMatchEulerDiscreteScheduler()})()

    with pytest.raises(InvalidInput, match="1 is fewer than MochiPipeline takes; at least 2 are needed"):
        check_steps(pipe, _spec(num_inference_steps=1))

    check_steps(pipe, _spec(num_inference_steps=2))


def test_a_single_step_of_pixart_is_for_a_scheduler_of_consistency_models() -> None:
    pipe = type("PixArtAlphaPipeline", (SimpleNamespace,), {})

    with pytest.raises(InvalidInput, match="1 is fewer than PixArtAlphaPipeline takes; at least 2 are needed"):
        check_steps(pipe(scheduler=EulerDiscreteScheduler()), _spec(num_inference_steps=1))

    check_steps(pipe(scheduler=LCMScheduler()), _spec(num_inference_steps=1))


def test_a_clip_of_one_frame_has_no_last_one() -> None:
    card, given = _card(takes_inputs=("last_image",)), {"inputs": {"last_image": ("a.png",)}, "output": "video"}

    with pytest.raises(InvalidInput, match=r"^last_image: a clip of 1 frame has none after its first"):
        check_inputs(card, _spec(**given, num_frames=1))

    check_inputs(card, _spec(**given, num_frames=5))


def _with(scheduler: Any) -> Any:
    return SimpleNamespace(scheduler=scheduler)


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ({"control_mode": 0}, ""),
        ({}, "is needed"),
        ({"control_mode": -1}, "-1 is no whole number from 0"),
        ({"control_mode": "canny"}, "'canny' is no whole number from 0"),
        ({"control_mode": True}, "True is no whole number from 0"),
    ],
)
def test_a_network_for_several_kinds_of_control_images_is_told_which_it_gets(extra: Any, fault: str) -> None:
    card = _card(pipeline="StableDiffusionXLControlNetUnionPipeline")
    if not fault:
        check_control_mode(card, _spec(extra=extra))
        return
    with pytest.raises(InvalidInput, match=rf"^extra.control_mode: {fault}; "):
        check_control_mode(card, _spec(extra=extra))


def test_a_pipeline_that_fails_without_guidance_is_not_called_without() -> None:
    card = _card(pipeline="HunyuanDiTPAGPipeline")
    with pytest.raises(InvalidInput, match=r"guidance_scale: 1 leaves out guidance, .* must be above 1"):
        check_guidance(card, _spec(guidance_scale=1.0))
    check_guidance(card, _spec(guidance_scale=1.5))
    check_guidance(card, _spec(guidance_scale=None))
    check_guidance(_card(pipeline="HunyuanDiTPipeline"), _spec(guidance_scale=0.0))
