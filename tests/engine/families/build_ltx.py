"""LTX-Video and LTX-2, which draws sound as well."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2ImageToVideoPipeline,
    LTX2InContextPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

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


_LAYERS = 2


def common_2(layers: int = 29) -> dict[str, Any]:
    """The video's latents are 32 times smaller and 8 times shorter; a second of sound is 25 latents.

    Guidance that perturbs a layer perturbs the 29th.
    """
    return {
        "tokenizer": parts.tokenizer(length=1024),
        "text_encoder": parts.gemma3(num_hidden_layers=_LAYERS),
        "connectors": LTX2TextConnectors(
            caption_channels=parts.TEXT, text_proj_in_factor=_LAYERS + 1, video_connector_num_attention_heads=4,
            video_connector_attention_head_dim=8, video_connector_num_layers=1, video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=4, audio_connector_attention_head_dim=8, audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32, rope_double_precision=False, rope_type="split",
        ).eval(),
        "transformer": LTX2VideoTransformer3DModel(
            in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, audio_in_channels=4,
            audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=layers,
            caption_channels=parts.TEXT, rope_double_precision=False, rope_type="split", perturbed_attn=True,
        ).eval(),
        "vae": AutoencoderKLLTX2Video(
            latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8), layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 4, upsample_residual=(False,) * 3, upsample_factor=(1,) * 3, decoder_causal=False,
            spatial_compression_ratio=32, temporal_compression_ratio=8,
        ).eval(),
        "audio_vae": AutoencoderKLLTX2Audio(
            base_channels=4, ch_mult=(1, 1, 1), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
        ).eval(),
        "vocoder": LTX2Vocoder(
            in_channels=16, hidden_channels=32, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2], resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }  # fmt: skip


BUILDERS = {
    "LTXPipeline": lambda: LTXPipeline(**common()),
    "LTXImageToVideoPipeline": lambda: LTXImageToVideoPipeline(**common()),
    "LTXConditionPipeline": lambda: LTXConditionPipeline(**common()),
    "LTX2ConditionPipeline": lambda: LTX2ConditionPipeline(**common_2()),
    "LTX2InContextPipeline": lambda: LTX2InContextPipeline(**common_2(layers=1)),
    "LTX2Pipeline": lambda: LTX2Pipeline(**common_2()),
    "LTX2ImageToVideoPipeline": lambda: LTX2ImageToVideoPipeline(**common_2()),
}
