"""Building a model's card from its directory: its output, the fields it takes, and the defaults of a request.

Read without torch, so that an agent has its models before its engine has started. Each value comes from the first of

1. `[models.NAME]` of the service's zoetrope.toml (`table.py` has its keys),
2. `zoetrope.toml` in the model's own directory (the same keys),
3. the model's configs (compression, patch size, variants of its family; `model_facts.py`) and its family's habits (`families.py`).

What comes of it is checked before it is served (`card_check.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from broker.wire.jobspec import MediaKind, ModelCard
from broker.wire.loras import LoraCard
from broker.wire.sampling import Sampler
from workers.models import abilities, inputs
from workers.models.card_check import check_card, check_effects, check_output
from workers.models.model import Model
from workers.models.model_facts import (
    extra_parameters,
    fake_defaults,
    fake_limits,
    family_for,
    fitted,
    honoured,
    own_limits,
    scheduler_config,
    token_size,
    variant_defaults,
)
from workers.models.pipeline_classes import PipelineClass, pipeline_class
from workers.models.resumable import RESUMABLE
from workers.models.samplers import SampledModel, SamplerError, read_presets, read_sampler, usual_sampler
from workers.models.setup import as_texts, setup_for
from workers.models.single_file import check_single_file, configs_of
from workers.models.sources import (
    SETTINGS_FILE,
    CatalogueError,
    config,
    dotted,
    find,
    own_settings,
    read_index,
    shown,
)
from workers.models.speed import cache_modes, sizes, vae_dtype_of
from workers.models.table import Layers, ModelTable, anchored, convert, read
from workers.models.video_file import NARROWEST_HEVC, check_video_file

FAKE = "fake"

#: What the engine fake has a use for.
_OF_FAKES = ("path", "engine", "output", "also_image", "defaults", "limits")

#: What a model may be called; a request writes it.
_MAX_NAME_CHARS = 256
_NAME = re.compile(rf"(?!\s)[^\x00-\x1f\x7f]{{1,{_MAX_NAME_CHARS}}}(?<!\s)")

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
            raise CatalogueError(where, key, f"{shown(text)} cannot be looked up: {error.strerror}") from None
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
    """Name of a model in an error: by its table, where it has one."""
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
    setup = msgspec.structs.replace(setup, video_file=file, warm_up=warm_up)
    return Model(card=msgspec.structs.replace(card, setup=as_texts(setup)), setup=setup)


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
    family = family_for(taken)
    output: MediaKind = settings.output or family.output
    transformer = config(directory, "transformer")
    takes_image, needs_image = abilities.image_use(taken, index, transformer)
    takes_inputs, needs_inputs = inputs.input_use(taken, index, transformer)
    token_side, token_frames = token_size(directory, family)
    takes_guidance = abilities.takes_guidance(taken, index, transformer)
    takes_guidance_2 = abilities.takes_guidance_2(taken, index)
    limits = own_limits(family, output, token_side, token_frames, directory)
    usual = fitted(variant_defaults(family, index, directory), limits)
    defaults = honoured(usual, taken, takes_guidance, takes_guidance_2)
    check_output(where, output, family, taken, settings)
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
        enlarges=inputs.enlarges(taken.name),
        extra_parameters=extra_parameters(taken, directory),
        default_strength=abilities.default_strength(taken),
        sound=output == "video" and abilities.makes_sound(taken, index),
        takes_inputs=takes_inputs,
        needs_inputs=needs_inputs,
        start_frames=inputs.start_frames(taken.name),
        caches=cache_modes(settings.speed, taken, index),
        cache=settings.speed.cache or "off",
        vae_dtype=vae_dtype_of(settings.speed, taken.name),
        loras=loras,
        resumes=taken.name in RESUMABLE,
    )
    sampled = SampledModel(taken.name, scheduler_config(directory), index, takes_guidance, takes_guidance_2)
    card = _sampled(where, card, settings, layers, sampled)
    check_effects(where, card, taken, settings, layers.given)
    check_card(where, card)
    return card


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
            text = f"{shown(given[key])} contradicts {what}, in which it is {value:g}; {cure}"
            raise CatalogueError(where, f"defaults.{key}", text)
    return msgspec.structs.replace(
        card,
        defaults=_override(where, "defaults", card.defaults_with(sampler), given),
        sampler=sampler if sampler != Sampler() else None,
        presets=presets,
    )


def _class(index: Mapping[str, Any], source: str, settings: ModelTable) -> PipelineClass:
    taken = pipeline_class(str(index["_class_name"]))
    assert taken is not None  # `read_index` looked
    if missing := abilities.what_is_missing(taken):
        key, value = (
            ("pipeline", repr(taken.name))
            if settings.pipeline
            else ("path", f"{source!r} is run by {taken.name}, and that")
        )
        text = f"{value} needs {missing}; take a model that does without"
        raise CatalogueError("", key, text)
    return taken


def _fake_card(where: str, name: str, source: str, table: ModelTable) -> ModelCard:
    for field in msgspec.structs.fields(ModelTable):
        value = getattr(table, field.name)
        if field.name not in _OF_FAKES and value != field.default and value not in ({}, field.default):
            text = "is for models with weights, and the engine fake has none; leave the key out"
            raise CatalogueError(where, field.name, f"{shown(value)} {text}")
    output: MediaKind = table.output or "video"
    video = output == "video"
    if table.also_image is not None and not video:
        text = f"{shown(table.also_image)} is for models of clips; leave the key out"
        raise CatalogueError(where, "also_image", text)
    card = ModelCard(
        name=name,
        engine=FAKE,
        output=output,
        source="" if source == FAKE else source,
        pipeline=FAKE,
        takes_image=True,
        defaults=_override(where, "defaults", fake_defaults(output), table.defaults),
        limits=_override(where, "limits", fake_limits(output), table.limits),
        token_side=16,
        token_frames=4 if video else 1,
        also_image=video and table.also_image is not False,
        also_edits=video,
    )
    check_card(where, card)
    return card


def _override(where: str, what: str, base: T, given: Mapping[str, Any]) -> T:
    """`base` with the fields that a table gives."""
    read = convert(where, what, given, type(base))
    return msgspec.structs.replace(base, **{name: getattr(read, name) for name in given})
