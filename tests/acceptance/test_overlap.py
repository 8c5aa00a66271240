"""One worker, two jobs: the first is decoded and saved while the second is drawn, and what happens to one is not the other's affair."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.waiting import wait_until
from tests.testing.service import Service

#: Quick steps, then some seven seconds of decoding.
LONG_TAIL = {
    "num_inference_steps": 2,
    "num_frames": 33,
    "extra": {"fake": "slow", "fake_step_s": 0.02, "fake_frame_s": 0.2},
}
LONG_STEPS = {"num_inference_steps": 30, "extra": {"fake": "slow", "fake_step_s": 0.1}}


@pytest.fixture
def two_aboard(start_service: Any) -> Service:
    """A worker whose engine has "first" in its tail and "second" in its steps."""
    service: Service = start_service(workers=1, gpus="cpu:1")
    service.post(id="first", **LONG_TAIL)
    service.post(id="second", **LONG_STEPS)

    def both() -> bool:
        phases = [service.job(job_id).get("phase") for job_id in ("first", "second")]
        return phases == ["decode", "denoise"]

    wait_until(both, 60, "one job in its tail and the next one in its steps")
    return service


def test_a_job_is_saved_while_the_next_one_is_drawn(two_aboard: Service) -> None:
    first, second = two_aboard.finished("first"), two_aboard.finished("second")
    assert (first["state"], second["state"]) == ("succeeded", "succeeded")
    assert second["started_at"] < first["finished_at"]
    assert {first["attempts"], second["attempts"]} == {1}


@pytest.mark.parametrize(("victim", "other"), [("first", "second"), ("second", "first")])
def test_a_cancel_stops_one_of_the_two(two_aboard: Service, victim: str, other: str) -> None:
    assert two_aboard.http.delete(f"/v1/jobs/{victim}").status_code == 200
    assert two_aboard.finished(victim)["state"] == "cancelled"
    survivor = two_aboard.finished(other)
    assert (survivor["state"], survivor["attempts"], survivor["crashes"]) == ("succeeded", 1, 0)


def test_a_dead_engine_is_each_job_s_crash_and_they_run_again_one_by_one(two_aboard: Service) -> None:
    two_aboard.engines()[0].kill()
    first, second = two_aboard.finished("first"), two_aboard.finished("second")
    for job in (first, second):
        assert (job["state"], job["attempts"], job["crashes"]) == ("succeeded", 2, 1), job
    begun, ended = sorted([first, second], key=lambda job: job["started_at"])
    assert begun["finished_at"] <= ended["started_at"], "a job that crashed ran beside another"


def test_an_engine_replaced_for_one_job_is_no_crash_of_the_other(start_service: Any) -> None:
    """The first is deaf to its cancel, in its tail: the engine is killed for it, and the second one starts anew."""
    service: Service = start_service(workers=1, gpus="cpu:1")
    deaf = {**LONG_TAIL["extra"], "fake": "ignore_cancel", "fake_frame_s": 1.0}  # type: ignore[dict-item]
    service.post(id="first", **{**LONG_TAIL, "extra": deaf})
    service.post(id="second", **LONG_STEPS | {"num_inference_steps": 60})
    wait_until(lambda: service.job("second")["state"] == "running", 60, "both jobs in the engine")
    service.http.delete("/v1/jobs/first")
    assert service.finished("first")["state"] == "cancelled"
    second = service.finished("second")
    assert (second["state"], second["crashes"], second["losses"]) == ("succeeded", 0, 1), second
