"""LTX-Video."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from tests.engine.families import parts


def common() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=128),
        "text_encoder": parts.t5(),
        "vae": AutoencoderKLLTXVideo(
            latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 5, encoder_causal=True, decoder_causal=False,
        ).eval(),
        "transformer": LTXVideoTransformer3DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=1,
            caption_channels=parts.TEXT,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }  # fmt: skip


BUILDERS = {
    "LTXPipeline": lambda: LTXPipeline(**common()),
    "LTXImageToVideoPipeline": lambda: LTXImageToVideoPipeline(**common()),
    "LTXConditionPipeline": lambda: LTXConditionPipeline(**common()),
}
