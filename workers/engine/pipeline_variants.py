"""One model, several pipelines over its parts: a copy for each job, and one of another class for a picture beside the text.

A call leaves its settings in the pipeline and its steps in the scheduler: two calls at once need one of each.

Wan 2.2's 5B model is saved as a `WanPipeline` with `expand_timesteps`: every latent frame has a time of its own, so the first one may be
given without noise. `WanImageToVideoPipeline` runs the same parts with a picture in that place.
"""

from __future__ import annotations

import copy
from typing import Any

from diffusers import WanImageToVideoPipeline

from broker.wire.jobspec import JobSpec
from workers.engine.prompts import PromptCache

_ImageToVideo: Any = WanImageToVideoPipeline


#: Pipelines that run others, whose objects a copy would share.
_COMBINED = ("decoder_pipe", "prior_pipe")


def can_be_copied(pipe: Any) -> bool:
    """Whether a call of a copy leaves nothing in the pipeline itself, or in another copy."""
    return isinstance(getattr(pipe, "encode_prompt", None), PromptCache) and not any(
        hasattr(pipe, name) for name in _COMBINED
    )


def working_copy(pipe: Any) -> Any:
    """A pipeline over the same models, with schedulers and settings of its own."""
    own = copy.copy(pipe)
    for name, part in pipe.components.items():
        if hasattr(part, "set_timesteps"):
            # Past the library's own setter, which would register it anew.
            vars(own)[name] = copy.deepcopy(part)
    vars(own)["encode_prompt"] = pipe.encode_prompt.of_copy(own)
    return own


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
