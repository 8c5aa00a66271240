"""What a player sees in a file: read back with PyAV, never with the code that wrote it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np


class Clip(NamedTuple):
    """A decoded video."""

    width: int
    height: int
    fps: Fraction
    codec: str
    pix_fmt: str
    #: (range, matrix, primaries, transfer) as the stream is tagged.
    tags: tuple[int, int, int, int]
    #: frames x height x width x 3, RGB.
    frames: Any


def read_clip(path: Path) -> Clip:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        return Clip(
            context.width, context.height, Fraction(stream.average_rate), context.name, context.pix_fmt or "",
            tuple(int(tag) for tag in tags), np.stack(frames),
        )  # fmt: skip


def top_level_boxes(path: Path) -> list[str]:
    """Names of an MP4's outermost boxes, in file order."""
    data, boxes, at = path.read_bytes(), [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        boxes.append(data[at + 4 : at + 8].decode("latin-1"))
        at += size if size > 1 else int.from_bytes(data[at + 8 : at + 16], "big")
    return boxes


def centre_of(frame: Any) -> tuple[float, float]:
    """(x, y) of the centre of all that is not background, in pixels."""
    mask = np.abs(frame.astype(int) - frame[0, 0].astype(int)).max(axis=-1) > 70
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def colour_of(frame: Any) -> Any:
    """The colour of the middle of all that is not background."""
    x, y = centre_of(frame)
    return frame[round(y), round(x)].astype(int)


class ObservedJob(NamedTuple):
    """The decoded sound of a video."""

    codec: str
    rate: int
    #: Length of the sound, and of the pictures beside it, as the file says.
    seconds: float
    clip_s: float
    #: channels x samples, in -1..1; up to a frame of the codec more than `seconds`.
    samples: Any


def read_sound(path: Path) -> ObservedJob:
    with av.open(str(path)) as container:
        stream, pictures = container.streams.audio[0], container.streams.video[0]
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)
        lengths = [float((each.duration or 0) * (each.time_base or 0)) for each in (stream, pictures)]
        return ObservedJob(stream.codec_context.name, stream.rate, lengths[0], lengths[1], samples)
