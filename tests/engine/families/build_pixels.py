"""Models that draw pixels without an autoencoder: DeepFloyd IF, and those that draw without a prompt."""

from __future__ import annotations

from typing import Any

from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    IFImg2ImgPipeline,
    IFPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)

from tests.engine.families import parts


def floyd() -> dict[str, Any]:
    return {
        "tokenizer": parts.tokenizer(),
        "text_encoder": parts.t5(),
        "unet": UNet2DConditionModel(
            sample_size=64, layers_per_block=1, block_out_channels=(8, 16), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), norm_num_groups=4, act_fn="gelu",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), in_channels=3, out_channels=6,
            cross_attention_dim=parts.TEXT, encoder_hid_dim=parts.TEXT, attention_head_dim=4, addition_embed_type="text",
            addition_embed_type_num_heads=2, cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift",
        ).eval(),
        "scheduler": DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.0,
            variance_type="learned_range",
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }  # fmt: skip


def unconditional(**changes: Any) -> Any:
    return UNet2DModel(**{
        "sample_size": 64, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), **changes,
    }).eval()  # fmt: skip


BUILDERS = {
    "IFPipeline": lambda: IFPipeline(**floyd()),
    "IFImg2ImgPipeline": lambda: IFImg2ImgPipeline(**floyd()),
    "DDPMPipeline": lambda: DDPMPipeline(unet=unconditional(), scheduler=DDPMScheduler()),
    "DDIMPipeline": lambda: DDIMPipeline(unet=unconditional(), scheduler=DDIMScheduler()),
    "ConsistencyModelPipeline": lambda: ConsistencyModelPipeline(
        unet=unconditional(), scheduler=CMStochasticIterativeScheduler()
    ),
}
