"""Pipelines with random weights of a few hundred kilobytes, built in code and saved as diffusers directories: they need no network."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

_WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square")


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, eight of them."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(_WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


def save_chroma(directory: Path) -> Path:
    """A text-to-image pipeline: sides are multiples of 16."""
    torch.manual_seed(0)
    text = T5Config(vocab_size=len(_WORDS), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
    ChromaPipeline(
        tokenizer=tokenizer(),
        text_encoder=T5EncoderModel(text).eval(),
        transformer=ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        ).eval(),
        vae=AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0,
            scaling_factor=1.0,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(directory)
    return directory


def save_wan_image_to_video(directory: Path) -> Path:
    """An image-to-video pipeline without image encoder, as Wan 2.2: the image enters through the VAE."""
    torch.manual_seed(0)
    text = UMT5Config(vocab_size=len(_WORDS), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    WanImageToVideoPipeline(
        tokenizer=tokenizer(),
        text_encoder=UMT5EncoderModel(text).eval(),
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4 + 4 + 4,
            out_channels=4,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
        ).eval(),
        vae=AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(directory)
    return directory
