"""Components with weights in eight or four bits: `speed.quantize` of a model's table. Its packages are imported where it is requested.

Only the linear layers of the repeated blocks are made smaller. They are nearly all of a model's weights; what stands before and after the
blocks, norms, and layers that the library keeps in float32 lose too much and weigh nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import torch
from diffusers.hooks.layerwise_casting import apply_layerwise_casting
from torch import nn

from workers.engine.errors import LoadError
from workers.models.quantise import QuantizeMethod

#: In which blocks repeat: a number in a module's name.
_IN_BLOCK = re.compile(r"\.\d+\.")
_NORM = re.compile(r"norm|(?:^|\.)ln_?\d*(?:\.|$)", re.IGNORECASE)

#: Typed as a whole, which the library is not.
_cast: Any = apply_layerwise_casting


def quantise(component: nn.Module, method: QuantizeMethod, device: torch.device, dtype: torch.dtype) -> None:
    """Make the weights smaller, in place, for computing on `device` in `dtype`. Raises `LoadError` where no layer can be."""
    apply, multiple = _METHODS[method]
    names = frozenset(layers(component, multiple))
    if not names:
        sides = f" with sides that are multiples of {multiple}" if multiple > 1 else ""
        raise LoadError(f"is not for {type(component).__name__}, which has no linear layers in repeated blocks{sides}")
    apply(component, names, device, dtype)


@contextmanager
def shown_in_compute_dtype(component: nn.Module) -> Iterator[None]:
    """Inside, layers whose weights are cast for each call show weights of the dtype that they compute in, and of no value.

    What wraps a layer takes the dtype of its weights, and an adapter of eight bits would lose most of its effect.
    """
    stored = []
    for module in component.modules():
        hooks = getattr(module, "_diffusers_hook", None)
        hook = hooks.get_hook("layerwise_casting") if hooks is not None else None
        computes = module if isinstance(module, _InFloat8) else hook
        if computes is not None:
            for parameter in module.parameters(recurse=False):
                stored.append((parameter, parameter.data))
                one = torch.empty(1, dtype=computes.compute_dtype, device=parameter.device)
                parameter.data = one.expand(parameter.shape)
    try:
        yield
    finally:
        for parameter, weights in stored:
            parameter.data = weights


def layers(component: nn.Module, multiple: int) -> Iterator[str]:
    """Names of the layers whose weights are made smaller: those with sides that are multiples of `multiple`."""
    kept: frozenset[str] = frozenset(getattr(component, "_keep_in_fp32_modules", None) or ())
    for name, module in component.named_modules():
        if not isinstance(module, nn.Linear) or not _IN_BLOCK.search(name) or _NORM.search(name):
            continue
        if kept.intersection(name.split(".")) or any(side % multiple for side in module.weight.shape):
            continue
        yield name


def _int8(component: nn.Module, names: frozenset[str], device: torch.device, dtype: torch.dtype) -> None:
    _with_torchao(component, names, "Int8WeightOnlyConfig")


def _fp8(component: nn.Module, names: frozenset[str], device: torch.device, dtype: torch.dtype) -> None:
    _with_torchao(component, names, "Float8WeightOnlyConfig")


def _fp8_dynamic(component: nn.Module, names: frozenset[str], device: torch.device, dtype: torch.dtype) -> None:
    torchao: Any = import_module("torchao.quantization")
    # A scale a row loses less than one for all; the library has it for bfloat16 alone.
    scale = torchao.PerRow() if dtype == torch.bfloat16 else torchao.PerTensor()
    _with_torchao(component, names, "Float8DynamicActivationFloat8WeightConfig", granularity=scale)


def _with_torchao(component: nn.Module, names: frozenset[str], config: str, **options: Any) -> None:
    torchao: Any = import_module("torchao.quantization")
    torchao.quantize_(component, getattr(torchao, config)(**options), filter_fn=lambda module, name: name in names)


class _InFloat8(nn.Linear):
    """A linear layer whose weights are stored in float8, and brought to `compute_dtype` for each call.

    As the library's hooks do it, to the bit; but a compiler cannot look into hooks, and a slot for LoRAs needs a class to stand upon.
    """

    compute_dtype: torch.dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.bias.to(self.compute_dtype) if self.bias is not None else None
        return nn.functional.linear(x, self.weight.to(self.compute_dtype), bias)


def _layerwise_fp8(component: nn.Module, names: frozenset[str], device: torch.device, dtype: torch.dtype) -> None:
    for name in names:
        layer = component.get_submodule(name)
        if type(layer) is not nn.Linear:  # one that computes in a way of its own
            _cast(layer, storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
            continue
        layer.__class__ = _InFloat8
        layer.to(torch.float8_e4m3fn)
        cast(_InFloat8, layer).compute_dtype = dtype


def compute_dtype_of(layer: nn.Linear, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a layer computes; `dtype` where its weights have none."""
    if isinstance(layer, _InFloat8):
        return layer.compute_dtype
    return layer.weight.dtype if layer.weight.dtype.is_floating_point else dtype


def _nf4(component: nn.Module, names: frozenset[str], device: torch.device, dtype: torch.dtype) -> None:
    bnb: Any = import_module("bitsandbytes.nn")
    for name in names:
        old = component.get_submodule(name)
        assert isinstance(old, nn.Linear)
        new = bnb.Linear4bit(
            old.in_features, old.out_features, bias=old.bias is not None, compute_dtype=dtype, quant_type="nf4"
        )
        new.weight = bnb.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4", module=new)
        new.bias = old.bias
        # On some CPUs the library packs weights at the first call in another way, which loses their last bits each time that they are
        # listed, as the load of a LoRA does.
        new.support_avx512bf16_for_cpu = False
        # It is the move that quantises.
        component.set_submodule(name, new.to(device).to(old.weight.device).eval())


_Apply = Callable[[nn.Module, frozenset[str], torch.device, torch.dtype], None]

#: How layers of these names are made smaller, and what their sides must be multiples of.
_METHODS: dict[QuantizeMethod, tuple[_Apply, int]] = {
    "fp8": (_fp8, 16),
    "fp8_dynamic": (_fp8_dynamic, 16),
    "int8": (_int8, 16),
    "nf4": (_nf4, 64),
    "layerwise_fp8": (_layerwise_fp8, 1),
}
