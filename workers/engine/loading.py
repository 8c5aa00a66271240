"""The first stage of `ready`: a pipeline from its directory, in host memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from broker.runtime.log_actions import Action
from broker.wire.jobspec import ModelCard
from workers.engine.errors import LoadError
from workers.engine.failures import is_out_of_memory
from workers.engine.load_errors import all_weights_found, load_error, refusal, where_of
from workers.engine.packages import missing_quantiser
from workers.engine.replacements import load_component
from workers.engine.single_file import read_single_file
from workers.models.model import ModelSetup
from workers.models.parts import components
from workers.models.placement import AUTO
from workers.models.sources import INDEX, find, read_json, why_not_here
from workers.models.speed import FLOAT32_VAE, Speed, is_float32, vae_dtype_of
from workers.models.weight_files import NoWeights
from workers.models.weights import damage, float8_parts, loose_loras, variant_of

logger = logging.getLogger(__name__)

#: What the libraries raise for files that they cannot read.
_UNREADABLE = (
    OSError, ValueError, TypeError, KeyError, AttributeError, NameError, ImportError, NotImplementedError, SafetensorError, NoWeights,
    LoadError,
)  # fmt: skip

#: Free memory must exceed the weights by this much before a model is loaded beside others: activations need room too.
HEADROOM = 1.3


def dtype_of(card: ModelCard, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a model in an engine of this one."""
    return torch.float32 if is_float32(card.pipeline) else dtype


def load(card: ModelCard, setup: ModelSetup, dtype: torch.dtype, straight_to: str = "") -> Any:
    """The model's pipeline, in host memory, or on the device that it is read `straight_to` if that can be done.

    Raises `LoadError`, or whatever torch raises when memory runs out.
    """
    logger.info("loading a model", extra={"action": Action.LOAD_MODEL, "model": card.name})
    directory = Path(setup.config) if setup.config else find(card.source)
    if directory is None:
        raise LoadError(f"{where_of(card, setup)} path: {why_not_here(card.source)}")
    if why := missing_quantiser(directory) or damage(directory, setup.parts):
        raise load_error(card, setup, LoadError(why))
    _log_changed_weights(card, directory, dtype)
    dtypes = _dtypes(card, dtype, setup.speed)
    parts = _replacements(card, setup, directory, dtypes)
    try:
        if setup.config:
            pipe = read_single_file(card, directory, _default(dtypes), parts)
        else:
            with all_weights_found():
                pipe = _read_directory(card, setup, directory, dtypes, parts, straight_to)
    except _UNREADABLE as error:
        raise load_error(card, setup, error) from error
    if dropped := [name for name, part in parts.items() if getattr(pipe, name) is not part]:
        file = setup.parts[dropped[0]]
        raise refusal(
            card,
            setup,
            f"parts.{dropped[0]}",
            file,
            f"is not taken: {card.pipeline} has no such component; leave it out",
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def goes_straight(kind: str, placement: str, needed: int, free: int) -> bool:
    """Whether weights of `needed` bytes are read onto a device of this kind at once: there is room, and they may stay.

    Read into host memory first, they take that as well, and the time of a copy.
    """
    return kind == "cuda" and placement in (AUTO, "resident") and 0 < needed * HEADROOM <= free


def _read_directory(
    card: ModelCard,
    setup: ModelSetup,
    directory: Path,
    dtypes: torch.dtype | dict[str, torch.dtype],
    parts: dict[str, torch.nn.Module],
    straight_to: str,
) -> Any:
    given: dict[str, Any] = {
        "dtype": dtypes,
        "variant": setup.variant or variant_of(directory),
        "use_safetensors": True,
        "trust_remote_code": setup.trust_remote_code,
        "local_files_only": True,
        **parts,
    }
    if straight_to:
        try:
            return _from_pretrained(card.pipeline, str(directory), device_map=straight_to, **given)
        except (
            Exception
        ) as error:  # whatever it is: the way through host memory needs less of the library and of the device
            text = " ".join(str(error).split())
            mark = {"action": Action.LOAD_MODEL, "model": card.name}
            logger.warning("cannot be read straight to the device: %s", text, extra=mark)
    return _from_pretrained(card.pipeline, str(directory), **given)


def _from_pretrained(pipeline: str, source: str, **given: Any) -> Any:
    # The base class, given a model of another, drops what is given in the place of a component that the other may lack.
    kind: Any = getattr(diffusers, pipeline, DiffusionPipeline)
    return kind.from_pretrained(source, **given)


def _default(dtypes: torch.dtype | dict[str, torch.dtype]) -> torch.dtype:
    return dtypes["default"] if isinstance(dtypes, dict) else dtypes


def _replacements(
    card: ModelCard, setup: ModelSetup, directory: Path, dtypes: torch.dtype | dict[str, torch.dtype]
) -> dict[str, torch.nn.Module]:
    """The components that come from files of their own."""
    kinds = components(read_json(directory / INDEX)) if setup.parts else {}
    of = dtypes if isinstance(dtypes, dict) else {}
    made = {}
    for name, file in setup.parts.items():
        try:
            made[name] = load_component(kinds[name], Path(file), directory / name, of.get(name, _default(dtypes)))
        except _UNREADABLE as error:
            raise load_error(card, setup, error, f"parts.{name}", file) from error
        except RuntimeError as error:  # weights of another shape
            if is_out_of_memory(error):
                raise
            raise load_error(card, setup, error, f"parts.{name}", file) from error
    return made


def _dtypes(card: ModelCard, dtype: torch.dtype, speed: Speed) -> torch.dtype | dict[str, torch.dtype]:
    """The dtype of all components, or those of each where some have their own."""
    of = {"default": dtype}
    if own := vae_dtype_of(speed, card.pipeline):
        of["vae"] = getattr(torch, own)
    if card.pipeline.startswith(FLOAT32_VAE):
        of["image_encoder"] = torch.float32
    return of if len(set(of.values())) > 1 else dtype


def _log_changed_weights(card: ModelCard, directory: Path, dtype: Any) -> None:
    """Log weights that are not used, or not as they are stored."""
    mark = {"action": Action.LOAD_MODEL, "model": card.name}
    if loras := loose_loras(directory):
        logger.warning("not part of the model, and not used: %s", ", ".join(loras), extra=mark)
    if parts := float8_parts(directory):
        logger.warning("weights of %s are stored in float8 and brought to %s", ", ".join(parts), dtype, extra=mark)
