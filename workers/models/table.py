"""`[models.NAME]` of the service's zoetrope.toml, and the zoetrope.toml in a model's own directory: one reader of both.

A key that is not known is refused with the closest that is; a value of another kind is refused with the kind that is meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field, inspect

from workers.models.loras import LoraEntry, anchored_lora
from workers.models.parts import Parts
from workers.models.placement import Wanted
from workers.models.samplers import SamplerEntry
from workers.models.sources import CatalogueError
from workers.models.speed import Speed
from workers.models.video_file import VideoFile

#: What a model cannot say of itself.
_FOREIGN = ("path", "config", "trust_remote_code")


class ModelTable(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Table of a model. An empty string, table or list counts as absent."""

    #: In the model's own file only: what it is called.
    name: str = ""
    #: Directory, file or hub id.
    path: str = ""
    engine: Literal["", "video", "image", "fake"] = ""
    #: Class of diffusers that runs it.
    pipeline: str = ""
    output: Literal["", "video", "image"] = ""
    also_image: bool | None = None
    #: Fields of `Defaults` and of `Limits`.
    defaults: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    parts: Parts = field(default_factory=dict)
    #: Which of the weights in the directory are taken, as "fp16".
    variant: str = ""
    #: Directory of the configs that a single file's pipeline is built by.
    config: str = ""
    #: Whether code in the model's directory may run. In the service's table only.
    trust_remote_code: bool = False
    loras: dict[str, LoraEntry] = field(default_factory=dict)
    #: Directory each of whose *.safetensors is a LoRA, named by its stem.
    lora_dir: str = ""
    #: How its steps are taken, always; and by name, where a request or a LoRA says so.
    sampler: SamplerEntry = ""
    presets: dict[str, SamplerEntry] = field(default_factory=dict)
    speed: Speed = Speed()
    #: Where its weights lie while it draws.
    placement: Wanted | Literal[""] = ""
    #: How its clips are encoded.
    video_file: VideoFile = VideoFile()


def read(where: str, table: Mapping[str, Any]) -> ModelTable:
    """The table, named `where` in what is said of it. Raises `CatalogueError`."""
    for key, text in _faults("", table, inspect.type_info(ModelTable)):
        raise refusal(where, key, text)
    try:
        read = msgspec.convert(table, ModelTable)
    except msgspec.ValidationError as error:
        rule, _, key = str(error).partition(" - at `$")
        raise refusal(where, key.strip(".`"), in_words(rule)) from None
    return read


def merged(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`own` with what `given` says in its place; within a table, key by key."""
    both = {**own, **given}
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(given.get(key), dict):
            both[key] = {**value, **given[key]}
    return both


def anchored(where: str, own: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return the settings of a model's own file, its files and directories as paths from the model's directory. Raises `CatalogueError`."""
    if own.get("trust_remote_code"):
        raise refusal(
            where, "trust_remote_code", "a model cannot say that of itself; it belongs in the service's table"
        )
    placed = dict(own)
    if "parts" in own:
        placed["parts"] = {name: str(directory / file) for name, file in own["parts"].items()}
    if "lora_dir" in own:
        placed["lora_dir"] = str(directory / own["lora_dir"])
    if "loras" in own:
        try:
            placed["loras"] = {name: anchored_lora(lora, directory) for name, lora in own["loras"].items()}
        except ValueError as error:
            raise refusal(where, "loras", f"{error} is outside of the model's directory") from None
    return placed


def refusal(where: str, key: str, text: str) -> CatalogueError:
    """The error that says what is wrong with a key of a table: `[models.wan] speed.attention: …`."""
    return CatalogueError(f"{where} {key}: {text}" if key else f"{where}: {text}")


# ---------------------------------------------------------------- what is wrong, in words


def _faults(path: str, value: Any, kind: inspect.Type) -> Iterator[tuple[str, str]]:
    """(path of the key, what is wrong) for keys that there are not and words that are no choice; all else msgspec finds."""
    if isinstance(kind, inspect.UnionType):
        kinds = [
            one
            for one in kind.types
            if isinstance(one, inspect.StructType if isinstance(value, dict) else inspect.LiteralType)
        ]
        if kinds:
            yield from _faults(path, value, kinds[0])
    elif isinstance(kind, inspect.LiteralType) and isinstance(value, str) and value not in kind.values:
        choices = ", ".join(str(choice) for choice in kind.values if choice != "")
        yield path, f"{value!r} is not one of {choices}"
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        for key, one in value.items():
            yield from _faults(_below(path, key), one, kind.value_type)
    elif isinstance(kind, inspect.StructType) and isinstance(value, dict):
        known = {one.encode_name: one.type for one in kind.fields}
        for key, one in value.items():
            if key not in known:
                yield _below(path, key), unknown_key(key, known)
            else:
                yield from _faults(_below(path, key), one, known[key])


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """Build the message about an unknown key: the closest known one, and all."""
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}known: {', '.join(sorted(known))}"


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


_KINDS = {
    "str": "a string", "bool": "true or false", "int": "a whole number", "float": "a number", "object": "a table", "array": "a list",
    "null": "nothing",
}  # fmt: skip


def in_words(rule: str) -> str:
    """msgspec's rule: "Expected `str`, got `int`" -> "must be a string, and is a whole number"."""
    expected, comma, got = rule.removeprefix("Expected ").partition(", got ")
    if not comma or expected == rule:
        return rule[:1].lower() + rule[1:]
    wanted = [_KINDS.get(name.strip(), name) for name in expected.strip("`").split("|") if name.strip() != "null"]
    return f"must be {' or '.join(wanted)}, and is {_KINDS.get(got.strip('`'), got)}"
