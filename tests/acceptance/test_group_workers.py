"""Workers of several GPUs, here of several processes on the CPU, from the request to the file."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.acceptance.clips import frames_of, judged
from tests.support.waiting import wait_until
from tests.testing.service import Service

pytestmark = pytest.mark.slow


def step_of(service: Service, job_id: str) -> int:
    return int(service.job(job_id)["step"])


def test_a_job_for_a_group_is_drawn_by_it_and_again_when_one_of_its_processes_dies(start_service: Any) -> None:
    service = start_service(workers=1, gpus="cpu:2/2")
    [worker] = service.http.get("/v1/workers").json()["data"]
    assert (worker["name"], worker["gpus"]) == ("cpu-0-1", 2)

    job = service.post(gpus=2, num_inference_steps=20, extra={"fake": "slow"})
    wait_until(lambda: step_of(service, job["id"]) > 2, what="the first steps")
    ranks = {process.environ()["RANK"]: process for process in service.engines()}
    assert set(ranks) == {"0", "1"}
    ranks["1"].send_signal(signal.SIGKILL)
    ended = service.finished(job["id"])
    assert (ended["state"], ended["attempts"], ended["crashes"]) == ("succeeded", 2, 1)
    assert not {process.pid for process in service.engines()} & {process.pid for process in ranks.values()}
    assert "rank 1 of 2: killed by SIGKILL" in service.tail()

    refused = service.http.post("/v1/jobs", json={"prompt": "a", "gpus": 3})
    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == "gpus: 3 is more than any worker of model 'fake' has, 2"


def test_two_processes_draw_one_clip(start_service: Any) -> None:
    service = start_service(workers=1, gpus="cpu:2/2", model="")
    job = service.post(prompt="blue square going up, white background", seed=2, gpus=2)
    ended = service.finished(job["id"])
    assert ended["state"] == "succeeded", ended
    verdict = judged(frames_of(service.http.get(ended["urls"]["result"]).content)[0])
    assert (verdict.colour, verdict.motion, verdict.background) == ("blue", "up", "white")
