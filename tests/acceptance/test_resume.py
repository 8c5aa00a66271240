"""A job is interrupted, by the death of its engine or the stop of its worker: it goes on from a checkpoint and draws the same."""

from __future__ import annotations

import io
import signal
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.waiting import wait_until
from tests.testing.service import Service

PICTURE = {
    "prompt": "a red circle",
    "seed": 7,
    "output": "image",
    "num_inference_steps": 80,
    "width": 128,
    "height": 128,
}


def pixels(service: Service, job: dict[str, Any]) -> Any:
    file = service.http.get(job["artefacts"][0]["url"]).content
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.slow
def test_a_job_goes_on_after_its_engine_was_killed(start_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_CHECKPOINT_S", "0.05")
    service: Service = start_service(workers=1, gpus="cpu:1", model="demo")
    kept = service.home / "z" / "artefacts" / ".checkpoints" / "killed"
    service.post(id="killed", **PICTURE)
    wait_until(lambda: any(kept.glob("*.safetensors")), 60, "a checkpoint")
    service.engines()[0].kill()

    killed = service.finished("killed")
    service.post(id="undisturbed", **PICTURE)
    undisturbed = service.finished("undisturbed")

    assert (killed["state"], killed["attempts"], killed["crashes"]) == ("succeeded", 2, 1), killed
    assert killed["used"]["resumed"].startswith("after step ")
    assert "resumed" not in undisturbed["used"]
    assert np.array_equal(pixels(service, killed), pixels(service, undisturbed))
    wait_until(lambda: not kept.exists(), 30, "the checkpoints of a finished job removed")


@pytest.mark.slow
def test_a_worker_that_is_stopped_hands_its_job_back_after_a_step(
    start_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOETROPE_CHECKPOINT_S", "0")
    monkeypatch.setenv("ZOETROPE_STOP_GRACE_S", "120")
    service: Service = start_service(workers=1, gpus="cpu:1", model="demo")
    # Long enough not to end in the grace of a busy machine.
    many = {**PICTURE, "num_inference_steps": 200, "width": 96, "height": 96}
    service.post(id="stopped", **many)
    wait_until(lambda: service.job("stopped")["step"] >= 5, 60, "some steps")

    service.kill("workers", signal.SIGTERM)

    kept = [path.name for path in (service.home / "z" / "artefacts" / ".checkpoints" / "stopped").iterdir()]
    assert len(kept) == 1, kept
    step = int(kept[0].removeprefix("0-").removesuffix(".safetensors"))
    assert 5 <= step < 200
    waiting = service.job("stopped")
    assert (waiting["state"], waiting["crashes"], waiting["losses"]) == ("queued", 0, 0), waiting
    service.start("workers")
    stopped = service.finished("stopped", 180)
    service.post(id="undisturbed", **many)
    undisturbed = service.finished("undisturbed", 180)
    assert stopped["used"]["resumed"] == f"after step {step} of 200"
    assert np.array_equal(pixels(service, stopped), pixels(service, undisturbed))


@pytest.mark.slow
def test_a_draft_that_is_committed_and_a_job_that_is_paused_draw_the_same(start_service: Any) -> None:
    service: Service = start_service(workers=1, gpus="cpu:1", model="demo")
    http = service.http
    many = {**PICTURE, "num_inference_steps": 200, "width": 96, "height": 96}
    service.post(id="draft", draft_steps=30, **many)
    parked = wait_until(
        lambda: job if (job := service.job("draft"))["state"] == "parked" else None, 90, "a draft that waits"
    )
    assert (parked["parking"]["reason"], parked["kept"]) == ("draft", 30), parked
    with Image.open(io.BytesIO(http.get("/v1/jobs/draft/preview").content)) as preview:
        assert preview.size == (96, 96)
    assert http.get("/v1/jobs/draft/draft").headers["content-type"] == "image/png"
    assert http.post("/v1/jobs/draft/commit").status_code == 200
    draft = service.finished("draft", 180)

    service.post(id="paused", **many)
    wait_until(lambda: service.job("paused")["step"] >= 5, 60, "some steps")
    assert http.post("/v1/jobs/paused/pause").status_code == 200
    wait_until(lambda: service.job("paused")["state"] == "parked", 60, "a job that is paused")
    service.post(id="straight", **many)
    straight = service.finished("straight", 180)
    assert service.job("paused")["state"] == "parked"
    assert http.post("/v1/jobs/paused/resume").status_code == 200
    paused = service.finished("paused", 180)

    assert draft["used"]["resumed"] == "after step 30 of 200"
    assert paused["used"]["resumed"].startswith("after step ")
    expected = pixels(service, straight)
    for job in (draft, paused):
        assert np.array_equal(pixels(service, job), expected), job
        assert (job["crashes"], job["losses"]) == (0, 0), job
