"""An engine is killed in the middle of a job: the job goes on from its last checkpoint and draws what it would have drawn."""

from __future__ import annotations

import io
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
