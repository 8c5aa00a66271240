"""Video models that stand alone: Mochi, Allegro, Latte, Stable Video Diffusion, AnimateDiff."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AutoencoderKLAllegro,
    AutoencoderKLMagvit,
    AutoencoderKLMochi,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    MotionAdapter,
    PIAPipeline,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
)

from tests.engine.families import build_stable_diffusion, parts


def mochi() -> Any:
    return MochiPipeline(
        tokenizer=parts.tokenizer(length=256),
        text_encoder=parts.t5(),
        vae=AutoencoderKLMochi(
            latent_channels=12, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5,
            add_attention_block=(False,) * 5,
        ).eval(),
        transformer=MochiTransformer3DModel(
            patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16, in_channels=12,
            text_embed_dim=parts.TEXT, time_embed_dim=4,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def allegro() -> Any:
    return AllegroPipeline(
        tokenizer=parts.tokenizer(length=512),
        text_encoder=parts.t5(),
        vae=AutoencoderKLAllegro(
            block_out_channels=(8,) * 4, down_block_types=("AllegroDownBlock3D",) * 4, up_block_types=("AllegroUpBlock3D",) * 4,
            layers_per_block=1, norm_num_groups=2,
        ).eval(),
        transformer=AllegroTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, num_layers=1, cross_attention_dim=24, sample_width=8, sample_height=8,
            sample_frames=8, caption_channels=parts.TEXT,
        ).eval(),
        scheduler=DDIMScheduler(),
    )  # fmt: skip


def latte() -> Any:
    return LattePipeline(
        tokenizer=parts.tokenizer(length=120),
        text_encoder=parts.t5(),
        vae=parts.kl_vae(levels=4),
        transformer=LatteTransformer3DModel(
            sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=parts.TEXT,
            in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        ).eval(),
        scheduler=DDIMScheduler(),
    )  # fmt: skip


def stable_video_diffusion() -> Any:
    return StableVideoDiffusionPipeline(
        unet=UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64), sample_size=8, down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), layers_per_block=1, num_attention_heads=(2, 4),
            cross_attention_dim=parts.TEXT, projection_class_embeddings_input_dim=24, addition_time_embed_dim=8, num_frames=5,
        ).eval(),
        image_encoder=parts.clip_vision(image_size=224, patch_size=56),
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1
        ).eval(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear", num_train_timesteps=1000,
            prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, timestep_spacing="leading", timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=parts.clip_image_processor(224),
    )  # fmt: skip


def animate_diff() -> Any:
    given = build_stable_diffusion.common()
    return AnimateDiffPipeline(
        vae=given["vae"],
        text_encoder=given["text_encoder"],
        tokenizer=given["tokenizer"],
        unet=build_stable_diffusion.unet(),
        motion_adapter=MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_norm_num_groups=4,
            motion_num_attention_heads=2,
        ),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False),
    )


def animate_diff_xl() -> Any:
    return AnimateDiffSDXLPipeline(
        **{key: part for key, part in build_stable_diffusion.common_xl().items() if key not in ("add_watermarker", "scheduler")},
        unet=build_stable_diffusion.unet_xl(),
        motion_adapter=MotionAdapter(
            block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2,
            use_motion_mid_block=False,
        ),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False),
    )  # fmt: skip


def easy_animate() -> Any:
    return EasyAnimatePipeline(
        tokenizer=parts.tokenizer(length=256, template=parts.chat()),
        text_encoder=parts.qwen2_vl(),
        vae=AutoencoderKLMagvit(
            block_out_channels=[8] * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2, spatial_group_norm=False
        ).eval(),
        transformer=EasyAnimateTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=parts.TEXT,
            num_layers=1, mmdit_layers=1, sample_width=16, sample_height=16, patch_size=2,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def text_to_video_sd() -> Any:
    given = build_stable_diffusion.common()
    return TextToVideoSDPipeline(
        vae=given["vae"],
        text_encoder=given["text_encoder"],
        tokenizer=given["tokenizer"],
        unet=UNet3DConditionModel(
            block_out_channels=(8, 8), layers_per_block=1, sample_size=8, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=parts.TEXT, attention_head_dim=4, norm_num_groups=2,
        ).eval(),
        scheduler=given["scheduler"],
    )  # fmt: skip


def pia() -> Any:
    """AnimateDiff from a picture, which enters the UNet beside the noise."""
    given = build_stable_diffusion.common()
    return PIAPipeline(
        vae=given["vae"],
        text_encoder=given["text_encoder"],
        tokenizer=given["tokenizer"],
        unet=build_stable_diffusion.unet(),
        motion_adapter=MotionAdapter(
            block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2,
            conv_in_channels=9,
        ),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False),
    )  # fmt: skip


BUILDERS = {
    "TextToVideoSDPipeline": text_to_video_sd,
    "PIAPipeline": pia,
    "MochiPipeline": mochi,
    "AllegroPipeline": allegro,
    "LattePipeline": latte,
    "StableVideoDiffusionPipeline": stable_video_diffusion,
    "AnimateDiffPipeline": animate_diff,
    "AnimateDiffSDXLPipeline": animate_diff_xl,
    "EasyAnimatePipeline": easy_animate,
}
