"""A job's own scale of guidance, for pipelines that keep it in a component, the guider; the model's own comes back afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.wire.jobspec import JobSpec
from workers.engine.arguments import guidance_arguments

#: Names of the component; the second is for prompts with text to be written (HunyuanImage).
_GUIDERS = ("guider", "ocr_guider")


@contextmanager
def guided(pipe: Any, spec: JobSpec) -> Iterator[None]:
    """Inside, the pipeline's guiders have the scale that the job requests, if it requests one and they have any."""
    scale = spec.guidance_scale
    own = {name: guider for name in _GUIDERS if (guider := getattr(pipe, name, None)) is not None}
    changed = {name: guider for name, guider in own.items() if scale is not None and "guidance_scale" in guider.config}
    for name, guider in changed.items():
        setattr(pipe, name, guider.new(guidance_scale=scale))
    try:
        yield
    finally:
        for name, guider in changed.items():
            setattr(pipe, name, guider)


def is_guided(pipe: Any, spec: JobSpec) -> bool:
    """Whether the pipeline makes a pass without the prompt beside that with it, in each step of this job."""
    takes = inspect.signature(type(pipe).__call__).parameters
    name = "true_cfg_scale" if "true_cfg_scale" in takes else "guidance_scale"
    if name not in takes:
        return False
    given = guidance_arguments(takes, spec)
    scale = given.get(name)
    if scale is None:
        scale = takes[name].default
    against = name == "guidance_scale" or bool(given.get("negative_prompt") or spec.negative_prompt)
    return isinstance(scale, int | float) and scale > 1 and against
