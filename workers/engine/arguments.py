"""A job spec as the arguments of a pipeline's call: the fields it takes, under the names it gives them."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from broker.wire.jobspec import JobSpec
from workers.engine.errors import InvalidInput
from workers.engine.watch import call_parameters
from workers.pipeline_classes import FLOW_SHIFT

logger = logging.getLogger(__name__)

#: Arguments by which a client could change what the engine relies on, or hand in tensors.
_RESERVED = {
    "prompt", "negative_prompt", "image", "height", "width", "num_frames", "frames", "video_length", "num_inference_steps",
    "guidance_scale", "guidance_scale_2", "max_sequence_length", "generator", "latents", "output_type", "return_dict",
    "num_images_per_prompt", "num_videos_per_prompt", "callback", "callback_steps", "callback_on_step_end",
    "callback_on_step_end_tensor_inputs", "attention_kwargs", "cross_attention_kwargs", "joint_attention_kwargs",
}  # fmt: skip

_FRAME_COUNTS = ("num_frames", "frames", "video_length")

#: Editing pipelines choose their own working size from the picture's; all others expect one of the size they draw.
_OWN_SIZE = ("Edit", "Kontext", "Flux2", "InstructPix2Pix")

#: Families whose `guidance_scale` is the distilled one, and whose classifier-free guidance is `true_cfg_scale`.
_TRUE_CFG = ("QwenImage",)


def call_arguments(pipe: Any, spec: JobSpec, seed: int) -> dict[str, Any]:
    """What to call `pipe` with for one output of `spec`. Raises `InvalidInput` for an image that cannot be read."""
    takes = call_parameters(pipe)
    name = type(pipe).__name__
    fields: dict[str, Any] = {
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt or None,
        "height": spec.height,
        "width": spec.width,
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale_2": spec.guidance_scale_2,
        "max_sequence_length": spec.max_sequence_length,
        # Drawn on the CPU, the noise of a seed is the same on every device.
        "generator": torch.Generator("cpu").manual_seed(seed),
        **dict.fromkeys(_FRAME_COUNTS, spec.num_frames),
        **_frame_rate(takes, spec),
        **_guidance(name, spec),
    }
    if spec.image and "image" in takes:
        fields["image"] = read_image(Path(spec.image), None if _chooses_size(name) else (spec.width, spec.height))
    extra = {key: value for key, value in spec.extra.items() if key not in _RESERVED and not key.endswith("_embeds")}
    ignored = sorted(spec.extra.keys() - (extra.keys() & takes) - {FLOW_SHIFT})
    if ignored:
        logger.info("the pipeline does not take these", extra={"action": "ignore_arguments", "ignored": ignored})
    given = {**extra, **{key: value for key, value in fields.items() if value is not None}}
    return {key: value for key, value in given.items() if key in takes}


def read_image(path: Path, size: tuple[int, int] | None) -> Image.Image:
    """The picture in `path`, upright, RGB; scaled and cropped around its centre to `size` (width, height) when one is given."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture that is suspiciously large; its pixels would fill the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                upright = ImageOps.exif_transpose(opened).convert("RGB")
    except FileNotFoundError:
        raise InvalidInput(f"image: {path.name!r} does not exist") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"image: {path.name!r} cannot be read: {error}") from error
    return upright if size is None else ImageOps.fit(upright, size, Image.Resampling.LANCZOS)


def _chooses_size(name: str) -> bool:
    return any(part in name for part in _OWN_SIZE)


def _frame_rate(takes: set[str], spec: JobSpec) -> dict[str, Any]:
    """Some models are conditioned on the rate at which the clip is shown."""
    if "num_frames" not in takes:
        return {}
    return {"frame_rate": spec.fps, "fps": round(spec.fps)}


def _guidance(name: str, spec: JobSpec) -> dict[str, Any]:
    if not name.startswith(_TRUE_CFG):
        return {"guidance_scale": spec.guidance_scale}
    # Without a negative prompt these pipelines leave guidance out, whatever its scale.
    scale = spec.extra.get("true_cfg_scale", spec.guidance_scale)
    return {"true_cfg_scale": scale, "negative_prompt": spec.negative_prompt or " "}
