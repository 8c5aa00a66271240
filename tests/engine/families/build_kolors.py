"""Kolors: the UNet of Stable Diffusion XL behind a text encoder of ChatGLM."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from diffusers import KolorsImg2ImgPipeline, KolorsPipeline
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

from tests.engine.families import build_stable_diffusion, parts


def _tokenizer() -> Any:
    """Its vocabulary is a SentencePiece model, which is trained here on the words of the prompts."""
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red circle", "blue square moving", "a blue square encode", "denoise"] * 8),
        model_writer=model, vocab_size=40, model_type="bpe", minloglevel=2, num_threads=1,
    )  # fmt: skip
    place = tempfile.TemporaryDirectory()
    path = Path(place.name) / "tokenizer.model"
    path.write_bytes(model.getvalue())
    made = ChatGLMTokenizer(str(path), padding_side="left")
    # The file is copied when the tokenizer is saved, and goes with it.
    made.place = place
    return made


def _text_encoder() -> Any:
    """Its layers are made in memory that nobody has written to."""
    made = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2, padded_vocab_size=parts.VOCABULARY, hidden_size=parts.TEXT, ffn_hidden_size=37, kv_channels=8,
            num_attention_heads=4, seq_length=256, multi_query_attention=True, multi_query_group_num=2, add_bias_linear=False,
            rmsnorm=True, add_qkv_bias=True, post_layer_norm=True, original_rope=True,
        )
    ).eval()  # fmt: skip
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return made


def common() -> dict[str, Any]:
    xl = build_stable_diffusion.common_xl()
    return {
        "vae": xl["vae"],
        "scheduler": xl["scheduler"],
        "text_encoder": _text_encoder(),
        "tokenizer": _tokenizer(),
        "unet": build_stable_diffusion.unet_xl(cross_attention_dim=parts.TEXT),
    }


BUILDERS = {
    "KolorsPipeline": lambda: KolorsPipeline(**common()),
    "KolorsImg2ImgPipeline": lambda: KolorsImg2ImgPipeline(**common()),
}
