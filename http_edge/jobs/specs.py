"""A generation -> `JobSpec`: fitted to a model's card, with one clear error or with warnings. Shared by all API families.

Nothing here touches a file: paths are checked by `inputs` and `exports`.
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
from http_edge.body.aspect import nearest_size, size_for
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
from http_edge.media.image_inputs import Picture

#: How far a size may be from an `aspect_ratio` beside it before that is worth a word: grids are coarse.
_SAME_SHAPE = math.log(1.1)

#: How the web UIs name a LoRA in a prompt.
_LORA_TAG = re.compile(r"<(?:lora|lyco):[^<>]{1,200}>", re.IGNORECASE)

_NO_MEDIA: Media = MappingProxyType({})

#: A field without effect -> the member of the card that says so.
_EFFECTS = {
    "negative_prompt": "takes_negative_prompt",
    "guidance_scale": "takes_guidance",
    "guidance_scale_2": "takes_guidance_2",
}

#: Fields with a rule of their own here; all others that a spec has are taken as asked for, else from the model's defaults.
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
    wanted: Generation,
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
    output = _output_of(wanted, card)
    check_roles(wanted, card, output)
    check_media(wanted, media)
    notes = [*warnings]
    wanted, extra = _honoured(wanted, card, notes, lenient=lenient)
    loras = _loras_of(wanted, card, notes)
    preset = _preset_of(wanted, card, loras)
    wanted = _as_sampled(wanted, card, preset, extra, notes)
    defaults = card.defaults_with(card.presets[preset]) if preset else card.defaults
    width, height = _size(wanted, card, notes, shaping(media))
    _check_size(wanted, width, height, card.limits)
    notes.extend(media_warnings(wanted, card, media, (width, height)))
    fps = wanted.fps or defaults.fps
    steps = wanted.num_inference_steps or defaults.num_inference_steps
    if steps > card.limits.max_steps:
        raise invalid(wanted.label("num_inference_steps"), steps, f"must be 1 to {card.limits.max_steps}")
    if wanted.image or wanted.video:
        _check_steps_drawn(wanted, card, steps, extra.get("strength", card.default_strength))
    if wanted.draft_steps is not None:
        _check_draft(wanted, card, steps)
    return JobSpec(
        **_passed_on(wanted, defaults),
        model=card.name,
        output=output,
        width=width,
        height=height,
        num_frames=_frames_drawn(wanted, card, output, fps, media, notes),
        fps=fps,
        num_inference_steps=steps,
        seed=_or(wanted.seed, seed),
        num_outputs=wanted.num_outputs or 1,
        extra=extra,
        echo=echo or {},
        preset=preset,
        cache=_cache(wanted, card),
        loras=loras,
        warnings=tuple(notes[:MAX_WARNINGS]),
    )


def _passed_on(wanted: Generation, defaults: Defaults) -> dict[str, Any]:
    values = {name: _or(getattr(wanted, name), getattr(defaults, name, None)) for name in _PASSED_ON}
    return {name: value for name, value in values.items() if value is not None}


def _honoured(
    wanted: Generation, card: ModelCard, notes: list[str], *, lenient: bool
) -> tuple[Generation, dict[str, Scalar]]:
    """The request without what has no effect on this model, and the arguments of its call. Raises `EdgeError`."""
    for name, member in _EFFECTS.items():
        if getattr(wanted, name) in (None, "", getattr(card.defaults, name)) or getattr(card, member):
            continue
        notes.append(f"{wanted.label(name)}: has no effect on model {shown(card.name)}, ignored")
        wanted = msgspec.structs.replace(wanted, **{name: None})
    arguments = arguments_of(wanted)
    if "strength" in arguments and not (wanted.image or wanted.video):
        notes.append(f"{wanted.label('strength')}: there is no image to change, ignored")
        del arguments["strength"]
    taken = card.extra_parameters
    for name in [name for name in arguments if taken is not None and name not in taken]:
        label = f"extra.{name}" if name in wanted.extra else wanted.label(name)
        if name in ("strength", "true_cfg_scale") and not lenient:
            raise invalid(label, arguments[name], f"is not supported: model {shown(card.name)} does not take it")
        notes.append(f"{label}: model {shown(card.name)} does not take it, ignored")
        del arguments[name]
    return wanted, arguments


def _loras_of(wanted: Generation, card: ModelCard, notes: list[str]) -> tuple[LoraUse, ...]:
    """The LoRAs of a job. Raises `EdgeError`."""
    if tag := _LORA_TAG.search(wanted.prompt):
        notes.append(f"{wanted.label('prompt')}: {shown(tag[0])} is read as words; a LoRA is named in loras")
    # Some clients send a strength of 1 always.
    if not wanted.loras and wanted.lora_strength not in (None, 1.0):
        notes.append(f"{wanted.label('lora_strength')}: there is no LoRA, ignored")
    return chosen_loras(wanted.label("loras"), wanted.loras, wanted.lora_strength, card)


# ---------------------------------------------------------------- how the steps are taken


def _cache(wanted: Generation, card: ModelCard) -> Literal["", CacheMode]:
    """The step cache of a job. Raises `EdgeError` for one that the model does not have."""
    if wanted.cache is None:
        return ""
    if wanted.cache != "off" and wanted.cache not in card.caches:
        raise invalid(
            wanted.label("cache"), wanted.cache, f"is not for model {shown(card.name)}, which has no step cache"
        )
    return wanted.cache


def _preset_of(wanted: Generation, card: ModelCard, loras: tuple[LoraUse, ...]) -> str:
    """The preset of a job, that of its LoRAs where the request names none; "" for none at all. Raises `EdgeError`."""
    name = wanted.preset or preset_of_loras(wanted.label("loras"), loras, card)
    if name and name not in card.presets:
        known = f"; known: {', '.join(card.presets)}" if card.presets else ", which has none"
        raise invalid(wanted.label("preset"), name, f"is not a preset of model {shown(card.name)}{known}")
    return name


def _as_sampled(
    wanted: Generation, card: ModelCard, preset: str, arguments: Mapping[str, Scalar], notes: list[str]
) -> Generation:
    """The request without a negative prompt where the sampler draws without guidance. Raises `EdgeError` for a contradiction."""
    sampler = card.presets[preset] if preset else card.sampler
    if sampler is None:
        return wanted
    what = f"preset {shown(preset)}" if preset else f"the sampler of model {shown(card.name)}"
    if sampler.fixes_steps:
        _same(wanted, "num_inference_steps", wanted.num_inference_steps, sampler.own_steps, what)
    if sampler.fixes_shift:
        _same(wanted, "flow_shift", arguments.get("flow_shift"), sampler.shift, what)
    if not sampler.fixed or sampler.guidance is None:
        return wanted
    second = sampler.guidance if sampler.guidance_2 is None else sampler.guidance_2
    _same(wanted, "guidance_scale", wanted.guidance_scale, sampler.guidance, what)
    _same(wanted, "guidance_scale_2", wanted.guidance_scale_2, second, what)
    if max(sampler.guidance, second) > 1:
        return wanted
    true_scale = arguments.get("true_cfg_scale")
    if isinstance(true_scale, int | float) and true_scale > 1:
        raise _contradiction(wanted, "true_cfg_scale", true_scale, "1 at most", what)
    if wanted.negative_prompt not in (None, "", card.defaults.negative_prompt):
        notes.append(
            f"{wanted.label('negative_prompt')}: has no effect with {what}, which draws without guidance, ignored"
        )
    return msgspec.structs.replace(wanted, negative_prompt="")


def _same(wanted: Generation, name: str, value: Any, own: float | None, what: str) -> None:
    if value is not None and value != own:
        raise _contradiction(wanted, name, value, "the model's own" if own is None else f"{own:g}", what)


def _contradiction(wanted: Generation, name: str, value: Any, own: str, what: str) -> EdgeError:
    label = wanted.label(name)
    return invalid(
        label, value, f"contradicts {what}, in which it is {own}; leave {label} out, or choose another preset"
    )


def _check_draft(wanted: Generation, card: ModelCard, steps: int) -> None:
    """Refuse a draft of a job that could not go on from it, or would be done by then."""
    label, asked = wanted.label("draft_steps"), wanted.draft_steps
    if not card.resumes:
        raise invalid(label, asked, f"is not for model {shown(card.name)}, which cannot go on from a draft")
    if asked is not None and asked >= steps:
        raise invalid(label, asked, f"must be less than the job's {steps} steps")


def _check_steps_drawn(wanted: Generation, card: ModelCard, steps: int, strength: Scalar) -> None:
    """Refuse what skips every step of a change to an image."""
    if card.default_strength is None or isinstance(strength, bool) or not isinstance(strength, int | float):
        return
    if steps_drawn(steps, strength) >= 1:
        return
    least = f"; at least {math.ceil(1 / strength)} are needed" if strength > 0 else ""
    label, sent = wanted.label("num_inference_steps"), wanted.label("strength")
    own = "" if wanted.strength is not None or "strength" in wanted.extra else ", the model's own,"
    raise EdgeError(
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


def _output_of(wanted: Generation, card: ModelCard) -> MediaKind:
    if wanted.output is None or wanted.output == card.output:
        return card.output
    if wanted.output == "image" and card.also_image:
        return "image"
    raise invalid(
        wanted.label("output"), wanted.output, f"is not what model {shown(card.name)} makes: {shown(card.output)}"
    )


def _size(wanted: Generation, card: ModelCard, notes: list[str], picture: Picture | None) -> tuple[int, int]:
    """(width, height) of what is drawn. Raises `EdgeError`."""
    aspect, explicit = wanted.aspect_ratio, wanted.size is not None or wanted.width or wanted.height
    width, height = wanted.size or (wanted.width or card.defaults.width, wanted.height or card.defaults.height)
    if not card.takes_size and (explicit or aspect):
        name = next(name for name in ("size", "width", "height", "aspect_ratio") if getattr(wanted, name))
        notes.append(f"{wanted.label(name)}: model {shown(card.name)} chooses the size itself")
    if aspect is None:
        if picture is None or explicit or not card.takes_size or is_cut_little(picture, (width, height)):
            return width, height
        return nearest_size((picture.width, picture.height), card)
    label = wanted.label("aspect_ratio")
    if explicit:
        if abs(math.log(width / height * aspect[1] / aspect[0])) > _SAME_SHAPE:
            notes.append(f"{label}: ignored, as the size is {width}x{height}")
        return width, height
    size = size_for(aspect, card)
    if size is None:
        rule = f"is a shape that model {shown(card.name)} cannot draw"
        raise invalid(label, "{}:{}".format(*aspect), rule)
    return size


def _check_size(wanted: Generation, width: int, height: int, limits: Limits) -> None:
    _check_side(wanted, "width", width, limits)
    _check_side(wanted, "height", height, limits)
    if width * height > limits.max_pixels:
        label = wanted.label("width" if wanted.size is None else "size")
        rule = f"has {width * height} pixels; this model takes at most {limits.max_pixels}"
        raise invalid(label, f"{width}x{height}", rule)


def _check_side(wanted: Generation, name: str, value: int, limits: Limits) -> None:
    label = wanted.label(name if wanted.size is None else "size")
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
    wanted: Generation, card: ModelCard, output: MediaKind, fps: float, media: Media, notes: list[str]
) -> int:
    frames = _clip_frames(wanted, card, _frames(wanted, card, output, fps, notes), fps, media, notes)
    notes.extend(check_start(wanted, card, media, frames, fps))
    return frames


def _frames(wanted: Generation, card: ModelCard, output: MediaKind, fps: float, notes: list[str]) -> int:
    limits = card.limits
    if output == "image":
        for name in ("seconds", "fps"):
            if getattr(wanted, name) is not None:
                notes.append(f"{wanted.label(name)}: this job makes images, ignored")
        if wanted.num_frames not in (None, 1):
            raise invalid(wanted.label("num_frames"), wanted.num_frames, "must be 1: this job makes images")
        return 1
    if wanted.num_frames is not None:
        frames = wanted.num_frames
        if not limits.allows_frames(frames):
            nearest = " or ".join(str(count) for count in limits.nearest_frames(frames))
            raise invalid(wanted.label("num_frames"), frames, f"must be {limits.frame_rule()}; nearest: {nearest}")
        if wanted.seconds is not None and limits.closest_frames(wanted.seconds * fps) != (frames, False):
            notes.append(f"{wanted.label('seconds')}: ignored, as {wanted.label('num_frames')} is {frames}")
        return frames
    if wanted.seconds is None:
        return card.defaults.num_frames
    frames, too_long = limits.closest_frames(wanted.seconds * fps)
    if too_long:
        takes = f"at {fps:g} frames per second takes {round(wanted.seconds * fps)} frames"
        longest = f"this model makes at most {frames} ({frames / fps:.4g} s)"
        raise invalid(wanted.label("seconds"), wanted.seconds, f"{takes}; {longest}")
    return frames


def _clip_frames(wanted: Generation, card: ModelCard, frames: int, fps: float, media: Media, notes: list[str]) -> int:
    """`frames`, or as many as there are of a clip to draw over where the request leaves the number open. Raises `EdgeError`."""
    there = frames_there(media, fps)
    if there is None:
        return frames
    label, (role, most) = wanted.label(there[0]), there
    clip = media[role][0].clip
    assert clip is not None
    has = f"it has {most} frames at {fps:g} frames per second"
    if most < frames:
        fixed = next((name for name in ("num_frames", "seconds") if getattr(wanted, name) is not None), None)
        fitting = card.limits.nearest_frames(most)[0]
        if fixed is not None or fitting > most:
            least = frames if fixed is not None else fitting
            raise EdgeError(
                "invalid_value",
                f"{label}: {has}, and {least} are drawn at least",
                param=label,
                params=(label, *([wanted.label(fixed)] if fixed else ())),
            )
        return fitting
    if most > frames:
        notes.append(f"{label}: {has}, and the first {frames} were used")
    return frames


def _nearest(value: int, step: int, low: int, high: int) -> str:
    """The valid neighbours of a value on the grid step x k, as text."""
    below = value // step * step
    return " or ".join(str(near) for near in (below, below + step) if low <= near <= high)
