"""Image models with text encoders of their own kind: HiDream, HunyuanImage, HunyuanDiT, Krea 2, Bria, Ovis, Lumina, Ernie."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage,
    BriaPipeline,
    BriaTransformer2DModel,
    DDPMScheduler,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
)
from diffusers.guiders import AdaptiveProjectedMixGuidance
from transformers import BertConfig, BertModel, ByT5Tokenizer

from tests.engine.families import parts


def hidream() -> Any:
    """Its CLIP reads more tokens than others."""
    return HiDreamImagePipeline(
        tokenizer=parts.tokenizer(length=248),
        text_encoder=parts.clip_text(projection=True, max_position_embeddings=248),
        tokenizer_2=parts.tokenizer(length=248),
        text_encoder_2=parts.clip_text(projection=True, max_position_embeddings=248),
        tokenizer_3=parts.tokenizer(length=128),
        text_encoder_3=parts.t5(),
        tokenizer_4=parts.tokenizer(length=128),
        text_encoder_4=parts.llama(head=True),
        vae=parts.kl_vae(levels=4, **parts.FLOW_VAE),
        transformer=HiDreamImageTransformer2DModel(
            patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=4,
            caption_channels=[parts.TEXT, parts.TEXT], text_emb_dim=2 * parts.TEXT, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32),
            llama_layers=(0, 1),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def hunyuan_image() -> Any:
    return HunyuanImagePipeline(
        tokenizer=parts.tokenizer(length=1100),
        text_encoder=parts.qwen2_5_vl(),
        tokenizer_2=ByT5Tokenizer(),
        text_encoder_2=parts.t5(vocab_size=384),
        vae=AutoencoderKLHunyuanImage(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32,) * 6, layers_per_block=1,
            spatial_compression_ratio=32, sample_size=64, scaling_factor=1.0, downsample_match_channel=False,
            upsample_match_channel=False,
        ).eval(),
        transformer=HunyuanImageTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
            num_refiner_layers=1, patch_size=(1, 1), guidance_embeds=False, text_embed_dim=parts.TEXT, text_embed_2_dim=parts.TEXT,
            rope_axes_dim=(4, 4),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=AdaptiveProjectedMixGuidance(guidance_scale=3.5),
        ocr_guider=AdaptiveProjectedMixGuidance(guidance_scale=3.5),
    )  # fmt: skip


def hunyuan_dit(layers: int = 2) -> Any:
    bert = BertConfig(
        vocab_size=parts.VOCABULARY,
        hidden_size=parts.TEXT,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=37,
    )
    return HunyuanDiTPipeline(
        tokenizer=parts.tokenizer(),
        text_encoder=BertModel(bert).eval(),
        tokenizer_2=parts.tokenizer(length=256),
        text_encoder_2=parts.t5(),
        vae=parts.kl_vae(levels=4),
        transformer=HunyuanDiT2DModel(
            sample_size=16, num_layers=layers, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
            cross_attention_dim=parts.TEXT, cross_attention_dim_t5=parts.TEXT, pooled_projection_dim=16, hidden_size=24,
            activation_fn="gelu-approximate",
        ).eval(),
        scheduler=DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def krea2() -> Any:
    return Krea2Pipeline(
        tokenizer=parts.tokenizer(length=1024),
        text_encoder=parts.qwen3_vl(),
        vae=AutoencoderKLQwenImage(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
        ).eval(),
        transformer=Krea2Transformer2DModel(
            in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
            timestep_embed_dim=16, text_hidden_dim=parts.TEXT, num_text_layers=2, text_num_attention_heads=2,
            text_num_key_value_heads=2, text_intermediate_size=32, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
            axes_dims_rope=(8, 4, 4),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder_select_layers=(1, 3),
    )  # fmt: skip


def bria() -> Any:
    return BriaPipeline(
        tokenizer=parts.tokenizer(length=128),
        text_encoder=parts.t5(),
        vae=parts.kl_vae(levels=4, **parts.FLOW_VAE),
        transformer=BriaTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=parts.TEXT, axes_dims_rope=[0, 4, 4],
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def ovis() -> Any:
    return OvisImagePipeline(
        tokenizer=parts.tokenizer(length=512, template=parts.chat(28)),
        text_encoder=parts.qwen3(head=False),
        vae=parts.kl_vae(levels=4, **parts.FLOW_VAE),
        transformer=OvisImageTransformer2DModel(
            in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=parts.TEXT, axes_dims_rope=(4, 4, 8),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def lumina() -> Any:
    return LuminaPipeline(
        tokenizer=parts.tokenizer(length=256),
        text_encoder=parts.gemma(),
        vae=parts.kl_vae(levels=4),
        transformer=LuminaNextDiT2DModel(
            sample_size=16, hidden_size=24, num_layers=2, num_attention_heads=3, num_kv_heads=1, multiple_of=16,
            cross_attention_dim=parts.TEXT,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def ernie() -> Any:
    return ErnieImagePipeline(
        tokenizer=parts.tokenizer(length=512),
        text_encoder=parts.mistral3(head=False),
        vae=AutoencoderKLFlux2(
            block_out_channels=(8,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64
        ).eval(),
        transformer=ErnieImageTransformer2DModel(
            hidden_size=32, num_attention_heads=2, num_layers=1, ffn_hidden_size=32, in_channels=16, out_channels=16,
            text_in_dim=parts.TEXT, rope_axes_dim=(8, 4, 4),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


BUILDERS = {
    "ErnieImagePipeline": ernie,
    "HiDreamImagePipeline": hidream,
    "HunyuanImagePipeline": hunyuan_image,
    "HunyuanDiTPipeline": hunyuan_dit,
    "Krea2Pipeline": krea2,
    "BriaPipeline": bria,
    "OvisImagePipeline": ovis,
    "LuminaPipeline": lumina,
}
