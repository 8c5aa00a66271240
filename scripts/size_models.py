"""Print what models of known shapes take and how they are placed: `python -m scripts.size_models`, the table of docs/models.md.

Nothing is downloaded and nothing is measured: modules are built without memory (torch's meta device) from the shapes that the models
are published in, and the planner that engines use is asked for devices of three sizes. What jobs take on top of the weights is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from workers.engine.placing import component
from workers.models.placement import ORDER, Component, DoesNotFit, Need, choose, peak

#: Typed as wholes, which the library is not.
AutoencoderKL: Any = diffusers.AutoencoderKL
AutoencoderKLWan: Any = diffusers.AutoencoderKLWan
FluxTransformer2DModel: Any = diffusers.FluxTransformer2DModel
WanTransformer3DModel: Any = diffusers.WanTransformer3DModel

GIB = 2**30

#: GiB that an engine's process can hold on a card of 24, 48 and 80 GB when nothing else is there: a little less than the card has.
LIMITS = {"24 GB": 23, "48 GB": 44, "80 GB": 78}

_XXL: dict[str, Any] = {
    "d_model": 4096,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "d_kv": 64,
    "feed_forward_proj": "gated-gelu",
}


def _umt5() -> Any:
    return UMT5EncoderModel(UMT5Config(**_XXL, vocab_size=256384))


def _t5() -> Any:
    return T5EncoderModel(T5Config(**_XXL, vocab_size=32128))


def _clip_l() -> Any:
    return CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    )


def _wan(**shape: int) -> Any:
    return WanTransformer3DModel(**shape)  # its defaults are those of the 14B model


_FLOAT32: Any = torch.float32
_HALF: Any = torch.bfloat16

#: Model -> component -> (what builds it, the type that its weights have in memory).
MODELS: dict[str, dict[str, tuple[Callable[[], Any], torch.dtype]]] = {
    "Wan 2.1 T2V 1.3B": {
        "text_encoder": (_umt5, _HALF),
        "transformer": (lambda: _wan(num_attention_heads=12, num_layers=30, ffn_dim=8960), _HALF),
        "vae": (AutoencoderKLWan, _FLOAT32),
    },
    "Wan 2.1 T2V 14B": {
        "text_encoder": (_umt5, _HALF),
        "transformer": (_wan, _HALF),
        "vae": (AutoencoderKLWan, _FLOAT32),
    },
    "Wan 2.2 T2V A14B": {
        "text_encoder": (_umt5, _HALF),
        "transformer": (_wan, _HALF),
        "transformer_2": (_wan, _HALF),
        "vae": (AutoencoderKLWan, _FLOAT32),
    },
    "FLUX.1 dev": {
        "text_encoder": (_clip_l, _HALF),
        "text_encoder_2": (_t5, _HALF),
        "transformer": (lambda: FluxTransformer2DModel(guidance_embeds=True), _HALF),
        "vae": (
            lambda: AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=16,
            ),
            _HALF,
        ),
    },
}


def components(model: str) -> tuple[Component, ...]:
    """The components of one of `MODELS`."""
    made = []
    for name, (build, dtype) in MODELS[model].items():
        with torch.device("meta"):
            made.append(component(name, build().to(dtype)))
    return tuple(made)


def lines() -> list[str]:
    """The table: GiB of each component, of each placement at once, and which is taken on which card."""
    head = ["model", "components, GiB", *(f"`{placement}`" for placement in ORDER), *LIMITS]
    rows = [head, ["---"] * len(head)]
    for model in MODELS:
        parts = components(model)
        sizes = ", ".join(f"{part.name} {part.size / GIB:.1f}" for part in parts)
        peaks = [f"{peak(placement, parts, Need()) / GIB:.1f}" for placement in ORDER]
        rows.append([model, sizes, *peaks, *(_chosen(parts, gib) for gib in LIMITS.values())])
    return [f"| {' | '.join(row)} |" for row in rows]


def _chosen(parts: tuple[Component, ...], gib: int) -> str:
    try:
        return choose(parts, Need(), gib * GIB)
    except DoesNotFit:
        return "none"


if __name__ == "__main__":
    print("\n".join(lines()))
