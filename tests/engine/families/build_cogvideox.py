"""CogVideoX."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from tests.engine.families import parts


def vae() -> Any:
    return AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3, down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
    ).eval()  # fmt: skip


def transformer(into: int = 4, **changes: Any) -> Any:
    return CogVideoXTransformer3DModel(**{
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": into, "out_channels": 4, "time_embed_dim": 2,
        "text_embed_dim": parts.TEXT, "num_layers": 1, "sample_width": 12, "sample_height": 8, "sample_frames": 9, "patch_size": 2,
        "temporal_compression_ratio": 4, "max_text_seq_length": 16, "use_rotary_positional_embeddings": True, **changes,
    }).eval()  # fmt: skip


def common() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=226),
        "text_encoder": parts.t5(),
        "vae": vae(),
        "scheduler": CogVideoXDDIMScheduler(),
    }


BUILDERS = {
    "CogVideoXPipeline": lambda: CogVideoXPipeline(**common(), transformer=transformer()),
    "CogVideoXImageToVideoPipeline": lambda: CogVideoXImageToVideoPipeline(**common(), transformer=transformer(4 + 4)),
}
