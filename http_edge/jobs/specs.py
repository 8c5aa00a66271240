"""A generation -> `JobSpec`: fitted to a model's card, with one clear error or with warnings. Shared by all API families.

Nothing here touches a file: paths are checked by `media.input_store` and `media.exports`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from broker.wire import codec
from broker.wire.jobspec import (
    CacheMode,
    Defaults,
    JobSpec,
    Limits,
    MediaKind,
    ModelCard,
    Scalar,
    encode_spec,
    steps_drawn,
)
from broker.wire.loras import LoraUse
from http_edge.base.errors import EdgeError, invalid, shown
from http_edge.base.limits import MAX_PATH_CHARS
from http_edge.body.aspect import enlarged_size, nearest_size, size_for
from http_edge.jobs.generation import Generation
from http_edge.jobs.generation_reader import MAX_WARNINGS, arguments_of
from http_edge.jobs.loras import chosen_loras, preset_of_loras
from http_edge.jobs.media_checks import (
    Media,
    check_media,
    check_roles,
    check_start,
    frames_there,
    is_cut_little,
    media_warnings,
    shaping,
)
from http_edge.media.input_store import Picture

#: How far a size may be from an `aspect_ratio` beside it before that is worth a warning: grids are coarse.
_SAME_SHAPE = math.log(1.1)

#: How the web UIs name a LoRA in a prompt.
_LORA_TAG = re.compile(r"<(?:lora|lyco):[^<>]{1,200}>", re.IGNORECASE)

_NO_MEDIA: Media = MappingProxyType({})

#: A field that may have no effect -> the card's member that is then false.
_EFFECTS = {
    "negative_prompt": "takes_negative_prompt",
    "guidance_scale": "takes_guidance",
    "guidance_scale_2": "takes_guidance_2",
}

#: Fields with a rule of their own here; all others that a spec has are taken as requested, else from the model's defaults.
_RULED = frozenset(
    [
        "cache",
        "extra",
        "fps",
        "height",
        "loras",
        "model",
        "num_frames",
        "num_inference_steps",
        "num_outputs",
        "output",
        "preset",
        "seed",
        "width",
    ]
)
_PASSED_ON = tuple(name for name in JobSpec.__struct_fields__ if hasattr(Generation, name) and name not in _RULED)


def echoed_image(text: str) -> str:
    """A client's image as records repeat it: paths and URLs as they are, base64 by its beginning."""
    return text if len(text) <= MAX_PATH_CHARS else f"{text[:64]}… ({len(text)} characters)"


def build_spec(
    generation: Generation,
    card: ModelCard,
    *,
    seed: int = 0,
    echo: dict[str, Scalar] | None = None,
    warnings: tuple[str, ...] = (),
    lenient: bool = False,
    media: Media = _NO_MEDIA,
) -> JobSpec:
    """The complete spec of a request on this model; `image` and `save_to` are still as the client wrote them, other inputs are
    not in it. Raises `EdgeError`.

    `seed` is used when the request brings none. `warnings`: what is known already of what was changed or is ignored. `lenient`: a
    wish that this model cannot grant is ignored with a warning, where else it is an error. `media`: the inputs, once they are kept; the
    first one's shape is drawn where the request names none, and a clip bounds the number of frames.
    """
    output = _output_of(generation, card)
    check_roles(generation, card, output)
    check_media(generation, media)
    notes = [*warnings]
    generation, extra = _honoured(generation, card, notes, lenient=lenient)
    loras = _loras_of(generation, card, notes)
    preset = _preset_of(generation, card, loras)
    generation = _as_sampled(generation, card, preset, extra, notes)
    defaults = card.defaults_with(card.presets[preset]) if preset else card.defaults
    width, height = _size(generation, card, notes, shaping(media))
    _check_size(generation, width, height, card.limits)
    notes.extend(media_warnings(generation, card, media, (width, height)))
    fps = generation.fps or defaults.fps
    steps = generation.num_inference_steps or defaults.num_inference_steps
    if steps > card.limits.max_steps:
        raise invalid(generation.label("num_inference_steps"), steps, f"must be 1 to {card.limits.max_steps}")
    strength = extra.get("strength", card.default_strength)
    drawn = _drawn(generation, card, steps, strength)
    if drawn < 1:
        raise _nothing_drawn(generation, card, steps, strength)
    if generation.draft_steps is not None:
        _check_draft(generation, card, steps, drawn)
    return JobSpec(
        **_passed_on(generation, defaults),
        model=card.name,
        output=output,
        width=width,
        height=height,
        num_frames=_frames_drawn(generation, card, output, fps, media, notes),
        fps=fps,
        num_inference_steps=steps,
        seed=_or(generation.seed, seed),
        num_outputs=generation.num_outputs or 1,
        extra=extra,
        echo=echo or {},
        preset=preset,
        cache=_cache(generation, card),
        loras=loras,
        warnings=tuple(notes[:MAX_WARNINGS]),
    )


def _passed_on(generation: Generation, defaults: Defaults) -> dict[str, Any]:
    values = {name: _or(getattr(generation, name), getattr(defaults, name, None)) for name in _PASSED_ON}
    return {name: value for name, value in values.items() if value is not None}


def _honoured(
    generation: Generation, card: ModelCard, notes: list[str], *, lenient: bool
) -> tuple[Generation, dict[str, Scalar]]:
    """The request without what has no effect on this model, and the arguments of its call. Raises `EdgeError`."""
    for name, member in _EFFECTS.items():
        if getattr(generation, name) in (None, "", getattr(card.defaults, name)) or getattr(card, member):
            continue
        notes.append(f"{generation.label(name)}: has no effect on model {shown(card.name)}, ignored")
        generation = msgspec.structs.replace(generation, **{name: None})
    arguments = arguments_of(generation)
    if "strength" in arguments and not (generation.image or generation.video):
        notes.append(f"{generation.label('strength')}: there is no image to change, ignored")
        del arguments["strength"]
    taken = card.extra_parameters
    for name in [name for name in arguments if taken is not None and name not in taken]:
        label = f"extra.{name}" if name in generation.extra else generation.label(name)
        if name in ("strength", "true_cfg_scale") and not lenient:
            raise invalid(label, arguments[name], f"is not supported: model {shown(card.name)} does not take it")
        notes.append(f"{label}: model {shown(card.name)} does not take it, ignored")
        del arguments[name]
    return generation, arguments


def _loras_of(generation: Generation, card: ModelCard, notes: list[str]) -> tuple[LoraUse, ...]:
    """The LoRAs of a job. Raises `EdgeError`."""
    if tag := _LORA_TAG.search(generation.prompt):
        notes.append(f"{generation.label('prompt')}: {shown(tag[0])} is read as words; a LoRA is named in loras")
    # Some clients send a strength of 1 always.
    if not generation.loras and generation.lora_strength not in (None, 1.0):
        notes.append(f"{generation.label('lora_strength')}: there is no LoRA, ignored")
    return chosen_loras(generation.label("loras"), generation.loras, generation.lora_strength, card)


# ---------------------------------------------------------------- how the steps are taken


def _cache(generation: Generation, card: ModelCard) -> Literal["", CacheMode]:
    """The step cache of a job. Raises `EdgeError` for one that the model does not have."""
    if generation.cache is None:
        return ""
    if generation.cache != "off" and generation.cache not in card.caches:
        raise invalid(
            generation.label("cache"), generation.cache, f"is not for model {shown(card.name)}, which has no step cache"
        )
    return generation.cache


def _preset_of(generation: Generation, card: ModelCard, loras: tuple[LoraUse, ...]) -> str:
    """The preset of a job, that of its LoRAs where the request names none; "" for none at all. Raises `EdgeError`."""
    name = generation.preset or preset_of_loras(generation.label("loras"), loras, card)
    if name and name not in card.presets:
        known = f"; known: {', '.join(card.presets)}" if card.presets else ", which has none"
        raise invalid(generation.label("preset"), name, f"is not a preset of model {shown(card.name)}{known}")
    return name


def _as_sampled(
    generation: Generation, card: ModelCard, preset: str, arguments: Mapping[str, Scalar], notes: list[str]
) -> Generation:
    """The request without a negative prompt where the sampler draws without guidance. Raises `EdgeError` for a contradiction."""
    sampler = card.presets[preset] if preset else card.sampler
    if sampler is None:
        return generation
    what = f"preset {shown(preset)}" if preset else f"the sampler of model {shown(card.name)}"
    if sampler.fixes_steps:
        _same(generation, "num_inference_steps", generation.num_inference_steps, sampler.own_steps, what)
    if sampler.fixes_shift:
        _same(generation, "flow_shift", arguments.get("flow_shift"), sampler.shift, what)
    if not sampler.fixed or sampler.guidance is None:
        return generation
    second = sampler.guidance if sampler.guidance_2 is None else sampler.guidance_2
    _same(generation, "guidance_scale", generation.guidance_scale, sampler.guidance, what)
    _same(generation, "guidance_scale_2", generation.guidance_scale_2, second, what)
    if max(sampler.guidance, second) > 1:
        return generation
    true_scale = arguments.get("true_cfg_scale")
    if isinstance(true_scale, int | float) and true_scale > 1:
        raise _contradiction(generation, "true_cfg_scale", true_scale, "1 at most", what)
    if generation.negative_prompt not in (None, "", card.defaults.negative_prompt):
        notes.append(
            f"{generation.label('negative_prompt')}: has no effect with {what}, which draws without guidance, ignored"
        )
    return msgspec.structs.replace(generation, negative_prompt="")


def _same(generation: Generation, name: str, value: Any, own: float | None, what: str) -> None:
    if value is not None and value != own:
        raise _contradiction(generation, name, value, "the model's own" if own is None else f"{own:g}", what)


def _contradiction(generation: Generation, name: str, value: Any, own: str, what: str) -> EdgeError:
    label = generation.label(name)
    return invalid(
        label, value, f"contradicts {what}, in which it is {own}; leave {label} out, or choose another preset"
    )


def _check_draft(generation: Generation, card: ModelCard, steps: int, drawn: int) -> None:
    """Refuse a draft of a job that could not go on from it, or would be done by then."""
    label, draft_steps = generation.label("draft_steps"), generation.draft_steps
    if not card.resumes:
        raise invalid(label, draft_steps, f"is not for model {shown(card.name)}, which cannot go on from a draft")
    if draft_steps is not None and draft_steps >= drawn:
        rule = (
            f"the job's {steps} steps" if drawn == steps else f"{drawn}, the steps that its strength leaves of {steps}"
        )
        raise invalid(label, draft_steps, f"must be less than {rule}")


def _drawn(generation: Generation, card: ModelCard, steps: int, strength: Scalar | None) -> int:
    """Steps that are taken: of a change to an image, those that its strength leaves."""
    changes = (generation.image or generation.video) and card.default_strength is not None
    if not changes or isinstance(strength, bool) or not isinstance(strength, int | float):
        return steps
    return steps_drawn(steps, strength)


def _nothing_drawn(generation: Generation, card: ModelCard, steps: int, strength: Any) -> EdgeError:
    """The refusal of what skips every step of a change to an image."""
    least = f"; at least {math.ceil(1 / strength)} are needed" if strength > 0 else ""
    label, sent = generation.label("num_inference_steps"), generation.label("strength")
    own = "" if generation.strength is not None or "strength" in generation.extra else ", the model's own,"
    return EdgeError(
        "invalid_value",
        f"{sent}: {strength:g}{own} x {label} {steps} leaves no step for model {shown(card.name)} to draw{least}",
        param=label if own else sent,
        params=(sent, label),
        value=steps if own else strength,
    )


def encode_checked(spec: JobSpec) -> bytes:
    """The spec's bytes. Raises `EdgeError` when they are more than the wire carries."""
    body = encode_spec(spec)
    if len(body) > codec.MAX_BODY:
        raise EdgeError("too_large", f"body: the job takes {len(body)} bytes, at most {codec.MAX_BODY}")
    return body


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _output_of(generation: Generation, card: ModelCard) -> MediaKind:
    if generation.output is None or generation.output == card.output:
        return card.output
    if generation.output == "image" and card.also_image:
        return "image"
    raise invalid(
        generation.label("output"),
        generation.output,
        f"is not what model {shown(card.name)} makes: {shown(card.output)}",
    )


def _size(generation: Generation, card: ModelCard, notes: list[str], picture: Picture | None) -> tuple[int, int]:
    """(width, height) of what is drawn. Raises `EdgeError`."""
    aspect, explicit = generation.aspect_ratio, generation.size is not None or generation.width or generation.height
    width, height = generation.size or (
        generation.width or card.defaults.width,
        generation.height or card.defaults.height,
    )
    if not card.takes_size and (explicit or aspect):
        name = next(name for name in ("size", "width", "height", "aspect_ratio") if getattr(generation, name))
        notes.append(f"{generation.label(name)}: model {shown(card.name)} chooses the size itself")
    if aspect is None:
        if picture is not None and card.enlarges > 1 and not explicit:
            return enlarged_size((picture.width, picture.height), card)
        if picture is None or explicit or not card.takes_size or is_cut_little(picture, (width, height)):
            return width, height
        return nearest_size((picture.width, picture.height), card)
    label = generation.label("aspect_ratio")
    if explicit:
        if abs(math.log(width / height * aspect[1] / aspect[0])) > _SAME_SHAPE:
            notes.append(f"{label}: ignored, as the size is {width}x{height}")
        return width, height
    size = size_for(aspect, card)
    if size is None:
        rule = f"is a shape that model {shown(card.name)} cannot draw"
        raise invalid(label, "{}:{}".format(*aspect), rule)
    return size


def _check_size(generation: Generation, width: int, height: int, limits: Limits) -> None:
    _check_side(generation, "width", width, limits)
    _check_side(generation, "height", height, limits)
    if width * height > limits.max_pixels:
        label = generation.label("width" if generation.size is None else "size")
        rule = f"has {width * height} pixels; this model takes at most {limits.max_pixels}"
        raise invalid(label, f"{width}x{height}", rule)


def _check_side(generation: Generation, name: str, value: int, limits: Limits) -> None:
    label = generation.label(name if generation.size is None else "size")
    subject = name if label == name else f"{name} {value} of {label}"
    step = limits.side_multiple
    if not limits.min_side <= value <= limits.max_side:
        rule = f"must be {limits.min_side} to {limits.max_side}"
    elif value % step:
        rule = f"must be a multiple of {step}; nearest: {_nearest(value, step, limits.min_side, limits.max_side)}"
    else:
        return
    raise EdgeError(
        "invalid_value",
        f"{subject}: {value} {rule}" if label == name else f"{subject} {rule}",
        param=label,
        value=value,
    )


def _frames_drawn(
    generation: Generation, card: ModelCard, output: MediaKind, fps: float, media: Media, notes: list[str]
) -> int:
    frames = _clip_frames(generation, card, _frames(generation, card, output, fps, notes), fps, media, notes)
    notes.extend(check_start(generation, card, media, frames, fps))
    return frames


def _frames(generation: Generation, card: ModelCard, output: MediaKind, fps: float, notes: list[str]) -> int:
    limits = card.limits
    if output == "image":
        for name in ("seconds", "fps"):
            if getattr(generation, name) is not None:
                notes.append(f"{generation.label(name)}: this job makes images, ignored")
        if generation.num_frames not in (None, 1):
            raise invalid(generation.label("num_frames"), generation.num_frames, "must be 1: this job makes images")
        return 1
    if generation.num_frames is not None:
        frames = generation.num_frames
        if not limits.allows_frames(frames):
            nearest = " or ".join(str(count) for count in limits.nearest_frames(frames))
            raise invalid(generation.label("num_frames"), frames, f"must be {limits.frame_rule()}; nearest: {nearest}")
        if generation.seconds is not None and limits.closest_frames(generation.seconds * fps) != (frames, False):
            notes.append(f"{generation.label('seconds')}: ignored, as {generation.label('num_frames')} is {frames}")
        return frames
    if generation.seconds is None:
        return card.defaults.num_frames
    frames, too_long = limits.closest_frames(generation.seconds * fps)
    if too_long:
        takes = f"at {fps:g} frames per second takes {round(generation.seconds * fps)} frames"
        longest = f"this model makes at most {frames} ({frames / fps:.4g} s)"
        raise invalid(generation.label("seconds"), generation.seconds, f"{takes}; {longest}")
    return frames


def _clip_frames(
    generation: Generation, card: ModelCard, frames: int, fps: float, media: Media, notes: list[str]
) -> int:
    """`frames`, or as many as there are of a clip to draw over where the request leaves the number open. Raises `EdgeError`."""
    there = frames_there(media, fps)
    if there is None:
        return frames
    label, (role, most) = generation.label(there[0]), there
    clip = media[role][0].clip
    assert clip is not None
    has = f"it has {most} frames at {fps:g} frames per second"
    if most < frames:
        fixed = next((name for name in ("num_frames", "seconds") if getattr(generation, name) is not None), None)
        fitting = card.limits.nearest_frames(most)[0]
        if fixed is not None or fitting > most:
            least = frames if fixed is not None else fitting
            raise EdgeError(
                "invalid_value",
                f"{label}: {has}, and {least} are drawn at least",
                param=label,
                params=(label, *([generation.label(fixed)] if fixed else ())),
            )
        return fitting
    if most > frames:
        notes.append(f"{label}: {has}, and the first {frames} were used")
    return frames


def _nearest(value: int, step: int, low: int, high: int) -> str:
    """The valid neighbours of a value on the grid step x k, as text."""
    below = value // step * step
    return " or ".join(str(near) for near in (below, below + step) if low <= near <= high)
