"""Image models on transformers: QwenImage, Z-Image, Chroma, Lumina 2, PixArt, AuraFlow, CogView."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLQwenImage,
    ChromaImg2ImgPipeline,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImageImg2ImgPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImageImg2ImgPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from tests.engine.families import parts


def qwen_image() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=1024),
        "text_encoder": parts.qwen2_5_vl(),
        "vae": AutoencoderKLQwenImage(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
        ).eval(),
        "transformer": QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=parts.TEXT,
            axes_dims_rope=(8, 4, 4),
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }  # fmt: skip


def z_image() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=512, template=parts.chat()),
        "text_encoder": parts.qwen3(),
        "vae": parts.kl_vae(levels=4, **parts.FLOW_VAE),
        "transformer": ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=parts.TEXT,
            axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64],
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }  # fmt: skip


def chroma() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=512),
        "text_encoder": parts.t5(),
        "vae": parts.kl_vae(levels=4, **parts.FLOW_VAE),
        "transformer": ChromaTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=parts.TEXT, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1,
            approximator_num_channels=16,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }  # fmt: skip


def lumina2() -> Any:
    return Lumina2Pipeline(
        tokenizer=parts.tokenizer(length=256),
        text_encoder=parts.gemma2(),
        vae=parts.kl_vae(levels=4, **parts.FLOW_VAE),
        transformer=Lumina2Transformer2DModel(
            sample_size=8, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1, num_attention_heads=3, num_kv_heads=1,
            multiple_of=2, axes_dim_rope=(4, 2, 2), axes_lens=(300, 64, 64), cap_feat_dim=parts.TEXT,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def pixart() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=300),
        "text_encoder": parts.t5(),
        "vae": parts.kl_vae(levels=4),
        "transformer": PixArtTransformer2DModel(
            sample_size=32, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=parts.TEXT,
            in_channels=4, cross_attention_dim=24, out_channels=8, use_additional_conditions=False,
        ).eval(),
        "scheduler": DPMSolverMultistepScheduler(),
    }  # fmt: skip


def aura_flow() -> Any:
    return AuraFlowPipeline(
        tokenizer=parts.tokenizer(length=256),
        text_encoder=parts.umt5(),
        vae=parts.kl_vae(levels=4),
        transformer=AuraFlowTransformer2DModel(
            sample_size=16, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=parts.TEXT, caption_projection_dim=32, pos_embed_max_size=256,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def cogview3() -> Any:
    return CogView3PlusPipeline(
        tokenizer=parts.tokenizer(length=224),
        text_encoder=parts.t5(),
        vae=parts.kl_vae(levels=4),
        transformer=CogView3PlusTransformer2DModel(
            in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=4, text_embed_dim=parts.TEXT,
            time_embed_dim=8, condition_dim=2, pos_embed_max_size=16, sample_size=16,
        ).eval(),
        scheduler=CogVideoXDDIMScheduler(),
    )  # fmt: skip


def cogview4() -> Any:
    return CogView4Pipeline(
        tokenizer=parts.tokenizer(length=1024),
        text_encoder=parts.glm(),
        vae=parts.kl_vae(levels=4),
        transformer=CogView4Transformer2DModel(
            in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=4, out_channels=4, text_embed_dim=parts.TEXT,
            time_embed_dim=8, condition_dim=4,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )  # fmt: skip


BUILDERS = {
    "QwenImagePipeline": lambda: QwenImagePipeline(**qwen_image()),
    "QwenImageImg2ImgPipeline": lambda: QwenImageImg2ImgPipeline(**qwen_image()),
    "ZImagePipeline": lambda: ZImagePipeline(**z_image()),
    "ZImageImg2ImgPipeline": lambda: ZImageImg2ImgPipeline(**z_image()),
    "ChromaPipeline": lambda: ChromaPipeline(**chroma()),
    "ChromaImg2ImgPipeline": lambda: ChromaImg2ImgPipeline(**chroma()),
    "Lumina2Pipeline": lumina2,
    "PixArtAlphaPipeline": lambda: PixArtAlphaPipeline(**pixart()),
    "PixArtSigmaPipeline": lambda: PixArtSigmaPipeline(**pixart()),
    "AuraFlowPipeline": aura_flow,
    "CogView3PlusPipeline": cogview3,
    "CogView4Pipeline": cogview4,
}
