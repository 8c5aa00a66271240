"""Reading a model's directory: its place, settings, index of parts, their configs; one sentence where it is no model.

Nothing here runs code out of a directory, and weights are not opened.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from workers.models.pipeline_classes import pipeline_class, pipeline_names

SETTINGS_FILE = "zoetrope.toml"

INDEX = "model_index.json"
#: `owner/name`, or `name` of the hub's first models; and what git allows in a branch or tag, without what could leave a directory.
_HUB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")

_SINGLE_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


class CatalogueError(Exception):
    """There is no card for a model; one sentence on the reason: `[models.wan] speed.attention: 'sage' needs …; pip install …`."""

    def __init__(self, where: str, key: str, text: str) -> None:
        place = " ".join(filter(None, (where, key if where else "")))
        super().__init__(f"{place}: {text}" if place else text)
        #: The table ("" where the caller has it), the key in it, and what is wrong: the value, the rule and the cure.
        self.where, self.key, self.text = where, key, text


#: Longest value that an error repeats.
_MAX_VALUE_CHARS = 80


def shown(value: Any) -> str:
    """A value of a table as an error repeats it, short."""
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(list(value)) if isinstance(value, tuple) else f"{value!r}"
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}…"


_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dotted(*keys: str) -> str:
    """Keys as TOML writes them one below the other: `loras."a b".scale`."""
    return ".".join(key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False) for key in keys)


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


def own_settings(directory: Path | None) -> dict[str, Any]:
    """Read the model's own zoetrope.toml; empty when it has none."""
    if directory is None or not (directory / SETTINGS_FILE).is_file():
        return {}
    try:
        return tomllib.loads((directory / SETTINGS_FILE).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogueError(str(directory / SETTINGS_FILE), "", f"cannot be read: {error}") from None


def read_index(source: str, directory: Path | None, pipeline: str = "") -> Mapping[str, Any]:
    """The model's parts, and its class under "_class_name": `pipeline`, or that of the index. Raises `CatalogueError`."""
    index = read_json(directory / INDEX) if directory is not None else {}
    own = index.get("_class_name")
    named = pipeline or own
    if isinstance(named, list):
        code = ".".join(map(str, named))
        cure = 'name a class of diffusers: pipeline = "…"'
        raise CatalogueError("", "path", f"{source!r} is run by code of its own, {code}, which is not run here; {cure}")
    if not isinstance(named, str) or not named:
        raise CatalogueError("", "path", _why_not(source, directory))
    key, of = ("pipeline", "") if pipeline else ("path", f"{source!r} is run by ")
    if (found := pipeline_class(named)) is None:
        cure = "pip install -U diffusers brings newer ones" if key == "path" else _closest_pipeline(named)
        raise CatalogueError(
            "", key, f"{of}{named!r}{', which' if of else ''} is no pipeline of {_diffusers()}; {cure}"
        )
    if pipeline and isinstance(own, str) and own != pipeline and (lacking := sorted(found.needed - set(_there(index)))):
        text = (
            f"{pipeline!r} is made of a {lacking[0]}, too, which {directory} has not; leave the key out: it is a {own}"
        )
        raise CatalogueError("", "pipeline", text)
    return {**index, "_class_name": named}


def _there(index: Mapping[str, Any]) -> Iterator[str]:
    """Names that a model's index gives something for."""
    return (name for name, value in index.items() if value not in (None, [None, None]))


def _closest_pipeline(name: str) -> str:
    if close := [
        one for one in difflib.get_close_matches(name, pipeline_names(), 3) if pipeline_class(one) is not None
    ]:
        return f"did you mean {close[0]}?"
    return "leave the key out, and the model's index says it"


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file; empty when there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CatalogueError("", "path", f"{path} cannot be read: {error}; get the file anew") from None
    if not isinstance(value, dict):
        raise CatalogueError("", "path", f"{path} holds no JSON object; get the file anew")
    return value


def config(directory: Path | None, part: str) -> dict[str, Any]:
    """The config of one part of the model; empty when there is none."""
    return read_json(directory / part / "config.json") if directory is not None else {}


def _diffusers() -> str:
    try:
        return f"diffusers {importlib.metadata.version('diffusers')}"
    except importlib.metadata.PackageNotFoundError:
        return "diffusers, which is not installed: pip install diffusers"


def _why_not(source: str, directory: Path | None) -> str:
    """Return the reason why `source` is no model, and the remedy."""
    if directory is not None:
        return _why_no_pipeline(directory)
    return why_not_here(source)


def why_not_here(source: str) -> str:
    """Return the reason why this model is not on this machine, and the remedy."""
    if Path(source).suffix in _SINGLE_FILES:
        return f"{source!r} is not there; a model is a directory with {INDEX}, or a file with config"
    if parse_hub_id(source) is None:
        return f"{source!r} is not there; name the directory of a model, or a hub id"
    return f"{source!r} is neither a directory nor in the hub's cache; fetch it: python -m workers pull {source}"


_GET = f"get the model in diffusers' layout (the repository with {INDEX}, whose name often ends in -diffusers)"
_CONVERT = "convert it once with diffusers: from_single_file(FILE), then save_pretrained(DIRECTORY)"


def _why_no_pipeline(directory: Path) -> str:
    """Describe a directory without a usable index."""
    if (directory / INDEX).is_file():
        return f"{directory} is not a diffusers pipeline: no {INDEX} with its class; {_GET}"
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
        return f"{directory} holds parts of a model but no {INDEX}: the download is not complete; fetch it anew"
    return f"{directory} is not a diffusers pipeline: no {INDEX} with its class; {_GET}"


def _is_weights(name: str) -> bool:
    return name.endswith(_SINGLE_FILES)
