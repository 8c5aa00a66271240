"""A job's step cache: blocks of the denoiser are left out in steps that resemble those before. Nothing of it outlives the job.

Each kind is lossy: "safe" leaves out few blocks, "fast" many. A few steps leave nothing to leave out. The kinds (`speed.cache_kind`):

- first_block: when the first block's output has changed less than a share since the last full step, the change that the others made
  then is used again.
- taylorseer: between full steps at a fixed interval, what the denoiser gives is foretold from the last two.
- mag: as long as the errors that the model's own ratios foretell stay within a bound, the blocks' last change is used again.
- dbcache: cache-dit's first-block cache, for pipelines that do not mark for diffusers which of two calls they make.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import diffusers
import torch
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

from broker.wire.jobspec import JobSpec, ModelCard
from workers.engine.attention import denoisers_of
from workers.engine.errors import InvalidInput
from workers.engine.progress import Monitor
from workers.models.speed import Speed

#: Typed as wholes, which the libraries are not.
_FirstBlock: Any = diffusers.FirstBlockCacheConfig
_TaylorSeer: Any = diffusers.TaylorSeerCacheConfig
_Mag: Any = diffusers.MagCacheConfig

#: Mode -> the change of the first block's output, as a share of it, below which the others are left out.
_FIRST_BLOCK = {"safe": 0.05, "fast": 0.12}
#: Mode -> of how many steps one is full.
_INTERVALS = {"safe": 2, "fast": 3}
#: Mode -> (the sum of the errors foretold, the number of steps in a row) up to which blocks are left out.
_MAG = {"safe": (0.06, 2), "fast": (0.12, 4)}
#: Mode -> (the change of the first block's output, the full steps at the beginning, the steps in a row without the other blocks).
_DBCACHE = {"safe": (0.08, 8, 2), "fast": (0.24, 4, 3)}

#: Full steps at the beginning, before anything can be foretold; of the kind "mag", as a share of all.
_FIRST_STEPS, _FIRST_SHARE = 3, 0.2

#: Fewer steps differ too much from each other.
LEAST_STEPS = 12


def prepare_cache(speed: Speed) -> None:
    """Import what a job's step cache needs, so that no job waits for it."""
    if speed.cache_kind == "dbcache":
        os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
        import_module("cache_dit")


@contextmanager
def step_cached(
    pipe: Any, card: ModelCard, speed: Speed, spec: JobSpec, monitor: Monitor, *, together: bool = False
) -> Iterator[None]:
    """Inside, the pipeline leaves out blocks as the job, or else the model, has it. Raises `InvalidInput`.

    Not where several GPUs draw `together`: each would decide by its own part, and some leave out what the others wait for.
    """
    mode = spec.cache or card.cache
    if mode in ("", "off"):
        yield
        return
    if mode not in card.caches:
        raise InvalidInput(f"cache: {mode!r} is not one of model {card.name!r}")
    if together:
        monitor.use("cache", "off, as several GPUs draw the job together")
        if spec.cache:
            monitor.warn("cache: off, as several GPUs draw the job together")
        yield
        return
    if spec.num_inference_steps < LEAST_STEPS:
        monitor.use("cache", f"off, as {spec.num_inference_steps} steps are fewer than {LEAST_STEPS}")
        if spec.cache:
            monitor.warn(f"cache: off, as it does nothing in fewer than {LEAST_STEPS} steps")
        yield
        return
    monitor.use("cache", mode if speed.cache_kind == "first_block" else f"{mode}, {speed.cache_kind}")
    with _dbcached(pipe, mode, spec) if speed.cache_kind == "dbcache" else _hooked(pipe, _config(speed, mode, spec)):
        yield


def _config(speed: Speed, mode: str, spec: JobSpec) -> Any:
    steps = spec.num_inference_steps
    if speed.cache_kind == "taylorseer":
        # The last step is full: nothing after it makes up for an error.
        return _TaylorSeer(
            cache_interval=_INTERVALS[mode],
            disable_cache_before_step=_FIRST_STEPS,
            disable_cache_after_step=steps - 1,
            max_order=1,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        )
    if speed.cache_kind == "mag":
        threshold, in_a_row = _MAG[mode]
        ratios = list(speed.cache_ratios) or FLUX_MAG_RATIOS
        return _Mag(threshold, in_a_row, _FIRST_SHARE, steps, ratios)
    return _FirstBlock(threshold=_FIRST_BLOCK[mode])


@contextmanager
def _hooked(pipe: Any, config: Any) -> Iterator[None]:
    enabled: list[Any] = []
    try:
        for part in denoisers_of(pipe):
            part.enable_cache(config)
            enabled.append(part)
        yield
    finally:
        for part in enabled:
            part.disable_cache()


@contextmanager
def _dbcached(pipe: Any, mode: str, spec: JobSpec) -> Iterator[None]:
    library: Any = import_module("cache_dit")
    threshold, first, in_a_row = _DBCACHE[mode]
    guided = spec.guidance_scale is None or spec.guidance_scale > 1
    config = library.DBCacheConfig(
        Fn_compute_blocks=1,
        Bn_compute_blocks=0,
        residual_diff_threshold=threshold,
        max_warmup_steps=first,
        max_continuous_cached_steps=in_a_row,
        # It takes every other call for that without the prompt, which there is only with guidance.
        enable_separate_cfg=None if guided else False,
    )
    try:
        library.enable_cache(pipe, cache_config=config)
        yield
    finally:
        library.disable_cache(pipe)
