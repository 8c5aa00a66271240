"""Checks of a job against its pipeline: refused before the call, or drawn without a feature, with a warning."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from broker.wire.jobspec import JobSpec, ModelCard, steps_drawn
from workers.engine.arguments import AS_NAMED, has_two_experts, steps_of_sizes
from workers.engine.errors import InvalidInput
from workers.models.pipeline_classes import FLOW_SHIFT, STEPS, is_extra

#: Pipelines whose control network is for control images of several kinds, and the argument that says of which the job's is.
_OF_SEVERAL_KINDS, _CONTROL_MODE = r".*ControlNetUnion", "control_mode"

#: Pipelines that fail without guidance: perturbed attention is made for its two passes.
_ONLY_GUIDED = r"HunyuanDiTPAG"

#: Pipelines that fail with fewer steps, and schedulers with which they do not: Mochi has two kinds, each half of them, and PixArt takes of
#: a single one what only a scheduler of consistency models hands out.
_LEAST_STEPS = ((r"Mochi", 2, ""), (r"PixArtAlpha", 2, "LCMScheduler"))


def without_effect(pipe: Any, card: ModelCard, spec: JobSpec) -> Iterator[str]:
    """Return warnings about features of the job that this pipeline lacks, a sentence each. The model's own defaults do not count."""
    takes = inspect.signature(type(pipe).__call__).parameters
    usual = card.defaults
    if "prompt" not in takes and "prompt_embeds" not in takes:
        yield "prompt: this pipeline draws without one"
    requested = {
        "negative_prompt": spec.negative_prompt if spec.negative_prompt != usual.negative_prompt else None,
        **{name: getattr(spec, name) for name in AS_NAMED},
    }
    if spec.num_inference_steps != usual.num_inference_steps:
        yield from _steps_not_taken(pipe, takes, spec.num_inference_steps)
    for field, value in requested.items():
        if value and field not in takes:
            yield f"{field}: this pipeline takes none; it was not used"
    if spec.guidance_scale is not None and not card.takes_guidance and spec.guidance_scale != usual.guidance_scale:
        yield "guidance_scale: this model draws without guidance; it was not used"
    if spec.guidance_scale_2 is not None and not has_two_experts(pipe):
        yield "guidance_scale_2: this model has no second expert; it was not used"
    for key in sorted(spec.extra.keys() - {FLOW_SHIFT}):
        if not is_extra(key):
            yield f"extra.{key}: a request does not set this argument of the pipeline; it was not used"
        elif key not in takes:
            yield f"extra.{key}: this pipeline takes no such argument; it was not used"


def _steps_not_taken(pipe: Any, takes: Mapping[str, Any], steps: int) -> Iterator[str]:
    if not any(name in takes for name in STEPS):
        yield "num_inference_steps: this pipeline takes none; it was not used"
    elif STEPS[0] not in takes and steps < (least := len(steps_of_sizes(pipe, steps) or ())):
        yield f"num_inference_steps: {least} sizes are drawn one after another, each in one step or more; {least} were used"


def guidance_was_off(pipe: Any, card: ModelCard, spec: JobSpec, arguments: dict[str, Any]) -> Iterator[str]:
    """After a call with these arguments: that the negative prompt of the job had no effect, if the scale kept it from having one."""
    if spec.negative_prompt == card.defaults.negative_prompt or not arguments.get("negative_prompt"):
        return
    true_scale = arguments.get("true_cfg_scale")
    if isinstance(true_scale, int | float):
        if true_scale <= 1:
            yield f"negative_prompt: it has no effect at true_cfg_scale {true_scale:g}"
    elif getattr(pipe, "do_classifier_free_guidance", None) is False:
        scale = arguments.get("guidance_scale")
        why = f"at guidance_scale {scale:g}" if isinstance(scale, int | float) else "without guidance"
        yield f"negative_prompt: it has no effect {why}"


def check_inputs(card: ModelCard, spec: JobSpec) -> None:
    """Raise `InvalidInput` for a job whose inputs beside the image are not those that the model takes."""
    for role in spec.inputs:
        if role not in card.takes_inputs:
            raise InvalidInput(f"{role}: model {card.name!r} does not take it")
    for role in card.needs_inputs:
        if not spec.inputs.get(role):
            raise InvalidInput(f"{role}: model {card.name!r} does not draw without it")
    if "last_image" in spec.inputs and spec.output == "video" and spec.num_frames == 1:
        raise InvalidInput(
            "last_image: a clip of 1 frame has none after its first; leave it out, or ask for more frames"
        )


def check_control_mode(card: ModelCard, spec: JobSpec) -> None:
    """Raise `InvalidInput` for a job that does not say what its control image shows to a network that is for several kinds."""
    if not re.match(_OF_SEVERAL_KINDS, card.pipeline):
        return
    mode = spec.extra.get(_CONTROL_MODE)
    if isinstance(mode, bool) or not isinstance(mode, int) or mode < 0:
        was = f"{mode!r} is no whole number from 0" if mode is not None else "is needed"
        raise InvalidInput(
            f"extra.{_CONTROL_MODE}: {was}; it says which kind of control image the job has, by the model's own count"
        )


def check_guidance(card: ModelCard, spec: JobSpec) -> None:
    """Raise `InvalidInput` for a job without guidance of a pipeline that fails so."""
    scale = spec.guidance_scale
    if scale is not None and scale <= 1 and re.match(_ONLY_GUIDED, card.pipeline):
        raise InvalidInput(
            f"guidance_scale: {scale:g} leaves out guidance, and {card.pipeline} draws with it alone; it must be above 1"
        )


def check_strength(card: ModelCard, spec: JobSpec) -> None:
    """Raise `InvalidInput` for a job whose strength, or the model's own, leaves no step to draw."""
    strength = spec.extra.get("strength", card.default_strength)
    if card.default_strength is None or isinstance(strength, bool) or not isinstance(strength, int | float):
        return
    steps = spec.num_inference_steps
    if steps_drawn(steps, strength) >= 1:
        return
    least = f"; at least {math.ceil(1 / strength)} are needed" if strength > 0 else ""
    raise InvalidInput(f"num_inference_steps: {steps} at strength {strength:g} leaves no step to draw{least}")


def check_steps(pipe: Any, spec: JobSpec) -> None:
    """Raise `InvalidInput` for a job of fewer steps than its pipeline or its scheduler takes."""
    name, steps = type(pipe).__name__, spec.num_inference_steps
    scheduler: Any = getattr(pipe, "scheduler", None)
    solver, least = type(scheduler).__name__, 1
    for pattern, at_least, but_with in _LEAST_STEPS:
        if re.match(pattern, name) and solver != but_with:
            least = at_least
    if not getattr(scheduler, "config", {}).get("skip_prk_steps", True):
        # PNDM begins with Runge-Kutta steps between its last times, and fails in numpy's words where there are fewer of them.
        name, least = solver, scheduler.pndm_order
    if steps < least:
        raise InvalidInput(f"num_inference_steps: {steps} is fewer than {name} takes; at least {least} are needed")
