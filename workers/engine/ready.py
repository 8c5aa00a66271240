"""The stages by which a model becomes ready for jobs, in the one order in which they work.

Load, quantise, LoRA slots, attention, cache, compile; then the weights are placed (`Pipelines`), then warmed up. A quantiser replaces
layers that adapters wrap; adapters, attention and caches change what is compiled; hooks of placement go around all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from broker.wire.jobspec import ModelCard
from workers.engine.attention import capability, choose_attention
from workers.engine.compiling import compile_blocks
from workers.engine.device import Device
from workers.engine.errors import LoadError
from workers.engine.load_errors import refusal, where_of
from workers.engine.loading import dtype_of, load
from workers.engine.lora_slots import make_slots
from workers.engine.prompts import remember_prompts
from workers.engine.quantise import quantise
from workers.engine.step_cache import prepare_cache
from workers.engine.tiles import cover_whole, tile_vae
from workers.models.model import ModelSetup
from workers.models.quantise import unfit_device
from workers.models.setup import as_texts
from workers.models.speed import backend_of


@dataclass(slots=True)
class Readying:
    """A model on its way. A stage changes `pipe`, and records in `used` what jobs are drawn with from then on."""

    card: ModelCard
    setup: ModelSetup
    device: Device
    #: Whether weights are read onto the device at once, where that can be done.
    straight: bool = False
    pipe: Any = None
    #: As in `Result.used`.
    used: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Name of it in an error."""
        return where_of(self.card, self.setup)

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.card, self.device.dtype)

    def record(self, *keys: str) -> None:
        """Record these keys of the model's table for results, as far as it has them."""
        texts = as_texts(self.setup)
        self.used |= {key: texts[key] for key in keys if key in texts}


def _load(model: Readying) -> None:
    straight_to = model.device.kind if model.straight else ""
    model.pipe = load(model.card, model.setup, model.dtype, straight_to)
    model.record("parts", "vae_dtype")


def _quantise(model: Readying) -> None:
    methods = model.setup.speed.quantize
    for name, method in methods.items():
        if why := unfit_device(method, model.device.kind, capability(model.device)):
            raise LoadError(f"{model.where} speed.quantize.{name}: {why}")
        try:
            quantise(getattr(model.pipe, name), method, model.device.torch_device, model.dtype)
        except LoadError as error:
            raise refusal(model.card, model.setup, f"speed.quantize.{name}", method, f"{error}; leave it out") from None
    model.record("quantize")


def _decode_in_tiles_where_it_must(model: Readying) -> None:
    tile_vae(model.pipe, on=False)
    cover_whole(getattr(model.pipe, "vae", None))


def _make_lora_slots(model: Readying) -> None:
    if model.setup.loras and backend_of(model.setup.speed):
        make_slots(model.pipe, model.dtype)


def _choose_attention(model: Readying) -> None:
    if name := model.setup.speed.attention:
        downloads = model.setup.speed.download_kernels
        choose_attention(model.where, model.pipe, name, model.device, model.dtype, downloads=downloads)
    model.record("attention")


def _prepare_cache(model: Readying) -> None:
    prepare_cache(model.setup.speed)


def _record_video_encoding(model: Readying) -> None:
    model.record("video_file")


def _compile(model: Readying) -> None:
    if backend := backend_of(model.setup.speed):
        compile_blocks(model.where, model.pipe, model.device, backend, model.setup.compiled)
    model.record("compile")


def _remember_prompts(model: Readying) -> None:
    remember_prompts(model.pipe)


#: All that is done to a pipeline before its weights are placed. Each raises `LoadError`.
STAGES: tuple[Callable[[Readying], None], ...] = (
    _load,
    _quantise,
    _decode_in_tiles_where_it_must,
    _remember_prompts,
    _make_lora_slots,
    _choose_attention,
    _prepare_cache,
    _record_video_encoding,
    _compile,
)


def make_ready(card: ModelCard, setup: ModelSetup, device: Device, *, straight: bool = False) -> Readying:
    """A model with all stages behind it, in host memory, or `straight` on its device.

    Raises `LoadError`, or whatever torch raises when memory runs out.
    """
    model = Readying(card, setup, device, straight)
    for stage in STAGES:
        stage(model)
    return model
