"""From a prompt to an MP4 through the demo model and every real part."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.clips import frames_of, judged
from tests.testing.service import Service

pytestmark = pytest.mark.slow


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

    assert draw(service, seed=7)[1] == body, "the same seed drew something else"

    other_job, other_body = draw(service, num_frames=9, fps=12, num_inference_steps=8, width=80, height=48)
    other, facts = frames_of(other_body)
    assert (len(other), other[0].shape, facts[2]) == (9, (48, 80, 3), 12.0)
    assert other_job["spec"]["seed"] >= 0, "the drawn seed is recorded"

    # A cancel inside the model, then the very same picture as before it.
    slow = service.post(prompt="a blue square", num_inference_steps=200)
    service.http.delete(f"/v1/jobs/{slow['id']}")
    assert service.finished(slow["id"])["state"] == "cancelled"
    assert draw(service, seed=7)[1] == body, "the cancel left something behind"


def test_clips_show_what_their_prompts_say(start_service):
    service = start_service(workers=1, gpus="cpu:1", model="")
    wanted = {
        ("a red circle moving right on a black background", 1): ("red", "right", "black"),
        ("blue square going up, white background", 2): ("blue", "up", "white"),
        ("still green triangle on grey", 3): ("green", "still", "gray"),
    }
    jobs = {asked: service.post(prompt=asked[0], seed=asked[1])["id"] for asked in wanted}
    seen = {}
    for asked, job_id in jobs.items():
        job = service.finished(job_id)
        assert job["state"] == "succeeded", job
        verdict = judged(frames_of(service.http.get(job["urls"]["result"]).content)[0])
        seen[asked] = (verdict.colour, verdict.motion, verdict.background)
    assert seen == wanted

    # Another seed draws another clip of the same thing.
    first, second = (frames_of(draw(service, seed=seed)[1])[0] for seed in (1, 11))
    assert np.abs(np.stack(first) - np.stack(second)).max() > 100
    assert judged(first).colour == judged(second).colour == "red"


def test_a_picture_is_drawn_and_then_moves(start_service):
    service = start_service(workers=1, gpus="cpu:1", model="")
    made = service.http.post("/v1/images/generations", json={"prompt": "a blue square on white", "seed": 4}).json()
    picture = base64.b64decode(made["data"][0]["b64_json"])
    still = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    verdict = judged([still])
    assert (verdict.colour, verdict.background) == ("blue", "white")

    job = service.finished(
        service.post(
            prompt="a blue square moving down on a white background",
            image=base64.b64encode(picture).decode(),
            seed=5,
        )["id"]
    )
    assert job["state"] == "succeeded", job
    frames, _ = frames_of(service.http.get(job["urls"]["result"]).content)
    assert np.abs(frames[0] - still).mean() < 12, "the clip does not begin with the picture"
    assert len(frames) == 17
