"""What makes a model quicker or smaller: `speed` in its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

from broker.wire.jobspec import CacheMode
from workers.models.attention import why_not
from workers.models.denoisers import denoisers
from workers.models.pipeline_classes import PipelineClass
from workers.models.quantise import QuantizeMethod
from workers.models.sources import CatalogueError

#: Families whose VAE loses detail in half precision, and whose pipelines cast between it and the rest (diffusers' Wan guide).
FLOAT32_VAE = ("Wan", "SkyReelsV2")


#: Families with which the first-block cache of diffusers 0.42 fails (it takes what a block of Flux 2 gives for a tensor), or was not seen
#: to work (Cosmos 3).
_NO_FIRST_BLOCK = ("Flux2", "Cosmos3")


class Speed(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Choices that may change pixels a little. Empty: as the model is."""

    #: Attention backend of diffusers.
    attention: str = ""
    #: Whether code for attention may be fetched from the hub when the model is loaded.
    download_kernels: bool = False
    #: Whether the repeated blocks are compiled.
    compile: bool = False
    #: Step cache of jobs that do not choose.
    cache: Literal["", "off", "safe", "fast"] = ""
    #: torch dtype of the VAE; "auto" is float32 where half precision loses detail.
    vae_dtype: Literal["", "auto", "bfloat16", "float32"] = ""
    #: Component -> how its weights are kept, as "fp8".
    quantize: dict[str, QuantizeMethod] = field(default_factory=dict)


def check_speed(where: str, speed: Speed, taken: PipelineClass, index: Mapping[str, Any]) -> Speed:
    """The choices themselves. Raises `CatalogueError` for those that a model of this class and index cannot have, or this machine."""
    for key, why in (
        ("attention", _no_attention(speed, index)),
        ("cache", "" if speed.cache in ("", "off") or cache_modes(taken, index) else _NO_CACHE.format(taken.name)),
        (
            "vae_dtype",
            ""
            if speed.vae_dtype in ("", "auto") or taken.name.startswith(FLOAT32_VAE)
            else _ONE_DTYPE.format(taken.name),
        ),
    ):
        if why:
            raise CatalogueError(f"{where} speed.{key}: {why}")
    return speed


def cache_modes(taken: PipelineClass, index: Mapping[str, Any]) -> tuple[CacheMode, ...]:
    """What a job of such a model may choose; nothing where diffusers has no step cache for it."""
    found = denoisers(index)
    fits = taken.tells_caches and found and all(denoiser.caches for denoiser in found)
    fits = fits and not taken.name.startswith(_NO_FIRST_BLOCK)
    return ("off", "safe", "fast") if fits else ()


_NO_CACHE = "{} cannot leave out blocks between steps; leave it out"
_ONE_DTYPE = "{} runs its VAE in the dtype of the rest; leave it out"


def _no_attention(speed: Speed, index: Mapping[str, Any]) -> str:
    if not speed.attention:
        return ""
    if why := why_not(speed.attention, downloads=speed.download_kernels):
        return why
    fixed = [denoiser.name for denoiser in denoisers(index) if not denoiser.chooses_attention]
    return f"the attention of {fixed[0]} cannot be chosen; leave it out" if fixed else ""
