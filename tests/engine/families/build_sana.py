"""Sana: images, distilled images and videos."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderDC,
    FlowMatchEulerDiscreteScheduler,
    SanaImageToVideoPipeline,
    SanaPipeline,
    SanaSprintImg2ImgPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    SCMScheduler,
)

from tests.engine.families import parts


def vae() -> Any:
    """Compresses 32 times, as Sana's."""
    plain = ("ResBlock",) * 5 + ("EfficientViTBlock",)
    scales: tuple[tuple[int, ...], ...] = ((),) * 5 + ((5,),)
    return AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=plain, decoder_block_types=plain,
        encoder_block_out_channels=(8,) * 6, decoder_block_out_channels=(8,) * 6, encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6, encoder_qkv_multiscales=scales, decoder_qkv_multiscales=scales,
        downsample_block_type="Conv", upsample_block_type="interpolate", scaling_factor=0.41407,
    ).eval()  # fmt: skip


_TRANSFORMER = {
    "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_attention_heads": 2, "num_cross_attention_heads": 2,
    "cross_attention_dim": 24, "caption_channels": parts.TEXT, "attention_head_dim": 12, "cross_attention_head_dim": 12,
}  # fmt: skip


def transformer(**changes: Any) -> Any:
    return SanaTransformer2DModel(**{**_TRANSFORMER, "sample_size": 32, "patch_size": 1, **changes}).eval()


def common() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=300),
        "text_encoder": parts.gemma2(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def sprint() -> dict[str, Any]:
    return {
        **common(),
        "vae": vae(),
        "transformer": transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads"),
        "scheduler": SCMScheduler(),
    }


def video() -> dict[str, Any]:
    return {
        **common(),
        "vae": parts.wan_vae(),
        "transformer": SanaVideoTransformer3DModel(**_TRANSFORMER, sample_size=30, patch_size=(1, 2, 2)).eval(),
    }


BUILDERS = {
    "SanaPipeline": lambda: SanaPipeline(**common(), vae=vae(), transformer=transformer()),
    "SanaSprintPipeline": lambda: SanaSprintPipeline(**sprint()),
    "SanaSprintImg2ImgPipeline": lambda: SanaSprintImg2ImgPipeline(**sprint()),
    "SanaVideoPipeline": lambda: SanaVideoPipeline(**video()),
    "SanaImageToVideoPipeline": lambda: SanaImageToVideoPipeline(**video()),
}
