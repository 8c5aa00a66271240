"""Components of tiny pipelines: tokenizers of whole words, text encoders, autoencoders; all from configs, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

_SPECIAL = ("<pad>", "</s>", "<unk>")
_WORDS = ("a", "red", "blue", "circle", "square", "moving", "user", "assistant", "system", "describe", "image", "video")

#: Rows of an embedding: words, and room for special tokens of a family.
VOCABULARY = 64

#: Width of every text encoder.
TEXT = 32


def tokenizer(*special: str, length: int = 77, template: str = "") -> PreTrainedTokenizerFast:
    """Whole words, and `special` tokens from id 40 on. `template` is a chat template."""
    ids = {word: number for number, word in enumerate((*_SPECIAL, *_WORDS))}
    ids |= {word: 40 + number for number, word in enumerate(special)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right",
        model_max_length=length, extra_special_tokens=list(special),
    )  # fmt: skip
    if template:
        made.chat_template = template
    return made


def clip_text(projection: bool = False, **changes: Any) -> Any:
    """CLIP's text encoder of 77 tokens, with a projection for pooled embeddings where asked."""
    config = CLIPTextConfig(**{
        "vocab_size": VOCABULARY, "hidden_size": TEXT, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2,
        "projection_dim": TEXT, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "hidden_act": "gelu", **changes,
    })  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def clip_vision(projection: bool = True, **changes: Any) -> Any:
    """CLIP's image encoder, of pictures of 32 x 32."""
    config = CLIPVisionConfig(**{
        "hidden_size": TEXT, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2, "projection_dim": TEXT,
        "image_size": 32, "patch_size": 16, **changes,
    })  # fmt: skip
    return (CLIPVisionModelWithProjection if projection else CLIPVisionModel)(config).eval()


def clip_image_processor(side: int = 32) -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def t5(**changes: Any) -> Any:
    return T5EncoderModel(T5Config(**{**_T5, **changes})).eval()


def umt5(**changes: Any) -> Any:
    return UMT5EncoderModel(UMT5Config(**{**_T5, **changes})).eval()


_T5 = {"vocab_size": VOCABULARY, "d_model": TEXT, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}


def kl_vae(latent: int = 4, levels: int = 2, **changes: Any) -> AutoencoderKL:
    """Stable Diffusion's autoencoder: compresses `2 ** (levels - 1)` times."""
    return AutoencoderKL(**{
        "in_channels": 3, "out_channels": 3, "block_out_channels": (8,) * levels, "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": latent, "sample_size": 64, **changes,
    }).eval()  # fmt: skip


def wan_vae(latent: int = 4, **changes: Any) -> AutoencoderKLWan:
    """Wan's autoencoder: compresses 8 times, and 4 times in time."""
    return AutoencoderKLWan(**{
        "base_dim": 4, "z_dim": latent, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
        "latents_mean": [0.0] * latent, "latents_std": [1.0] * latent, **changes,
    }).eval()  # fmt: skip


def wake(pipe: Any) -> None:
    """Give every weight that starts at zero a random value: a fresh model that ignores its prompt would hide a dropped one."""
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for weight in part.parameters():
                if not weight.any():
                    torch.nn.init.normal_(weight, std=0.1)
