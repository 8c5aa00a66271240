"""A service with API keys, as real processes: tenants, their limits, idempotency over restarts, and one trace through every log."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.keys import add_key, post
from tests.support.waiting import wait_until
from tests.testing.service import Service

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SLOW = {"fake": "slow", "fake_step_s": 0.1}


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Service, httpx.Client]]:
    """A service whose own client has the red key, and a client with the blue one. Tests leave no job alive in it."""
    home = Path(tempfile.mkdtemp(prefix="zt-"))
    red = add_key(home, "red", "--max-queued", "2", "--max-running", "1")
    (home / "zoetrope.toml").write_text(f'[edge]\nkeys_file = "{home / "keys.jsonl"}"\n')
    service = Service(home)
    service.http.headers["Authorization"] = f"Bearer {red}"
    service.start()
    try:
        service.ready(2)
        # Made while the edge runs: it reads the file again.
        blue = {"X-API-Key": add_key(home, "blue")}
        with httpx.Client(base_url=service.http.base_url, timeout=30, headers=blue) as other:
            yield service, other
    finally:
        service.close()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def left_idle(guarded) -> Iterator[None]:
    """A test that fails leaves its jobs; the others are not to wait behind them."""
    yield
    service, other = guarded
    for client in (service.http, other):
        for job in client.get("/v1/jobs", params={"limit": 100}).json()["data"]:
            if job["finished_at"] is None:
                client.delete(f"/v1/jobs/{job['id']}")


def test_tenants_share_the_workers_and_see_only_their_own(guarded):
    service, other = guarded
    # Longer than a restart of the broker on a busy machine, over which the first is to be seen running.
    slow = {"num_inference_steps": 80, "extra": SLOW}
    first, second = (post(service.http, **slow).json()["id"] for _ in range(2))
    wait_until(lambda: service.job(first)["state"] == "running", what="the first job to run")
    third = post(service.http, **slow).json()["id"]
    refused = post(service.http, **slow)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    # One worker is free, and the red tenant may not have it.
    theirs = post(other, **slow).json()["id"]
    wait_until(lambda: other.get(f"/v1/jobs/{theirs}").json()["state"] == "running", what="the other's job to run")
    assert [service.job(job_id)["state"] for job_id in (first, second, third)] == ["running", "queued", "queued"]
    for path in (f"/v1/jobs/{first}", f"/v1/jobs/{first}/result", f"/v1/jobs/{first}/events"):
        assert other.get(path).status_code == 404
    assert other.delete(f"/v1/jobs/{first}").status_code == 404
    seen = {job["id"] for job in other.get("/v1/jobs").json()["data"]}
    assert theirs in seen
    assert not seen & {first, second, third}
    # The limits hold over a restart of the broker.
    service.kill("broker")
    service.start("broker")
    wait_until(lambda: service.job(first)["state"] == "running", 60, "the first job to be taken back")
    assert [service.job(job_id)["state"] for job_id in (second, third)] == ["queued", "queued"]
    assert service.finished(first)["state"] == "succeeded"
    wait_until(lambda: service.job(second)["state"] == "running", what="the second job to run")
    for client, job_id in ((service.http, second), (service.http, third), (other, theirs)):
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 200
    assert service.finished(second)["state"] == "cancelled"


def test_a_key_means_one_job_over_restarts_of_edge_and_broker(guarded):
    service, _ = guarded
    first = post(service.http, "an upload of today", seed=None)
    assert first.status_code == 200, first.text
    job = service.finished(first.json()["id"])
    for name in ("edge", "broker"):
        service.kill(name)
        service.start(name)
    service.ready(2)
    again = post(service.http, '"an upload of today"', seed=None)
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.json()["id"], again.json()["state"]) == (job["id"], "succeeded")
    assert again.json()["spec"] == job["spec"]
    assert post(service.http, "an upload of today", seed=7).status_code == 422


def test_two_tenants_draw_under_one_id_of_their_own(guarded):
    service, other = guarded
    for client in (service.http, other):
        assert post(client, id="mine", prompt="a red circle").json()["id"] == "mine"
    for client in (service.http, other):
        wait_until(
            lambda http=client: http.get("/v1/jobs/mine").json()["state"] == "succeeded", 60, "the job to be drawn"
        )
        result = client.get("/v1/jobs/mine/result")
        assert (result.status_code, result.headers["content-type"]) == (200, "video/mp4")
        assert client.get("/v1/jobs/mine/events").status_code == 200
    assert len(list((service.home / "z" / "artefacts").glob("*.mine"))) == 2


def test_one_trace_goes_through_every_log(guarded):
    service, _ = guarded
    headers = {"traceparent": TRACEPARENT, "x-request-id": "request-17", "Prefer": "respond-async, wait=60"}
    answer = service.http.post("/v1/jobs", json={"prompt": "a red circle"}, headers=headers)
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["x-request-id"] == "request-17"
    assert answer.headers["traceparent"].split("-")[1] == TRACE

    def lines(name: str, word: str) -> list[str]:
        text = (service.home / f"{name}.log").read_text()
        return [line for line in text.splitlines() if f"trace_id={TRACE}" in line and word in line]

    assert any("request_id=request-17" in line for line in lines("edge", " submit "))
    wait_until(lambda: lines("workers", "attempt_started") and lines("workers", "run_job"), what="the workers' lines")
    assert all(f"job_id={answer.json()['id']}" in line for line in lines("workers", ""))


def test_a_head_without_end_is_cut_off(guarded):
    service, _ = guarded
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nx-endless: ")
        answer = b""
        try:
            for _ in range(64):
                connection.sendall(b"a" * 16_384)
            while data := connection.recv(4096):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert service.http.get("/livez").status_code == 200


def test_an_edge_whose_keys_file_is_missing_does_not_start(short_dir: Path):
    command = [
        sys.executable,
        "-m",
        "http_edge",
        "--port",
        "0",
        "--home",
        str(short_dir / "z"),
        "--keys-file",
        "none.jsonl",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=short_dir, timeout=120, env=os.environ)
    assert result.returncode == 2
    assert "none.jsonl" in result.stderr
