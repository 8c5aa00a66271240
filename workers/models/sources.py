"""Reading a model's directory: its place, settings, index of parts, their configs; one sentence where it is no model.

Nothing here runs code out of a directory, and weights are not opened.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from workers.models.pipeline_classes import pipeline_class

SETTINGS_FILE = "zoetrope.toml"

INDEX = "model_index.json"
#: `owner/name`, or `name` of the hub's first models; and what git allows in a branch or tag, without what could leave a directory.
_HUB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")

_SINGLE_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


class CatalogueError(Exception):
    """There is no card for a model; one sentence on the reason."""


class HubId(Struct, frozen=True):
    """A model on the hub, and the branch, tag or commit of it (git: a ref)."""

    repo: str
    ref: str = "main"


def parse_hub_id(source: str) -> HubId | None:
    """The model that `OWNER/NAME` or `OWNER/NAME@REVISION` names; None for what can only be a path."""
    repo, at, revision = source.partition("@")
    named = _HUB_NAME.fullmatch(repo) and (not at or _REVISION.fullmatch(revision)) and ".." not in source
    return HubId(repo, revision if at else "main") if named else None


def cache_of(model: HubId) -> Path:
    """Return the directory in which the hub's client keeps this model, whatever has been fetched of it."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    return (
        Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser() / f"models--{model.repo.replace('/', '--')}"
    )


def find(source: str) -> Path | None:
    """The model's directory: `source` itself, or its snapshot in the hub's cache; None when it is not on this machine."""
    if Path(source).is_dir():
        return Path(source)
    model = parse_hub_id(source)
    if model is None:
        return None
    cache = cache_of(model)
    try:
        commit = (cache / "refs" / model.ref).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = model.ref  # a commit needs no reference
    snapshot = cache / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def own_settings(label: str, directory: Path | None) -> dict[str, Any]:
    """Read the model's own zoetrope.toml; empty when it has none."""
    if directory is None or not (directory / SETTINGS_FILE).is_file():
        return {}
    try:
        return tomllib.loads((directory / SETTINGS_FILE).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CatalogueError(f"model {label!r}: {directory / SETTINGS_FILE}: {error}") from None


def read_index(name: str, source: str, directory: Path | None, pipeline: str = "") -> Mapping[str, Any]:
    """The model's parts, and its class under "_class_name": `pipeline`, or what the index says. Raises `CatalogueError`."""
    index = read_json(name, directory / INDEX) if directory is not None else {}
    named = pipeline or index.get("_class_name")
    if isinstance(named, list):
        raise CatalogueError(
            f"model {name!r}: its class is code of its own, {'.'.join(map(str, named))} in {directory}, which is not run; "
            f'name a class of diffusers: pipeline = "…" in [models.{json.dumps(name)}] of zoetrope.toml'
        )
    if not isinstance(named, str):
        raise CatalogueError(f"model {name!r}: {_why_not(name, source, directory)}")
    if pipeline_class(named) is None:
        raise CatalogueError(f"model {name!r}: {_diffusers()} has no pipeline {named!r}")
    return {**index, "_class_name": named}


def read_json(name: str, path: Path) -> dict[str, Any]:
    """An object in a JSON file; empty when there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogueError(f"model {name!r}: {path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CatalogueError(f"model {name!r}: {path} holds no JSON object")
    return value


def config(directory: Path | None, part: str) -> dict[str, Any]:
    """The config of one part of the model; empty when there is none."""
    return read_json(directory.name, directory / part / "config.json") if directory is not None else {}


def _diffusers() -> str:
    try:
        return f"diffusers {importlib.metadata.version('diffusers')}"
    except importlib.metadata.PackageNotFoundError:
        return "diffusers is not installed and"


def _why_not(name: str, source: str, directory: Path | None) -> str:
    """Return the reason why `source` is no model, and the remedy."""
    if directory is not None:
        return _why_no_pipeline(directory)
    return why_not_here(source)


def why_not_here(source: str) -> str:
    """Return the reason why this model is not on this machine, and the remedy."""
    if Path(source).suffix in _SINGLE_FILES:
        return f"there is no file {source!r}; a model is a directory with {INDEX}"
    if parse_hub_id(source) is None:
        return f"there is no directory {source!r}"
    return f"{source!r} is neither a directory nor in the hub's cache; fetch it: python -m workers pull {source}"


_GET = f"get the model in diffusers' layout (the repository with {INDEX}, whose name often ends in -diffusers)"
_CONVERT = "convert it once with diffusers: from_single_file(FILE), then save_pretrained(DIRECTORY)"


def _why_no_pipeline(directory: Path) -> str:
    """Describe a directory without a usable index."""
    if (directory / INDEX).is_file():
        return f"{directory} is not a diffusers pipeline: no {INDEX} with its class"
    if (directory / "modular_model_index.json").is_file():
        return f"{directory} is a modular pipeline (modular_model_index.json), which is not run; get the variant of the model with {INDEX}"
    names = sorted(entry.name for entry in directory.iterdir())
    if "adapter_config.json" in names or any("lora" in name.lower() and _is_weights(name) for name in names):
        return f"{directory} holds a LoRA, which changes a model and is none; name the directory of the model"
    weights = [name for name in names if _is_weights(name)]
    own = config(directory, ".")
    part = own.get("_class_name") or next(iter(own.get("architectures") or ()), None)
    if part and all(name.startswith(("diffusion_pytorch_model", "model", "pytorch_model")) for name in weights):
        return f"{directory} holds one part of a model ({part}); name the directory above it, the one with {INDEX}"
    if weights:
        return f"{directory} holds weights in the layout of their authors ({weights[0]}), not of diffusers; {_GET}, or {_CONVERT}"
    if "transformer" in names or "unet" in names:
        return f"{directory} holds parts of a model but no {INDEX}: the download is not complete"
    return f"{directory} is not a diffusers pipeline: no {INDEX} with its class"


def _is_weights(name: str) -> bool:
    return name.endswith(_SINGLE_FILES)
