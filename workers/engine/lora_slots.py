"""Slots for LoRAs in the linear layers of compiled blocks: a LoRA fills them, and nothing is compiled anew.

A wrapper around a layer, as peft puts one, is other code to a compiler, and so is each scale and each further adapter in it. A slot
holds two matrices: those of all LoRAs of a job side by side, their scales multiplied in. To a compiler it is empty or full, with a rank
that may be any: two graphs, both made in the warm-up. Empty slots compute nothing, so that a job without LoRAs has the model's own bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional

from workers.engine.attention import denoisers_of
from workers.engine.quantise import compute_dtype_of

#: Rank of what is compiled before there is a LoRA: 1 would be another graph, and so would one that is also another size of the call.
_REHEARSED_RANK = 7
_LEAST_RANK = 2

#: Name of an adapter -> its two matrices (rank x in, out x rank) and what their product is multiplied with.
_Pairs = dict[str, tuple[torch.Tensor, torch.Tensor, float]]


class _Slotted(nn.Linear):
    """A linear layer with a slot; its weights and what it computes without a LoRA are those of the class before it."""

    slot_down: torch.Tensor | None
    slot_up: torch.Tensor | None
    slot_pairs: _Pairs
    slot_dtype: torch.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = super().forward(x)
        if self.slot_down is None or self.slot_up is None:
            return own
        return own + functional.linear(functional.linear(x.to(self.slot_down.dtype), self.slot_down), self.slot_up).to(
            own.dtype
        )


#: Class of layers -> the one with a slot: one for all of a kind, as compiled code is.
_WITH_SLOT: dict[type[nn.Linear], type[nn.Linear]] = {}


def _with_slot(kind: type[nn.Linear]) -> type[nn.Linear]:
    """The class of layers of this kind with a slot."""
    if issubclass(kind, _Slotted):
        return kind
    if kind not in _WITH_SLOT:
        _WITH_SLOT[kind] = type(kind.__name__, (_Slotted, kind), {"__module__": kind.__module__})
    return _WITH_SLOT[kind]


def make_slots(pipe: Any, dtype: torch.dtype) -> None:
    """Give each linear layer of the denoisers' repeated blocks a slot; `dtype` is that of what quantised layers compute."""
    # Ranks are a size of what a module holds, which the compiler would take for fixed.
    cast(Any, torch._dynamo.config).force_nn_module_property_static_shapes = False
    for part in denoisers_of(pipe):
        # A LoRA's load does it, after which they would be other weights to the compiler.
        part.requires_grad_(False)
        for block in part.modules():
            if type(block).__name__ in part._repeated_blocks:
                for layer in block.modules():
                    # One whose call is hooked computes by the class that it had.
                    if isinstance(layer, nn.Linear) and "forward" not in vars(layer):
                        _make_slot(layer, dtype)


def _make_slot(layer: nn.Linear, dtype: torch.dtype) -> None:
    layer.__class__ = _with_slot(type(layer))
    slotted = cast(_Slotted, layer)
    slotted.slot_down = slotted.slot_up = None
    slotted.slot_pairs = {}
    slotted.slot_dtype = compute_dtype_of(layer, dtype)


def slots_of(module: nn.Module) -> list[_Slotted]:
    """The layers of a component that have slots."""
    return [layer for layer in module.modules() if isinstance(layer, _Slotted)]


def unwrap(module: nn.Module, keep: str = "") -> None:
    """Take the wrappers off layers with slots, which keep the matrices of the adapter `keep` from them."""
    for parent in list(module.modules()):
        for name, wrapper in list(parent.named_children()):
            slot = getattr(wrapper, "base_layer", None) if isinstance(wrapper, BaseTunerLayer) else None
            if not isinstance(slot, _Slotted):
                continue
            layer: Any = wrapper
            if keep and keep in layer.lora_A:
                pair = (layer.lora_A[keep].weight.detach(), layer.lora_B[keep].weight.detach())
                slot.slot_pairs[keep] = (*pair, float(layer.scaling[keep]))
            setattr(parent, name, slot)


def forget(module: nn.Module, adapter: str) -> None:
    """Drop the matrices of an adapter."""
    for slot in slots_of(module):
        slot.slot_pairs.pop(adapter, None)


def tensors_of(module: nn.Module, adapter: str) -> Iterator[torch.Tensor]:
    """The matrices of an adapter."""
    for slot in slots_of(module):
        if adapter in slot.slot_pairs:
            yield from slot.slot_pairs[adapter][:2]


def fill(module: nn.Module, scales: Mapping[str, float], device: torch.device) -> None:
    """Let these adapters act through the slots of a component; without any that it has, they are empty."""
    slots = slots_of(module)
    ranks = [sum(len(slot.slot_pairs[name][0]) for name in scales if name in slot.slot_pairs) for slot in slots]
    if not any(ranks):
        for slot in slots:
            slot.slot_down = slot.slot_up = None
        return
    # One rank for all layers, those that no adapter touches too: empty ones beside full ones, and other ranks, would be other graphs.
    rank = max(_LEAST_RANK, *ranks)
    for slot in slots:
        slot.slot_down, slot.slot_up = _side_by_side(slot, scales, rank, device)


def fill_with_nothing(module: nn.Module, device: torch.device) -> bool:
    """Fill the slots with zeros, so that what is compiled for LoRAs can be; whether there are any."""
    slots = slots_of(module)
    for slot in slots:
        slot.slot_down, slot.slot_up = _side_by_side(slot, {}, _REHEARSED_RANK, device)
    return bool(slots)


def _side_by_side(
    slot: _Slotted, scales: Mapping[str, float], rank: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices of all of a slot's adapters with these scales as two, `rank` x in and out x `rank`; zeros fill them up."""
    down = torch.zeros(rank, slot.in_features, device=device, dtype=slot.slot_dtype)
    up = torch.zeros(slot.out_features, rank, device=device, dtype=slot.slot_dtype)
    at = 0
    for name, scale in scales.items():
        if name in slot.slot_pairs:
            first, second, own = slot.slot_pairs[name]
            end = at + len(first)
            down[at:end] = first
            up[:, at:end] = second.float() * (own * scale)
            at = end
    return down, up
