"""Wan."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel

from tests.engine.families import parts


def transformer(into: int = 4, out: int = 4, **changes: Any) -> Any:
    return WanTransformer3DModel(**{
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": into, "out_channels": out,
        "text_dim": parts.TEXT, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32, **changes,
    }).eval()  # fmt: skip


def common() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=512),
        "text_encoder": parts.umt5(),
        "vae": parts.wan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def text_to_video() -> Any:
    return WanPipeline(**common(), transformer=transformer())


def image_to_video() -> Any:
    """Wan 2.1: the picture also enters through CLIP."""
    return WanImageToVideoPipeline(
        **common(),
        transformer=transformer(4 + 4 + 4, image_dim=parts.TEXT),
        image_encoder=parts.clip_vision(projection=False),
        image_processor=parts.clip_image_processor(),
    )


BUILDERS = {"WanPipeline": text_to_video, "WanImageToVideoPipeline": image_to_video}
