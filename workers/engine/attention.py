"""A stage of `ready`: the backend by which a model's denoisers compute attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import huggingface_hub.constants
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from workers.engine.device import Device
from workers.engine.errors import LoadError
from workers.models.attention import unfit_device
from workers.models.denoisers import DENOISERS

#: Typed as wholes, which the library is not.
_registry: Any = _AttentionBackendRegistry
_hub: Any = huggingface_hub.constants


def denoisers_of(pipe: Any) -> list[Any]:
    """The pipeline's denoisers, each once."""
    found = {id(part): part for name in DENOISERS if isinstance(part := getattr(pipe, name, None), torch.nn.Module)}
    return list(found.values())


def capability(device: Device) -> tuple[int, int]:
    """The compute capability of a GPU; (0, 0) of a CPU."""
    return torch.cuda.get_device_capability() if device.kind == "cuda" else (0, 0)


def choose_attention(where: str, pipe: Any, name: str, device: Device, dtype: torch.dtype, *, downloads: bool) -> None:
    """Let the denoisers, of this dtype, compute attention by the backend of this name. Raises `LoadError` when that cannot be."""
    if why := unfit_device(name, device.kind, capability(device), half=dtype in (torch.bfloat16, torch.float16)):
        raise LoadError(f"{where} speed.attention: {why}")
    try:
        with _default_kept(), _offline(not downloads):
            for part in denoisers_of(pipe):
                part.set_attention_backend(name)
    except (AttributeError, RuntimeError, ValueError, ImportError, OSError) as error:
        raise LoadError(f"{where} speed.attention: {name!r} cannot be used: {' '.join(str(error).split())}") from error


@contextmanager
def _default_kept() -> Iterator[None]:
    """Setting a model's backend also sets the process's: models that are loaded later would compute by it."""
    before = _registry._active_backend
    try:
        yield
    finally:
        _registry.set_active_backend(before)


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    before = _hub.HF_HUB_OFFLINE
    _hub.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        _hub.HF_HUB_OFFLINE = before
