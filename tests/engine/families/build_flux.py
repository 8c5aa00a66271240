"""Flux."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from tests.engine.families import parts


def transformer(into: int = 4, **changes: Any) -> Any:
    return FluxTransformer2DModel(**{
        "patch_size": 1, "in_channels": into * 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": parts.TEXT, "pooled_projection_dim": parts.TEXT, "axes_dims_rope": (4, 4, 8),
        "guidance_embeds": True, **changes,
    }).eval()  # fmt: skip


def common() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(),
        "text_encoder": parts.clip_text(),
        "tokenizer_2": parts.tokenizer(length=512),
        "text_encoder_2": parts.t5(),
        "vae": parts.kl_vae(
            levels=4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0, scaling_factor=1.0
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }


BUILDERS = {"FluxPipeline": lambda: FluxPipeline(**common(), transformer=transformer())}
