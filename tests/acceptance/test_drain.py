"""An operator takes workers out of service: by name over HTTP, or by a signal with grace."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tests.testing.service import Service

#: A fifth of a second a step.
SLOW = {"fake": "slow", "fake_step_s": 0.2}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    try:
        yield service
    finally:
        service.close()


def drain(service: Service, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers", "drain", name, "--url", f"http://127.0.0.1:{service.port}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_drained_worker_finishes_its_job_and_leaves_and_the_last_one_stays(service: Service) -> None:
    service.start()
    service.ready(2)
    # Long enough for the command to start on a busy machine: what waits must not be given to the worker before it is told.
    jobs = [service.post(num_inference_steps=50, extra=SLOW)["id"] for _ in range(2)]
    wait_until(lambda: all(service.job(job)["state"] == "running" for job in jobs), 60, "two running jobs")
    waiting = service.post()["id"]
    worker = service.job(jobs[0])["worker"]

    left = drain(service, worker)

    assert (left.returncode, left.stderr) == (0, ""), service.tail()
    assert left.stdout.splitlines()[0].startswith(f"{worker} takes no more jobs; it holds job {jobs[0]}")
    assert left.stdout.splitlines()[-1] == f"{worker} has left"
    first = service.job(jobs[0])
    assert (first["state"], first["attempts"]) == ("succeeded", 1)
    names = [shown["name"] for shown in service.http.get("/v1/workers").json()["data"]]
    assert names == [name for name in ("cpu-0", "cpu-1") if name != worker]
    done = service.finished(waiting)
    assert (done["state"], done["worker"]) == ("succeeded", names[0])

    last = drain(service, names[0])
    assert (last.returncode, last.stdout) == (1, "")
    assert f'"{names[0]}" is the last one' in last.stderr
    assert service.finished(service.post()["id"])["state"] == "succeeded"


def test_draining_what_is_not_there_is_one_sentence(service: Service) -> None:
    unreachable = drain(service, "cpu-0")
    assert (unreachable.returncode, unreachable.stdout) == (1, "")
    assert unreachable.stderr.startswith("workers drain: the service at http://127.0.0.1")

    service.start()
    service.ready(2)
    unknown = drain(service, "cpu-9")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert "cpu-9" in unknown.stderr


def test_workers_that_are_told_to_stop_with_grace_finish_their_jobs_first(service: Service) -> None:
    service.more_flags = ["--stop-grace-s", "60"]
    service.start()
    service.ready(2)
    running = service.post(num_inference_steps=15, extra=SLOW)["id"]
    wait_until(lambda: service.job(running)["state"] == "running", 60, "a running job")

    service.processes["workers"].send_signal(signal.SIGTERM)

    assert service.processes["workers"].wait(90) == 0
    job = service.job(running)
    assert (job["state"], job["attempts"], job["losses"]) == ("succeeded", 1, 0)
