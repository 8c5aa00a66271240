"""Pipelines that diffusers keeps under `deprecated`: those that the installed version still loads."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMParallelScheduler,
    PNDMPipeline,
    PNDMScheduler,
    StableDiffusionInpaintPipelineLegacy,
    StableDiffusionModelEditingPipeline,
    StableDiffusionParadigmsPipeline,
    StableDiffusionPipelineSafe,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from tests.engine.families import parts
from tests.engine.families.build_pixels import unconditional
from tests.engine.families.build_stable_diffusion import common, unet


def older(kind: Any, **changes: Any) -> Any:
    return kind(**{**common(), "unet": unet(), **changes})


def legacy_inpaint() -> Any:
    """It does not load without a safety checker."""
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(
            text_config=CLIPTextConfig(vocab_size=parts.VOCABULARY, hidden_size=parts.TEXT).to_dict(),
            vision_config=CLIPVisionConfig(
                hidden_size=parts.TEXT, intermediate_size=37, num_attention_heads=4, num_hidden_layers=1, image_size=32, patch_size=16
            ).to_dict(),
            projection_dim=parts.TEXT,
        )
    )  # fmt: skip
    checker.special_care_embeds_weights.data.fill_(2.0)  # no picture is as near to what it refuses
    checker.concept_embeds_weights.data.fill_(2.0)
    return older(
        StableDiffusionInpaintPipelineLegacy,
        safety_checker=checker.eval(),
        feature_extractor=parts.clip_image_processor(),
        requires_safety_checker=True,
    )


BUILDERS = {
    "PNDMPipeline": lambda: PNDMPipeline(unet=unconditional(), scheduler=PNDMScheduler()),
    "StableDiffusionInpaintPipelineLegacy": legacy_inpaint,
    "StableDiffusionModelEditingPipeline": lambda: older(StableDiffusionModelEditingPipeline),
    "StableDiffusionParadigmsPipeline": lambda: older(
        StableDiffusionParadigmsPipeline, scheduler=DDIMParallelScheduler()
    ),
    "StableDiffusionPipelineSafe": lambda: older(StableDiffusionPipelineSafe),
}
