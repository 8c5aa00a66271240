"""LoRAs of a model: `loras` and `lora_dir` in its table. What is no LoRA of this model is refused at start, by its header.

A file has the names of diffusers (or peft), of the model's authors with ComfyUI's prefix or bare, of kohya's trainer, or of musubi.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from broker.wire.loras import MAX_KNOWN, MAX_NAME_CHARS, MAX_SCALE, MAX_TRIGGER_CHARS, LoraCard
from workers.models.denoisers import denoisers
from workers.models.parts import PREFIXES, components, own_tensors, without_prefix
from workers.models.pipeline_classes import PipelineClass
from workers.models.sources import CatalogueError, config, dotted, shown
from workers.models.weight_files import NoWeights, Tensor, read_weights


class Lora(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """LoRA in a model's table; a string stands for `{file = STRING}`."""

    file: str = ""
    #: In place of `file`, of models with two experts: the files of the first (high noise) and the second.
    high: str = ""
    low: str = ""
    scale: float = 1.0
    #: Words that the prompt must have for it to act.
    trigger: str = ""
    #: The preset that jobs with it get, where they name none.
    preset: str = ""


LoraEntry = str | Lora


class LoraSetup(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """LoRA of a model, checked."""

    #: "transformer" (or "unet"; a file may change text encoders, too), "transformer_2" -> absolute path.
    files: dict[str, str]
    card: LoraCard = LoraCard()


Loras = dict[str, LoraSetup]

#: How the two tensors of a layer end, in every format.
_HALF = re.compile(
    r"(?P<layer>.+?)(?:[._]lora)?[._](?P<half>lora_A|lora_B|lora_down|lora_up|down|up)(?:\.\w+)?\.weight"
)
_DOWN = ("lora_A", "lora_down", "down")
#: Kinds of low-rank weights that are read in part or not at all.
_OTHER = re.compile(r"\.(?P<kind>hada_|lokr_|oft_|dora_scale)")
_OTHER_NAMES = {"hada_": "a LoHa", "lokr_": "a LoKr", "oft_": "an OFT", "dora_scale": "a DoRA"}

#: Prefixes of a layer's component in a file: in diffusers' format, and in kohya's. All else is of the one that denoises.
_COMPONENT = re.compile(r"(transformer_2|transformer|unet|text_encoder_2|text_encoder_3|text_encoder)\.")
_KOHYA = re.compile(r"lora_(te\d?|text_encoder(?:_\d)?)_")
_KOHYA_COMPONENTS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}

#: What peft puts before the names of a model that it has wrapped.
PEFT_PREFIX = "base_model.model."

_NAME = re.compile(rf"[^/\\\x00-\x1f]{{1,{MAX_NAME_CHARS}}}")


class LoraHeader(Struct, frozen=True):
    """Header of a LoRA's file."""

    #: "diffusers", "original" or "kohya".
    form: str
    components: tuple[str, ...]
    rank: int
    #: Of the component that denoises: layers under the file's names, each with the width of its input.
    widths: dict[str, int]


def check_loras(
    where: str,
    entries: Mapping[str, LoraEntry],
    lora_dir: str,
    taken: PipelineClass,
    index: Mapping[str, Any],
    directory: Path | None,
    replaced: Container[str] = (),
) -> Loras:
    """All LoRAs of a model, each of which looks like one of it; `replaced`: components out of other files. Raises `CatalogueError`."""
    tables = [*_in_directory(where, lora_dir)] if lora_dir else []
    # An empty entry leaves out a LoRA that the model's own file or the directory has.
    both: dict[str, LoraEntry] = {**dict(tables), **entries}
    given = {name: entry for name, entry in both.items() if entry}
    keys = {name: "lora_dir" for name, _ in tables} | {name: dotted("loras", name) for name in entries}
    without = [] if taken.takes_loras else [taken.name]
    without += [one.name for one in denoisers(index) if not one.takes_adapters]
    if given and without:
        name, key = min(((name, keys[name]) for name in given), key=lambda pair: pair[1])
        raise CatalogueError(where, key, f"{name!r} is of no use: {without[0]} takes no LoRA; leave the key out")
    if len(given) > MAX_KNOWN:
        text = f"{lora_dir!r} and loras hold {len(given)} LoRAs, and at most {MAX_KNOWN} can be had; leave some out"
        raise CatalogueError(where, "lora_dir" if lora_dir else "loras", text)
    denoiser = "unet" if "unet" in components(index) and "transformer" not in components(index) else "transformer"
    bases = {
        name: own_tensors(directory / name)
        for name in (denoiser, "transformer_2")
        if given and directory is not None and name not in replaced and not _is_quantised(directory, name)
    }
    found = {}
    for name, entry in given.items():
        try:
            found[name] = _checked(name, Lora(file=entry) if isinstance(entry, str) else entry, index, denoiser, bases)
        except _Fault as fault:
            key = keys[name] if keys[name] == "lora_dir" else ".".join(filter(None, (keys[name], fault.key)))
            raise CatalogueError(where, key, str(fault)) from None
    return found


class _Fault(Exception):
    """Fault of a LoRA in words, and the key of its table ("": all of it)."""

    def __init__(self, text: str, key: str = "") -> None:
        super().__init__(text)
        self.key = key


def _in_directory(where: str, lora_dir: str) -> Iterator[tuple[str, str]]:
    """(name, file) of the LoRAs in a directory. Raises `CatalogueError`."""
    directory = Path(lora_dir).expanduser().absolute()
    try:
        files = sorted(file for file in directory.iterdir() if file.suffix == ".safetensors")
    except OSError as error:
        text = f"{lora_dir!r} cannot be read: {error.strerror}; name a directory of *.safetensors"
        raise CatalogueError(where, "lora_dir", text) from None
    inside = directory.resolve()
    for file in files:
        if not file.resolve().is_relative_to(inside):
            text = f"{str(file)!r} is a link out of {directory}; name the file in loras"
            raise CatalogueError(where, "lora_dir", text)
        yield file.stem, str(file)


def _checked(
    name: str, lora: Lora, index: Mapping[str, Any], denoiser: str, bases: Mapping[str, Mapping[str, Tensor]]
) -> LoraSetup:
    if not _NAME.fullmatch(name) or name in (".", "..") or name != name.strip():
        raise _Fault(
            f"{shown(name)} is no name; one has 1 to {MAX_NAME_CHARS} characters without / and \\, and no space at its ends"
        )
    if not -MAX_SCALE <= lora.scale <= MAX_SCALE:
        raise _Fault(f"{lora.scale} must be {-MAX_SCALE:g} to {MAX_SCALE:g}", "scale")
    if len(lora.trigger) > MAX_TRIGGER_CHARS:
        text = f"{shown(lora.trigger)} has {len(lora.trigger)} characters; at most {MAX_TRIGGER_CHARS} are shown"
        raise _Fault(text, "trigger")
    if bool(lora.file) == bool(lora.high or lora.low):
        text = f"{lora.file!r} stands beside high or low" if lora.file else "no file is named"
        raise _Fault(f"{text}; give file, or high and low of a model with two experts", "file" if lora.file else "")
    if (lora.high or lora.low) and "transformer_2" not in components(index):
        raise _Fault(
            f"{lora.high or lora.low!r} is for a model with two experts, and this one has one; give file",
            "high" if lora.high else "low",
        )
    given = {denoiser: lora.file or lora.high, "transformer_2": lora.low}
    files = {target: str(Path(file).expanduser().absolute()) for target, file in given.items() if file}
    changed: list[str] = []
    for target, file in files.items():
        header = read_header(Path(file), denoiser)
        _check_fits(file, header, target, bases.get(target, {}), denoiser)
        changed += [target if one in (denoiser, "transformer_2") else one for one in header.components]
    lacking = [one for one in changed if one not in components(index)]
    if lacking:
        raise _Fault(f"{next(iter(files.values()))} is for a model with a {lacking[0]}, and this one has none")
    card = LoraCard(
        scale=lora.scale, trigger=lora.trigger, components=tuple(dict.fromkeys(changed)), preset=lora.preset
    )
    return LoraSetup(files=files, card=card)


def read_header(file: Path, denoiser: str = "transformer") -> LoraHeader:
    """Read the header of a LoRA's file. Raises `_Fault`."""
    try:
        read = read_weights(file)
    except NoWeights as error:
        raise _Fault(f"{file} {error}") from None
    if read.kind != "safetensors":
        raise _Fault(f"{file} is a GGUF file, and a LoRA is read as safetensors")
    for name in read.tensors:
        if other := _OTHER.search(name):
            raise _Fault(f"{file} is {_OTHER_NAMES[other['kind']]} ({name}), and LoRA alone is read")
    halves = [(match, tensor) for name, tensor in read.tensors.items() if (match := _HALF.fullmatch(name))]
    if not halves:
        first = next(iter(read.tensors), "")
        raise _Fault(f"{file} is no LoRA: none of its tensors are low-rank pairs ({first or 'it has no tensors'})")
    found: dict[str, None] = {}
    widths: dict[str, int] = {}
    ranks = []
    for match, tensor in halves:
        component = _component(match["layer"], denoiser)
        found[component] = None
        if match["half"] in _DOWN and len(tensor.shape) >= 2:
            ranks.append(tensor.shape[0])
            if component in (denoiser, "transformer", "transformer_2"):
                widths[match["layer"]] = tensor.shape[1]
    kohya = any(name.startswith("lora_") for name in read.tensors)
    form = "kohya" if kohya else "diffusers" if any(_COMPONENT.match(name) for name in read.tensors) else "original"
    return LoraHeader(form, tuple(found), max(ranks, default=0), widths)


def _component(layer: str, denoiser: str) -> str:
    if match := _KOHYA.match(layer):
        return _KOHYA_COMPONENTS.get(match[1], match[1])
    if match := _COMPONENT.match(layer):
        return match[1]
    return denoiser


def _check_fits(file: str, header: LoraHeader, target: str, base: Mapping[str, Tensor], denoiser: str) -> None:
    """Compare the layers and their widths with those of the model's own, where its headers are there. Raises `_Fault`."""
    _check_layers(file, header, target, base, denoiser)
    known = {tensor.shape[1] for tensor in base.values() if len(tensor.shape) >= 2}
    if not known or not header.widths:
        return
    for layer, width in header.widths.items():
        bare = _bare(layer)
        own = base.get(f"{bare}.weight")
        if own is not None and len(own.shape) >= 2 and own.shape[1] != width:
            raise _Fault(
                f"{file} was made for another model: {layer} takes {width} numbers, and the model's {own.shape[1]}"
            )
    usual, _ = Counter(header.widths.values()).most_common(1)[0]
    if usual not in known:
        has = ", ".join(str(width) for width in sorted(known, reverse=True)[:4])
        raise _Fault(
            f"{file} was made for another model: its layers take {usual} numbers, and those of this {target} take {has}"
        )


def _check_layers(file: str, header: LoraHeader, target: str, base: Mapping[str, Tensor], denoiser: str) -> None:
    """Raise `_Fault` for layers that the model lacks. In the names of its authors or of kohya, only the numbers of blocks are compared."""
    own = {name.removesuffix(".weight") for name in base}
    of_target = [
        layer
        for layer in header.widths
        if ".processor" not in layer and _component_of(layer, target, denoiser) == target
    ]
    if not own or not of_target:
        return
    lacking = [layer for layer in of_target if _bare(layer) not in own]
    # Some files have a prefix of diffusers before the authors' names.
    ours = len(lacking) < len(of_target) or all(map(_OUR_NAMES.search, of_target))
    if lacking and ours and header.form != "kohya" and not any(layer.startswith(PREFIXES) for layer in of_target):
        count = f"{len(lacking)} of its {len(of_target)} layers are none"
        raise _Fault(f"{file} was made for another model: {count} of this {target}, as {lacking[0]}")
    if target.startswith("transformer"):
        blocks = max((number for name in own for number in _block_numbers(name)), default=-1)
        for layer in of_target:
            if blocks >= 0 and max(_block_numbers(layer), default=-1) > blocks:
                raise _Fault(
                    f"{file} was made for another model: {layer} is none of this {target}, whose last block is {blocks}"
                )


#: How diffusers calls layers of attention and feed-forward in every model.
_OUR_NAMES = re.compile(r"\.(?:to_[qkv]|to_out|to_add_out|add_[qkv]_proj)\b|\.(?:ff|ffn|ff_context)\.net\.")
_BLOCK = re.compile(r"(?:blocks|layers)[._](\d+)(?=[._])")


def _block_numbers(layer: str) -> list[int]:
    """Numbers of the blocks that a layer is in: the same in everybody's names."""
    return [int(number) for number in _BLOCK.findall(layer)]


def _component_of(layer: str, target: str, denoiser: str) -> str:
    """The component that a layer of the file for `target` is loaded into."""
    return target if target != denoiser else _component(layer, denoiser)


def _bare(layer: str) -> str:
    """A layer's name without what stands for its component."""
    return without_prefix(_COMPONENT.sub("", layer.removeprefix(PEFT_PREFIX), count=1))


def _is_quantised(directory: Path, part: str) -> bool:
    """Whether weights are packed, whose shapes are not those of the layers."""
    return "quantization_config" in config(directory, part)


def anchored_lora(entry: str | dict[str, Any], directory: Path) -> str | dict[str, Any]:
    """An entry of a model's own table, with files as paths from its directory. Raises `ValueError` for one that leads out of it."""
    if isinstance(entry, str):
        return _inside(entry, directory)
    return {key: _inside(value, directory) if key in ("file", "high", "low") else value for key, value in entry.items()}


def _inside(file: str, directory: Path) -> str:
    # By its name alone: in the hub's cache every file is a link into another directory.
    path = Path(os.path.normpath(directory / file))
    if not path.is_relative_to(directory):
        raise ValueError(file)
    return str(path)
