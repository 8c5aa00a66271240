"""Stable Diffusion 1, XL and what is built on their UNets."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
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


def common_lcm() -> dict[str, Any]:
    """The scale of guidance is an input of the UNet."""
    return {
        **common(),
        "scheduler": LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        "unet": unet(time_cond_proj_dim=16),
    }


def common_3(latent: int = 4) -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(),
        "text_encoder": parts.clip_text(projection=True),
        "tokenizer_2": parts.tokenizer(),
        "text_encoder_2": parts.clip_text(projection=True),
        "tokenizer_3": parts.tokenizer(length=256),
        "text_encoder_3": parts.t5(d_model=2 * parts.TEXT),
        "vae": parts.kl_vae(latent, levels=4, **parts.FLOW_VAE),
        "transformer": SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=latent, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=2 * parts.TEXT, caption_projection_dim=32, pooled_projection_dim=2 * parts.TEXT, out_channels=latent,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }  # fmt: skip


BUILDERS = {
    "StableDiffusionPipeline": lambda: StableDiffusionPipeline(**common(), unet=unet()),
    "StableDiffusionImg2ImgPipeline": lambda: StableDiffusionImg2ImgPipeline(**common(), unet=unet()),
    "StableDiffusionInstructPix2PixPipeline": lambda: StableDiffusionInstructPix2PixPipeline(
        **common(), unet=unet(in_channels=8)
    ),
    "StableDiffusionXLPipeline": lambda: StableDiffusionXLPipeline(**common_xl(), unet=unet_xl()),
    "StableDiffusionXLImg2ImgPipeline": lambda: StableDiffusionXLImg2ImgPipeline(**common_xl(), unet=unet_xl()),
    "StableDiffusionXLInstructPix2PixPipeline": lambda: StableDiffusionXLInstructPix2PixPipeline(
        **common_xl(), unet=unet_xl(in_channels=8)
    ),
    "StableDiffusion3Pipeline": lambda: StableDiffusion3Pipeline(**common_3()),
    "StableDiffusion3Img2ImgPipeline": lambda: StableDiffusion3Img2ImgPipeline(**common_3()),
    "LatentConsistencyModelPipeline": lambda: LatentConsistencyModelPipeline(**common_lcm()),
    "LatentConsistencyModelImg2ImgPipeline": lambda: LatentConsistencyModelImg2ImgPipeline(**common_lcm()),
}
