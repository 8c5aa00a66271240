"""`[models.NAME]` of the service's zoetrope.toml, and the zoetrope.toml in a model's own directory: one reader of both.

A key that is not known is refused with the closest that is; a value of another kind is refused with the kind that is meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct, field, inspect

from workers.models.loras import LoraEntry, anchored_lora
from workers.models.parallel import ParallelSetting
from workers.models.parts import Parts
from workers.models.placement import PlacementSetting
from workers.models.samplers import SamplerEntry
from workers.models.sources import CatalogueError, dotted, shown
from workers.models.speed import Speed
from workers.models.video_file import VideoFile

T = TypeVar("T", bound=Struct)

#: Fields that a model's own file cannot have.
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
    #: How its steps are taken, always; and by name, where a request or a LoRA names one.
    sampler: SamplerEntry = ""
    presets: dict[str, SamplerEntry] = field(default_factory=dict)
    speed: Speed = Speed()
    #: Where its weights lie while it draws.
    placement: PlacementSetting | Literal[""] = ""
    #: How several GPUs share a job of it, where a worker has several.
    parallel: ParallelSetting | Literal[""] = ""
    #: How its clips are encoded.
    video_file: VideoFile = VideoFile()


def read(where: str, table: Mapping[str, Any]) -> ModelTable:
    """The table, named `where` in errors. Raises `CatalogueError`."""
    return convert(where, "", table, ModelTable)


def convert(where: str, prefix: str, table: Mapping[str, Any], kind: type[T]) -> T:
    """The struct of this kind that a table gives, whose keys begin with `prefix` in errors. Raises `CatalogueError`."""
    for key, text in (*_faults(prefix, table, inspect.type_info(kind)), *_nul(prefix, table)):
        raise CatalogueError(where, key, text)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        keys = _keys_of(error, table, kind)
        value: Any = table
        path = prefix
        for word in keys:
            value = value[word]
            path = f"{path}[{word}]" if isinstance(word, int) else _below(path, word)
        raise CatalogueError(where, path, f"{shown(value)} {_explained(error, value)}") from None


#: Default -> the limits that it must be within.
_SIZES = ("min_side", "max_side", "side_multiple", "max_pixels")
_BOUND_BY = {
    "width": _SIZES, "height": _SIZES, "num_inference_steps": ("max_steps",),
    "num_frames": ("max_frames", "frame_step", "frame_offset", "frame_choices"),
}  # fmt: skip


class Layers(Struct, frozen=True):
    """Settings of a model's own file, and those of the service's table, which stands before it."""

    own: Mapping[str, Any]
    given: Mapping[str, Any]

    def merged(self) -> dict[str, Any]:
        """`own`, overridden by `given`; within a table, key by key."""
        both = {**self.own, **self.given}
        for key, value in self.own.items():
            if isinstance(value, dict) and isinstance(self.given.get(key), dict):
                both[key] = {**value, **self.given[key]}
        return both

    def is_own(self, key: str) -> bool:
        """Whether an error's key is in the model's own file."""
        table, _, name = key.partition(".")
        if table == "defaults" and any(_has_key(self.given, f"limits.{limit}") for limit in _BOUND_BY.get(name, ())):
            return False  # the two do not agree, and the service's table can mend both
        return _has_key(self.own, key) and not _has_key(self.given, key)

    def outranks(self, one: str, other: str) -> bool:
        """Whether the service's table has the `one`, and the `other` is in the model's own file or in none."""
        return _has_key(self.given, one) and not _has_key(self.given, other)


def anchored(where: str, own: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return the settings of a model's own file, its files and directories as paths from the model's directory. Raises `CatalogueError`."""
    for key in _FOREIGN:
        if own.get(key):
            text = f"{shown(own[key])} is not for a model to say of itself; it belongs in the service's table"
            raise CatalogueError(where, key, text)
    placed = dict(own)
    if "parts" in own:
        placed["parts"] = {name: str(directory / file) for name, file in own["parts"].items()}
    if "lora_dir" in own:
        placed["lora_dir"] = str(directory / own["lora_dir"])
    if "loras" in own:
        try:
            placed["loras"] = {name: anchored_lora(lora, directory) for name, lora in own["loras"].items()}
        except ValueError as error:
            outside = next(key for key, lora in own["loras"].items() if str(error) in (lora, *_strings(lora)))
            text = f"{str(error)!r} is outside of the model's directory; it belongs in the service's table"
            raise CatalogueError(where, _below("loras", outside), text) from None
    return placed


def _strings(entry: Any) -> Iterator[Any]:
    return iter(entry.values() if isinstance(entry, dict) else ())


def _has_key(table: Mapping[str, Any], key: str) -> bool:
    """Whether a table has the key `a.b.c`, by its first two words."""
    value: Any = table
    for word in re.split(r"[.\[]", key)[:2]:
        if not isinstance(value, Mapping):
            break
        if word not in value:
            return False
        value = value[word]
    return True


# ---------------------------------------------------------------- what is wrong, in words

_NOTHING: list[str] = []


def _faults(path: str, value: Any, kind: inspect.Type, beside: list[str] = _NOTHING) -> Iterator[tuple[str, str]]:
    """(path of the key, what is wrong) for keys that there are not and words that are no choice; all else msgspec finds.

    `beside`: other values that may stand in place of a choice.
    """
    if isinstance(kind, inspect.UnionType):
        beside = [_KINDS["bool"]] if any(isinstance(one, inspect.BoolType) for one in kind.types) else []
        kinds = [
            one
            for one in kind.types
            if isinstance(one, inspect.StructType if isinstance(value, dict) else inspect.LiteralType)
        ]
        if kinds:
            yield from _faults(path, value, kinds[0], beside)
    elif isinstance(kind, inspect.LiteralType) and isinstance(value, str) and value not in kind.values:
        choices = [*beside, *(str(choice) for choice in kind.values if choice != "")]
        yield path, f"{shown(value)} is not one of {', '.join(choices)}{_quoted(value, beside) if beside else ''}"
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


def _nul(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """(path of the key, what is wrong) for texts that no path, request or argument can carry."""
    if isinstance(value, str) and "\0" in value:
        yield path, f"{shown(value)} must have no NUL character"
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _nul(_below(path, key), one)


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """Build the message about an unknown key: the closest known one, and all."""
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key; {hint}known: {', '.join(sorted(known))}"


def _below(path: str, key: str) -> str:
    return f"{path}.{dotted(key)}" if path else dotted(key)


def _keys_of(error: msgspec.ValidationError, table: Mapping[str, Any], kind: type[Struct]) -> list[str | int]:
    """Place of the value that msgspec complains of. It names the keys of structs and places in lists, but no key of a dict."""
    _, _, path = str(error).partition(" - at `$")
    keys: list[str | int] = []
    for name, place in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        if place == "...":
            keys.append(_failing(table, keys, kind))
        else:
            keys.append(name or int(place))
    return keys


def _failing(table: Mapping[str, Any], keys: list[str | int], kind: type[Struct]) -> str:
    """The first key of the dict at `keys` with which alone the table fails too."""
    entries: Mapping[str, Any] = table
    for key in keys:
        entries = entries[key]  # type: ignore[index]
    for name, entry in entries.items():
        alone: Any = {name: entry}
        for key in reversed(keys):
            alone = {key: alone}
        try:
            msgspec.convert(alone, kind)
        except msgspec.ValidationError:
            return name
    return next(iter(entries))


_KINDS = {
    "str": "a string", "bool": "true or false", "int": "a whole number", "float": "a number", "object": "a table", "array": "a list",
}  # fmt: skip
_BOUNDS = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}


def _explained(error: msgspec.ValidationError, value: Any) -> str:
    """msgspec's rule: "Expected `str | null`, got `int`" -> "must be a string"."""
    rule = str(error).partition(" - at `$")[0]
    if bound := re.fullmatch(r"Expected `(\w+)` (of length )?(>=|>|<=|<) (\S+)", rule):
        what = {"array": "entries", "object": "entries"}.get(bound[1], "characters") if bound[2] else ""
        return " ".join(
            filter(None, ("must have" if what else "must be", _BOUNDS[bound[3]], f"{float(bound[4]):g}", what))
        )
    kinds = re.match(r"Expected `([^`]+)`", rule)
    if kinds is None:
        return f"cannot be taken: {rule[:1].lower()}{rule[1:]}"
    expected = [_KINDS.get(name.strip(), name.strip()) for name in kinds[1].split("|") if name.strip() != "null"]
    return f"must be {' or '.join(expected)}{_quoted(value, expected)}"


def _quoted(value: Any, expected: list[str]) -> str:
    """The cure of a number or truth value that is written as a text."""
    if not isinstance(value, str) or _KINDS["str"] in expected:
        return ""
    plain = value.strip().lower() in ("true", "false") or re.fullmatch(r"[-+]?[\d.]+", value.strip())
    return "; leave the quotes out" if plain else ""
