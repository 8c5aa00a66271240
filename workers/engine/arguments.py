"""A job spec as the arguments of a pipeline's call: the fields it takes, under the names it gives them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from broker.wire.jobspec import JobSpec
from workers.engine.inputs import input_arguments
from workers.models.pipeline_classes import FRAME_COUNTS, is_extra

#: Pipelines that fail without a negative prompt when guidance is on.
_NEGATIVE_NEEDED = ("EasyAnimate",)

#: Scale of true classifier-free guidance where a job brings a negative prompt and no scale, and the pipeline's own would leave it off.
_TRUE_CFG = 4.0

#: Sana Sprint's timestep between two; it refuses its own default where there are not two steps.
_INTERMEDIATE, _STEPS_OF_INTERMEDIATE = "intermediate_timesteps", 2

#: Pipelines whose prompt is JSON with this member; a prompt in words is that member.
_WRITTEN_AS_JSON, _INSTRUCTION = ("BriaFiboEdit",), "edit_instruction"

#: Pipelines that find their pictures by marks in the prompt, and such a mark.
_MARKS_PICTURES, _MARK = ("OmniGen",), "<img><|image_{}|></img>"

#: Ideogram's guidance, step by step.
_OF_STEPS = "guidance_schedule"

#: Fields that go to a parameter of their own name, as they are; where a pipeline has none, the client is warned.
AS_NAMED = ("max_sequence_length",)

#: Frames of the segments that Wan-Animate was trained on.
_SEGMENT = 77

#: Latent frames of the windows in which Framepack draws a clip.
_FRAMEPACK_WINDOW = 9


def call_arguments(pipe: Any, spec: JobSpec, seed: int, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Build the arguments of `pipe`'s call for one output of `spec`. Raises `InvalidInput` for an input that cannot be read.

    `check` is called now and then while inputs are read, and may raise.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    name = type(pipe).__name__
    fields: dict[str, Any] = {
        "prompt": _prompt(name, spec),
        "negative_prompt": spec.negative_prompt or ("" if name.startswith(_NEGATIVE_NEEDED) else None),
        "height": spec.height,
        "width": spec.width,
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale_2": spec.guidance_scale_2 if has_two_experts(pipe) else None,
        **{name: getattr(spec, name) for name in AS_NAMED},
        # Drawn on the CPU, the noise of a seed is the same on every device.
        "generator": torch.Generator("cpu").manual_seed(seed),
        # The size that was requested, not the nearest of those that a model was trained on.
        "use_resolution_binning": False,
        "max_area": spec.width * spec.height,
        "_auto_resize": False,
        **_without_sound(pipe, spec),
        **dict.fromkeys(FRAME_COUNTS, _frame_count(pipe, spec)),
        # A clip is drawn in segments of one length, and what is left of the last one is drawn for nothing.
        "segment_frame_length": min(spec.num_frames, _SEGMENT),
        "pyramid_num_inference_steps_list": steps_of_sizes(pipe, spec.num_inference_steps),
        **_frame_rate(takes, spec),
        **guidance_arguments(takes, spec),
    }
    fields |= input_arguments(pipe, takes, spec, check)
    extra = {key: value for key, value in spec.extra.items() if is_extra(key)}
    if spec.num_inference_steps != _STEPS_OF_INTERMEDIATE:
        extra = {_INTERMEDIATE: None, **extra}
    extra = {**_guidance_of_steps(takes, spec), **extra}
    given = {**extra, **{key: value for key, value in fields.items() if value is not None}}
    return {key: value for key, value in given.items() if key in takes}


def _prompt(pipeline: str, spec: JobSpec) -> str:
    if pipeline.startswith(_WRITTEN_AS_JSON):
        return _as_json(spec.prompt)
    if pipeline.startswith(_MARKS_PICTURES):
        pictures = bool(spec.image) + len(spec.inputs.get("reference_images", ()))
        marks = (_MARK.format(number) for number in range(1, pictures + 1))
        return " ".join((*(mark for mark in marks if mark not in spec.prompt), spec.prompt))
    return spec.prompt


def _as_json(prompt: str) -> str:
    try:
        written = json.loads(prompt)
    except ValueError:
        written = None
    return prompt if isinstance(written, dict) and _INSTRUCTION in written else json.dumps({_INSTRUCTION: prompt})


def _without_sound(pipe: Any, spec: JobSpec) -> dict[str, Any]:
    """Kandinsky 6 makes sound by default, and refuses every job of a model that has no parts for it."""
    complete = getattr(pipe, "audio_vae", None) is not None and getattr(pipe, "vocoder", None) is not None
    return {} if complete or "sample_audio" in spec.extra else {"sample_audio": False}


def has_two_experts(pipe: Any) -> bool:
    """Wan's pipelines refuse a second scale where one transformer takes all steps."""
    return getattr(pipe, "config", {}).get("boundary_ratio") is not None


def _frame_count(pipe: Any, spec: JobSpec) -> int:
    """The number that makes the pipeline give as many frames as the job requests."""
    name = type(pipe).__name__
    if name == "HunyuanVideoImageToVideoPipeline" and pipe.transformer.config.image_condition_type == "latent_concat":
        # It drops the frames of its first latent.
        return spec.num_frames + int(pipe.vae_scale_factor_temporal)
    if name != "HunyuanVideoFramepackPipeline":
        return spec.num_frames
    # It counts windows by the frames of one decoded alone, and each adds those of one decoded after another.
    scale = int(pipe.vae_scale_factor_temporal)
    windows = max(1, (spec.num_frames - 1) // (_FRAMEPACK_WINDOW * scale))
    return windows * ((_FRAMEPACK_WINDOW - 1) * scale + 1)


def _frame_rate(takes: Mapping[str, Any], spec: JobSpec) -> dict[str, Any]:
    """Some models are conditioned on the rate at which the clip is shown."""
    if "num_frames" not in takes:
        return {}
    return {"frame_rate": spec.fps, "fps": round(spec.fps), "target_fps": round(spec.fps)}


def steps_of_sizes(pipe: Any, steps: int) -> list[int] | None:
    """The steps shared among the sizes in which a clip is drawn, one after another, by Helios' schedulers."""
    sizes = getattr(getattr(pipe, "scheduler", None), "config", {}).get("stages")
    return [max(1, steps // sizes + (number < steps % sizes)) for number in range(sizes)] if sizes else None


def guidance_arguments(takes: Mapping[str, Any], spec: JobSpec) -> dict[str, Any]:
    """Return the arguments of the guidance's strength, for a call with these parameters."""
    scale = spec.guidance_scale
    if "true_cfg_scale" not in takes:
        # The first frame of a clip gets the least guidance, the last the most (Stable Video Diffusion).
        least = None if scale is None else min(1.0, scale)
        return {
            "guidance_scale": scale,
            "distilled_guidance_scale": scale,
            "max_guidance_scale": scale,
            "min_guidance_scale": least,
        }
    if not _is_embedded(takes):
        # Without a negative prompt these pipelines leave guidance out, whatever its scale.
        true_scale = spec.extra.get("true_cfg_scale", scale)
        return {"true_cfg_scale": true_scale, "negative_prompt": spec.negative_prompt or " "}
    return {"guidance_scale": scale, "true_cfg_scale": _chosen_true_cfg(takes, spec)}


def _guidance_of_steps(takes: Mapping[str, Any], spec: JobSpec) -> dict[str, Any]:
    """A scale for each step, which some pipelines have for one number of steps; none beside a scale for all of them."""
    own = takes[_OF_STEPS].default if _OF_STEPS in takes else None
    if not isinstance(own, tuple | list):
        return {}
    steps = spec.num_inference_steps
    if spec.guidance_scale is not None:
        return {_OF_STEPS: None}
    return {_OF_STEPS: [own[(2 * step + 1) * len(own) // (2 * steps)] for step in range(steps)]}


def _is_embedded(takes: Mapping[str, Any]) -> bool:
    """Whether `guidance_scale` is the distilled one, an input of the model, beside true classifier-free guidance that is off by default."""
    own = takes["guidance_scale"].default if "guidance_scale" in takes else None
    return own is not None and own >= takes["true_cfg_scale"].default


def _chosen_true_cfg(takes: Mapping[str, Any], spec: JobSpec) -> Any:
    """The client's scale; without one, guidance is on when there is a negative prompt."""
    if "true_cfg_scale" in spec.extra or not spec.negative_prompt:
        return spec.extra.get("true_cfg_scale")
    own = takes["true_cfg_scale"].default
    return own if isinstance(own, int | float) and own > 1 else _TRUE_CFG
