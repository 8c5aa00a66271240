"""A job's own shift of the noise schedule (`extra.flow_shift`), for flow-matching pipelines; the model's own comes back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.wire.jobspec import JobSpec
from workers.engine.errors import InvalidInput
from workers.engine.progress import Monitor
from workers.models.pipeline_classes import FLOW_SHIFT, SHIFTS


@contextmanager
def shifted(pipe: Any, spec: JobSpec, monitor: Monitor) -> Iterator[None]:
    """Inside, the pipeline's scheduler has the shift that the job asks for, if it has one at all. Raises `InvalidInput`."""
    wanted = spec.extra.get(FLOW_SHIFT)
    if wanted is None:
        yield
        return
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 0 < wanted <= 100:
        raise InvalidInput(f"{FLOW_SHIFT}: {wanted!r} must be a number above 0, at most 100")
    scheduler = getattr(pipe, "scheduler", None)
    name = next((name for name in SHIFTS if scheduler is not None and name in scheduler.config), None)
    # A dynamic shift is computed from the picture's size, and a fixed one beside it would be an error.
    if scheduler is None or name is None or scheduler.config.get("use_dynamic_shifting"):
        monitor.warn(f"extra.{FLOW_SHIFT}: the scheduler of this model takes no shift; it was not used")
        yield
        return
    pipe.scheduler = type(scheduler).from_config(scheduler.config, **{name: float(wanted)})
    try:
        yield
    finally:
        pipe.scheduler = scheduler
