"""LoRAs of one pipeline: loaded beside its weights, never merged into them, and active only while a job that requests them is drawn.

Merging would lose much of a small update in bfloat16, and taking it out again would not give the same weights back. What is kept:
parsed files in host memory (`LoraFiles`, of a process) and loaded adapters on the device (`Adapters`, of a pipeline), the least recently
used go first. A scale is never given to the pipeline's call: diffusers resets the adapter's own after it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from broker.runtime.log_actions import Action
from broker.wire.loras import LoraUse
from workers.engine.errors import InvalidInput, OutOfMemory
from workers.engine.failures import is_out_of_memory
from workers.engine.lora_slots import fill, fill_with_nothing, forget, tensors_of, unwrap
from workers.engine.prompts import PromptCache, cache_of
from workers.engine.quantise import shown_in_compute_dtype
from workers.models.content import content_of
from workers.models.loras import PEFT_PREFIX, LoraSetup

logger = logging.getLogger(__name__)

# A pipeline with several adapters is intended here.
warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
# Nothing is merged.
warnings.filterwarnings("ignore", "TorchaoLoraLinear was instantiated without", UserWarning)

#: A file as it was when it was read: path, time of its last change, size.
_Stamp = tuple[str, int, int]

_BARE = re.compile(r"[._](?:lora_(?:A|B|down|up)|lora\.(?:up|down)|alpha|diff|diff_b)\b")


class LoraFiles:
    """Parsed files, by what they were when they were read."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[_Stamp, dict[str, torch.Tensor]] = OrderedDict()

    def read(self, stamp: _Stamp) -> dict[str, torch.Tensor]:
        """The tensors of a file, by name. Raises `OSError`, `SafetensorError`."""
        if stamp in self._kept:
            self._kept.move_to_end(stamp)
            return self._kept[stamp]
        tensors = load_file(stamp[0])
        for other in [other for other in self._kept if other[0] == stamp[0]]:
            del self._kept[other]
        self._kept[stamp] = tensors
        while self._kept and sum(map(_bytes, self._kept.values())) > self._limit:
            self._kept.popitem(last=False)
        return tensors


class _Adapter:
    """A LoRA that is loaded into a pipeline."""

    def __init__(self, name: str, stamps: tuple[_Stamp, ...]) -> None:
        #: Of the adapter in the pipeline: a module's name, which a LoRA's may not be.
        self.name = name
        self.stamps = stamps
        self.bytes = 0


class Adapters:
    """The LoRAs of one pipeline. Between jobs none is active, and the pipeline draws as if there were none."""

    def __init__(self, pipe: Any, loras: Mapping[str, LoraSetup], files: LoraFiles, limit_bytes: int) -> None:
        self._pipe = pipe
        self._loras = loras
        self._files = files
        self._limit = limit_bytes
        self._loaded: OrderedDict[str, _Adapter] = OrderedDict()
        self._count = 0
        #: Which act now, in how many jobs.
        self._acting: tuple[list[LoraUse], int] = ([], 0)
        self._turn = threading.Lock()

    def names(self) -> tuple[str, ...]:
        """LoRAs in memory beside the weights, the most recently used last."""
        return tuple(self._loaded)

    def revision(self, uses: Sequence[LoraUse]) -> str:
        """Names the files of these LoRAs as they are now."""
        return repr([(use.name, self._stamps(use.name)) for use in sorted(uses, key=lambda use: use.name)])

    def content(self, uses: Sequence[LoraUse]) -> str:
        """Names the content of their files, on whichever machine they lie. Raises `OSError`."""
        files = [
            (f"{use.name} {target}", Path(file))
            for use in sorted(uses, key=lambda use: use.name)
            for target, file in sorted(self._loras[use.name].files.items())
        ]
        return content_of(files) if files else ""

    def lacks(self, uses: Sequence[LoraUse]) -> bool:
        """Whether `load` has something to do."""
        return any(
            use.name not in self._loaded or self._loaded[use.name].stamps != self._stamps(use.name) for use in uses
        )

    def load(self, uses: Sequence[LoraUse]) -> None:
        """Bring the LoRAs of a job beside the weights. Raises `InvalidInput` for one that cannot be, with the pipeline as it was before."""
        for use in uses:
            stamps = self._stamps(use.name)
            there = self._loaded.get(use.name)
            if there is not None and there.stamps == stamps:
                self._loaded.move_to_end(use.name)
                continue
            if there is not None:
                self._drop(use.name)
            self._loaded[use.name] = self._load(use.name, stamps)
        names = {use.name for use in uses}
        for name in [name for name in self._loaded if name not in names]:
            if sum(adapter.bytes for adapter in self._loaded.values()) <= self._limit:
                break
            self._drop(name)

    @contextmanager
    def active(self, uses: Sequence[LoraUse]) -> Iterator[None]:
        """Inside, the pipeline draws with these LoRAs, which are loaded. A second job may come in while one is drawn with the same."""
        # The order of a sum changes its last bits: a set of LoRAs draws the same whichever way round it is requested.
        uses = sorted(uses, key=lambda use: use.name)
        with self._turn:
            acting, jobs = self._acting
            assert not jobs or acting == uses, "two jobs at once have the same LoRAs"
            self._acting = uses, jobs + 1
            if not jobs:
                self._activate(uses)
        try:
            yield
        finally:
            with self._turn:
                self._acting = uses, self._acting[1] - 1
                if not self._acting[1]:
                    self._deactivate()

    @property
    def _cache(self) -> PromptCache | None:
        return cache_of(self._pipe)

    def _activate(self, uses: Sequence[LoraUse]) -> None:
        try:
            read_by: list[tuple[str, str, float]] = []
            for component in _components(self._pipe):
                module = getattr(self._pipe, component)
                scales = {self._loaded[use.name].name: use.scale_of(component) for use in uses}
                acting = {name: scale for name, scale in scales.items() if scale}
                touched = _activate(module, acting)
                fill(module, acting, self._pipe._execution_device)
                if component.startswith("text_encoder"):
                    read_by += [(component, name, scales[name]) for name in touched]
            if self._cache is not None:
                self._cache.adapters = tuple(read_by)
        except BaseException:
            self._acting = [], 0
            self._deactivate()
            raise

    def _deactivate(self) -> None:
        self._rest()
        if self._cache is not None:
            self._cache.adapters = ()

    @contextmanager
    def rehearsed(self) -> Iterator[bool]:
        """Inside, compiled blocks are called as with LoRAs that change nothing; whether there are slots for that."""
        modules = [getattr(self._pipe, component) for component in _components(self._pipe)] if self._loras else []
        try:
            slots = [fill_with_nothing(module, self._pipe._execution_device) for module in modules]
            yield any(slots)
        finally:
            self._rest()

    def _rest(self) -> None:
        for component in _components(self._pipe):
            module = getattr(self._pipe, component)
            _activate(module, {})
            fill(module, {}, self._pipe._execution_device)

    def _stamps(self, name: str) -> tuple[_Stamp, ...]:
        if name not in self._loras:
            raise InvalidInput(f"loras: {name!r} is not a LoRA of this worker's model")
        try:
            found = [(file, os.stat(file)) for file in self._loras[name].files.values()]
        except OSError as error:
            raise InvalidInput(f"loras: the file of {name!r} cannot be read: {error.strerror}") from error
        return tuple((file, status.st_mtime_ns, status.st_size) for file, status in found)

    def _load(self, name: str, stamps: tuple[_Stamp, ...]) -> _Adapter:
        logger.info("loading a LoRA", extra={"action": Action.LOAD_MODEL, "lora": name})
        self._count += 1
        adapter = _Adapter(f"lora{self._count}", stamps)
        try:
            for target, stamp in zip(self._loras[name].files, stamps, strict=True):
                self._load_file(target, stamp, adapter.name)
        except Exception as error:
            self._remove(adapter.name)
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise OutOfMemory(f"LoRA {name!r} does not fit beside the model: {error}") from error
            # Diffusers may fail while it clears away after the failure.
            cause = error.__context__ if isinstance(error, KeyError) and error.__context__ is not None else error
            text = " ".join(str(cause).split())[:300] or type(cause).__name__
            raise InvalidInput(f"loras: {name!r} cannot be loaded: {text}") from error
        finally:
            # What was loaded last is active.
            self._rest()
        adapter.bytes = sum(
            parameter.numel() * parameter.element_size()
            for component in _components(self._pipe)
            for parameter in _parameters(getattr(self._pipe, component), adapter.name)
        )
        return adapter

    def _load_file(self, target: str, stamp: _Stamp, adapter: str) -> None:
        tensors = _prefixed(self._files.read(stamp), self._pipe, target)
        _check_layers(self._pipe, tensors, target)
        second = {"load_into_transformer_2": True} if target == "transformer_2" else {}
        with ExitStack() as stack:
            for component in _components(self._pipe):
                stack.enter_context(shown_in_compute_dtype(getattr(self._pipe, component)))
            # No file is opened there: it gets the tensors.
            self._pipe.load_lora_weights(dict(tensors), adapter_name=adapter, **second)
        if not any(adapter in names for names in self._pipe.get_list_adapters().values()):
            raise ValueError("none of its layers is one of this model")
        for component in _components(self._pipe):
            unwrap(getattr(self._pipe, component), keep=adapter)

    def _drop(self, name: str) -> None:
        self._remove(self._loaded.pop(name).name)
        self._rest()

    def _remove(self, adapter: str) -> None:
        for component in _components(self._pipe):
            unwrap(getattr(self._pipe, component))
            forget(getattr(self._pipe, component), adapter)
        self._pipe.delete_adapters([adapter])
        if not self._loaded:
            # Takes the wrappers of the layers away, too.
            self._pipe.unload_lora_weights()


def described(uses: Sequence[LoraUse]) -> str:
    """The LoRAs of a job, in words."""
    return ", ".join(str(use) for use in sorted(uses, key=lambda use: use.name))


def _components(pipe: Any) -> list[str]:
    return [name for name in getattr(pipe, "_lora_loadable_modules", ()) if getattr(pipe, name, None) is not None]


def _layers(module: Any) -> list[Any]:
    # A model without adapters need not be searched.
    if not getattr(module, "peft_config", None):
        return []
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def _parameters(module: Any, adapter: str) -> Iterator[torch.Tensor]:
    """The weights of an adapter in a component."""
    yield from tensors_of(module, adapter)
    for layer in _layers(module):
        for name in layer.adapter_layer_names:
            inner = getattr(layer, name, None)
            if inner is not None and adapter in inner:
                yield from inner[adapter].parameters()


def _activate(module: Any, scales: Mapping[str, float]) -> list[str]:
    """Let these adapters of a component act; returns those that it has. Without any, its layers call the model's own alone."""
    layers = _layers(module)
    there = [name for name in scales if any(name in layer.scaling for layer in layers)]
    for layer in layers:
        layer.enable_adapters(enabled=bool(there))
        layer.set_adapter(there)
        for name in there:
            layer.set_scale(name, scales[name])
    return there


def _prefixed(tensors: Mapping[str, torch.Tensor], pipe: Any, target: str) -> dict[str, torch.Tensor]:
    """The tensors with a prefix that diffusers expects, where they have none: the library reads only those."""
    named = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    if any(name.startswith(("lora_", "diffusion_model.", "text_encoder", "transformer.", "unet.")) for name in named):
        return named
    if not all(_BARE.search(name) for name in named):
        return named
    denoiser = "unet" if target == "unet" else "transformer"
    own = dict(getattr(pipe, target).named_modules())
    ours = any(_BARE.split(name)[0] in own for name in named)
    return {f"{denoiser if ours else 'diffusion_model'}.{name}": tensor for name, tensor in named.items()}


def _check_layers(pipe: Any, tensors: Mapping[str, torch.Tensor], target: str) -> None:
    """Raise `ValueError` for layers that the model lacks: diffusers would leave them out, with a line in the log alone."""
    more = {"unet_config": pipe.unet.config} if getattr(pipe, "unet", None) is not None else {}
    converted = type(pipe).lora_state_dict(dict(tensors), **more)
    if isinstance(converted, tuple):
        converted = converted[0]
    modules = {name: dict(getattr(pipe, name).named_modules()) for name in _components(pipe)}
    lacking = []
    layers = set()
    for name in converted:
        component, _, rest = name.partition(".")
        layer = re.split(r"\.lora(?:_|\.)", rest)[0]
        if component in modules and layer != rest and ".processor" not in layer:
            layers.add(layer)
            where = modules[target] if target == "transformer_2" else modules[component]
            # A LoRA that is loaded already stands around the layer.
            if layer not in where:
                lacking.append(layer)
    if lacking:
        raise ValueError(f"{len(set(lacking))} of its {len(layers)} layers are none of this model, as {lacking[0]}")


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
