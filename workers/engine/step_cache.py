"""A job's step cache: blocks of the denoiser are left out in steps that resemble the one before. Nothing of it outlives the job.

Diffusers' first-block cache: when the first block's output has changed less than a share since the last full step, the change that
the others made then is used again. Lossy: "safe" leaves out few blocks, "fast" many. A few steps leave nothing to leave out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers

from broker.wire.jobspec import JobSpec, ModelCard
from workers.engine.attention import denoisers_of
from workers.engine.errors import InvalidInput
from workers.engine.progress import Monitor

#: Typed as a whole, which the library is not.
_FirstBlock: Any = diffusers.FirstBlockCacheConfig

#: Mode -> the change of the first block's output, as a share of it, below which the others are left out.
THRESHOLDS = {"safe": 0.05, "fast": 0.12}

#: Fewer steps differ too much from each other.
LEAST_STEPS = 12


@contextmanager
def step_cached(pipe: Any, card: ModelCard, spec: JobSpec, monitor: Monitor) -> Iterator[None]:
    """Inside, the pipeline leaves out blocks as the job, or else the model, says. Raises `InvalidInput`."""
    mode = spec.cache or card.cache
    if mode in ("", "off"):
        yield
        return
    if mode not in card.caches:
        raise InvalidInput(f"cache: {mode!r} is not one of model {card.name!r}")
    if spec.num_inference_steps < LEAST_STEPS:
        monitor.use("cache", f"off, as {spec.num_inference_steps} steps are fewer than {LEAST_STEPS}")
        if spec.cache:
            monitor.warn(f"cache: off, as it does nothing in fewer than {LEAST_STEPS} steps")
        yield
        return
    monitor.use("cache", mode)
    enabled: list[Any] = []
    try:
        for part in denoisers_of(pipe):
            part.enable_cache(_FirstBlock(threshold=THRESHOLDS[mode]))
            enabled.append(part)
        yield
    finally:
        for part in enabled:
            part.disable_cache()
