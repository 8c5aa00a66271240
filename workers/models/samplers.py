"""Samplers of models: which solvers there are, the exact schedules of distilled models, and reading both from a model's table.

`sampler` is how a model samples always; one of `presets` is chosen by a request, or by a LoRA that names it. Either is a table of the
fields of `Sampler`, or the name of a preset, or a table with `preset = "NAME"` and what differs from it.
Nothing here imports torch: what a scheduler takes stands in `KINDS`, which a test holds against the classes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.sampling import MAX_PRESET_CHARS, MAX_PRESETS, Sampler
from workers.models.sources import dotted, shown


class Kind(Struct, frozen=True, kw_only=True):
    """A solver, by the classes of diffusers that do it."""

    #: Class for models that predict the flow, and for those that predict the noise; "" where there is none.
    flow: str = ""
    noise: str = ""
    #: Settings of the class beside the model's own.
    options: Mapping[str, Any] = {}
    #: Of flow models: whether it takes explicit noise levels.
    sigmas: bool = False
    #: Of noise models: whether it takes explicit timesteps.
    timesteps: bool = False


_MULTISTEP = "DPMSolverMultistepScheduler"
_SDE = {"algorithm_type": "sde-dpmsolver++"}

KINDS: dict[str, Kind] = {
    "euler": Kind(
        flow="FlowMatchEulerDiscreteScheduler",
        noise="EulerDiscreteScheduler",
        sigmas=True,
        timesteps=True,
    ),
    "euler_ancestral": Kind(noise="EulerAncestralDiscreteScheduler"),
    "heun": Kind(flow="FlowMatchHeunDiscreteScheduler", noise="HeunDiscreteScheduler", sigmas=True, timesteps=True),
    "lcm": Kind(flow="FlowMatchLCMScheduler", noise="LCMScheduler", sigmas=True, timesteps=True),
    "tcd": Kind(noise="TCDScheduler", timesteps=True),
    "unipc": Kind(flow="UniPCMultistepScheduler", noise="UniPCMultistepScheduler", sigmas=True),
    "dpm++_2m": Kind(flow=_MULTISTEP, noise=_MULTISTEP, timesteps=True),
    "dpm++_2m_sde": Kind(flow=_MULTISTEP, noise=_MULTISTEP, options=_SDE, timesteps=True),
    "deis": Kind(flow="DEISMultistepScheduler", noise="DEISMultistepScheduler"),
    "ddim": Kind(noise="DDIMScheduler"),
    "ddpm": Kind(noise="DDPMScheduler", timesteps=True),
    "pndm": Kind(noise="PNDMScheduler"),
}

#: Other names of solvers, as ComfyUI, LightX2V and the web UIs call them.
_ALIASES = {
    "euler_a": "euler_ancestral",
    "uni_pc": "unipc",
    "dpmpp_2m": "dpm++_2m",
    "dpmpp_2m_sde": "dpm++_2m_sde",
    "dpm++": "dpm++_2m",
    "dpm++ 2m": "dpm++_2m",
    "dpm++ sde": "dpm++_2m_sde",
    "dpm++ 2m sde": "dpm++_2m_sde",
}


class BuiltIn(Struct, frozen=True, kw_only=True):
    """A preset that comes with the service."""

    #: Beginning of the class names of the pipelines it is for.
    pipelines: str
    sampler: Sampler
    #: What it is for, and how it takes its steps.
    about: str


_QUARTERS = (1.0, 0.75, 0.5, 0.25)
_LTX_DISTILLED = (1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725)
_LTX2_DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)


def _even(steps: int) -> tuple[float, ...]:
    """Equal parts of the way from 1 to 0."""
    return tuple(1 - number / steps for number in range(steps))


def _built_in(pipelines: str, about: str, **sampler: Any) -> BuiltIn:
    return BuiltIn(pipelines=pipelines, about=about, sampler=Sampler(**{"fixed": True, **sampler}))


PRESETS: dict[str, BuiltIn] = {
    "wan-lightx2v-4step": _built_in(
        "Wan", "Wan 2.1 and 2.2 distilled by LightX2V (checkpoints and LoRAs), Wan 2.2 Lightning",
        kind="euler", sigmas=_QUARTERS, shift=5.0, guidance=1.0,
    ),
    "wan-self-forcing-4step": _built_in(
        "Wan", "Self-Forcing: each step goes to the picture and adds noise again",
        kind="lcm", sigmas=_QUARTERS, shift=5.0, guidance=1.0,
    ),
    "wan-causvid": _built_in(
        "Wan", "CausVid: 4 to 8 steps, the request's or 4; noise is added again in each",
        kind="lcm", steps=4, shift=8.0, guidance=1.0, fixed=False,
    ),
    "hunyuanvideo15-lightx2v-4step": _built_in(
        "HunyuanVideo15", "HunyuanVideo 1.5 distilled by LightX2V",
        kind="euler", sigmas=_QUARTERS, shift=5.0, guidance=1.0,
    ),
    "fastwan-3step": _built_in(
        "Wan", "FastWan (DMD): noise is added again in each step",
        kind="lcm", timesteps=(1000, 757, 522), guidance=1.0,
    ),
    "qwen-lightning-4step": _built_in(
        "QwenImage", "Qwen-Image-Lightning, 4 steps", kind="euler", sigmas=_even(4), shift=3.0, guidance=1.0,
    ),
    "qwen-lightning-8step": _built_in(
        "QwenImage", "Qwen-Image-Lightning, 8 steps", kind="euler", sigmas=_even(8), shift=3.0, guidance=1.0,
    ),
    "flux-schnell": _built_in(
        "Flux(?!2)", "FLUX.1 schnell", kind="euler", sigmas=_even(4), shift=1.0, guidance=0.0,
    ),
    "flux-turbo-8step": _built_in(
        "Flux(?!2)", "FLUX.1 dev with a Turbo or Hyper LoRA of 8 steps, at the model's own noise levels",
        steps=8, guidance=3.5,
    ),
    "flux2-klein-4step": _built_in("Flux2Klein", "FLUX.2 klein, distilled", steps=4, guidance=1.0),
    "z-image-turbo": _built_in("ZImage", "Z-Image-Turbo", kind="euler", steps=8, shift=3.0, guidance=0.0),
    "krea2-turbo": _built_in("Krea2", "Krea 2 turbo, at the model's own noise levels", steps=8, guidance=0.0),
    "ltx-distilled": _built_in(
        "LTX(?!2)", "LTX-Video distilled, first pass", kind="euler", sigmas=_LTX_DISTILLED, guidance=1.0,
    ),
    "ltx2-distilled": _built_in(
        "LTX2", "LTX-2 distilled (checkpoint or LoRA), first pass", kind="euler", sigmas=_LTX2_DISTILLED, guidance=1.0,
    ),
    "sdxl-turbo": _built_in(
        "StableDiffusion(?!3)", "SD and SDXL Turbo: 1 to 4 steps, the request's or 1", kind="euler_ancestral", spacing="trailing",
        steps=1, guidance=0.0, fixed=False,
    ),
    "sd3-turbo": _built_in("StableDiffusion3", "SD 3.5 large turbo", steps=4, guidance=0.0),
    "sdxl-lightning-4step": _built_in(
        "StableDiffusionXL", "SDXL-Lightning, 4 steps", kind="euler", spacing="trailing", steps=4, guidance=0.0,
    ),
    "sdxl-lightning-8step": _built_in(
        "StableDiffusionXL", "SDXL-Lightning, 8 steps", kind="euler", spacing="trailing", steps=8, guidance=0.0,
    ),
    "hyper-sd-4step": _built_in(
        "StableDiffusion", "Hyper-SD LoRA for SD 1.5 and SDXL, 4 steps", kind="ddim", spacing="trailing", steps=4, guidance=0.0,
    ),
    "hyper-sd-8step": _built_in(
        "StableDiffusion", "Hyper-SD LoRA for SD 1.5 and SDXL, 8 steps", kind="ddim", spacing="trailing", steps=8, guidance=0.0,
    ),
    "lcm-4step": _built_in(
        "StableDiffusion", "LCM LoRA for SD 1.5 and SDXL: 2 to 8 steps, the request's or 4",
        kind="lcm", steps=4, guidance=1.0, fixed=False,
    ),
}  # fmt: skip


class SamplerTable(Sampler, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A sampler as a table writes it."""

    #: Name of a preset that it is but for the rest of the table.
    preset: str = ""


#: As `sampler`: the pipeline's own way, although the model is known as a distilled one.
OWN = "own"

#: What stands for a sampler in a table: its fields, or the name of a preset.
SamplerEntry = str | SamplerTable


#: What may name a preset: a request writes it.
_NAME = re.compile(rf"(?!\s)[^\x00-\x1f\x7f]{{1,{MAX_PRESET_CHARS}}}(?<!\s)")


class SamplerError(Exception):
    """`(key, sentence)`: what is wrong with which key of the model's table."""


def read_presets(
    entries: Mapping[str, SamplerEntry], loras: Mapping[str, str], model: SampledModel
) -> dict[str, Sampler]:
    """The presets of a table by their names. One may go by another that stands before it. Raises `SamplerError`.

    `loras`: LoRA -> the preset that it names, of the table or a built-in one, which is thereby one of the model's.
    """
    presets: dict[str, Sampler] = {}
    if len(entries) > MAX_PRESETS:
        raise SamplerError("presets", f"are {len(entries)}, and at most {MAX_PRESETS} can be had; leave some out")
    for name, entry in entries.items():
        key = dotted("presets", name)
        if not _NAME.fullmatch(name):
            rule = f"has 1 to {MAX_PRESET_CHARS} characters, none of them for control, and no space at its ends"
            raise SamplerError(key, f"{shown(name)} is no name of a preset; one {rule}")
        presets[name] = _fitting(key, _as_preset(_read(key, entry, presets, model)), model)
    for lora, name in loras.items():
        if name and name not in presets:
            key = dotted("loras", lora, "preset")
            presets[name] = _fitting(key, _as_preset(named(key, name, presets)), model, name)
    return presets


def _as_preset(sampler: Sampler) -> Sampler:
    return msgspec.structs.replace(sampler, fixed=True) if sampler.fixed is None else sampler


def read_sampler(entry: SamplerEntry, presets: Mapping[str, Sampler], model: SampledModel) -> Sampler:
    """The sampler of a table, or `OWN`, which is an empty one. Raises `SamplerError`."""
    return Sampler() if entry == OWN else _fitting("sampler", _read("sampler", entry, presets, model), model)


def named(key: str, name: str, presets: Mapping[str, Sampler]) -> Sampler:
    """The preset of this name, the model's own before the built-in ones. Raises `SamplerError` about `key`."""
    if name in presets:
        return presets[name]
    if name in PRESETS:
        return PRESETS[name].sampler
    raise SamplerError(key, f"{shown(name)} is no preset; known: {', '.join([*presets, *PRESETS])}")


def _read(key: str, entry: SamplerEntry, presets: Mapping[str, Sampler], model: SampledModel) -> Sampler:
    if isinstance(entry, str):
        return named(key, entry, presets)
    for name, has_effect in (("guidance", model.takes_guidance), ("guidance_2", model.takes_guidance_2)):
        if (value := getattr(entry, name)) is not None and not has_effect:
            why = (
                "is of a second expert, which this model has not"
                if name == "guidance_2"
                else "has no effect on this model"
            )
            raise SamplerError(f"{key}.{name}", f"{value:g} {why}; leave the key out")
    given = {name: value for name in _FIELDS if (value := getattr(entry, name)) != getattr(_EMPTY, name)}
    if "kind" in given:
        given["kind"] = _kind(key, given["kind"])
    base = named(f"{key}.preset", entry.preset, presets) if entry.preset else _EMPTY
    sampler = msgspec.structs.replace(base, **given)
    _check_schedule(key, sampler)
    return sampler


_EMPTY = Sampler()
_FIELDS = tuple(field.name for field in msgspec.structs.fields(Sampler))


class SampledModel(Struct, frozen=True):
    """Properties of a model that decide which samplers it can have."""

    #: Name of the pipeline's class.
    pipeline: str
    #: Its scheduler's config; without a class in it, as of a model that is not on this machine yet, nothing is judged.
    scheduler: Mapping[str, Any]
    #: `model_index.json`.
    index: Mapping[str, Any]
    #: Whether the scale of guidance has an effect, and that of a second expert.
    takes_guidance: bool = True
    takes_guidance_2: bool = True


def _fitting(key: str, sampler: Sampler, model: SampledModel, preset: str = "") -> Sampler:
    """The sampler itself. Raises `SamplerError` about a field below `key`, or about the `preset` that `key` names."""
    field, text = unfit(sampler, model.pipeline, model.scheduler, model.index)
    if text and preset:
        raise SamplerError(
            key, f"{preset!r} is not for this model: its {field} {shown(getattr(sampler, field))} {text}"
        )
    if text:
        raise SamplerError(f"{key}.{field}", f"{shown(getattr(sampler, field))} {text}")
    return sampler


def unfit(sampler: Sampler, pipeline: str, scheduler: Mapping[str, Any], index: Mapping[str, Any]) -> tuple[str, str]:
    """(field, why a model cannot have its value in a sampler); ("", "") where it can have all of it."""
    if sampler.boundary is not None and index.get("boundary_ratio") is None:
        return "boundary", "is where a second expert takes over, and this model has none; leave the key out"
    if sampler.changes_scheduler and "Combined" in pipeline:
        return next(
            (name for name in _CHANGES if getattr(sampler, name)), "kind"
        ), f"is of one pipeline, and {pipeline} draws with two; leave the key out"
    own = str(scheduler.get("_class_name", ""))
    if not own or not sampler.changes_scheduler:
        return "", ""
    flow = is_flow(scheduler)
    for field in _CHANGES:
        if getattr(sampler, field) and own not in _REPLACEABLE:
            return (
                field,
                f"cannot be had: the steps of {pipeline} are taken by its {own}, in whose place no other sampler works",
            )
    if sampler.shift is not None and not flow:
        return "shift", f"is of flow-matching models, and {own} is of models that predict noise; leave the key out"
    if sampler.sigmas and not flow:
        return "sigmas", f"are of flow-matching models, and {own} is of models that predict noise; give timesteps"
    if sampler.spacing and flow:
        return "spacing", f"is of models that predict noise, and {own} is of flow-matching models; give shift or sigmas"
    return _unfit_kind(sampler, own, flow)


#: What takes another scheduler than the model's own, but for `boundary`.
_CHANGES = ("kind", "sigmas", "timesteps", "spacing", "shift")


def _unfit_kind(sampler: Sampler, own: str, flow: bool) -> tuple[str, str]:
    name = sampler.kind or _REPLACEABLE[own]
    explicit = "sigmas" if sampler.sigmas else "timesteps" if sampler.timesteps else ""
    if not name:
        return (
            (explicit, f"cannot be given to {own}; name a kind that takes them: {_taking(flow)}")
            if explicit
            else ("", "")
        )
    kind = KINDS[name]
    if not (kind.flow if flow else kind.noise):
        fit = ", ".join(one for one, other in KINDS.items() if (other.flow if flow else other.noise))
        return "kind", f"is not for models that predict {'the flow' if flow else 'noise'}; these are: {fit}"
    if explicit and not (kind.sigmas if flow else kind.timesteps):
        return explicit, f"cannot be given to {name!r}; these take them: {_taking(flow)}"
    return "", ""


def _taking(flow: bool) -> str:
    return ", ".join(name for name, kind in KINDS.items() if (kind.sigmas if flow else kind.noise and kind.timesteps))


#: Class of a scheduler that another solver may stand in for -> the kind that it is itself.
_REPLACEABLE = {cls: name for name, kind in reversed(KINDS.items()) for cls in (kind.flow, kind.noise) if cls} | {
    "DPMSolverSinglestepScheduler": "", "KDPM2DiscreteScheduler": "", "KDPM2AncestralDiscreteScheduler": "",
    "LMSDiscreteScheduler": "", "DPMSolverSDEScheduler": "", "SASolverScheduler": "", "IPNDMScheduler": "",
}  # fmt: skip


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler of this config is for a model that predicts the flow from noise to picture."""
    return (
        str(scheduler.get("_class_name", "")).startswith("FlowMatch")
        or scheduler.get("use_flow_sigmas") is True
        or scheduler.get("prediction_type") == "flow_prediction"
    )


def _kind(key: str, name: str) -> str:
    known = _ALIASES.get(name.lower(), name.lower())
    if known not in KINDS:
        raise SamplerError(f"{key}.kind", f"{shown(name)} is not one of {', '.join(KINDS)}")
    return known


def _check_schedule(key: str, sampler: Sampler) -> None:
    if sampler.sigmas and sampler.timesteps:
        raise SamplerError(f"{key}.sigmas", f"{shown(sampler.sigmas)} are given beside timesteps; leave either out")
    if sampler.timesteps and sampler.shift is not None:
        raise SamplerError(
            f"{key}.shift", f"{sampler.shift:g} does not move timesteps; give sigmas, or leave shift out"
        )
    for name, values in (("sigmas", sampler.sigmas), ("timesteps", sampler.timesteps)):
        if any(later >= earlier for earlier, later in itertools.pairwise(values)):
            raise SamplerError(f"{key}.{name}", f"{shown(values)} must fall from step to step")
        if values and sampler.steps not in (None, len(values)):
            text = f"{sampler.steps} contradicts {name}, which are {len(values)}; leave steps out"
            raise SamplerError(f"{key}.steps", text)


#: (beginning of the pipeline's class, pattern in a directory's name or hub id, preset): distilled models that no config marks.
_DISTILLED = (
    ("Wan", r"self-?forcing", "wan-self-forcing-4step"),
    ("Wan", r"causvid", "wan-causvid"),
    ("Wan", r"fastwan|dmd", "fastwan-3step"),
    ("Wan", r"lightx2v|step-?distill|lightning|4-?steps?", "wan-lightx2v-4step"),
    ("HunyuanVideo15", r"lightx2v|4-?steps?", "hunyuanvideo15-lightx2v-4step"),
    ("QwenImage(?!21)", r"lightning.*8-?steps?", "qwen-lightning-8step"),
    ("QwenImage(?!21)", r"lightning", "qwen-lightning-4step"),
    ("ZImage", r"turbo", "z-image-turbo"),
    ("LTX2", r"distill", "ltx2-distilled"),
    ("LTX(?!2)", r"distill", "ltx-distilled"),
    ("StableDiffusionXL", r"lightning", "sdxl-lightning-4step"),
    ("StableDiffusion(?!3)", r"turbo", "sdxl-turbo"),
    ("StableDiffusion3", r"turbo", "sd3-turbo"),
)


def usual_sampler(source: str, model: SampledModel) -> Sampler:
    """The sampler of a distilled model that is known by its name, fixed where its schedule is; an empty one for all others."""
    pipeline = model.pipeline
    name = source.rstrip("/").rpartition("/")[2] if source.startswith(("/", ".")) else source
    found = next(
        (
            preset
            for kind, pattern, preset in _DISTILLED
            if re.match(kind, pipeline) and re.search(pattern, name.lower())
        ),
        "",
    )
    if not found or unfit(PRESETS[found].sampler, pipeline, model.scheduler, model.index)[1]:
        return Sampler()
    return msgspec.structs.replace(PRESETS[found].sampler, fixed=None)
