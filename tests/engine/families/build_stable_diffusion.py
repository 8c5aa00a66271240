"""Stable Diffusion 1, XL and what is built on their UNets."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from tests.engine.families import parts


def unet(**changes: Any) -> Any:
    return UNet2DConditionModel(**{
        "block_out_channels": (8, 16), "layers_per_block": 1, "sample_size": 8, "in_channels": 4, "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": parts.TEXT, "norm_num_groups": 4, "attention_head_dim": 2, **changes,
    }).eval()  # fmt: skip


def unet_xl(**changes: Any) -> Any:
    return unet(**{
        "attention_head_dim": (2, 4), "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "transformer_layers_per_block": (1, 2), "projection_class_embeddings_input_dim": 6 * 8 + parts.TEXT,
        "cross_attention_dim": 2 * parts.TEXT, **changes,
    })  # fmt: skip


def scheduler() -> Any:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )


def common() -> dict[str, Any]:
    return {
        "vae": parts.kl_vae(levels=4),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.tokenizer(),
        "scheduler": scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def common_xl() -> dict[str, Any]:
    return {
        "vae": parts.kl_vae(levels=4),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.tokenizer(),
        "text_encoder_2": parts.clip_text(projection=True),
        "tokenizer_2": parts.tokenizer(),
        "scheduler": EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        "add_watermarker": False,
    }


BUILDERS = {
    "StableDiffusionPipeline": lambda: StableDiffusionPipeline(**common(), unet=unet()),
    "StableDiffusionXLPipeline": lambda: StableDiffusionXLPipeline(**common_xl(), unet=unet_xl()),
}
