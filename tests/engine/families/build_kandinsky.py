"""Kandinsky 2.2, 3, 5 and 6, which makes sound as well."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo,
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky3Img2ImgPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    Kandinsky5I2VPipeline,
    Kandinsky5T2IPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    KandinskyCombinedPipeline,
    KandinskyImg2ImgCombinedPipeline,
    KandinskyV22CombinedPipeline,
    KandinskyV22Img2ImgCombinedPipeline,
    MMAudioVAE,
    MMAudioVocoder,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

from tests.engine.families import parts


def unet_2(**changes: Any) -> Any:
    return UNet2DConditionModel(**{
        "in_channels": 4, "out_channels": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "encoder_hid_dim": parts.TEXT, "norm_num_groups": 4, "cross_attention_dim": parts.TEXT, "attention_head_dim": 4,
        "resnet_time_scale_shift": "scale_shift", **changes,
    }).eval()  # fmt: skip


def prior_2() -> dict[str, Any]:
    """What draws the embedding of a picture from the prompt."""
    return {
        "prior_prior": PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=parts.TEXT, num_layers=1
        ).eval(),
        "prior_image_encoder": parts.clip_vision(image_size=224, patch_size=56),
        "prior_text_encoder": parts.clip_text(projection=True),
        "prior_tokenizer": parts.tokenizer(),
        "prior_scheduler": UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000, clip_sample_range=10.0
        ),
        "prior_image_processor": parts.clip_image_processor(224),
    }


def combined_21() -> dict[str, Any]:
    """The prompt enters the UNet beside the embedding, through a multilingual CLIP."""
    return {
        **prior_2(),
        "text_encoder": MultilingualCLIP(
            MCLIPConfig(
                numDims=parts.TEXT, transformerDimensions=parts.TEXT, hidden_size=parts.TEXT, intermediate_size=37,
                num_attention_heads=4, num_hidden_layers=1, vocab_size=parts.VOCABULARY,
            )
        ).eval(),
        "tokenizer": parts.tokenizer(),
        "unet": unet_2(addition_embed_type="text_image", encoder_hid_dim_type="text_image_proj"),
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        "movq": movq(),
    }  # fmt: skip


def combined_22() -> dict[str, Any]:
    return {
        **prior_2(),
        "unet": unet_2(addition_embed_type="image", encoder_hid_dim_type="image_proj"),
        "scheduler": DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", prediction_type="epsilon"
        ),
        "movq": movq(),
    }


def movq() -> Any:
    return VQModel(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4, layers_per_block=1, norm_num_groups=32, norm_type="spatial", num_vq_embeddings=12, vq_embed_dim=4,
        mid_block_add_attention=True,
    ).eval()  # fmt: skip


def common_3() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(length=128),
        "text_encoder": parts.t5(),
        "unet": Kandinsky3UNet(
            time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3, block_out_channels=(16, 32),
            cross_attention_dim=8, encoder_hid_dim=parts.TEXT,
        ).eval(),
        "scheduler": DDPMScheduler(beta_start=0.00085, beta_end=0.02, beta_schedule="squaredcos_cap_v2", clip_sample=True),
        "movq": movq(),
    }  # fmt: skip


def common_5() -> dict[str, Any]:
    """Its Qwen reads text through a processor for pictures, which a tokenizer stands in for: no picture is ever given to it."""
    return {
        "tokenizer": parts.tokenizer(length=1024),
        "text_encoder": parts.qwen2_5_vl(),
        "tokenizer_2": parts.tokenizer(),
        "text_encoder_2": parts.clip_text(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def transformer_5(**changes: Any) -> Any:
    return Kandinsky5Transformer3DModel(**{
        "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": parts.TEXT, "in_text_dim2": parts.TEXT, "time_dim": 32, "model_dim": 32,
        "ff_dim": 64, "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": (8, 4, 4), **changes,
    }).eval()  # fmt: skip


def transformer_6(pictures: bool = True) -> Any:
    return Kandinsky6Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=parts.TEXT, in_text_dim2=parts.TEXT, time_dim=32, model_dim=32, ff_dim=64,
        num_text_blocks=1, num_visual_blocks=1, axes_dims=(8, 4, 4), in_audio_dim=4, out_audio_dim=4,
        visual_token_type_num_embeddings=2 if pictures else 0,
    ).eval()  # fmt: skip


def sound_6() -> dict[str, Any]:
    """Mel frames of 64 samples at 16 kHz, two for each latent."""
    return {
        "audio_vae": MMAudioVAE(
            mel_bins=16, latent_channels=4, hidden_channels=16, sample_rate=16_000, n_fft=256, hop_length=64
        ).eval(),
        "vocoder": MMAudioVocoder(
            num_mels=16, upsample_initial_channel=16, upsample_rates=(8, 8), upsample_kernel_sizes=(16, 16),
            resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3, 5),),
        ).eval(),
    }  # fmt: skip


def video_vae() -> Any:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    ).eval()


BUILDERS = {
    "KandinskyCombinedPipeline": lambda: KandinskyCombinedPipeline(**combined_21()),
    "KandinskyImg2ImgCombinedPipeline": lambda: KandinskyImg2ImgCombinedPipeline(**combined_21()),
    "KandinskyV22CombinedPipeline": lambda: KandinskyV22CombinedPipeline(**combined_22()),
    "KandinskyV22Img2ImgCombinedPipeline": lambda: KandinskyV22Img2ImgCombinedPipeline(**combined_22()),
    "Kandinsky3Pipeline": lambda: Kandinsky3Pipeline(**common_3()),
    "Kandinsky3Img2ImgPipeline": lambda: Kandinsky3Img2ImgPipeline(**common_3()),
    "Kandinsky5T2VPipeline": lambda: Kandinsky5T2VPipeline(
        **common_5(), vae=video_vae(), transformer=transformer_5(visual_cond=True)
    ),
    "Kandinsky5I2VPipeline": lambda: Kandinsky5I2VPipeline(
        **common_5(), vae=video_vae(), transformer=transformer_5(visual_cond=True)
    ),
    "Kandinsky6TI2VAPipeline": lambda: Kandinsky6TI2VAPipeline(
        **common_5(), **sound_6(), vae=video_vae(), transformer=transformer_6()
    ),
    "Kandinsky6TI2VAPipeline, from text, silent": lambda: Kandinsky6TI2VAPipeline(
        **common_5(), vae=video_vae(), transformer=transformer_6(pictures=False)
    ),
    "Kandinsky5T2IPipeline": lambda: Kandinsky5T2IPipeline(
        **common_5(), vae=parts.kl_vae(levels=4, **parts.FLOW_VAE), transformer=transformer_5()
    ),
}
