"""Ways to make a model quicker or smaller: `speed` in its table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

from broker.wire.jobspec import CacheMode, ModelCard
from workers.models.attention import BACKENDS, why_not
from workers.models.denoisers import denoisers
from workers.models.pipeline_classes import PipelineClass
from workers.models.quantise import QuantizeMethod
from workers.models.sources import CatalogueError, shown
from workers.models.step_caches import CacheKind, unfit_cache

#: Families whose VAE loses detail in half precision, and whose pipelines cast between it and the rest (diffusers' guides, and the examples
#: of its classes).
FLOAT32_VAE = ("Wan", "SkyReelsV2", "ChronoEdit", "Helios", "LucyEdit", "SanaVideo", "SanaImageToVideo", "Allegro")
#: Pipelines that bring their pictures to bfloat16 before the VAE encodes them, whatever its dtype is.
_BFLOAT16_VAE = ("ZImageOmni",)
#: Pipelines that compute in float32 alone: their own code gives the denoiser noise of that dtype, or makes arrays of what comes out, which
#: have no bfloat16.
_FLOAT32 = frozenset(
    {
        "ConsistencyModelPipeline", "DDIMPipeline", "DDPMPipeline", "LDMPipeline", "LDMTextToImagePipeline", "PNDMPipeline",
        "ScoreSdeVePipeline",
    }
)  # fmt: skip


class Speed(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Choices that may change pixels a little. Empty: as the model is."""

    #: Attention backend of diffusers.
    attention: str = ""
    #: Whether code for attention may be fetched from the hub when the model is loaded.
    download_kernels: bool = False
    #: Whether the repeated blocks are compiled, and by which backend of torch's: true is "inductor".
    compile: bool | Literal["inductor", "eager"] = False
    #: Sizes, as "832x480x81" (width, height, frames), in which the model is called once when it is loaded; compiled, its usual one.
    warm_up: tuple[str, ...] = ()
    #: Step cache of jobs that do not choose.
    cache: Literal["", "off", "safe", "fast"] = ""
    #: How blocks are left out.
    cache_kind: CacheKind = "first_block"
    #: Of the kind "mag": by how much the blocks' change grows from step to step, as a calibration gives it.
    cache_ratios: tuple[float, ...] = ()
    #: torch dtype of the VAE; "auto" is float32 where half precision loses detail.
    vae_dtype: Literal["", "auto", "bfloat16", "float32"] = ""
    #: Component -> how its weights are kept, as "fp8".
    quantize: dict[str, QuantizeMethod] = field(default_factory=dict)


def is_float32(pipeline: str) -> bool:
    """Whether pipelines of this class compute in float32, whatever the engine's dtype is."""
    return pipeline in _FLOAT32


def vae_dtype_of(speed: Speed, pipeline: str) -> str:
    """The dtype of the VAE where that is not the engine's, by the name of the pipeline's class; else ""."""
    if pipeline.startswith(_BFLOAT16_VAE):
        return "bfloat16"
    if not pipeline.startswith(FLOAT32_VAE):
        return ""
    return "bfloat16" if speed.vae_dtype == "bfloat16" else "float32"


def check_speed(where: str, speed: Speed, taken: PipelineClass, index: Mapping[str, Any]) -> Speed:
    """The choices themselves. Raises `CatalogueError` for those that a model of this class and index cannot have, or this machine."""
    for key, why in (
        ("attention", _no_attention(speed, index)),
        ("download_kernels", _no_download(speed)),
        ("compile", _no_compile(speed, index)),
        *_no_cache(speed, taken, index),
        ("vae_dtype", _no_vae_dtype(speed, taken.name)),
    ):
        if why:
            raise CatalogueError(where, f"speed.{key}", f"{shown(getattr(speed, key))} {why}")
    return speed


def _no_vae_dtype(speed: Speed, pipeline: str) -> str:
    if speed.vae_dtype in ("", "auto"):
        return ""
    if not pipeline.startswith(FLOAT32_VAE):
        return _ONE_DTYPE.format(pipeline)
    return _FLOAT32_CLIP.format(pipeline) if (speed.vae_dtype, pipeline) == ("bfloat16", "LucyEditPipeline") else ""


def cache_modes(speed: Speed, taken: PipelineClass, index: Mapping[str, Any]) -> tuple[CacheMode, ...]:
    """Return the cache modes that a job may choose; none where there is no such step cache for the model."""
    if unfit_cache(speed.cache_kind, speed.cache_ratios, taken, index):
        return ()
    return ("off", "safe", "fast")


def _no_cache(speed: Speed, taken: PipelineClass, index: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, why not) of the settings of the step cache."""
    why = unfit_cache(speed.cache_kind, speed.cache_ratios, taken, index)
    if any(not 0 < ratio < math.inf for ratio in speed.cache_ratios):
        return [("cache_ratios", "must be numbers above 0")]
    if speed.cache_ratios and speed.cache_kind != "mag":
        return [("cache_ratios", 'are for the kind "mag" alone; leave the key out, or write cache_kind = "mag"')]
    if speed.cache_kind != "first_block":
        return [("cache_kind", f"cannot be had: {why}; leave the key out" if why else "")]
    return [("cache", f"cannot be had: {why}; leave the key out" if why and speed.cache in ("safe", "fast") else "")]


_FLOAT32_CLIP = "is not for {}, which gives its VAE a clip in float32; leave the key out"
_ONE_DTYPE = "is not for {}, which runs its VAE in the dtype of the rest; leave the key out"


#: (width, height, frames).
Size = tuple[int, int, int]


def sizes(where: str, speed: Speed, card: ModelCard) -> tuple[Size, ...]:
    """The sizes to warm up in. Raises `CatalogueError` for one that the model does not draw."""
    usual = card.defaults
    if not speed.warm_up:
        return ((usual.width, usual.height, usual.num_frames),) if speed.compile else ()
    found = [(text, _size(text, card)) for text in speed.warm_up]
    for text, size in found:
        if isinstance(size, str):
            raise CatalogueError(where, "speed.warm_up", f"{text!r} {size}")
    return tuple(dict.fromkeys(size for _, size in found if not isinstance(size, str)))


def _size(text: str, card: ModelCard) -> Size | str:
    """The size that is written so, or why the model draws none like it."""
    limits, usual, clips = card.limits, card.defaults, card.output == "video"
    example = f'"{usual.width}x{usual.height}' + (f'x{usual.num_frames}": width, height, frames' if clips else '"')
    sides = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    if sides is None:
        return f"is no size; write {example}"
    if clips and sides[3] is None:
        return f"lacks the number of frames; write {example}"
    size = (int(sides[1]), int(sides[2]), int(sides[3] or 1))
    step = limits.side_multiple
    if any(not limits.min_side <= side <= limits.max_side or side % step for side in size[:2]):
        return (
            f"has sides that are not multiples of {step} from {limits.min_side} to {limits.max_side}; write {example}"
        )
    if size[0] * size[1] > limits.max_pixels:
        return f"has {size[0] * size[1]} pixels, and limits.max_pixels is {limits.max_pixels}; write {example}"
    if not limits.allows_frames(size[2]):
        return f"has {size[2]} frames, and there are {limits.frame_rule()}; write {example}"
    return size


def backend_of(speed: Speed) -> str:
    """The backend of torch's compiler; "" where nothing is compiled."""
    return "inductor" if speed.compile is True else speed.compile or ""


def _no_compile(speed: Speed, index: Mapping[str, Any]) -> str:
    if not speed.compile:
        return ""
    unknown = [denoiser.name for denoiser in denoisers(index) if not denoiser.has_repeated_blocks]
    return (
        f"is not for {unknown[0]}, which has no blocks that are known to repeat; leave the key out" if unknown else ""
    )


def _no_download(speed: Speed) -> str:
    backend = BACKENDS.get(speed.attention)
    if not speed.download_kernels or (backend is not None and backend.kernel):
        return ""
    hub = ", ".join(name for name, one in BACKENDS.items() if one.kernel)
    return f"is for an attention out of the hub; leave the key out, or write one in speed.attention: {hub}"


def _no_attention(speed: Speed, index: Mapping[str, Any]) -> str:
    if not speed.attention:
        return ""
    if why := why_not(speed.attention, downloads=speed.download_kernels):
        return why
    fixed = [denoiser.name for denoiser in denoisers(index) if not denoiser.chooses_attention]
    return f"is not for {fixed[0]}, whose attention cannot be chosen; leave the key out" if fixed else ""
