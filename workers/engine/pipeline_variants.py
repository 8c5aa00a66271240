"""One model, two pipelines: weights that draw from text alone also continue a picture, through another class of the library.

Wan 2.2's 5B model is saved as a `WanPipeline` with `expand_timesteps`: every latent frame has a time of its own, so the first one may be
given without noise. `WanImageToVideoPipeline` runs the same parts with a picture in that place.
"""

from __future__ import annotations

from typing import Any

from diffusers import WanImageToVideoPipeline

from broker.wire.jobspec import JobSpec

_ImageToVideo: Any = WanImageToVideoPipeline


def fitting(pipe: Any, spec: JobSpec) -> Any:
    """`pipe`, or for a job with an image its sibling that takes one, over the same parts."""
    if not spec.image or type(pipe).__name__ != "WanPipeline" or not pipe.config.get("expand_timesteps"):
        return pipe
    sibling = _ImageToVideo(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        transformer=pipe.transformer,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        expand_timesteps=True,
    )
    sibling.set_progress_bar_config(disable=True)
    sibling.encode_prompt = pipe.encode_prompt
    # The hooks that bring parts to the GPU belong to `pipe`, and go back to their start through it.
    sibling.maybe_free_model_hooks = pipe.maybe_free_model_hooks
    return sibling
