"""From a prompt to an MP4 through the demo model and every real part."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest

from tests.acceptance.service import Service

pytestmark = pytest.mark.slow


def frames_of(body: bytes) -> tuple[list[np.ndarray[Any, Any]], Any]:
    with av.open(io.BytesIO(body)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
        return frames, (stream.codec_context.name, stream.codec_context.pix_fmt, float(stream.average_rate))


def red_centre(frame: np.ndarray[Any, Any]) -> float:
    """Mean column of the clearly red pixels."""
    red = (frame[..., 0] > 150) & (frame[..., 1] < 110) & (frame[..., 2] < 110)
    assert red.sum() > 20, "no red shape"
    return float(np.argwhere(red)[:, 1].mean())


def draw(service: Service, **fields: Any) -> tuple[dict[str, Any], bytes]:
    made = service.post(prompt="a red circle moving right on a black background", **fields)
    job = service.finished(made["id"])
    assert job["state"] == "succeeded", job
    return job, service.http.get(job["urls"]["result"]).content


def test_what_was_asked_for_is_what_comes(start_service):
    service = start_service(workers=1, gpus="cpu:1", model="")

    job, body = draw(service, seed=7)
    frames, facts = frames_of(body)
    assert facts == ("h264", "yuv420p", 8.0)
    assert len(frames) == 17
    assert frames[0].shape == (64, 64, 3)
    assert red_centre(frames[-1]) - red_centre(frames[0]) > 6, "it does not move right"
    assert frames[0][2:8, 2:8].max() < 60, "the background is not black"
    assert body.index(b"moov") < body.index(b"mdat"), "not faststart"
    assert job["spec"]["seed"] == 7

    again, _ = frames_of(draw(service, seed=7)[1])
    assert all(np.array_equal(a, b) for a, b in zip(frames, again, strict=True)), "the same seed drew something else"

    other_job, other_body = draw(service, num_frames=9, fps=12, num_inference_steps=8, width=80, height=48)
    other, facts = frames_of(other_body)
    assert (len(other), other[0].shape, facts[2]) == (9, (48, 80, 3), 12.0)
    assert other_job["spec"]["seed"] >= 0, "the drawn seed is recorded"

    # A cancel inside the model, then the very same picture as before it.
    slow = service.post(prompt="a blue square", num_inference_steps=200)
    service.http.delete(f"/v1/jobs/{slow['id']}")
    assert service.finished(slow["id"])["state"] == "cancelled"
    after, _ = frames_of(draw(service, seed=7)[1])
    assert all(np.array_equal(a, b) for a, b in zip(frames, after, strict=True)), "the cancel left something behind"
