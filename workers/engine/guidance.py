"""A job's own scale of guidance, for pipelines that keep it in a component, the guider; the model's own comes back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.wire.jobspec import JobSpec

#: Names of the component; the second is for prompts with text to be written (HunyuanImage).
_GUIDERS = ("guider", "ocr_guider")


@contextmanager
def guided(pipe: Any, spec: JobSpec) -> Iterator[None]:
    """Inside, the pipeline's guiders have the scale that the job asks for, if it asks for one and they have any."""
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
