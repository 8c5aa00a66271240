"""The size for requests that name only the shape of the picture ("16:9"): about the model's usual number of pixels, on its grid."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from broker.wire.jobspec import Limits, ModelCard

_ASPECT = re.compile(r"([1-9]\d{0,3})\s*:\s*([1-9]\d{0,3})")

#: Most that a size may differ from the requested shape, as a logarithm of the ratio: small models have coarse grids.
_MAX_RATIO_ERROR = math.log(1.25)

#: Weight of the shape against the number of pixels.
_RATIO_WEIGHT = 4.0

#: Most widths that are tried for shapes that the model cannot come near.
_WIDTHS = 512

#: Grid steps that are tried on either side of the ideal width.
_STEPS = 3


def parse_aspect(text: str) -> tuple[int, int] | None:
    """(width, height) of "W:H", the proportion alone; None when it is not of that form."""
    match = _ASPECT.fullmatch(text.strip())
    return (int(match[1]), int(match[2])) if match else None


def size_for(aspect: tuple[int, int], card: ModelCard, pixels: float = 0) -> tuple[int, int] | None:
    """(width, height) of this shape within the card's limits; None when the model cannot come near it.

    It has about so many pixels; 0: as many as the model's usual size.
    """
    ratio = aspect[0] / aspect[1]
    pixels = pixels or card.defaults.width * card.defaults.height
    best: tuple[float, int, int] | None = None
    for width, height in _candidates(ratio, pixels, card):
        ratio_error = abs(math.log(width / height / ratio))
        score = _RATIO_WEIGHT * ratio_error + abs(math.log(width * height / pixels))
        if ratio_error <= _MAX_RATIO_ERROR and (best is None or (score, width, height) < best):
            best = (score, width, height)
    return None if best is None else best[1:]


def _candidates(ratio: float, pixels: float, card: ModelCard) -> Iterator[tuple[int, int]]:
    limits = card.limits
    step = max(1, limits.side_multiple)
    low, high = -(-limits.min_side // step) * step, limits.max_side // step * step
    first = int(math.sqrt(pixels * ratio) // step) * step
    for width in range(first - _STEPS * step, first + (_STEPS + 1) * step + 1, step):
        width = min(max(width, low), high)
        below = int(width / ratio // step) * step
        for height in (below, below + step):
            if low <= height <= high and low <= width and width * height <= limits.max_pixels:
                yield width, height


def nearest_size(shape: tuple[int, int], card: ModelCard, pixels: float = 0) -> tuple[int, int]:
    """(width, height) of the allowed size of about this shape that suits the model best; its usual one where it has no choice."""
    nearest = size_for(shape, card, pixels) or _nearest_shape(shape[0] / shape[1], card.limits)
    return nearest or (card.defaults.width, card.defaults.height)


def enlarged_size(shape: tuple[int, int], card: ModelCard) -> tuple[int, int]:
    """(width, height) of the allowed size nearest to a picture of this size, enlarged as the model does, or as far as it can."""
    area = math.prod(shape)
    times = min(card.enlarges, card.limits.max_side / max(shape), math.sqrt(card.limits.max_pixels / area))
    return nearest_size(shape, card, area * times**2)


def _nearest_shape(ratio: float, limits: Limits) -> tuple[int, int] | None:
    """The allowed size nearest to a shape that the model cannot come near."""
    return min(_sizes(ratio, limits), key=lambda size: abs(math.log(size[0] / size[1] / ratio)), default=None)


def _sizes(ratio: float, limits: Limits) -> Iterator[tuple[int, int]]:
    """Allowed sizes near this shape, one or two a width."""
    grid = max(1, limits.side_multiple)
    low, high = -(-limits.min_side // grid) * grid, limits.max_side // grid * grid
    stride = grid * max(1, (high - low) // grid // _WIDTHS)
    for width in range(low, high + 1, stride):
        ideal = min(max(width / ratio, low), high)
        below = int(ideal // grid) * grid
        for height in (below, below + grid):
            if is_allowed(width, height, limits):
                yield width, height


def is_allowed(width: int, height: int, limits: Limits) -> bool:
    """Whether a model with these limits draws this size."""
    return (
        all(limits.min_side <= side <= limits.max_side and side % limits.side_multiple == 0 for side in (width, height))
        and width * height <= limits.max_pixels
    )
