"""A job's own size, for pipelines that keep sizes in an attribute or mistake them; the model's own come back afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from broker.wire.jobspec import JobSpec

#: Draw as many pixels as a square of their default side, in the shape that is requested.
_FIXED_AREA = ("HiDreamImage",)

#: Draw the size of the nearest shape in a list of their module's.
_BUCKETS = ("JoyImageEditPipeline",)

#: Scale the picture to its height as width and its width as height.
_SWAPPED_SIDES = ("KandinskyImg2ImgPipeline", "KandinskyV22Img2ImgPipeline")


#: The attribute is that of the class.
_UNSET = object()


@contextmanager
def sized(pipe: Any, spec: JobSpec) -> Iterator[None]:
    """Inside, the pipeline draws the size that the job requests."""
    changed = list(_attributes(pipe, spec))
    own = [vars(part).get(name, _UNSET) for part, name, _ in changed]
    for part, name, value in changed:
        setattr(part, name, value)
    try:
        yield
    finally:
        for (part, name, _), value in zip(changed, own, strict=True):
            if value is _UNSET:
                delattr(part, name)
            else:
                setattr(part, name, value)


def _attributes(pipe: Any, spec: JobSpec) -> Iterator[tuple[Any, str, Any]]:
    if isinstance(getattr(pipe, "resolutions", None), list):
        # The nearest of the list would be drawn (Kandinsky 5's pictures).
        yield pipe, "resolutions", [(spec.width, spec.height)]
    if type(pipe).__name__.startswith(_BUCKETS):
        yield pipe.vae_image_processor, "get_default_height_width", lambda *_: (spec.height, spec.width)
    if type(pipe).__name__.startswith(_FIXED_AREA):
        # Sides are scaled by the root of the two areas and rounded down: a hair above 1 leaves them as they are.
        yield pipe, "default_sample_size", math.sqrt(spec.width * spec.height) / pipe.vae_scale_factor * (1 + 1e-9)
    drawing: Any = getattr(pipe, "decoder_pipe", None)
    if type(drawing).__name__ in _SWAPPED_SIDES:
        prepare = drawing.image_processor.preprocess
        # The picture has the size already.
        yield drawing.image_processor, "preprocess", lambda image, *sides: prepare(image)
