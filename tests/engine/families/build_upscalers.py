"""Stable Diffusion's upscalers: of pixels four times, of latents twice."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)

from tests.engine.families import build_stable_diffusion, parts


def pixels() -> Any:
    """The image, noised, stands beside the latents; how much it is noised is the UNet's class."""
    return StableDiffusionUpscalePipeline(
        vae=parts.kl_vae(levels=3, scaling_factor=0.08333),
        text_encoder=parts.clip_text(),
        tokenizer=parts.tokenizer(),
        unet=build_stable_diffusion.unet(in_channels=4 + 3, num_class_embeds=1000),
        low_res_scheduler=DDPMScheduler(),
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
    )


def latents() -> Any:
    """The UNet is one for Karras' schedule; its last channel is not used."""
    pooled = 128
    return StableDiffusionLatentUpscalePipeline(
        vae=parts.kl_vae(levels=4),
        text_encoder=parts.clip_text(),
        tokenizer=parts.tokenizer(),
        unet=UNet2DConditionModel(
            sample_size=8, in_channels=4 + 4, out_channels=4 + 1, block_out_channels=(32, 32, 64, 64), layers_per_block=1,
            down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
            up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
            mid_block_type=None, norm_num_groups=None, cross_attention_dim=parts.TEXT, attention_head_dim=8, act_fn="gelu",
            conv_in_kernel=1, conv_out_kernel=1, resnet_time_scale_shift="scale_shift", time_embedding_type="fourier",
            timestep_post_act="gelu", time_cond_proj_dim=pooled + parts.TEXT,
        ).eval(),
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
    )  # fmt: skip


BUILDERS = {"StableDiffusionUpscalePipeline": pixels, "StableDiffusionLatentUpscalePipeline": latents}
