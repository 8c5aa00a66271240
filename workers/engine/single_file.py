"""A pipeline out of one file and the configs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import SingleFileComponentError

from broker.wire.jobspec import ModelCard
from workers.engine.errors import LoadError
from workers.models.parts import components, of_text_encoder
from workers.models.sources import INDEX, read_json
from workers.models.weight_files import read_weights


def read_single_file(card: ModelCard, configs: Path, dtype: torch.dtype, parts: dict[str, torch.nn.Module]) -> Any:
    """The pipeline of the card's class from its file, with `parts` in place of components.

    Text encoders that the file lacks come out of the directory `configs`. Raises `LoadError` for weights that are nowhere, and what the
    libraries raise.
    """
    outside = {} if _has_text_encoders(card) else _encoders(configs, dtype, frozenset(parts))
    kind: Any = getattr(diffusers, card.pipeline)
    try:
        return kind.from_single_file(
            card.source, config=str(configs), dtype=dtype, local_files_only=True, **{**outside, **parts}
        )
    except SingleFileComponentError as error:
        text = str(error).partition("\n")[0]
        raise LoadError(text) from error
    except NotImplementedError as error:  # what had no weights cannot be brought to a dtype
        raise LoadError(f"it lacks weights of a component, or {configs} is of another model") from error


def _has_text_encoders(card: ModelCard) -> bool:
    return any(map(of_text_encoder, read_weights(Path(card.source)).tensors))


def _encoders(configs: Path, dtype: torch.dtype, replaced: frozenset[str]) -> dict[str, Any]:
    """The encoders whose weights are in the directory: the loader of single files does not read them there."""
    wanted = {
        name: kind
        for name, (library, kind) in components(read_json(configs / INDEX)).items()
        if library == "transformers" and name not in replaced and any((configs / name).glob("*.safetensors"))
    }
    return {
        name: getattr(transformers, kind).from_pretrained(
            configs / name, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        for name, kind in wanted.items()
    }
