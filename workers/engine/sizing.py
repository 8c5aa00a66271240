"""A job's own size, for pipelines that draw in sizes they keep in an attribute; the model's own come back afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.wire.jobspec import JobSpec

#: Draw as many pixels as a square of their default side, in the shape that is asked for.
_FIXED_AREA = ("HiDreamImage",)


@contextmanager
def sized(pipe: Any, spec: JobSpec) -> Iterator[None]:
    """Inside, the pipeline draws the size that the job asks for."""
    wanted = dict(_attributes(pipe, spec))
    own = {name: getattr(pipe, name) for name in wanted}
    for name, value in wanted.items():
        setattr(pipe, name, value)
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(pipe, name, value)


def _attributes(pipe: Any, spec: JobSpec) -> Iterator[tuple[str, Any]]:
    if isinstance(getattr(pipe, "resolutions", None), list):
        # The nearest of the list would be drawn (Kandinsky 5's pictures).
        yield "resolutions", [(spec.width, spec.height)]
    if type(pipe).__name__.startswith(_FIXED_AREA):
        # Sides are scaled by the root of the two areas and rounded down: a hair above 1 leaves them as they are.
        yield "default_sample_size", math.sqrt(spec.width * spec.height) / pipe.vae_scale_factor * (1 + 1e-9)
