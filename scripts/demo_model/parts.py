"""The parts of the pipeline besides its autoencoder, untrained, and the pipeline's directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from scripts.demo_model.captions import known_words
from scripts.demo_model.vae_training import Vae

#: A `WanTransformer3DModel`, a `UMT5EncoderModel` and its tokenizer; their libraries carry no types that hold.
Transformer: TypeAlias = Any
TextEncoder: TypeAlias = Any
TokenizerFast: TypeAlias = Any
_diffusers: Any = diffusers
_transformers: Any = transformers

_SPECIAL = ("<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class TransformerSizes:
    """Widths of the transformer and its text encoder."""

    heads: int = 4
    head_width: int = 32
    feed_forward: int = 512
    layers: int = 6
    text: int = 64


def new_tokenizer() -> TokenizerFast:
    """Whole words in small letters, marks apart, `</s>` at the end; padding is 0."""
    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *known_words()))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 1)]
    )
    return _transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=512,
    )


def new_text_encoder(sizes: TransformerSizes) -> TextEncoder:
    """An untrained text encoder, drawn from torch's global generator."""
    return _transformers.UMT5EncoderModel(
        _transformers.UMT5Config(
            vocab_size=len(_SPECIAL) + len(known_words()),
            d_model=sizes.text,
            d_kv=sizes.text // 4,
            d_ff=2 * sizes.text,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
        )
    )


def new_transformer(latent: int, sizes: TransformerSizes) -> Transformer:
    """An untrained transformer for latents of `latent` channels, drawn from torch's global generator."""
    transformer: Transformer = _diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_width,
        in_channels=latent,
        out_channels=latent,
        text_dim=sizes.text,
        freq_dim=64,
        ffn_dim=sizes.feed_forward,
        num_layers=sizes.layers,
        rope_max_seq_len=64,
    )
    with torch.no_grad():
        for block in transformer.blocks:
            block.scale_shift_table[:, [2, 5]] += 0.7  # the gates: a block that is nearly shut learns late
        transformer.proj_out.weight.mul_(0.1)
        transformer.proj_out.bias.zero_()
    return transformer


@dataclass
class Student:
    """The transformer that learns to denoise, and its text encoder and tokenizer."""

    transformer: Transformer
    text_encoder: TextEncoder
    tokenizer: TokenizerFast

    def read(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(states `(captions, tokens, width)` of the captions' tokens, with zeros after their ends; mask `(captions, tokens)`)."""
        tokens = self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=32, return_tensors="pt"
        ).to(self.text_encoder.device)  # fmt: skip
        states = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return states * tokens.attention_mask[..., None], tokens.attention_mask


def save_pipeline(directory: Path, vae: Vae, transformer: Transformer, text_encoder: TextEncoder) -> None:
    """Write the parts as a diffusers directory in half precision; the parts themselves are halved too."""
    pipeline = _diffusers.WanPipeline(
        tokenizer=new_tokenizer(),
        text_encoder=text_encoder.half().eval(),
        transformer=transformer.half().eval(),
        vae=vae.half().eval(),
        scheduler=_diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
        expand_timesteps=True,
    )
    pipeline.save_pretrained(directory)
