"""Stable Diffusion from the embedding of a picture: of one that is given, or drawn from the prompt."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    PriorTransformer,
    StableDiffusionImageVariationPipeline,
    StableUnCLIPImg2ImgPipeline,
    StableUnCLIPPipeline,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

from tests.engine.families import build_stable_diffusion, parts


def unclip() -> dict[str, Any]:
    """An image embedding, noised, enters the UNet beside the time."""
    return {
        "image_normalizer": StableUnCLIPImageNormalizer(embedding_dim=parts.TEXT).eval(),
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "tokenizer": parts.tokenizer(),
        "text_encoder": parts.clip_text(),
        "unet": build_stable_diffusion.unet(
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * parts.TEXT, use_linear_projection=True
        ),
        "scheduler": DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction",
            set_alpha_to_one=False, steps_offset=1,
        ),
        "vae": parts.kl_vae(levels=4),
    }  # fmt: skip


def text_unclip() -> Any:
    """The embedding of the picture is drawn from the prompt."""
    return StableUnCLIPPipeline(
        **unclip(),
        prior_tokenizer=parts.tokenizer(),
        prior_text_encoder=parts.clip_text(projection=True),
        prior=PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=parts.TEXT, num_layers=1
        ).eval(),
        prior_scheduler=DDPMScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000, clip_sample=True,
            clip_sample_range=5.0, beta_schedule="squaredcos_cap_v2",
        ),
    )  # fmt: skip


def image_unclip() -> Any:
    return StableUnCLIPImg2ImgPipeline(
        **unclip(), feature_extractor=parts.clip_image_processor(), image_encoder=parts.clip_vision()
    )


def image_variation() -> Any:
    return StableDiffusionImageVariationPipeline(
        vae=parts.kl_vae(levels=4),
        image_encoder=parts.clip_vision(),
        unet=build_stable_diffusion.unet(),
        scheduler=build_stable_diffusion.scheduler(),
        safety_checker=None,
        feature_extractor=parts.clip_image_processor(),
        requires_safety_checker=False,
    )


BUILDERS = {
    "StableUnCLIPPipeline": text_unclip,
    "StableUnCLIPImg2ImgPipeline": image_unclip,
    "StableDiffusionImageVariationPipeline": image_variation,
}
