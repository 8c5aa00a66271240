"""Models that stand alone and are rarer: Amused, Bria Fibo, Ideogram 4, Nucleus, and some that draw without a prompt."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AmusedImg2ImgPipeline,
    AmusedInpaintPipeline,
    AmusedPipeline,
    AmusedScheduler,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
    LDMPipeline,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    ScoreSdeVePipeline,
    ScoreSdeVeScheduler,
    UVit2DModel,
    VQModel,
)
from transformers import Qwen3VLForConditionalGeneration, SmolLM3Config, SmolLM3ForCausalLM

from tests.engine.families import build_flux, build_images, build_pixels, parts


def amused(kind: Any) -> Any:
    return kind(
        vqvae=VQModel(
            act_fn="silu", block_out_channels=[8, 16], down_block_types=["DownEncoderBlock2D"] * 2, latent_channels=32,
            layers_per_block=1, norm_num_groups=8, num_vq_embeddings=32, sample_size=32, up_block_types=["UpDecoderBlock2D"] * 2,
            mid_block_add_attention=False, lookup_from_codebook=True,
        ).eval(),
        tokenizer=parts.tokenizer(),
        text_encoder=parts.clip_text(projection=True),
        transformer=UVit2DModel(
            hidden_size=32, use_bias=False, hidden_dropout=0.0, cond_embed_dim=parts.TEXT, micro_cond_encode_dim=2,
            micro_cond_embed_dim=10, encoder_hidden_size=parts.TEXT, vocab_size=33, codebook_size=32, in_channels=8,
            block_out_channels=8, num_res_blocks=1, downsample=True, upsample=True, block_num_heads=1, num_hidden_layers=1,
            num_attention_heads=1, attention_dropout=0.0, intermediate_size=32, layer_norm_eps=1e-06, ln_elementwise_affine=True,
        ).eval(),
        scheduler=AmusedScheduler(mask_token_id=32),
    )  # fmt: skip


def ldm_unconditional() -> Any:
    return LDMPipeline(
        vqvae=VQModel(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=3, norm_num_groups=4,
        ).eval(),
        unet=build_pixels.unconditional(sample_size=32),
        scheduler=DDIMScheduler(),
    )  # fmt: skip


def bria_fibo() -> Any:
    return BriaFiboPipeline(
        tokenizer=parts.tokenizer(length=2048),
        text_encoder=SmolLM3ForCausalLM(
            SmolLM3Config(
                hidden_size=parts.TEXT, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=128_001, pad_token_id=0, bos_token_id=1, eos_token_id=1,
            )
        ).eval(),
        vae=parts.wan_vae(
            16, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16, dim_mult=[1, 1, 1, 1],
        ),
        transformer=BriaFiboTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=2 * parts.TEXT, text_encoder_dim=parts.TEXT, axes_dims_rope=[0, 4, 4],
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def ideogram4() -> Any:
    """Its prompt's embeddings are those of 13 of 36 layers."""

    def transformer() -> Any:
        return Ideogram4Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2, intermediate_size=32, adaln_dim=16,
            llm_features_dim=13 * 16, mrope_section=(4, 2, 2),
        ).eval()  # fmt: skip

    return Ideogram4Pipeline(
        **build_flux.flux2_common(),
        tokenizer=parts.tokenizer(length=512, template=parts.chat()),
        text_encoder=parts.qwen3_vl(num_hidden_layers=36, hidden_size=16, intermediate_size=16),
        transformer=transformer(),
        unconditional_transformer=transformer(),
    )


def nucleus() -> Any:
    """Its prompt's embeddings are those of the eighth layer from the end. A tokenizer stands in for its processor."""
    return NucleusMoEImagePipeline(
        processor=parts.tokenizer(length=1024, template=parts.chat()),
        text_encoder=Qwen3VLForConditionalGeneration(parts.qwen3_vl(num_hidden_layers=8).config).eval(),
        vae=build_images.qwen_image()["vae"],
        transformer=NucleusMoEImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
            joint_attention_dim=parts.TEXT, axes_dims_rope=(8, 4, 4), moe_enabled=False,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


BUILDERS = {
    "NucleusMoEImagePipeline": nucleus,
    "AmusedPipeline": lambda: amused(AmusedPipeline),
    "AmusedImg2ImgPipeline": lambda: amused(AmusedImg2ImgPipeline),
    "AmusedInpaintPipeline": lambda: amused(AmusedInpaintPipeline),
    "LDMPipeline": ldm_unconditional,
    "ScoreSdeVePipeline": lambda: ScoreSdeVePipeline(
        unet=build_pixels.unconditional(), scheduler=ScoreSdeVeScheduler()
    ),
    "BriaFiboPipeline": bria_fibo,
    "Ideogram4Pipeline": ideogram4,
}
