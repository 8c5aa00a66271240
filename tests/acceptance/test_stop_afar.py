"""A worker that shares no disk with the edge is stopped: what it has drawn is at the edge before its job is handed back."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.wire.job_files import CHECKPOINTS
from tests.support.waiting import wait_until
from tests.testing.far_service import FarService

pytestmark = pytest.mark.slow

FLAGS = ("--model", "demo", "--checkpoint-s", "0", "--stop-grace-s", "120")

#: Long enough not to end in the grace of a busy machine.
LONG = {"prompt": "a red circle", "seed": 7, "output": "image", "num_inference_steps": 200, "width": 96, "height": 96}


@pytest.fixture
def service(short_dir: Path) -> Iterator[FarService]:
    found = FarService(short_dir)
    try:
        yield found
    finally:
        found.close()


def test_the_checkpoint_of_a_stopped_worker_is_where_another_machine_finds_it(service: FarService) -> None:
    worker = service.start_worker(*FLAGS)
    service.http.post("/v1/jobs", json={"id": "stopped", **LONG}).raise_for_status()
    wait_until(lambda: service.http.get("/v1/jobs/stopped").json()["step"] >= 5, 60, "some steps")

    worker.end(signal.SIGTERM)

    (kept,) = (service.home / "artefacts" / CHECKPOINTS / "stopped").glob("*.safetensors")
    step = int(kept.stem.removeprefix("0-"))
    assert 5 <= step < 200
    waiting = service.http.get("/v1/jobs/stopped").json()
    assert (waiting["state"], waiting["kept"], waiting["losses"]) == ("queued", step, 0), waiting

    shutil.rmtree(service.far / "artefacts")
    service.start_worker(*FLAGS[:2])
    wait_until(lambda: service.http.get("/v1/jobs/stopped").json()["state"] == "succeeded", 180, "its end")
    assert service.http.get("/v1/jobs/stopped").json()["used"]["resumed"] == f"after step {step} of 200"
