"""Diffusers pipelines in memory: load, place on the device, keep several, drop the least recently used when room is short.

A pipeline is "normal" (all of it on the device) or "offload" (each model comes to the GPU only while it runs). On a CPU the two are
the same. The choice is made for each job; it costs a move of the weights when it changes.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from broker.runtime.log_actions import Action
from broker.wire.jobspec import ModelCard
from workers.engine.base import Profile
from workers.engine.device import Device
from workers.engine.errors import LoadError, OutOfMemory
from workers.engine.failures import is_out_of_memory
from workers.engine.packages import missing_package, missing_quantiser
from workers.engine.prompts import remember_prompts
from workers.engine.tiles import cover_whole
from workers.engine.weights import damage, float8_parts, loose_loras, variant_of, weights_bytes
from workers.models.sources import find

logger = logging.getLogger(__name__)

#: Typed as a whole, which the library is not.
_from_pretrained: Any = DiffusionPipeline.from_pretrained

#: Free memory must exceed the weights by this much before a model is loaded beside others: activations need room too.
_HEADROOM = 1.3

#: Families whose VAE loses detail in half precision and whose pipelines cast between the two themselves (diffusers' Wan guide).
_FLOAT32_VAE = ("Wan", "SkyReelsV2")

#: VAEs that raise NotImplementedError for a picture in one piece.
_ONLY_TILED = ("AutoencoderKLAllegro",)


class Loaded:
    """A pipeline in memory and where it is."""

    def __init__(self, pipe: Any, source: str) -> None:
        self.pipe = pipe
        self.source = source
        self.placement: Profile | None = None
        #: Did not fit on the GPU whole: not tried again for every job.
        self.too_big = False


class Pipelines:
    """All pipelines of this process, by model name, the most recently used last."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._loaded: dict[str, Loaded] = {}
        for library in (diffusers, transformers):
            library.utils.logging.disable_progress_bar()

    def names(self) -> tuple[str, ...]:
        """Models in memory, the most recently used last."""
        return tuple(self._loaded)

    def get(self, card: ModelCard, profile: Profile = "normal") -> Any:
        """The pipeline of this model, on its device. Raises `LoadError`, or `OutOfMemory` when it does not fit even alone."""
        loaded = self._loaded.pop(card.name, None)
        if loaded is None or loaded.source != card.source:
            loaded = self._load(card)
        try:
            self._place(card, loaded, profile)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"model {card.name!r} does not fit in memory: {error}") from error
        self._loaded[card.name] = loaded
        return loaded.pipe

    def has(self, card: ModelCard) -> bool:
        """Whether the model is in memory."""
        loaded = self._loaded.get(card.name)
        return loaded is not None and loaded.source == card.source

    def stays(self, card: ModelCard, profile: Profile) -> bool:
        """Whether `get` would move no weights, nor the job: all of the model is on its device."""
        loaded = self._loaded.get(card.name)
        if loaded is None or loaded.source != card.source:
            return False
        return self.device.kind == "cpu" or loaded.placement == profile == "normal"

    def keep_only(self, name: str) -> None:
        """Drop every other model."""
        for other in [known for known in self._loaded if known != name]:
            self._drop(other)
        self.device.release()

    def _load(self, card: ModelCard) -> Loaded:
        self._make_room(card)
        try:
            return self._read(card)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self._loaded:
                raise _load_error(card, error) from error
        self.keep_only("")
        try:
            return self._read(card)
        except (RuntimeError, MemoryError) as error:
            raise _load_error(card, error) from error

    def _read(self, card: ModelCard) -> Loaded:
        logger.info("loading a model", extra={"action": Action.LOAD_MODEL, "model": card.name})
        local = Path(card.source).is_dir()
        if not local and _is_path(card.source):
            raise LoadError(f"model {card.name!r}: there is no directory {card.source!r}")
        directory = find(card.source)
        if directory is not None and (missing := missing_quantiser(directory)):
            raise LoadError(f"model {card.name!r} cannot be loaded from {card.source!r}: {missing}")
        # What is not in the hub's cache may be fetched.
        if local and directory is not None and (why := damage(directory)):
            raise LoadError(f"model {card.name!r} cannot be loaded from {card.source!r}: {why}")
        variant = variant_of(directory) if directory is not None else None
        if directory is not None:
            _say_what_is_changed(card, directory, self.device.dtype)
        try:
            pipe = _from_pretrained(
                card.source, dtype=self._dtypes(card), variant=variant, local_files_only=local or _offline()
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, SafetensorError) as error:
            raise _load_error(card, error) from error
        pipe.set_progress_bar_config(disable=True)
        _tile_vae(pipe, on=False)
        cover_whole(getattr(pipe, "vae", None))
        remember_prompts(pipe)
        return Loaded(pipe, card.source)

    def _dtypes(self, card: ModelCard) -> torch.dtype | dict[str, torch.dtype]:
        dtype = self.device.dtype
        if dtype == torch.float32 or not card.pipeline.startswith(_FLOAT32_VAE):
            return dtype
        return {"default": dtype, "vae": torch.float32, "image_encoder": torch.float32}

    def _make_room(self, card: ModelCard) -> None:
        if not self._loaded:
            return
        needed = int(_needed_bytes(card.source, self.device.dtype) * _HEADROOM)
        self.device.release()
        for name in tuple(self._loaded):
            if self.device.free_bytes() >= needed:
                return
            self._drop(name)
            self.device.release()

    def _drop(self, name: str) -> None:
        logger.info("dropping a model", extra={"action": Action.DROP_MODEL, "model": name})
        loaded = self._loaded.pop(name)
        loaded.pipe.remove_all_hooks()
        del loaded

    def _place(self, card: ModelCard, loaded: Loaded, profile: Profile) -> None:
        if loaded.too_big:
            profile = "offload"
        if loaded.placement == profile:
            return
        if self.device.kind == "cpu":
            loaded.placement = profile
            return
        if profile == "normal" and self._bring_whole_if_it_fits(loaded.pipe):
            loaded.placement = "normal"
            return
        if profile == "normal":
            loaded.too_big = True
            logger.warning(
                "the model does not fit on the GPU whole and is offloaded",
                extra={"action": Action.OFFLOAD_MODEL, "model": card.name},
            )
        self.keep_only("")
        _bring_in_parts(loaded.pipe, self.device)
        loaded.placement = "offload"

    def _bring_whole_if_it_fits(self, pipe: Any) -> bool:
        """Put the model on the GPU, if need be instead of all others; False when not even that is enough."""
        while True:
            try:
                _bring_whole(pipe, self.device)
                return True
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            pipe.to("cpu")
            alone = not self._loaded
            self.keep_only("")
            if alone:
                return False


def _bring_whole(pipe: Any, device: Device) -> None:
    pipe.remove_all_hooks()
    # The list is what maybe_free_model_hooks goes by: left filled, it would offload the pipeline again after the next job.
    pipe._all_hooks = []
    _tile_vae(pipe, on=False)
    pipe.to(device.torch_device)


def _bring_in_parts(pipe: Any, device: Device) -> None:
    pipe.to("cpu")
    device.release()
    _tile_vae(pipe, on=True)
    if pipe.model_cpu_offload_seq is None:
        pipe.enable_sequential_cpu_offload(device=device.torch_device)
    else:
        pipe.enable_model_cpu_offload(device=device.torch_device)


def _tile_vae(pipe: Any, on: bool) -> None:
    """Decode in tiles, where the VAE can. The Wan VAE is not tiled: decoding it frame by frame bounds its memory without seams."""
    vae = getattr(pipe, "vae", None)
    on = on or type(vae).__name__ in _ONLY_TILED
    if vae is None or type(vae).__name__ == "AutoencoderKLWan":
        return
    for method in ("enable_tiling", "enable_slicing") if on else ("disable_tiling", "disable_slicing"):
        if hasattr(vae, method):
            getattr(vae, method)()


def _needed_bytes(source: str, dtype: torch.dtype) -> int:
    """Size of the weights on disk, doubled for float32 (most files are half precision); 0 when not known, as for a hub id."""
    directory = Path(source)
    if not directory.is_dir():
        return 0
    total = weights_bytes(directory)
    return total * 2 if dtype == torch.float32 else total


def _say_what_is_changed(card: ModelCard, directory: Path, dtype: Any) -> None:
    """Tell the operator of weights that are not used, or not as they are stored."""
    mark = {"action": Action.LOAD_MODEL, "model": card.name}
    if loras := loose_loras(directory):
        logger.warning("not part of the model, and not used: %s", ", ".join(loras), extra=mark)
    if parts := float8_parts(directory):
        logger.warning("weights of %s are stored in float8 and brought to %s", ", ".join(parts), dtype, extra=mark)


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _is_path(source: str) -> bool:
    """A hub id is `name` or `owner/name`; everything else can only be a path."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1


def _load_error(card: ModelCard, error: BaseException) -> LoadError | OutOfMemory:
    text = missing_package(error) or " ".join(str(error).split()) or type(error).__name__
    message = f"model {card.name!r} cannot be loaded from {card.source!r}: {text}"
    return OutOfMemory(message) if is_out_of_memory(error) else LoadError(message)
