"""PRX: images from the encoder of T5Gemma, of latents or of pixels."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, PRXPipeline, PRXPixelPipeline, PRXTransformer2DModel
from transformers import T5GemmaConfig
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from tests.engine.families import parts


def common(channels: int, **changes: Any) -> dict[str, Any]:
    return {
        "transformer": PRXTransformer2DModel(
            in_channels=channels, patch_size=2, context_in_dim=parts.TEXT, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2,
            axes_dim=[8, 8], **changes,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": encoder(),
        "tokenizer": parts.tokenizer(length=32),
    }  # fmt: skip


def encoder() -> Any:
    """Half of a T5Gemma. Its class reads sizes from the top of a config that has them in its halves."""
    half = {
        "vocab_size": parts.VOCABULARY, "hidden_size": parts.TEXT, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    }  # fmt: skip
    top = T5GemmaModuleConfig(**half, is_encoder_decoder=False, tie_word_embeddings=False).to_dict()
    del top["model_type"]
    return T5GemmaEncoder(T5GemmaConfig(encoder=half, decoder=half, **top)).eval()


BUILDERS = {
    "PRXPipeline": lambda: PRXPipeline(
        **common(4), vae=parts.kl_vae(levels=4, **parts.FLOW_VAE), default_sample_size=512
    ),
    "PRXPixelPipeline": lambda: PRXPixelPipeline(**common(3, bottleneck_size=16), prompt_max_tokens=32),
}
