"""What a clip shows: its frames, and the verdict of the demo model's judge."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import torch

from scripts.demo_model.judge import Verdict, judge


def frames_of(body: bytes) -> tuple[list[np.ndarray[Any, Any]], Any]:
    with av.open(io.BytesIO(body)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
        return frames, (stream.codec_context.name, stream.codec_context.pix_fmt, float(stream.average_rate))


def judged(frames: list[np.ndarray[Any, Any]]) -> Verdict:
    return judge(torch.from_numpy(np.stack(frames).astype(np.uint8)))
