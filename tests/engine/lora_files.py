"""LoRAs with random weights, written in the formats that are found in the wild: the same weights in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RANK = 2

_ATTENTION = ("to_q", "to_k", "to_v", "to_query", "to_key", "to_value")

#: Layer -> (down, up): `rank x into` and `out x rank`.
Pairs = Mapping[str, tuple[Tensor, Tensor]]


def pairs(module: Any, layers: Iterable[str], seed: int = 0, size: float = 1.0) -> dict[str, tuple[Tensor, Tensor]]:
    """Random low-rank weights for these Linear layers of a module."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in layers:
        out, into = module.get_submodule(name).weight.shape[:2]
        down, up = (torch.randn(shape, generator=generator) * size for shape in ((RANK, into), (out, RANK)))
        found[name] = (down, up)
    return found


def attention(module: Any) -> list[str]:
    """The layers of a module that make queries, keys and values."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.rpartition(".")[2] in _ATTENTION
    ]


def save(file: Path, tensors: Mapping[str, Tensor]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, file)
    return file


def diffusers(weights: Pairs, component: str = "transformer") -> dict[str, Tensor]:
    """As diffusers and peft write them."""
    lead = f"{component}." if component else ""
    return {
        f"{lead}{layer}.lora_{half}.weight": tensor
        for layer, both in weights.items()
        for half, tensor in zip("AB", both, strict=True)
    }


def original(weights: Pairs, prefix: str = "diffusion_model.", alpha: bool = True) -> dict[str, Tensor]:
    """Under the names of Wan's authors: with ComfyUI's prefix, or bare."""
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in weights.items():
        name = prefix + wan_name(layer)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha:
            tensors[f"{name}.alpha"] = torch.tensor(float(RANK))
    return tensors


def kohya(weights: Pairs, names: Mapping[str, str], lead: str = "lora_unet_") -> dict[str, Tensor]:
    """As kohya's and musubi's trainers write them: `names` are the layers' in the file."""
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in weights.items():
        name = lead + names[layer].replace(".", "_")
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(float(RANK)),
        }
    return tensors


def wan_layers(transformer: Any) -> list[str]:
    """All layers that the converters of Wan's formats know."""
    per_block = [f"{attention}.{to}" for attention in ("attn1", "attn2") for to in ("to_q", "to_k", "to_v", "to_out.0")]
    return [
        f"blocks.{number}.{layer}"
        for number in range(len(transformer.blocks))
        for layer in (*per_block, "ffn.net.0.proj", "ffn.net.2")
    ]


def wan_name(layer: str) -> str:
    """A layer's name in the files of Wan's authors."""
    for ours, theirs in (
        ("attn1", "self_attn"), ("attn2", "cross_attn"), ("to_out.0", "o"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
        ("ffn.net.0.proj", "ffn.0"), ("ffn.net.2", "ffn.2"),
    ):  # fmt: skip
        layer = layer.replace(ours, theirs)
    return layer
