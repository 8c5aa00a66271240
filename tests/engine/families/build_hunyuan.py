"""HunyuanVideo, 1 and 1.5, and Framepack."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from transformers import ByT5Tokenizer

from tests.engine.families import parts

_TRANSFORMER = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 1, "num_single_layers": 1,
    "num_refiner_layers": 1, "patch_size": 2, "patch_size_t": 1, "text_embed_dim": parts.TEXT, "pooled_projection_dim": parts.TEXT,
    "rope_axes_dim": (2, 4, 4),
}  # fmt: skip


def common() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=512),
        "text_encoder": parts.llama(),
        "tokenizer_2": parts.tokenizer(),
        "text_encoder_2": parts.clip_text(),
        "vae": AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def common_15(into: int, task: str) -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=2048, template=parts.chat(108)),
        "text_encoder": parts.qwen2_5_vl_text(),
        "tokenizer_2": ByT5Tokenizer(),
        "text_encoder_2": parts.t5(vocab_size=384),
        "vae": AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1, downsample_match_channel=False,
            upsample_match_channel=False,
        ).eval(),
        "transformer": HunyuanVideo15Transformer3DModel(
            in_channels=into, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_refiner_layers=1,
            mlp_ratio=2.0, text_embed_dim=parts.TEXT, text_embed_2_dim=parts.TEXT, image_embed_dim=parts.TEXT, rope_axes_dim=(2, 2, 4),
            target_size=64, task_type=task,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }  # fmt: skip


def image_to_video() -> Any:
    """The picture enters through the VAE, and as the first tokens of the prompt."""
    return HunyuanVideoImageToVideoPipeline(
        **{**common(), "tokenizer": parts.tokenizer("<image>", length=1024), "text_encoder": parts.llava()},
        transformer=HunyuanVideoTransformer3DModel(
            **{**_TRANSFORMER, "in_channels": 2 * 4 + 1}, guidance_embeds=False, image_condition_type="latent_concat"
        ).eval(),
        image_processor=parts.clip_image_processor(96),
    )


BUILDERS = {
    "HunyuanVideoImageToVideoPipeline": image_to_video,
    "HunyuanSkyreelsImageToVideoPipeline": lambda: HunyuanSkyreelsImageToVideoPipeline(
        **common(), transformer=HunyuanVideoTransformer3DModel(**{**_TRANSFORMER, "in_channels": 8}).eval()
    ),
    "HunyuanVideoPipeline": lambda: HunyuanVideoPipeline(
        **common(), transformer=HunyuanVideoTransformer3DModel(**_TRANSFORMER).eval()
    ),
    "HunyuanVideoFramepackPipeline": lambda: HunyuanVideoFramepackPipeline(
        **common(),
        transformer=HunyuanVideoFramepackTransformer3DModel(
            **_TRANSFORMER, has_image_proj=True, image_proj_dim=parts.TEXT, has_clean_x_embedder=True
        ).eval(),
        image_encoder=parts.siglip_vision(),
        feature_extractor=parts.siglip_processor(),
    ),
    "HunyuanVideo15Pipeline": lambda: HunyuanVideo15Pipeline(**common_15(9, "t2v")),
    "HunyuanVideo15ImageToVideoPipeline": lambda: HunyuanVideo15ImageToVideoPipeline(
        **common_15(9, "i2v"), image_encoder=parts.siglip_vision(), feature_extractor=parts.siglip_processor()
    ),
}
