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
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaConfig,
    GemmaModel,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Mistral3Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

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


def chat(lead: int = 0) -> str:
    """A chat template: `lead` words, as many as a pipeline cuts off in front, then what the messages say."""
    return (
        f"{{% for _ in range({lead}) %}}system {{% endfor %}}"
        "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }} {% else %}"
        "{% for part in message['content'] %}{{ part['text'] if 'text' in part else '<|image_pad|>' }} {% endfor %}{% endif %}{% endfor %}"
    )


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


def llama(head: bool = False, **changes: Any) -> Any:
    return (LlamaForCausalLM if head else LlamaModel)(LlamaConfig(**{**_DECODER, **changes})).eval()


def qwen2_5_vl_text(**changes: Any) -> Any:
    return Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**{**_DECODER, **_MROPE, **changes})).eval()


def qwen2_5_vl(**changes: Any) -> Any:
    text = {**_DECODER, **_MROPE, **changes}
    vision = {
        "depth": 1, "hidden_size": TEXT, "intermediate_size": 37, "num_heads": 2, "out_hidden_size": TEXT, "fullatt_block_indexes": [0],
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()


def mistral3(head: bool, **changes: Any) -> Any:
    """A text model with Pixtral's image encoder before it."""
    vision = {
        "model_type": "pixtral", "hidden_size": TEXT, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    config = Mistral3Config(
        text_config={"model_type": "mistral", **_DECODER, "head_dim": 8, **changes},
        vision_config=vision,
        image_token_index=50,
    )
    return (Mistral3ForConditionalGeneration if head else Mistral3Model)(config).eval()


def llava(**changes: Any) -> Any:
    """A text model that reads pictures as 576 tokens, of pictures of 96 x 96."""
    vision = {
        "model_type": "clip_vision_model", "hidden_size": TEXT, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 96, "patch_size": 4,
    }  # fmt: skip
    config = LlavaConfig(
        text_config={"model_type": "llama", **_DECODER, **changes},
        vision_config=vision,
        image_token_index=40,
        pad_token_id=0,
    )
    return LlavaForConditionalGeneration(config).eval()


def qwen2_vl(**changes: Any) -> Any:
    vision = {"depth": 1, "embed_dim": TEXT, "hidden_size": TEXT, "num_heads": 2}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config={**_DECODER, **_MROPE, **changes}, vision_config=vision)
    ).eval()


def qwen3(head: bool = True, **changes: Any) -> Any:
    return (Qwen3ForCausalLM if head else Qwen3Model)(Qwen3Config(**{**_DECODER, "head_dim": 8, **changes})).eval()


def qwen3_vl(**changes: Any) -> Any:
    vision = {
        "depth": 1, "hidden_size": TEXT, "intermediate_size": 37, "num_heads": 2, "out_hidden_size": TEXT, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    text = {**_DECODER, **_MROPE, "head_dim": 8, **changes}
    return Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)).eval()


def gemma(**changes: Any) -> Any:
    return GemmaModel(GemmaConfig(**{**_DECODER, "head_dim": 8, **changes})).eval()


def gemma3(**changes: Any) -> Any:
    vision = {
        "hidden_size": TEXT,
        "intermediate_size": 37,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    text = {**_DECODER, "head_dim": 8, **changes}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, image_token_index=50, mm_tokens_per_image=4)
    ).eval()


def gemma2(**changes: Any) -> Any:
    return Gemma2Model(Gemma2Config(**{**_DECODER, "head_dim": 8, **changes})).eval()


def glm(**changes: Any) -> Any:
    return GlmModel(GlmConfig(**{**_DECODER, "head_dim": 8, **changes})).eval()


_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": TEXT, "intermediate_size": 37, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
_MROPE = {"rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 10000.0}}


def siglip_vision(**changes: Any) -> Any:
    """Siglip's image encoder, of pictures of 32 x 32 in four patches."""
    return SiglipVisionModel(SiglipVisionConfig(**{
        "hidden_size": TEXT, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
        "patch_size": 16, **changes,
    })).eval()  # fmt: skip


def siglip_processor(side: int = 32) -> Any:
    return SiglipImageProcessorPil(size={"height": side, "width": side})


def kl_vae(latent: int = 4, levels: int = 2, **changes: Any) -> AutoencoderKL:
    """Stable Diffusion's autoencoder: compresses `2 ** (levels - 1)` times."""
    return AutoencoderKL(**{
        "in_channels": 3, "out_channels": 3, "block_out_channels": (8,) * levels, "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": latent, "sample_size": 64, **changes,
    }).eval()  # fmt: skip


#: What sets the autoencoders of flow-matching models apart.
FLOW_VAE: dict[str, Any] = {
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.1,
    "scaling_factor": 1.0,
}


def wan_vae(latent: int = 4, **changes: Any) -> AutoencoderKLWan:
    """Wan's autoencoder: compresses 8 times, and 4 times in time."""
    return AutoencoderKLWan(**{
        "base_dim": 4, "z_dim": latent, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
        "latents_mean": [0.0] * latent, "latents_std": [1.0] * latent, **changes,
    }).eval()  # fmt: skip


def wake(pipe: Any) -> None:
    """Give every weight that starts at zero a random value: a fresh model that ignores its prompt would hide a dropped one.

    Some classes leave weights as they find the memory, which may be no numbers, and those equal nothing.
    """
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for weight in part.parameters():
                if not weight.any() or not weight.isfinite().all():
                    torch.nn.init.normal_(weight, std=0.1)
