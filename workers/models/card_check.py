"""Check of a model's card and of the table behind it: an output it makes, defaults that have an effect, limits that something is within.

Each fault is a `CatalogueError` that names the key, its value and the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.wire.jobspec import MAX_FRAMES, MAX_PROMPT_CHARS, MAX_SIDE, MAX_STEPS, MAX_TOKENS, MediaKind, ModelCard
from workers.models import abilities
from workers.models.families import Family
from workers.models.pipeline_classes import PipelineClass
from workers.models.sources import CatalogueError, shown
from workers.models.table import ModelTable

#: What any spec can carry (`JobSpec`).
_BOUNDS = {
    "min_side": (1, MAX_SIDE), "max_side": (1, MAX_SIDE), "side_multiple": (1, MAX_SIDE), "max_pixels": (1, MAX_SIDE**2),
    "max_frames": (1, MAX_FRAMES), "frame_step": (1, MAX_FRAMES), "frame_offset": (0, MAX_FRAMES), "max_steps": (1, MAX_STEPS),
}  # fmt: skip

#: Of defaults: as in a request.
_DEFAULT_BOUNDS = {
    "fps": (1, 240),
    "guidance_scale": (0, 100),
    "guidance_scale_2": (0, 100),
    "max_sequence_length": (1, MAX_TOKENS),
}


def check_output(where: str, output: MediaKind, family: Family, taken: PipelineClass, settings: ModelTable) -> None:
    """Raise for an output that the pipeline does not make, and for keys that are for another one."""
    if output == "video" and family.output == "image" and not abilities.draws_clips(taken):
        raise CatalogueError(where, "output", f"'video' is not what {taken.name} makes, an image; leave the key out")
    if settings.engine not in ("", output):
        text = f"{settings.engine!r} does not draw what {taken.name} makes, {output}; leave the key out"
        raise CatalogueError(where, "engine", text)
    if settings.also_image is not None and output == "image":
        raise CatalogueError(
            where, "also_image", f"{shown(settings.also_image)} is for models of clips; leave the key out"
        )


def check_effects(
    where: str, card: ModelCard, taken: PipelineClass, settings: ModelTable, given: Mapping[str, Any]
) -> None:
    """Raise for a default that the pipeline has no use for."""
    for name, has_effect in (
        ("negative_prompt", card.takes_negative_prompt),
        ("guidance_scale", card.takes_guidance),
        ("guidance_scale_2", card.takes_guidance_2),
        ("max_sequence_length", taken.takes("max_sequence_length")),
    ):
        if settings.defaults.get(name) not in (None, "") and not has_effect:
            text = f"{shown(settings.defaults[name])} has no effect on this {taken.name}; leave the key out"
            raise CatalogueError(where, f"defaults.{name}", text)
    for key in (
        "defaults.fps",
        *(f"limits.{name}" for name in ("max_frames", "frame_step", "frame_offset", "frame_choices")),
    ):
        table, _, name = key.partition(".")
        if card.output == "image" and name in given.get(table, ()):
            raise CatalogueError(
                where, key, f"{shown(given[table][name])} is for clips, and the model makes images; leave the key out"
            )


def check_card(where: str, card: ModelCard) -> None:
    """Raise for limits that nothing is within, and when a request that gives only a prompt would be refused."""
    defaults, limits = card.defaults, card.limits
    for name, (least, most) in _BOUNDS.items():
        if not least <= getattr(limits, name) <= most:
            raise CatalogueError(where, f"limits.{name}", f"{getattr(limits, name)} must be {least} to {most}")
    if limits.min_side > limits.max_side:
        text = f"{limits.min_side} is above limits.max_side, {limits.max_side}; raise that, or lower this"
        raise CatalogueError(where, "limits.min_side", text)
    if any(not 1 <= count <= MAX_FRAMES for count in limits.frame_choices) or sorted(set(limits.frame_choices)) != list(
        limits.frame_choices
    ):
        text = f"{shown(limits.frame_choices)} must be rising numbers of frames from 1 to {MAX_FRAMES}"
        raise CatalogueError(where, "limits.frame_choices", text)
    if max(limits.frame_choices, default=limits.frame_offset) > limits.max_frames:
        key = "frame_choices" if limits.frame_choices else "frame_offset"
        text = (
            f"{shown(getattr(limits, key))} is above limits.max_frames, {limits.max_frames}; raise that, or lower this"
        )
        raise CatalogueError(where, f"limits.{key}", text)
    if len(defaults.negative_prompt) > MAX_PROMPT_CHARS:
        text = f"{shown(defaults.negative_prompt)} has {len(defaults.negative_prompt)} characters; at most {MAX_PROMPT_CHARS} can be had"
        raise CatalogueError(where, "defaults.negative_prompt", text)
    for name, value in (("width", defaults.width), ("height", defaults.height)):
        if not limits.min_side <= value <= limits.max_side or value % limits.side_multiple:
            text = f"{value} is not a multiple of {limits.side_multiple} from {limits.min_side} to {limits.max_side}"
            raise CatalogueError(where, f"defaults.{name}", f"{text}; set it, or limits")
    if (pixels := defaults.width * defaults.height) > limits.max_pixels:
        text = f"{defaults.width}x{defaults.height} are {pixels} pixels, and limits.max_pixels is {limits.max_pixels}; set either"
        raise CatalogueError(where, "defaults.width", text)
    if not limits.allows_frames(defaults.num_frames):
        text = f"{defaults.num_frames} is not {limits.frame_rule()}; set it, or limits"
        raise CatalogueError(where, "defaults.num_frames", text)
    if not 1 <= defaults.num_inference_steps <= limits.max_steps:
        text = f"{defaults.num_inference_steps} is not 1 to {limits.max_steps}; set it, or limits.max_steps"
        raise CatalogueError(where, "defaults.num_inference_steps", text)
    for name, (lowest, highest) in _DEFAULT_BOUNDS.items():
        number = getattr(defaults, name)
        if number is not None and not lowest <= number <= highest:
            raise CatalogueError(where, f"defaults.{name}", f"{number:g} must be {lowest} to {highest}")
