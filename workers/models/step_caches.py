"""Step caches: which kinds a model can have, determined at start without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from workers.models.denoisers import DENOISERS, denoisers
from workers.models.pipeline_classes import PipelineClass

#: Diffusers' first-block cache, TaylorSeer and MagCache; DBCache of the package cache-dit.
CacheKind = Literal["first_block", "taylorseer", "mag", "dbcache"]

#: Families with which the first-block cache of diffusers 0.42 fails (it takes what a block of Flux 2 gives for a tensor), or was not seen
#: to work (Cosmos 3).
_NO_FIRST_BLOCK = ("Flux2", "Cosmos3")

#: Classes whose ratios diffusers has.
_HAVE_RATIOS = ("FluxTransformer2DModel",)

#: Pipelines that were seen to leave blocks out with DBCache, and to draw as before once it was taken off.
_DBCACHE_SEEN = frozenset({
    "WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline", "WanVACEPipeline",
    "FluxPipeline", "FluxKontextPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxFillPipeline", "FluxControlPipeline",
    "QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline",
    "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "ChromaPipeline", "ChromaImg2ImgPipeline",
    "ZImagePipeline", "ZImageImg2ImgPipeline", "LTXPipeline", "HunyuanVideoPipeline", "CogVideoXPipeline", "CogView4Pipeline",
})  # fmt: skip


def unfit_cache(kind: CacheKind, ratios: Sequence[float], taken: PipelineClass, index: Mapping[str, Any]) -> str:
    """Reason why jobs of such a model cannot leave out blocks so; "" when they can."""
    if kind == "dbcache":
        return _no_dbcache(taken)
    found = denoisers(index)
    fits = taken.marks_cache_context and found and all(denoiser.caches for denoiser in found)
    if not fits or taken.name.startswith(_NO_FIRST_BLOCK):
        return f"{taken.name} cannot leave out blocks between steps"
    if kind == "taylorseer" and not all(denoiser.projects_out for denoiser in found):
        return f"what {found[0].name} gives is not made by one last layer, whose output could be foretold"
    if kind == "mag" and len([name for name in DENOISERS if any(index.get(name) or ())]) > 1:
        return f"{taken.name} has two denoisers that share the steps, and ratios are of one"
    if kind == "mag" and not ratios and found[0].name not in _HAVE_RATIOS:
        return "it needs cache_ratios, one number a step, as a calibration of this model with diffusers' MagCacheConfig gives them"
    return ""


def _no_dbcache(taken: PipelineClass) -> str:
    if importlib.util.find_spec("cache_dit") is None:
        return "it needs the package cache-dit, which is not installed: pip install cache-dit"
    if taken.name not in _DBCACHE_SEEN:
        return f"{taken.name} was not seen to work with it; it did with {', '.join(sorted(_DBCACHE_SEEN))}"
    return ""
