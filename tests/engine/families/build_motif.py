"""Motif-Video: clips from the encoder of T5Gemma 2, and from a picture that its tower sees."""

from __future__ import annotations

from typing import Any

from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoImage2VideoPipeline,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)
from transformers.models.t5gemma2.configuration_t5gemma2 import T5Gemma2EncoderConfig
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Encoder

from tests.engine.families import parts


def common(**changes: Any) -> dict[str, Any]:
    text = {
        "vocab_size": parts.VOCABULARY, "hidden_size": parts.TEXT, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
        "dropout_rate": 0.0,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": parts.TEXT, "intermediate_size": 37, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "vision_use_head": False,
    }  # fmt: skip
    encoder = T5Gemma2Encoder(
        T5Gemma2EncoderConfig(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=4,
            boi_token_index=51,
            eoi_token_index=52,
            image_token_index=50,
        )
    )
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": parts.wan_vae(16),
        "text_encoder": encoder.eval(),
        "tokenizer": parts.tokenizer(length=64),
        "transformer": MotifVideoTransformer3DModel(
            in_channels=33, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=1, num_single_layers=1,
            text_embed_dim=parts.TEXT, rope_axes_dim=(4, 6, 6), **changes,
        ).eval(),
        "guider": ClassifierFreeGuidance(guidance_scale=5.0),
        "feature_extractor": parts.siglip_processor(),
    }  # fmt: skip


BUILDERS = {
    "MotifVideoPipeline": lambda: MotifVideoPipeline(**common()),
    "MotifVideoImage2VideoPipeline": lambda: MotifVideoImage2VideoPipeline(**common(image_embed_dim=parts.TEXT)),
}
