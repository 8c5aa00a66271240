"""Models whose prompt is encoded by a model that sees pictures, with a processor that needs torchvision."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage21,
    AutoencoderTiny,
    BriaFibo2Pipeline,
    BriaFibo2Transformer2DModel,
    DreamLiteMobilePipeline,
    DreamLitePipeline,
    DreamLiteUNetModel,
    FlowMatchEulerDiscreteScheduler,
    GlmImagePipeline,
    GlmImageTransformer2DModel,
    JoyImageEditPipeline,
    JoyImageEditPlusPipeline,
    JoyImageEditPlusTransformer3DModel,
    JoyImageEditTransformer3DModel,
    Kandinsky5I2IPipeline,
    LongCatImageEditPipeline,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    OmniGenPipeline,
    OmniGenTransformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from transformers import (
    ByT5Tokenizer,
    GlmImageConfig,
    GlmImageForConditionalGeneration,
    GlmImageImageProcessor,
    GlmImageProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.engine.families import build_editors, build_kandinsky, parts


def _qwen2_5(**changes: Any) -> dict[str, Any]:
    """Qwen 2.5 VL and its processor, with a picture's place in the chat."""
    given = build_editors.qwen_edit()
    processor = given["processor"]
    processor.chat_template = processor.tokenizer.chat_template = parts.chat()
    given["text_encoder"].generation_config.max_new_tokens = 4
    return {"tokenizer": given["tokenizer"], "text_encoder": given["text_encoder"], "processor": processor, **changes}


def _qwen3(most: int = 64, **changes: Any) -> tuple[Any, Any]:
    """(Qwen 3 VL, its processor of pictures of `most` pixels a side)."""
    sizes = {"size": {"shortest_edge": 32 * 32, "longest_edge": most * most}}
    words = parts.tokenizer("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", length=1024)
    config = parts.qwen3_vl(**changes).config
    config.vision_config.out_hidden_size = config.text_config.hidden_size
    config.image_token_id, config.vision_start_token_id = (
        words.convert_tokens_to_ids(one) for one in ("<|image_pad|>", "<|vision_start|>")
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes, patch_size=16),
        tokenizer=words,
        video_processor=Qwen3VLVideoProcessor(**sizes),
        chat_template=parts.chat(),
    )
    return Qwen3VLForConditionalGeneration(config).eval(), processor


def longcat(kind: Any) -> Any:
    given = _qwen2_5()
    given["text_processor"] = given.pop("processor")
    return kind(
        **given,
        vae=parts.kl_vae(latent=16, levels=4, **parts.FLOW_VAE),
        transformer=LongCatImageTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=parts.TEXT, pooled_projection_dim=parts.TEXT, axes_dims_rope=[8, 4, 4],
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip


def kandinsky() -> Any:
    given = _qwen2_5()
    return Kandinsky5I2IPipeline(
        **{
            **build_kandinsky.common_5(),
            "tokenizer": given["processor"],
            "text_encoder": given["text_encoder"],
        },
        vae=parts.kl_vae(levels=4, **parts.FLOW_VAE),
        transformer=build_kandinsky.transformer_5(visual_cond=True),
    )


def omnigen() -> Any:
    return OmniGenPipeline(
        tokenizer=parts.tokenizer(length=1024),
        vae=parts.kl_vae(levels=4),
        transformer=OmniGenTransformer2DModel(
            hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=32, num_layers=1, pad_token_id=0,
            vocab_size=parts.VOCABULARY, in_channels=4, time_step_dim=16,
            rope_scaling={"long_factor": [1] * 4, "short_factor": [1] * 4},
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
    )  # fmt: skip


def qwen_2_1() -> Any:
    """It has four of its own tokens for one of its encoder's, of pictures of a million pixels."""
    encoder, processor = _qwen3(2048)
    return QwenImage21Pipeline(
        text_encoder=encoder,
        processor=processor,
        vae=AutoencoderKLQwenImage21(
            base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ).eval(),
        transformer=QwenImage21Transformer2DModel(
            in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2, context_in_dim=parts.TEXT,
            axes_dims_rope=(8, 4, 4),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip


def dream_lite(kind: Any) -> Any:
    encoder, processor = _qwen3()
    return kind(
        text_encoder=encoder,
        tokenizer=processor.tokenizer,
        processor=processor,
        vae=AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
        ).eval(),
        unet=DreamLiteUNetModel(
            block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=parts.TEXT, attention_head_dim=8,
            encoder_hid_dim=parts.TEXT, encoder_hid_dim_type="text_proj", addition_embed_type="time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def fibo_2() -> Any:
    """It reads the layers 5 to 35 of its text encoder."""
    encoder, processor = _qwen3(num_hidden_layers=36, hidden_size=16, intermediate_size=16)
    return BriaFibo2Pipeline(
        text_encoder=encoder,
        processor=processor,
        vae=AutoencoderKLFlux2(
            block_out_channels=(8,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64
        ).eval(),
        transformer=BriaFibo2Transformer2DModel(
            in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, cap_feat_dim=48, injection_layer_ids=(0,) * 5,
            perceiver_num_layers=1, min_num_gist_tokens=4, max_num_gist_tokens=8, gist_step=4, gist_min_text_len=4,
            gist_max_text_len=64, axes_dims=(8, 4, 4), axes_lens=(512, 128, 128),
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip


def glm() -> Any:
    """Its model writes tokens of a picture before another draws."""
    words = parts.tokenizer("<|image_pad|>", "<bos>", "<eos>", length=1024)
    words._set_model_specific_special_tokens(
        {"image_token": "<|image_pad|>", "grid_bos_token": "<bos>", "grid_eos_token": "<eos>"}
    )
    vision = {"depth": 1, "hidden_size": parts.TEXT, "num_heads": 2, "intermediate_size": 32, "image_size": 64}
    text = {
        "vocab_size": 128, "hidden_size": parts.TEXT, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vision_vocab_size": 66, "pad_token_id": 0, "eos_token_id": 65,
        "rope_parameters": {"mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    writer = GlmImageForConditionalGeneration(
        GlmImageConfig(
            text_config=text, vision_config=vision, vq_config={"embed_dim": 8, "num_embeddings": 64, "latent_channels": parts.TEXT},
            image_token_id=40, image_start_token_id=64, image_end_token_id=65,
        )
    ).eval()  # fmt: skip
    # A trained one ends where the picture does, this one where its tokens do.
    writer.generation_config.eos_token_id = 127
    return GlmImagePipeline(
        tokenizer=ByT5Tokenizer(),
        text_encoder=parts.t5(vocab_size=384),
        processor=GlmImageProcessor(
            image_processor=GlmImageImageProcessor(patch_size=16, temporal_patch_size=1, merge_size=1), tokenizer=words,
            chat_template=parts.chat(),
        ),
        vision_language_encoder=writer,
        vae=parts.kl_vae(levels=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        transformer=GlmImageTransformer2DModel(
            in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, text_embed_dim=parts.TEXT,
            time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=66,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear"),
    )  # fmt: skip


def joy(kind: Any, transformer: Any) -> Any:
    encoder, processor = _qwen3()
    return kind(
        text_encoder=encoder,
        tokenizer=processor.tokenizer,
        processor=processor,
        vae=parts.wan_vae(),
        transformer=transformer(
            in_channels=4,
            hidden_size=32,
            num_attention_heads=2,
            text_dim=parts.TEXT,
            num_layers=1,
            rope_dim_list=[8, 4, 4],
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


BUILDERS = {
    "LongCatImagePipeline": lambda: longcat(LongCatImagePipeline),
    "LongCatImageEditPipeline": lambda: longcat(LongCatImageEditPipeline),
    "Kandinsky5I2IPipeline": kandinsky,
    "OmniGenPipeline": omnigen,
    "QwenImage21Pipeline": qwen_2_1,
    "DreamLitePipeline": lambda: dream_lite(DreamLitePipeline),
    "DreamLiteMobilePipeline": lambda: dream_lite(DreamLiteMobilePipeline),
    "BriaFibo2Pipeline": fibo_2,
    "GlmImagePipeline": glm,
    "JoyImageEditPipeline": lambda: joy(JoyImageEditPipeline, JoyImageEditTransformer3DModel),
    "JoyImageEditPlusPipeline": lambda: joy(JoyImageEditPlusPipeline, JoyImageEditPlusTransformer3DModel),
}
