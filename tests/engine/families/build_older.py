"""Pipelines on Stable Diffusion's UNet that diffusers keeps without developing them, and its ancestors."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    LDMTextToImagePipeline,
    SemanticStableDiffusionPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionPanoramaPipeline,
    StableDiffusionSAGPipeline,
)
from transformers import DPTConfig, DPTForDepthEstimation
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from tests.engine.families import parts
from tests.engine.families.build_stable_diffusion import common, scheduler, unet


def depth() -> Any:
    """The depth of the picture is estimated by a part of the model."""
    given = common()
    estimator = DPTForDepthEstimation(
        DPTConfig(
            image_size=32, patch_size=16, hidden_size=parts.TEXT, num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3],
            num_attention_heads=4, intermediate_size=37, fusion_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], is_hybrid=False,
        )
    ).eval()  # fmt: skip
    for module in estimator.head.modules():
        if isinstance(module, torch.nn.Conv2d):  # the same depth everywhere, as of a dead last layer, cannot be scaled
            torch.nn.init.normal_(module.weight, std=1.0)
            torch.nn.init.constant_(module.bias, 1.0)
    return StableDiffusionDepth2ImgPipeline(
        vae=given["vae"],
        text_encoder=given["text_encoder"],
        tokenizer=given["tokenizer"],
        unet=unet(in_channels=5),
        scheduler=scheduler(),
        depth_estimator=estimator,
        feature_extractor=DPTImageProcessorPil(size={"height": 32, "width": 32}),
    )


def ldm() -> Any:
    given = common()
    return LDMTextToImagePipeline(
        vqvae=given["vae"],
        bert=given["text_encoder"],
        tokenizer=given["tokenizer"],
        unet=unet(),
        scheduler=DDIMScheduler(),
    )


BUILDERS = {
    "StableDiffusionDepth2ImgPipeline": depth,
    "LDMTextToImagePipeline": ldm,
    "StableDiffusionPanoramaPipeline": lambda: StableDiffusionPanoramaPipeline(**common(), unet=unet()),
    "StableDiffusionSAGPipeline": lambda: StableDiffusionSAGPipeline(**common(), unet=unet()),
    "SemanticStableDiffusionPipeline": lambda: SemanticStableDiffusionPipeline(**common(), unet=unet()),
}
