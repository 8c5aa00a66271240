"""The world of the demo model: coloured shapes on plain backgrounds, rendered as clips.

A `Scene` says what a clip shows in words; a seeded generator adds what the words leave open (size, place, exact speed). A motion
always fills the whole clip, so a clip of 9 frames shows the same path as one of 33, in larger steps.

Pixels are floats from -1 to 1. Coordinates are pixels, x to the right and y downwards, for a frame of 64 by 64.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

SIDE = 64

#: 8-bit RGB.
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 200, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "orange": (255, 128, 0),
    "purple": (128, 0, 200),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "gray": (128, 128, 128), "navy": (0, 0, 96)}
SHAPES = ("circle", "square", "triangle", "star")
#: Direction of the path (x, y); growing and shrinking stay in place.
MOTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up left": (-1.0, -1.0),
    "up right": (1.0, -1.0),
    "down left": (-1.0, 1.0),
    "down right": (1.0, 1.0),
    "still": (0.0, 0.0),
    "growing": (0.0, 0.0),
    "shrinking": (0.0, 0.0),
}
SPEEDS = ("", "slow", "fast")

#: Length of the path in pixels, on each axis; a diagonal one is `_DIAGONAL` times as long on each.
TRAVEL = {"slow": (12.0, 15.0), "": (18.0, 23.0), "fast": (25.0, 29.0)}
_DIAGONAL = 0.85
RADIUS = (10.0, 14.0)
#: The small end of a shape that grows or shrinks, as a part of its radius.
_SMALL = (0.40, 0.50)
#: No shape reaches farther from its middle than this, in radii.
REACH = 1.1
_STAR_REACH, _STAR_WAIST = 1.1, 0.46
_SQUARE = 0.88
_TRIANGLE_HALF_BASE = 1.05

#: One combination in this many is kept out of training.
HOLD_OUT = 8


@dataclass(frozen=True)
class Scene:
    """What a clip shows, in the words of the tables above."""

    colour: str
    shape: str
    motion: str
    background: str
    speed: str = ""

    @property
    def combination(self) -> tuple[str, str, str, str]:
        """The four things a judge looks at."""
        return (self.colour, self.shape, self.motion, self.background)


def moves(motion: str) -> bool:
    """Whether the shape leaves its place, so that it can do so slowly or fast."""
    return MOTIONS[motion] != (0.0, 0.0)


def can_be_seen(colour: str, background: str) -> bool:
    """Whether a shape of this colour stands out: not on its own colour, and not black on navy."""
    return COLOURS[colour] != BACKGROUNDS[background] and (colour, background) != ("black", "navy")


def is_held_out(combination: tuple[str, str, str, str]) -> bool:
    """Whether a combination is kept for judging; decided by a hash of its words, so it never changes."""
    digest = hashlib.sha256(" ".join(combination).encode()).digest()
    return digest[0] % HOLD_OUT == 0


@cache
def combinations(held_out: bool) -> tuple[tuple[str, str, str, str], ...]:
    """All combinations that can be seen and are (or are not) kept out of training, in a fixed order."""
    return tuple(
        every
        for every in itertools.product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS)
        if can_be_seen(every[0], every[3]) and is_held_out(every) is held_out
    )


def draw_scenes(count: int, generator: torch.Generator, held_out: bool = False) -> list[Scene]:
    """`count` scenes, each combination as likely as the next, half of those that move with a speed."""
    pool = combinations(held_out)
    picks = torch.randint(len(pool), (count,), generator=generator).tolist()
    speeds = torch.randint(4, (count,), generator=generator).tolist()
    scenes = []
    for pick, speed in zip(picks, speeds, strict=True):
        colour, shape, motion, background = pool[pick]
        scenes.append(
            Scene(colour, shape, motion, background, ("slow", "fast", "", "")[speed] if moves(motion) else "")
        )
    return scenes


def render(scenes: Sequence[Scene], frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips of the scenes, `(scenes, 3, frames, 64, 64)` from -1 to 1, and masks of the shapes, `(scenes, 1, frames, 64, 64)` from 0 to 1.

    A clip of one frame shows a moment of the motion drawn at random. Drawn on the CPU, whatever the default device.
    """
    centre, radius = _paths(scenes, frames, generator)
    masks = torch.empty(len(scenes), 1, frames, SIDE, SIDE)
    for shape in SHAPES:
        rows = [row for row, scene in enumerate(scenes) if scene.shape == shape]
        if rows:
            masks[rows, 0] = silhouette(shape, centre[rows], radius[rows])
    ink = torch.tensor([COLOURS[scene.colour] for scene in scenes]).view(-1, 3, 1, 1, 1) / 127.5 - 1
    paper = torch.tensor([BACKGROUNDS[scene.background] for scene in scenes]).view(-1, 3, 1, 1, 1) / 127.5 - 1
    return paper + masks * (ink - paper), masks


def silhouette(shape: str, centre: Tensor, radius: Tensor, height: int = SIDE, width: int = SIDE) -> Tensor:
    """Masks from 0 to 1, `(..., height, width)`, of shapes at `centre` `(..., 2)` with `radius` `(...)`; edges are one pixel soft."""
    x = torch.arange(width) + 0.5 - centre[..., 0, None, None]
    y = torch.arange(height)[:, None] + 0.5 - centre[..., 1, None, None]
    return (0.5 - _distance(shape, x, y, radius[..., None, None])).clamp(0, 1)


def _distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """How far a point lies outside (positive) or inside (negative) a shape around the origin, in pixels."""
    if shape == "circle":
        return (x * x + y * y).sqrt() - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - _SQUARE * radius
    if shape == "triangle":  # equal sides, a corner up; the middle of its height at the origin
        half = _TRIANGLE_HALF_BASE * radius
        height = half * math.sqrt(3)
        side = (x.abs() * math.sqrt(3) - (y + height / 2)) / 2
        return torch.maximum(side, y - height / 2)
    # A star: in the wedge around its nearest tip, all that counts is the line from that tip to the waist beside it.
    y = y - 0.1 * radius
    turns = [2 * math.pi * tip / 5 for tip in range(5)]
    along = torch.stack([x * math.sin(turn) - y * math.cos(turn) for turn in turns]).amax(0)
    across = (x * x + y * y - along * along).clamp(min=0).sqrt()
    waist_x, waist_y = _STAR_WAIST * math.cos(math.pi / 5), _STAR_WAIST * math.sin(math.pi / 5)
    normal = math.hypot(1 - waist_x, waist_y)
    return ((along - _STAR_REACH * radius) * waist_y + across * (1 - waist_x)) / normal


def _paths(scenes: Sequence[Scene], frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres `(scenes, frames, 2)` and radii `(scenes, frames)`."""
    count = len(scenes)
    chance = torch.rand(count, 6, generator=generator)
    time = torch.linspace(0, 1, frames).expand(count, frames) if frames > 1 else chance[:, 5:6]

    radius = _between(chance[:, 0], *RADIUS)[:, None].expand(count, frames)
    small = _between(chance[:, 1], *_SMALL)[:, None]
    grow = torch.tensor([{"growing": 1.0, "shrinking": -1.0}.get(scene.motion, 0.0) for scene in scenes])[:, None]
    size = small + (1 - small) * torch.where(grow > 0, time, 1 - time)
    radius = torch.where(grow == 0, radius, radius * size)

    heading = torch.tensor([MOTIONS[scene.motion] for scene in scenes])
    bounds = torch.tensor([TRAVEL[scene.speed] for scene in scenes])
    travel = bounds[:, 0] + chance[:, 2] * (bounds[:, 1] - bounds[:, 0])
    travel = torch.where(heading.abs().sum(1) > 1, travel * _DIAGONAL, travel)[:, None] * heading
    edge = radius.amax(1, keepdim=True) * REACH + 1
    low, high = edge - travel.clamp(max=0), SIDE - edge - travel.clamp(min=0)
    start = low + chance[:, 3:5] * (high - low)
    return start[:, None] + time[:, :, None] * travel[:, None], radius


def _between(chance: Tensor, low: float, high: float) -> Tensor:
    return low + chance * (high - low)
