"""Judgement of what a clip shows, from its pixels alone: background, colour, shape and motion.

The rules are simple on purpose, so that a person can check them, and right on every rendered clip. They use the world's tables and
nothing of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from scripts.demo_model.world import BACKGROUNDS, COLOURS, SHAPES, SIDE, Scene, silhouette

#: A pixel belongs to the shape when a channel is this far from the background, of 255, and at least half as far as the shape's colour.
_STANDS_OUT = 70
#: Fewer pixels than this in a frame of 64 by 64 are no shape.
_LEAST_AREA = 12
#: Path in pixels of a frame of 64 from which a shape has moved.
_MOVED = 5.0
#: How many times as large a shape must become to have grown.
_GREW = 1.6
#: Least overlap (common area over joint area) with the best fitting shape.
_LEAST_OVERLAP = 0.6
#: Sectors of 45 degrees, from the right and clockwise, as y points down.
_SECTORS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")


@dataclass(frozen=True)
class Verdict:
    """What a clip shows in the world's words; an empty word where nothing can be seen."""

    background: str
    colour: str = ""
    shape: str = ""
    motion: str = ""
    #: Length of the path in pixels of a frame of 64.
    path: float = 0.0
    #: Overlap with the best fitting shape, from 0 to 1.
    overlap: float = 0.0

    def agrees_with(self, scene: Scene) -> dict[str, bool]:
        """Which of the four things are as in the scene."""
        return {
            name: getattr(self, name) == getattr(scene, name) for name in ("colour", "background", "motion", "shape")
        }


def judge(clip: Tensor) -> Verdict:
    """The verdict on `clip` `(frames, height, width, 3)` of 8-bit pixels; one frame has no motion."""
    pixels = clip.float()
    unit = SIDE / min(pixels.shape[1:3])
    paper = _border(pixels).median(0).values
    background = _nearest(paper, BACKGROUNDS)
    away = (pixels - paper).abs().amax(-1)
    if not (away > _STANDS_OUT).any():
        return Verdict(background)
    contrast = away[away > _STANDS_OUT].quantile(0.7)
    masks = away > max(_STANDS_OUT, float(contrast) / 2)
    masks = masks[masks.sum((1, 2)) * unit * unit >= _LEAST_AREA]
    if not len(masks):
        return Verdict(background)
    ink = pixels[away >= away[away > _STANDS_OUT].quantile(0.3)].median(0).values
    shape, overlap = _shape(masks)
    motion, path = _motion(masks, unit) if len(clip) > 1 else ("", 0.0)
    return Verdict(background, _nearest(ink, COLOURS), shape, motion, path, overlap)


def _border(pixels: Tensor) -> Tensor:
    """The two outermost rows and columns of every frame, as a list of pixels."""
    sides = (pixels[:, :2], pixels[:, -2:], pixels[:, :, :2], pixels[:, :, -2:])
    return torch.cat([side.reshape(-1, 3) for side in sides])


def _nearest(pixel: Tensor, table: Mapping[str, tuple[int, int, int]]) -> str:
    return min(table, key=lambda name: float((pixel - torch.tensor(table[name])).square().sum()))


def _motion(masks: Tensor, unit: float) -> tuple[str, float]:
    """(motion, path) from the first frames to the last ones."""
    some = max(1, min(3, len(masks) // 3))
    areas, centres = _areas(masks), _centres(masks)
    growth = float(areas[-some:].mean() / areas[:some].mean())
    x, y = ((centres[-some:].mean(0) - centres[:some].mean(0)) * unit).tolist()
    path = math.hypot(x, y)
    if growth > _GREW or growth < 1 / _GREW:
        return "growing" if growth > 1 else "shrinking", path
    if path < _MOVED:
        return "still", path
    return _SECTORS[round(math.atan2(y, x) / (math.pi / 4)) % 8], path


def _areas(masks: Tensor) -> Tensor:
    return masks.sum((1, 2)).float()


def _centres(masks: Tensor) -> Tensor:
    """Centres of gravity `(frames, 2)`, x first."""
    area = _areas(masks)
    x = (masks.sum(1) * (torch.arange(masks.shape[2]) + 0.5)).sum(1) / area
    y = (masks.sum(2) * (torch.arange(masks.shape[1]) + 0.5)).sum(1) / area
    return torch.stack([x, y], 1)


def _shape(masks: Tensor) -> tuple[str, float]:
    """The shape that covers the masks best when it has their areas and centres, and how well it does.

    Areas are added up over the frames, so that a shape that grows is known by the frames in which it is large.
    """
    overlaps = {}
    for shape in SHAPES:
        area, x, y = _measures(shape)
        radius = (_areas(masks) / area).sqrt()
        centre = _centres(masks) - radius[:, None] * torch.tensor([x, y])
        ideal = silhouette(shape, centre, radius, *masks.shape[1:]) > 0.5
        overlaps[shape] = float((masks & ideal).sum() / (masks | ideal).sum())
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best if overlaps[best] >= _LEAST_OVERLAP else "", overlaps[best]


@cache
def _measures(shape: str) -> tuple[float, float, float]:
    """(area, x and y of the centre of gravity) of a shape of radius 1 around the origin."""
    size, radius = 256, 100.0
    middle = torch.full((1, 2), size / 2)
    mask = silhouette(shape, middle, torch.tensor([radius]), size, size) > 0.5
    x, y = ((_centres(mask)[0] - middle[0]) / radius).tolist()
    return float(_areas(mask)[0]) / radius**2, x, y
