"""Where a model lies and what its directory says: settings, index of parts, their configs; one sentence where it is no model.

Nothing here runs code out of a directory, and weights are not opened.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.models.pipeline_classes import pipeline_class

SETTINGS_FILE = "zoetrope.toml"

_INDEX = "model_index.json"
_SINGLE_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


class CatalogueError(Exception):
    """One sentence on why there is no card for a model."""


def find(source: str) -> Path | None:
    """The model's directory: `source` itself, or its snapshot in the hub's cache; None when it is not on this machine."""
    if Path(source).is_dir():
        return Path(source)
    if not _is_hub_id(source):
        return None
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser() / f"models--{source.replace('/', '--')}"
    try:
        return cache / "snapshots" / (cache / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def own_settings(label: str, directory: Path | None) -> dict[str, Any]:
    """What the model's own zoetrope.toml says; empty when it has none."""
    if directory is None or not (directory / SETTINGS_FILE).is_file():
        return {}
    try:
        return tomllib.loads((directory / SETTINGS_FILE).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CatalogueError(f"model {label!r}: {directory / SETTINGS_FILE}: {error}") from None


def read_index(name: str, source: str, directory: Path | None, pipeline: str = "") -> Mapping[str, Any]:
    """The model's parts, and its class under "_class_name": `pipeline`, or what the index says. Raises `CatalogueError`."""
    index = read_json(name, directory / _INDEX) if directory is not None else {}
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


def _is_hub_id(source: str) -> bool:
    return source.count("/") <= 1 and not source.startswith((".", "/", "~"))


def _diffusers() -> str:
    try:
        return f"diffusers {importlib.metadata.version('diffusers')}"
    except importlib.metadata.PackageNotFoundError:
        return "diffusers is not installed and"


def _why_not(name: str, source: str, directory: Path | None) -> str:
    """Why `source` is no model, and what to do."""
    if directory is not None:
        return _why_no_pipeline(directory)
    path = Path(source).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return f"{source!r} is a GGUF file, one part of a model with its weights quantised, which is not read; {_GET}"
    if path.is_file():
        return f"{source!r} is a single file, and a model is a directory with {_INDEX}; {_GET}, or {_CONVERT}"
    if path.suffix in _SINGLE_FILES:
        return f"there is no file {source!r}; a model is a directory with {_INDEX}"
    if not _is_hub_id(source):
        return f"there is no directory {source!r}"
    return (
        f"{source!r} is neither a directory nor in the hub's cache; "
        f'download it, or name its class: pipeline = "…" in [models.{json.dumps(name)}] of zoetrope.toml'
    )


_GET = f"get the model in diffusers' layout (the repository with {_INDEX}, whose name often ends in -diffusers)"
_CONVERT = "convert it once with diffusers: from_single_file(FILE), then save_pretrained(DIRECTORY)"


def _why_no_pipeline(directory: Path) -> str:
    """What a directory without a usable index is instead."""
    if (directory / _INDEX).is_file():
        return f"{directory} is not a diffusers pipeline: no {_INDEX} with its class"
    if (directory / "modular_model_index.json").is_file():
        return f"{directory} is a modular pipeline (modular_model_index.json), which is not run; get the variant of the model with {_INDEX}"
    names = sorted(entry.name for entry in directory.iterdir())
    if "adapter_config.json" in names or any("lora" in name.lower() and _is_weights(name) for name in names):
        return f"{directory} holds a LoRA, which changes a model and is none; name the directory of the model"
    weights = [name for name in names if _is_weights(name)]
    own = config(directory, ".")
    part = own.get("_class_name") or next(iter(own.get("architectures") or ()), None)
    if part and all(name.startswith(("diffusion_pytorch_model", "model", "pytorch_model")) for name in weights):
        return f"{directory} holds one part of a model ({part}); name the directory above it, the one with {_INDEX}"
    if weights:
        return f"{directory} holds weights in the layout of their authors ({weights[0]}), not of diffusers; {_GET}, or {_CONVERT}"
    if "transformer" in names or "unet" in names:
        return f"{directory} holds parts of a model but no {_INDEX}: the download is not complete"
    return f"{directory} is not a diffusers pipeline: no {_INDEX} with its class"


def _is_weights(name: str) -> bool:
    return name.endswith(_SINGLE_FILES)
