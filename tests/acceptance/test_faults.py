"""Real processes killed under load: every accepted job ends exactly once, and what is published is whole."""

from __future__ import annotations

import hashlib
import signal
from typing import Any

import psutil
import pytest

from tests.support.waiting import wait_until
from tests.testing.service import Service

SLOW = {"fake": "slow", "fake_step_s": 0.15}


def load(service: Service, jobs: int) -> list[str]:
    """Submit slow jobs (about a second each) under ids of our own."""
    ids = [f"load-{n}" for n in range(jobs)]
    for job_id in ids:
        service.post(id=job_id, num_inference_steps=8, extra=SLOW)
    return ids


def check_all(service: Service, ids: list[str]) -> list[dict[str, Any]]:
    """All succeeded, each final once, its file complete and as hashed."""
    jobs = [service.finished(job_id) for job_id in ids]
    for job in jobs:
        assert job["state"] == "succeeded", job
        finals = [move for move in job["story"] if move["to"] in ("succeeded", "failed", "cancelled")]
        assert len(finals) == 1
        artefact = job["artefacts"][0]
        body = service.http.get(artefact["url"]).content
        assert hashlib.sha256(body).hexdigest() == artefact["sha256"]
        assert body[4:8] == b"ftyp"
    listed = [job["id"] for job in service.http.get("/v1/jobs", params={"limit": 100}).json()["data"]]
    assert sorted(listed) == sorted(ids), "something was lost, or appeared from nowhere"
    return jobs


def running(service: Service, count: int = 1) -> None:
    def enough() -> bool:
        data = service.http.get("/v1/jobs", params={"state": "running", "limit": 100}).json()["data"]
        return len(data) >= count

    wait_until(enough, 60, f"{count} running jobs")


def test_an_engine_killed_in_a_job_is_replaced_and_the_job_runs_again(start_service):
    service = start_service()
    # No more than engines: a job in its tail beside another is under the crash as well, and counts it.
    ids = load(service, 2)
    running(service, 2)
    for engine in service.engines():
        engine.kill()
    jobs = check_all(service, ids)
    assert sum(job["crashes"] for job in jobs) == 2
    assert wait_until(lambda: len(service.engines()) == 2, 60, "new engines")


def test_an_agent_killed_in_a_job_is_replaced_and_the_job_runs_again(start_service):
    service = start_service()
    ids = load(service, 4)
    running(service, 2)
    victim = service.agents()[0]
    engine = victim.children()[0]
    victim.kill()
    jobs = check_all(service, ids)
    assert sum(job["losses"] for job in jobs) >= 1
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, "the engine outlived its agent"


def test_a_broker_killed_with_jobs_queued_and_running_loses_none_and_runs_none_twice(start_service):
    service = start_service()
    ids = load(service, 6)
    running(service, 2)
    service.kill("broker")
    service.start("broker")
    jobs = check_all(service, ids)
    assert [job["attempts"] for job in jobs] == [1] * 6, "a job started twice although its worker lived"


def test_everything_killed_at_once_still_ends_every_job(start_service):
    service = start_service()
    ids = load(service, 6)
    running(service, 1)
    for engine in service.engines():
        engine.kill()
    service.kill("broker")
    service.kill("workers")
    service.kill("edge")
    service.start()
    service.ready(0)
    check_all(service, ids)


def test_killed_workers_leave_no_process_behind(start_service):
    service = start_service()
    children = service.agents() + service.engines()
    assert len(children) == 4
    service.kill("workers")
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


@pytest.mark.parametrize("how", ["delete", "post"])
def test_a_cancel_frees_the_worker_for_the_next_job(start_service, how):
    service = start_service(workers=1, gpus="cpu:1")
    service.post(id="long", num_inference_steps=2000, extra={"fake": "slow", "fake_step_s": 0.1})
    running(service)
    service.post(id="next")
    reply = service.http.delete("/v1/jobs/long") if how == "delete" else service.http.post("/v1/jobs/long/cancel")
    assert reply.status_code == 200
    assert reply.json()["outcome"] == "requested"
    assert service.finished("next")["state"] == "succeeded"
    assert service.finished("long")["state"] == "cancelled"
    assert len(service.engines()) == 1


def test_an_engine_that_ignores_a_cancel_is_killed_and_replaced(start_service):
    service = start_service(workers=1, gpus="cpu:1")
    before = service.engines()[0].pid
    service.post(id="deaf", num_inference_steps=2000, extra={"fake": "ignore_cancel", "fake_step_s": 0.1, "fake_at": 0})
    running(service)
    service.http.delete("/v1/jobs/deaf")
    assert service.finished("deaf")["state"] == "cancelled"
    service.post(id="next")
    assert service.finished("next")["state"] == "succeeded"
    assert service.engines()[0].pid != before


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [("die", "quarantined"), ("segfault", "quarantined"), ("invalid", "invalid_input"), ("fail", "engine_error")],
)
def test_a_job_that_always_fails_ends_with_its_reason_and_the_next_runs(start_service, behaviour, kind):
    service = start_service(workers=1, gpus="cpu:1")
    service.post(id="bad", extra={"fake": behaviour})
    job = service.finished("bad")
    assert job["state"] == "failed"
    assert job["error"]["code"] == kind
    service.post(id="good")
    assert service.finished("good")["state"] == "succeeded"


def test_the_two_workers_work_at_once_and_share_the_load(start_service):
    service = start_service()
    ids = load(service, 10)
    running(service, 2)
    jobs = check_all(service, ids)
    assert {job["worker"] for job in jobs} == {"cpu-0", "cpu-1"}


@pytest.mark.parametrize("name", ["broker", "workers", "edge"])
def test_sigterm_ends_each_process_at_once_and_cleanly(start_service, name):
    service = start_service(workers=1, gpus="cpu:1")
    service.post(id="long", num_inference_steps=2000, extra={"fake": "slow", "fake_step_s": 0.1})
    running(service)
    children = psutil.Process(service.processes[name].pid).children(recursive=True)
    service.kill(name, signal.SIGTERM)
    assert service.processes[name].returncode == 0
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
