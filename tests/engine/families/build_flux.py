"""Flux."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

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


def flux2_common() -> dict[str, Any]:
    return {
        "vae": AutoencoderKLFlux2(
            block_out_channels=(8,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }


def flux2_transformer(guidance_embeds: bool) -> Any:
    return Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=3 * 16,
        timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance_embeds,
    ).eval()  # fmt: skip


def klein(kind: Any) -> Any:
    """Its prompt's embeddings are those of the layers 9, 18 and 27."""
    return kind(
        **flux2_common(),
        tokenizer=parts.tokenizer(length=512, template=parts.chat()),
        text_encoder=parts.qwen3(num_hidden_layers=28, hidden_size=16, intermediate_size=16),
        transformer=flux2_transformer(guidance_embeds=False),
    )


def flux2() -> Any:
    """Its prompt's embeddings are those of the layers 10, 20 and 30. A tokenizer stands in for its processor."""
    return Flux2Pipeline(
        **flux2_common(),
        tokenizer=parts.tokenizer(length=512, template=parts.chat()),
        text_encoder=parts.mistral3(head=True, num_hidden_layers=31, hidden_size=16, intermediate_size=16),
        transformer=flux2_transformer(guidance_embeds=True),
    )


BUILDERS = {
    "Flux2Pipeline": flux2,
    "FluxPipeline": lambda: FluxPipeline(**common(), transformer=transformer()),
    "FluxImg2ImgPipeline": lambda: FluxImg2ImgPipeline(**common(), transformer=transformer()),
    "FluxKontextPipeline": lambda: FluxKontextPipeline(**common(), transformer=transformer()),
    "Flux2KleinPipeline": lambda: klein(Flux2KleinPipeline),
    "Flux2KleinKVPipeline": lambda: klein(Flux2KleinKVPipeline),
}
