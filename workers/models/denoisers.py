"""Abilities of a denoiser's class (transformer, UNet), read from diffusers' source without importing it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from workers.models.library_source import library_places

#: Components of a pipeline that denoise; Wan 2.2 has two.
DENOISERS = ("transformer", "transformer_2", "unet", "unconditional_transformer")

_CLASS = re.compile(r"^class (\w+)\(?(.*?)\)?:$(.*?)(?=^class |\Z)", re.MULTILINE | re.DOTALL)

#: How a file shows that its attention goes through diffusers' dispatcher: its own processors, or Flux's.
_DISPATCHES = re.compile(r"dispatch_attention_fn|_attention_backend|FluxAttn")


class Denoiser(Struct, frozen=True):
    """A class of diffusers' models."""

    name: str
    #: Whether its attention can be computed by another backend.
    chooses_attention: bool
    #: Whether the blocks that it repeats are known, so that one compilation serves all of them.
    has_repeated_blocks: bool
    #: Whether diffusers' step caches support its blocks.
    caches: bool
    #: Whether what it gives is made by one last layer, by the name under which step caches find it.
    projects_out: bool = False
    #: Whether LoRAs can be loaded into it.
    takes_adapters: bool = False


def denoisers(index: Mapping[str, Any]) -> list[Denoiser]:
    """The denoisers of a model by its `model_index.json`; those of other libraries are left out."""
    named = [index.get(part) for part in DENOISERS]
    names = [part[1] for part in named if isinstance(part, list) and len(part) == 2 and part[0] == "diffusers"]
    return [found for name in dict.fromkeys(names) if (found := _denoiser(str(name))) is not None]


@functools.cache
def _denoiser(name: str) -> Denoiser | None:
    for text in _sources():
        if f"class {name}(" not in text:
            continue
        for found in _CLASS.finditer(text):
            if found[1] == name:
                return Denoiser(
                    name,
                    chooses_attention=_DISPATCHES.search(text) is not None,
                    has_repeated_blocks="_repeated_blocks =" in found[3],
                    caches="CacheMixin" in found[2] and not _blocks(found[3]).isdisjoint(_registered()),
                    projects_out="self.proj_out = " in found[3],
                    takes_adapters="PeftAdapterMixin" in found[2],
                )
    return None


def _blocks(text: str) -> set[str]:
    """Classes of the blocks that a class body lists."""
    lists = re.findall(r"_(?:repeated_blocks|no_split_modules) = \[(.*?)\]", text, re.DOTALL)
    return set(re.findall(r"\w+", " ".join(lists)))


@functools.cache
def _registered() -> frozenset[str]:
    """Classes of blocks whose inputs and outputs the step caches support."""
    files = (Path(place, "hooks", "_helpers.py") for place in library_places())
    return frozenset(
        name for file in files for name in re.findall(r"model_class=(\w+)", file.read_text(encoding="utf-8"))
    )


def _sources() -> Iterator[str]:
    for place in library_places():
        for folder in ("transformers", "unets"):
            for file in sorted(Path(place, "models", folder).glob("*.py")):
                yield file.read_text(encoding="utf-8")
