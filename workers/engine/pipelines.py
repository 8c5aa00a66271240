"""Diffusers pipelines in memory: load, place on the device, keep several, drop the least recently used when room is short.

A pipeline is "normal" (all of it on the device) or "offload" (each model comes to the GPU only while it runs). On a CPU the two are
the same. The choice is made for each job; it costs a move of the weights when it changes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers

from broker.runtime.log_actions import Action
from broker.wire.jobspec import ModelCard
from workers.engine.base import Profile
from workers.engine.compiling import warm_up
from workers.engine.device import Device
from workers.engine.errors import OutOfMemory
from workers.engine.failures import is_out_of_memory
from workers.engine.loading import load_error
from workers.engine.progress import Monitor
from workers.engine.ready import make_ready
from workers.engine.tiles import tile_vae
from workers.models.model import ModelSetup
from workers.models.sources import find
from workers.models.weights import weights_bytes

logger = logging.getLogger(__name__)

#: Free memory must exceed the weights by this much before a model is loaded beside others: activations need room too.
_HEADROOM = 1.3


class Loaded:
    """A pipeline in memory and where it is."""

    def __init__(self, pipe: Any, source: str, used: dict[str, str]) -> None:
        self.pipe = pipe
        self.source = source
        #: What each of its jobs is drawn with, as in `Result.used`.
        self.used = used
        self.placement: Profile | None = None
        #: Has been called in the sizes of its setup.
        self.warm = False
        #: Did not fit on the GPU whole: not tried again for every job.
        self.too_big = False


class Pipelines:
    """All pipelines of this process, by model name, the most recently used last."""

    def __init__(self, device: Device, setups: Mapping[str, ModelSetup] | None = None) -> None:
        self.device = device
        self._setups = setups or {}
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

    def setup(self, card: ModelCard) -> ModelSetup:
        """How this model is made ready, and its clips encoded."""
        return self._setups.get(card.name, ModelSetup())

    def warm(self, card: ModelCard, monitor: Monitor | None = None) -> None:
        """Call a model in memory once in each size of its setup, if that was not done. `monitor`: of the job that waits for it."""
        loaded = self._loaded[card.name]
        if loaded.warm:
            return
        for size in self._setups.get(card.name, ModelSetup()).warm_up:
            warm_up(loaded.pipe, card, size, self.device, monitor)
        loaded.warm = True

    def used(self, card: ModelCard) -> Mapping[str, str]:
        """What jobs of a model in memory are drawn with, as in `Result.used`."""
        return self._loaded[card.name].used

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
                raise load_error(card, error) from error
        self.keep_only("")
        try:
            return self._read(card)
        except (RuntimeError, MemoryError) as error:
            raise load_error(card, error) from error

    def _read(self, card: ModelCard) -> Loaded:
        model = make_ready(card, self.setup(card), self.device)
        return Loaded(model.pipe, card.source, model.used)

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
    tile_vae(pipe, on=False)
    pipe.to(device.torch_device)


def _bring_in_parts(pipe: Any, device: Device) -> None:
    pipe.to("cpu")
    device.release()
    tile_vae(pipe, on=True)
    if pipe.model_cpu_offload_seq is None:
        pipe.enable_sequential_cpu_offload(device=device.torch_device)
    else:
        pipe.enable_model_cpu_offload(device=device.torch_device)


def _needed_bytes(source: str, dtype: torch.dtype) -> int:
    """Size of the weights on disk, doubled for float32 (most files are half precision); 0 when not known."""
    directory = find(source)
    if directory is None:
        return 0
    total = weights_bytes(directory)
    return total * 2 if dtype == torch.float32 else total
