"""Small real pictures and clips."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from workers.engine.artefacts import Mp4Writer


def picture(
    colour: tuple[int, int, int] | bool = (200, 30, 30),
    size: tuple[int, int] = (64, 48),
    kind: str = "PNG",
    mode: str = "RGB",
) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


def clip(frames: int = 9, size: tuple[int, int] = (64, 48)) -> bytes:
    """An MP4 that goes from dark to bright, all frames of one grey."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        with Mp4Writer(path, "video.mp4", 8.0) as writer:
            for number in range(frames):
                grey = 20 + 200 * number // max(1, frames - 1)
                writer.write(np.full((1, size[1], size[0], 3), grey, dtype=np.uint8))
            writer.finish()
        return (path / "video.mp4").read_bytes()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
