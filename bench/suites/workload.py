"""Workload of a load run, drawn from a seed before the first request leaves.

Arrivals are open-loop: a request leaves at its time whether or not earlier ones were answered, so a slow server faces the queue that it
would face in life instead of slowing its clients down.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.report.errors import BadPlan

_SHAPE = re.compile(r"(\d+)x(\d+)(?:x(\d+))?(?:@(\d+(?:\.\d+)?))?")
DEFAULT_PROMPTS = (
    "a red circle moving right on a black background",
    "a blue square moving left on a black background",
    "a green triangle moving up on a black background",
    "a yellow circle moving down on a black background",
)


class Shape(Struct, frozen=True):
    """Kind of output in the mix. Sizes in pixels, 0 frames: the model's default; `weight` is relative."""

    width: int
    height: int
    num_frames: int = 0
    weight: float = 1.0


class Arrival(Struct, frozen=True):
    """Request to send: its time (seconds after the start) and fields. No shape: the model's default."""

    at_s: float
    prompt: str
    seed: int
    shape: Shape | None = None
    steps: int = 0


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """`WxH[xFRAMES][@WEIGHT]`, comma-separated. Raises `BadPlan`."""
    shapes = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _SHAPE.fullmatch(part)
        if match is None:
            raise BadPlan(f"--size: {part!r} must be WIDTHxHEIGHT[xFRAMES][@WEIGHT], such as 64x64x17@0.8")
        width, height, frames, weight = match.groups()
        shape = Shape(int(width), int(height), int(frames or 0), float(weight or 1.0))
        if not (shape.width and shape.height and shape.weight):
            raise BadPlan(f"--size: {part!r} must have a width, a height and a weight above 0")
        shapes.append(shape)
    return tuple(shapes)


def parse_steps(text: str) -> tuple[int, ...]:
    """Step counts, comma-separated. Raises `BadPlan`."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if not part.isdecimal() or int(part) < 1:
            raise BadPlan(f"--steps: {part!r} must be a whole number above 0")
    return tuple(int(part) for part in parts)


def poisson_times(rate: float, jobs: int, rng: random.Random) -> list[float]:
    """`jobs` ascending times of a Poisson process with `rate` arrivals a second; the first is at 0."""
    times = [0.0]
    for _ in range(jobs - 1):
        times.append(times[-1] + rng.expovariate(rate))
    return times[:jobs]


def draw(
    rate: float,
    jobs: int,
    seed: int,
    prompts: Sequence[str] = DEFAULT_PROMPTS,
    shapes: Sequence[Shape] = (),
    steps: Sequence[int] = (),
) -> list[Arrival]:
    """The whole run; the same arguments give the same run. `steps` are drawn evenly, `shapes` by weight."""
    rng = random.Random(seed)
    times = poisson_times(rate, jobs, rng)
    weights = [shape.weight for shape in shapes]
    return [
        Arrival(
            at_s=at,
            prompt=rng.choice(prompts),
            seed=rng.randrange(2**31),
            shape=rng.choices(shapes, weights)[0] if shapes else None,
            steps=rng.choice(steps) if steps else 0,
        )
        for at in times
    ]


class _Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Line of a trace."""

    at_s: float
    prompt: str = DEFAULT_PROMPTS[0]
    seed: int = 0
    width: int = 0
    height: int = 0
    num_frames: int = 0
    steps: int = 0


def read_trace(path: str) -> list[Arrival]:
    """Arrivals of a file of JSON lines with `at_s` and, optional, prompt, seed, width, height, num_frames and steps.

    Times count from the first. Raises `BadPlan` naming the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadPlan(f"--trace: {path!r} cannot be read: {error}") from None
    arrivals = []
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.MsgspecError as error:
            raise BadPlan(f"--trace: line {number}: {error}") from None
        if bool(line.width) != bool(line.height):
            raise BadPlan(f"--trace: line {number}: width and height must come together")
        shape = Shape(line.width, line.height, line.num_frames) if line.width else None
        arrivals.append(Arrival(at_s=line.at_s, prompt=line.prompt, seed=line.seed, shape=shape, steps=line.steps))
    if not arrivals:
        raise BadPlan(f"--trace: {path!r} has no lines")
    arrivals.sort(key=lambda arrival: arrival.at_s)
    first = arrivals[0].at_s
    return [msgspec.structs.replace(arrival, at_s=arrival.at_s - first) for arrival in arrivals]
