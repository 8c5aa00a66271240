"""Cosmos 3, which makes sound where a job asks for it."""

from __future__ import annotations

from typing import Any

from diffusers import Cosmos3AVAEAudioTokenizer, Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler

from tests.engine.families import parts


def omni() -> Any:
    """A second of sound is 25 latents of 640 samples."""
    return Cosmos3OmniPipeline(
        text_tokenizer=parts.tokenizer("<|vision_start|>", length=1024, template=parts.chat()),
        transformer=Cosmos3OmniTransformer(
            head_dim=16, hidden_size=32, intermediate_size=32, latent_channel=4, latent_patch_size=2, num_attention_heads=2,
            num_hidden_layers=1, num_key_value_heads=1, patch_latent_dim=16, rope_axes_dim=(4, 2, 2), sound_dim=4, sound_gen=True,
            vocab_size=parts.VOCABULARY,
        ).eval(),
        vae=parts.wan_vae(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        sound_tokenizer=Cosmos3AVAEAudioTokenizer(
            sampling_rate=16_000, vocoder_input_dim=4, dec_dim=8, dec_c_mults=(1, 1, 1), dec_strides=(8, 8, 10), encoder_enabled=False,
        ).eval(),
        enable_safety_checker=False,
    )  # fmt: skip


BUILDERS = {"Cosmos3OmniPipeline": omni}
