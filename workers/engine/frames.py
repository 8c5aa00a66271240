"""Conversion of a pipeline's output to pixels: RGB, of a picture that is not opaque RGBA, uint8, in the order shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from workers.engine.artefacts import Pixels
from workers.engine.errors import EngineError


def video_frames(output: Any) -> Pixels:
    """The frames of the first clip of a pipeline's output: n x height x width x 3. Raises `EngineError` when it holds none."""
    clip = _pictures(output, ("frames", "videos", "video", "images", "image"))
    # The codecs of clips have no alpha.
    pixels: Pixels = _stack(clip[0] if _depth(clip) > 1 else clip)[..., :3]
    return pixels


def image_pixels(output: Any) -> Pixels:
    """The first image of a pipeline's output: height x width x 3, or 4 where it is not opaque. Raises `EngineError` when it holds none."""
    image = _pictures(output, ("images", "image", "frames", "video"))
    while _depth(image) > 0:
        image = image[0]
    pixels: Pixels = _stack([image])[0]
    return pixels if (pixels[..., 3:] < 255).any() else pixels[..., :3]


def to_uint8(values: torch.Tensor) -> torch.Tensor:
    """-1..1 to 0..255, in the steps of diffusers' VaeImageProcessor, so that the pixels equal those of its output."""
    require_finite(values)
    return (values.float() * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)


def require_finite(values: Any, of: str = "what the model gave") -> None:
    """Raise `EngineError` when an array or a tensor holds what is no number: cast to pixels, it would be black."""
    if isinstance(values, torch.Tensor):
        wrong = 0 if bool(torch.isfinite(values).all()) else int((~torch.isfinite(values)).sum())
        size = values.numel()
    else:
        floats = np.issubdtype(values.dtype, np.floating)
        wrong = int(values.size - np.isfinite(values).sum()) if floats else 0
        size = values.size
    if wrong:
        raise EngineError(f"{wrong} of the {size} values of {of} are no numbers (NaN or infinite)")


def _pictures(output: Any, fields: tuple[str, ...]) -> Any:
    """Return the pictures of a pipeline's output, from the first of these fields that it has; of a tuple, its first item."""
    if isinstance(output, tuple):
        found = output[0] if output else None
    else:
        found = next((getattr(output, field) for field in fields if getattr(output, field, None) is not None), None)
    if found is None or (hasattr(found, "__len__") and len(found) == 0):
        raise EngineError(f"the pipeline gave {type(output).__name__} without {' or '.join(fields)}")
    return found


def _depth(pictures: Any) -> int:
    """Dimensions above that of a single picture: 1 for a clip or a batch of pictures, 2 for a batch of clips."""
    if isinstance(pictures, list | tuple):
        return 1 + (_depth(pictures[0]) if pictures else 0)
    return max(0, pictures.ndim - 3) if isinstance(pictures, np.ndarray | torch.Tensor) else 0


def _stack(clip: Any) -> Pixels:
    """A clip as diffusers' pipelines give it: a list of PIL images, an array n x h x w x c or a tensor n x c x h x w, in 0..1."""
    if isinstance(clip, torch.Tensor):
        clip = clip.detach().float().cpu().movedim(-3, -1).numpy()
    elif isinstance(clip, list | tuple):
        clip = np.stack([_array(item) for item in clip])
    pixels = np.asarray(clip)
    require_finite(pixels)
    if pixels.dtype != np.uint8:
        pixels = (pixels.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4):
        raise EngineError(f"the pipeline gave frames of shape {pixels.shape}, which are no pictures")
    return pixels if pixels.shape[-1] >= 3 else pixels.repeat(3, axis=-1)


def _array(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        return item.detach().float().cpu().movedim(-3, -1).numpy()
    if hasattr(item, "convert"):
        return np.asarray(item if item.mode == "RGBA" else item.convert("RGB"))
    return np.asarray(item)
