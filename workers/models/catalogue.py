"""Building a model's card from its directory: its output, the fields it takes, and the defaults of a request.

Read without torch, so that an agent knows its models before its engine has started. Each value comes from the first of

1. `[models.NAME]` of the service's zoetrope.toml (`table.py` has its keys),
2. `zoetrope.toml` in the model's own directory (the same keys),
3. the model's configs (compression, patch size, variants of its family) and its family's habits (`families.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from broker.wire.jobspec import (
    MAX_FRAMES,
    MAX_PROMPT_CHARS,
    MAX_SIDE,
    MAX_STEPS,
    MAX_TOKENS,
    Defaults,
    Limits,
    MediaKind,
    ModelCard,
)
from broker.wire.loras import LoraCard
from broker.wire.sampling import Sampler
from workers.models import abilities, inputs
from workers.models.families import Family, family_of
from workers.models.model import Model
from workers.models.pipeline_classes import FLOW_SHIFT, SHIFTS, PipelineClass, pipeline_class
from workers.models.resumable import RESUMABLE
from workers.models.samplers import SampledModel, SamplerError, read_presets, read_sampler, usual_sampler
from workers.models.setup import setup_for
from workers.models.single_file import check_single_file, configs_of
from workers.models.sources import (
    SETTINGS_FILE,
    CatalogueError,
    config,
    dotted,
    find,
    own_settings,
    read_index,
    read_json,
    told,
)
from workers.models.speed import cache_modes, sizes
from workers.models.table import Layers, ModelTable, anchored, convert, read
from workers.models.video_file import NARROWEST_HEVC, check_video_file

FAKE = "fake"

#: Below this a UNet or a VAE has nothing left after its last downsampling.
_MIN_SIDE = 64
_VIDEO_LIMITS = Limits(max_side=1920, max_pixels=1920 * 1088)

#: Pipeline -> (steps, guidance) of those whose index says `is_distilled`.
_DISTILLED_STEPS = {
    "Flux2KleinPipeline": (4, 1.0), "Flux2KleinKVPipeline": (4, 1.0), "Krea2Pipeline": (8, 0.0), "HeliosPyramidPipeline": (6, 1.0),
}  # fmt: skip

#: What is read from the signature of a class that no family knows, and the most that is taken from there.
_OWN_DEFAULTS = {"num_inference_steps": Limits().max_steps, "width": Limits().max_side, "height": Limits().max_side}

#: What the engine fake has a use for.
_OF_FAKES = ("path", "engine", "output", "also_image", "defaults", "limits")

#: What a model may be called; a request writes it.
_MAX_NAME_CHARS = 256
_NAME = re.compile(rf"(?!\s)[^\x00-\x1f\x7f]{{1,{_MAX_NAME_CHARS}}}(?<!\s)")

#: What any spec can carry (`JobSpec`).
_BOUNDS = {
    "min_side": (1, MAX_SIDE), "max_side": (1, MAX_SIDE), "side_multiple": (1, MAX_SIDE), "max_pixels": (1, MAX_SIDE**2),
    "max_frames": (1, MAX_FRAMES), "frame_step": (1, MAX_FRAMES), "frame_offset": (0, MAX_FRAMES), "max_steps": (1, MAX_STEPS),
}  # fmt: skip

#: Of defaults: what a request may say.
_DEFAULT_BOUNDS = {
    "fps": (1, 240),
    "guidance_scale": (0, 100),
    "guidance_scale_2": (0, 100),
    "max_sequence_length": (1, MAX_TOKENS),
}

_NO_TABLE: Mapping[str, Any] = MappingProxyType({})

T = TypeVar("T", bound=Struct)


def default_model() -> Path:
    """Directory of the demo model, which is used when none is named."""
    return Path(__file__).resolve().parents[1] / "demo_model"


def card_for(source: str, name: str | None = None, table: Mapping[str, Any] = _NO_TABLE) -> ModelCard:
    """The card of `model_for`."""
    return model_for(source, name, table).card


def model_for(source: str, name: str | None = None, table: Mapping[str, Any] = _NO_TABLE) -> Model:
    """The model in `source`: a directory, a hub id, or "fake". Raises `CatalogueError`.

    `table` is the model's table in zoetrope.toml; its `path` stands before `source`.
    """
    label = name or source
    where = named(label, table is not _NO_TABLE)
    if name is not None and not _NAME.fullmatch(name):
        text = f"a name has 1 to {_MAX_NAME_CHARS} characters, none of them for control, and no space at its ends"
        raise CatalogueError(where, "", text)
    given = read(where, table)
    if given.name:
        text = f"{given.name!r} is for the zoetrope.toml in a model's directory; here the table's own name counts, so leave the key out"
        raise CatalogueError(where, "name", text)
    source = given.path or source
    for key, text in (("path", source), ("config", given.config)):
        try:
            Path(text).expanduser().exists()
        except OSError as error:
            raise CatalogueError(where, key, f"{told(text)} cannot be looked up: {error.strerror}") from None
    if (given.engine or source) == FAKE:
        return Model(card=_fake_card(where, label, source, given))
    if Path(source).expanduser().is_dir():
        source = str(Path(source).expanduser().resolve())
    configs = configs_of(where, source, given.config)
    if configs is not None:
        source = str(Path(source).expanduser().absolute())
    directory = configs or find(source)
    own = own_settings(directory)
    file = str((directory or Path()) / SETTINGS_FILE)
    if directory is not None and own:
        read(file, own)
        own = anchored(file, own, directory)
    layers = Layers(own, table)
    try:
        settings = read(where, layers.merged())
        own_name = name or settings.name or _usual_name(source)
        return _model(where, own_name, source, directory, configs, settings, layers)
    except CatalogueError as error:
        if layers.is_own(error.key):
            raise CatalogueError(file, error.key, error.text) from None
        if table is _NO_TABLE and error.key == "path":  # it was named on the command line
            raise CatalogueError("model", "", error.text) from None
        raise CatalogueError(error.where or where, error.key, error.text) from None


def named(label: str, has_table: bool) -> str:
    """How an error calls a model: by its table, where it has one."""
    return f"[{dotted('models', label)}]" if has_table else f"model {label!r}"


def _model(
    where: str,
    name: str,
    source: str,
    directory: Path | None,
    configs: Path | None,
    settings: ModelTable,
    layers: Layers,
) -> Model:
    index = read_index(source, directory, settings.pipeline)
    taken = _class(index, source, settings)
    if configs is not None:
        check_single_file(where, Path(source), taken)
    setup = setup_for(where, settings, taken, index, directory, configs)
    loras = {name: lora.card for name, lora in setup.loras.items()}
    card = _card(where, name, source, directory, settings, layers, taken, index, loras)
    file = check_video_file(where, settings.video_file, card.output)
    if file.codec == "hevc" and card.limits.min_side < NARROWEST_HEVC:
        least = card.limits.min_side
        text = (
            f"'hevc' needs clips of {NARROWEST_HEVC} pixels a side and more, and limits.min_side is {least}; raise it"
        )
        raise CatalogueError(where, "video_file.codec", text)
    warm_up = sizes(where, setup.speed, card)
    return Model(card=card, setup=msgspec.structs.replace(setup, video_file=file, warm_up=warm_up))


def _usual_name(source: str) -> str:
    path = Path(source)
    return path.name if path.is_dir() else path.stem if path.is_file() else source


def _card(
    where: str,
    name: str,
    source: str,
    directory: Path | None,
    settings: ModelTable,
    layers: Layers,
    taken: PipelineClass,
    index: Mapping[str, Any],
    loras: dict[str, LoraCard],
) -> ModelCard:
    family = _family(taken)
    output: MediaKind = settings.output or family.output
    transformer = config(directory, "transformer")
    takes_image, needs_image = abilities.image_use(taken, index, transformer)
    takes_inputs, needs_inputs = inputs.input_use(taken, index, transformer)
    token_side, token_frames = _token_size(directory, family)
    takes_guidance = abilities.takes_guidance(taken, index, transformer)
    takes_guidance_2 = abilities.takes_guidance_2(taken, index)
    defaults = _honoured(_variant(family, index, directory), taken, takes_guidance, takes_guidance_2)
    limits = _limits(family, output, token_side, token_frames, directory)
    if limits.frame_choices:  # the model's own, and not always the family's
        defaults = msgspec.structs.replace(defaults, num_frames=limits.closest_frames(defaults.num_frames)[0])
    _check_output(where, output, family, taken, settings)
    also_image = family.also_image if settings.also_image is None else settings.also_image
    card = ModelCard(
        name=name,
        engine=settings.engine or output,
        output=output,
        source=source,
        pipeline=taken.name,
        takes_image=takes_image,
        needs_image=needs_image,
        defaults=defaults,
        limits=_override(where, "limits", limits, settings.limits),
        token_side=token_side,
        token_frames=token_frames,
        also_image=output == "video" and also_image,
        takes_negative_prompt=taken.takes("negative_prompt"),
        takes_guidance=takes_guidance,
        takes_guidance_2=takes_guidance_2,
        takes_size=abilities.takes_size(taken),
        extra_parameters=_extra_parameters(taken, directory),
        default_strength=abilities.default_strength(taken),
        sound=output == "video" and abilities.makes_sound(taken, index),
        takes_inputs=takes_inputs,
        needs_inputs=needs_inputs,
        start_frames=inputs.start_frames(taken.name),
        caches=cache_modes(settings.speed, taken, index),
        cache=settings.speed.cache or "off",
        vae_dtype=settings.speed.vae_dtype,
        loras=loras,
        resumes=taken.name in RESUMABLE,
    )
    sampled = SampledModel(taken.name, _scheduler(directory), index, takes_guidance, takes_guidance_2)
    card = _sampled(where, card, settings, layers, sampled)
    _check_effects(where, card, taken, settings, layers.given)
    _check(where, card)
    return card


def _check_output(where: str, output: MediaKind, family: Family, taken: PipelineClass, settings: ModelTable) -> None:
    """Raise for an output that the pipeline does not make, and for keys that are for another one."""
    if output == "video" and family.output == "image" and not abilities.draws_clips(taken):
        raise CatalogueError(where, "output", f"'video' is not what {taken.name} makes, an image; leave the key out")
    if settings.engine not in ("", output):
        text = f"{settings.engine!r} does not draw what {taken.name} makes, {output}; leave the key out"
        raise CatalogueError(where, "engine", text)
    if settings.also_image is not None and output == "image":
        raise CatalogueError(
            where, "also_image", f"{told(settings.also_image)} is for models of clips; leave the key out"
        )


def _sampled(where: str, card: ModelCard, settings: ModelTable, layers: Layers, model: SampledModel) -> ModelCard:
    """The card with its sampler and presets, and with the defaults that follow from them and from the table."""
    try:
        presets = read_presets(settings.presets, {name: lora.preset for name, lora in card.loras.items()}, model)
        chosen, usual = settings.sampler, usual_sampler(card.source, model)
        sampler = read_sampler(chosen, presets, model) if chosen else usual
    except SamplerError as error:
        raise CatalogueError(where, *error.args) from None
    for name, preset in presets.items():
        if (preset.own_steps or 0) > card.limits.max_steps:
            text = f"takes {preset.own_steps} steps, and limits.max_steps is {card.limits.max_steps}; raise it"
            raise CatalogueError(where, dotted("presets", name), text)
    given = dict(settings.defaults)
    for key, (value, fixed) in sampler.decides().items():
        if given.get(key, value) == value:
            continue
        if layers.outranks("sampler", f"defaults.{key}"):
            del given[key]
        elif fixed or not layers.outranks(f"defaults.{key}", "sampler"):
            cure = "leave either out" if chosen else 'leave it out, or say sampler = "own"'
            what = "sampler" if chosen else "the sampler that a model with such a name gets"
            text = f"{told(given[key])} contradicts {what}, in which it is {value:g}; {cure}"
            raise CatalogueError(where, f"defaults.{key}", text)
    return msgspec.structs.replace(
        card,
        defaults=_override(where, "defaults", card.defaults_with(sampler), given),
        sampler=sampler if sampler != Sampler() else None,
        presets=presets,
    )


def _scheduler(directory: Path | None) -> dict[str, Any]:
    return read_json(directory / "scheduler" / "scheduler_config.json") if directory is not None else {}


def _class(index: Mapping[str, Any], source: str, settings: ModelTable) -> PipelineClass:
    taken = pipeline_class(str(index["_class_name"]))
    assert taken is not None  # `read_index` looked
    if missing := abilities.what_is_missing(taken):
        key, value = (
            ("pipeline", repr(taken.name))
            if settings.pipeline
            else ("path", f"{source!r} is run by {taken.name}, and that")
        )
        text = f"{value} needs {missing}, and no job carries that; take a model that does without"
        raise CatalogueError("", key, text)
    return taken


def _fake_card(where: str, name: str, source: str, table: ModelTable) -> ModelCard:
    for field in msgspec.structs.fields(ModelTable):
        value = getattr(table, field.name)
        if field.name not in _OF_FAKES and value != field.default and value not in ({}, field.default):
            text = "is for models with weights, and the engine fake has none; leave the key out"
            raise CatalogueError(where, field.name, f"{told(value)} {text}")
    output: MediaKind = table.output or "video"
    video = output == "video"
    if table.also_image is not None and not video:
        text = f"{told(table.also_image)} is for models of clips; leave the key out"
        raise CatalogueError(where, "also_image", text)
    card = ModelCard(
        name=name,
        engine=FAKE,
        output=output,
        source="" if source == FAKE else source,
        pipeline=FAKE,
        takes_image=True,
        defaults=_override(
            where,
            "defaults",
            Defaults(width=64, height=64, num_frames=17 if video else 1, fps=8.0, num_inference_steps=10),
            table.defaults,
        ),
        limits=_override(
            where,
            "limits",
            Limits(min_side=2, max_side=4096, side_multiple=1, max_pixels=4096 * 4096, max_frames=1000 if video else 1,
                   frame_step=1, max_steps=10_000),
            table.limits,
        ),
        token_side=16,
        token_frames=4 if video else 1,
        also_image=video and table.also_image is not False,
        also_edits=video,
    )  # fmt: skip
    _check(where, card)
    return card


# ---------------------------------------------------------------- reading the model


def _token_size(directory: Path | None, family: Family) -> tuple[int, int]:
    """(pixels a token side, frames a latent frame)."""
    vae = config(directory, "vae") or config(directory, "vqvae")
    spatial = _whole(vae.get("scale_factor_spatial")) or _whole(vae.get("spatial_compression_ratio"))
    if spatial == 0:
        levels = vae.get("block_out_channels") or vae.get("encoder_block_out_channels")
        spatial = 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else family.spatial
    temporal = _whole(vae.get("scale_factor_temporal")) or _whole(vae.get("temporal_compression_ratio"))
    patch = config(directory, "transformer").get("patch_size")
    patch_side = _whole(patch[-1] if isinstance(patch, list) and patch else patch)
    pack = patch_side if patch_side > 1 else family.pack
    return spatial * pack, (temporal or family.temporal) if family.output == "video" else 1


def _steered_side(directory: Path | None) -> int:
    """Pixels a side of the deepest features that what steers a UNet adds to it: of both, sizes must be the same."""
    adapter, control = config(directory, "adapter"), config(directory, "controlnet")
    if isinstance(channels := adapter.get("channels"), list):
        return max(1, _whole(adapter.get("downscale_factor"))) << max(0, len(channels) - 1)
    if control.get("_class_name") == "ControlNetXSAdapter" and isinstance(
        levels := control.get("block_out_channels"), list
    ):
        # Blocks side by side: what is halved must double again to what it was.
        return 8 << max(0, len(levels) - 1)
    return 1


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _family(taken: PipelineClass) -> Family:
    """The family of a class; of one that no family knows, the class's own steps and size."""
    family = family_of(taken.name, clips=abilities.draws_clips(taken))
    if family.pattern:
        return family
    own = {name: taken.parameters[name].default for name in _OWN_DEFAULTS if name in taken.parameters}
    given = {name: value for name, value in own.items() if isinstance(value, int) and value <= _OWN_DEFAULTS[name]}
    return msgspec.structs.replace(family, defaults=msgspec.structs.replace(family.defaults, **given))


def _variant(family: Family, index: Mapping[str, Any], directory: Path | None) -> Defaults:
    """The family's defaults, or those of the variant that the model's configs show."""
    defaults = family.defaults
    pipeline = str(index["_class_name"])
    if pipeline.startswith("Wan") and index.get("boundary_ratio") is not None:  # Wan 2.2 A14B: two experts
        first, second = (3.5, 3.5) if "ImageToVideo" in pipeline else (4.0, 3.0)
        return msgspec.structs.replace(defaults, num_inference_steps=40, guidance_scale=first, guidance_scale_2=second)
    if pipeline.startswith("Wan") and index.get("expand_timesteps") is True:  # Wan 2.2 TI2V 5B
        return msgspec.structs.replace(
            defaults, width=1280, height=704, num_frames=121, fps=24.0, num_inference_steps=50
        )
    if index.get("is_distilled") is True and (steps := _DISTILLED_STEPS.get(pipeline)):
        return msgspec.structs.replace(defaults, num_inference_steps=steps[0], guidance_scale=steps[1])
    if pipeline == "FluxPipeline" and config(directory, "transformer").get("guidance_embeds") is False:  # schnell
        return msgspec.structs.replace(defaults, num_inference_steps=4, max_sequence_length=256)
    if tokens := _whole(config(directory, "transformer").get("max_text_seq_length")):  # CogVideoX: no other length fits
        return msgspec.structs.replace(defaults, max_sequence_length=tokens)
    return defaults


def _honoured(defaults: Defaults, taken: PipelineClass, takes_guidance: bool, takes_guidance_2: bool) -> Defaults:
    """The defaults without those that the pipeline has no use for."""
    return msgspec.structs.replace(
        defaults,
        guidance_scale=defaults.guidance_scale if takes_guidance else None,
        guidance_scale_2=defaults.guidance_scale_2 if takes_guidance_2 else None,
        max_sequence_length=defaults.max_sequence_length if taken.takes("max_sequence_length") else None,
    )


def _limits(family: Family, output: MediaKind, token_side: int, token_frames: int, directory: Path | None) -> Limits:
    side = math.lcm(token_side, family.side_multiple, _steered_side(directory))
    least = side * -(-_MIN_SIDE // side)
    if output == "image":
        return Limits(min_side=least, side_multiple=side, max_frames=1, frame_step=1)
    transformer = config(directory, "transformer")
    step = token_frames if family.whole_latents else 1
    if family.pattern == "CogVideoX":
        # Its VAE decodes two latent frames at a time after the first, and version 1.5 has two latent frames a token.
        step *= 2 * (_whole(transformer.get("patch_size_t")) or 1)
    longest = _whole(config(directory, "motion_adapter").get("motion_max_seq_length")) or _VIDEO_LIMITS.max_frames
    longest = min(longest, _VIDEO_LIMITS.max_frames)
    only = (_whole(transformer.get("video_length")) or family.only) if family.only else 0
    if isinstance(partition := transformer.get("chunk_partition"), list):
        # Latent frames of the chunks in which a clip is drawn: no more, no fewer.
        only = (sum(map(_whole, partition)) - 1) * step + 1
    choices: tuple[int, ...] = (only,) if only else ()
    if family.whole_windows:
        choices = tuple((end - 1) // step * step + 1 for end in range(family.window, longest + 1, family.window))
    return msgspec.structs.replace(
        _VIDEO_LIMITS,
        min_side=least,
        side_multiple=side,
        max_frames=longest,
        frame_step=family.window or step,
        frame_offset=family.shortest,
        frame_choices=choices,
    )


def _extra_parameters(taken: PipelineClass, directory: Path | None) -> tuple[str, ...]:
    """Return the names that `extra` may carry: parameters of the call, and the shift of a schedule that has a fixed one."""
    schedule = _scheduler(directory)
    fixed = not schedule.get("use_dynamic_shifting") and any(name in schedule for name in SHIFTS)
    return tuple(sorted({*taken.extra(), FLOW_SHIFT})) if fixed or directory is None else taken.extra()


# ---------------------------------------------------------------- settings and checks


def _override(where: str, what: str, base: T, given: Mapping[str, Any]) -> T:
    """`base` with the fields that a table gives."""
    read = convert(where, what, given, type(base))
    return msgspec.structs.replace(base, **{name: getattr(read, name) for name in given})


def _check_effects(
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
            text = f"{told(settings.defaults[name])} has no effect on this {taken.name}; leave the key out"
            raise CatalogueError(where, f"defaults.{name}", text)
    for key in (
        "defaults.fps",
        *(f"limits.{name}" for name in ("max_frames", "frame_step", "frame_offset", "frame_choices")),
    ):
        table, _, name = key.partition(".")
        if card.output == "image" and name in given.get(table, ()):
            raise CatalogueError(
                where, key, f"{told(given[table][name])} is for clips, and the model makes images; leave the key out"
            )


def _check(where: str, card: ModelCard) -> None:
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
        text = f"{told(limits.frame_choices)} must be rising numbers of frames from 1 to {MAX_FRAMES}"
        raise CatalogueError(where, "limits.frame_choices", text)
    if max(limits.frame_choices, default=limits.frame_offset) > limits.max_frames:
        key = "frame_choices" if limits.frame_choices else "frame_offset"
        text = (
            f"{told(getattr(limits, key))} is above limits.max_frames, {limits.max_frames}; raise that, or lower this"
        )
        raise CatalogueError(where, f"limits.{key}", text)
    if len(defaults.negative_prompt) > MAX_PROMPT_CHARS:
        text = f"{told(defaults.negative_prompt)} has {len(defaults.negative_prompt)} characters; at most {MAX_PROMPT_CHARS} can be had"
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
