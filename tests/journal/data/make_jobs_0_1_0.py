"""Makes `jobs-0.1.0.sqlite` and `jobs-0.1.0.json`: the journal of version 0.1.0 as a kill leaves it, and what its edge said of each job.

To be run by that version's code, whose helpers for tests it uses, in a checkout of commit 67be515:

    PYTHONPATH=. python make_jobs_0_1_0.py DIRECTORY

Real processes of it serve two tenants' jobs: succeeded, failed, retried, cancelled, expired, deleted, running, queued; by every API; with
idempotency keys, webhooks that were delivered and webhooks that are owed. Then all of them are killed. The log is moved into the file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from tests.acceptance.service import Service

from tests.edge.receiver import Receiver, receiving
from tests.support.waiting import wait_until

FAKE_ONCE = "die-once"
#: Long enough for everything that is to be queued behind it.
BLOCKER = {"fake": "slow", "fake_step_s": 0.3}


def add_key(home: Path, name: str) -> str:
    command = [sys.executable, "-m", "http_edge", "keys", "add", name, "--keys-file", str(home / "keys.jsonl")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def submit(client: httpx.Client, key: str = "", path: str = "/v1/jobs", **fields: Any) -> str:
    headers = {"Idempotency-Key": key} if key else {}
    answer = client.post(path, json={"prompt": "a red circle", **fields}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json().get("id") or answer.json()["task_id"])


def finished(client: httpx.Client, job_id: str) -> None:
    def final() -> bool:
        return client.get(f"/v1/jobs/{job_id}").json()["state"] in ("succeeded", "failed", "cancelled")

    wait_until(final, 60, f"{job_id} to be final")


def final_jobs(red: httpx.Client, blue: httpx.Client, receiver: Receiver, home: Path) -> None:
    """One job of each end, one after the other."""
    hook = {"webhook": receiver.url}
    for client, job_id, key, path, fields in (
        (red, "told", "", "/v1/jobs", {"seed": 7, "num_inference_steps": 3, "num_frames": 5, **hook}),
        (red, "", "made once", "/v1/jobs", {"seed": 11, "negative_prompt": "grün, 雨"}),
        (red, "bad", "", "/v1/jobs", {"extra": {"fake": "invalid"}, "priority": 9}),
        (
            red,
            "again",
            "",
            "/v1/jobs",
            {"extra": {"fake": "die", "fake_once": str(home / FAKE_ONCE)}, "deadline_s": 3600},
        ),
        (blue, "", "made once", "/v1/jobs", {"output": "image", "num_outputs": 2}),
        (blue, "", "", "/v1/videos", {"model": "fake", "seconds": "4"}),
        (blue, "", "", "/v1/tasks/video", {"task_id": "a task", "save_result_path": ""}),
        (red, "deleted", "", "/v1/jobs", {}),
    ):
        job_id = submit(client, key, path, **({"id": job_id} if job_id else {}), **fields)
        finished(client, job_id if path != "/v1/tasks/video" else newest(client))
    assert red.delete("/v1/jobs/deleted", params={"purge": "true"}).status_code in (200, 204)


def newest(client: httpx.Client) -> str:
    return str(client.get("/v1/jobs", params={"limit": 1}).json()["data"][0]["id"])


def live_jobs(red: httpx.Client, blue: httpx.Client, receiver: Receiver) -> None:
    """One job runs, others wait behind it; of one that was cancelled the receiver does not want to hear."""
    hook = {"webhook": receiver.url}
    submit(red, id="running", num_inference_steps=60, extra=BLOCKER, **hook)
    wait_until(lambda: red.get("/v1/jobs/running").json()["state"] == "running", 30, "a job to run")
    submit(red, id="expired", deadline_s=4)
    submit(red, id="waiting", priority=2, seed=3, **hook)
    submit(red, "waits", priority=8, deadline_s=30 * 86_400)
    submit(blue, id="pinned", worker="cpu-0", output="image")
    submit(blue, id="stopped", **hook, webhook_events=["job.cancelled"])
    finished(red, "expired")
    for _ in ("told: started", "told: completed", "running: started"):
        receiver.next()
    receiver.answers += [503] * 50
    assert blue.delete("/v1/jobs/stopped").status_code == 200
    receiver.next()

    def noted() -> bool:
        events = blue.get("/v1/jobs/stopped").json()["webhook"]["events"]
        return [(event["state"], event["last_status"]) for event in events] == [("pending", 503)]

    wait_until(noted, 30, "the delivery that failed to be noted")


def answers(client: httpx.Client) -> list[dict[str, Any]]:
    """What the edge says of each of the client's jobs."""
    listed = client.get("/v1/jobs", params={"limit": 100}).json()["data"]
    return [client.get(f"/v1/jobs/{job['id']}").json() for job in listed]


def keep(home: Path, target: Path, reported: dict[str, Any]) -> None:
    """The journal with its log in it, and what was said."""
    work = home / "copy.sqlite"
    for suffix in ("", "-wal"):
        shutil.copyfile(home / "z" / f"jobs.sqlite{suffix}", f"{work}{suffix}")
    connection = sqlite3.connect(work)
    assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    connection.close()
    shutil.copyfile(work, target / "jobs-0.1.0.sqlite")
    (target / "jobs-0.1.0.json").write_text(json.dumps(reported, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(target: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="zoetrope-"))
    keys = {name: add_key(home, name) for name in ("red", "blue")}
    settings = f'[edge]\nkeys_file = "{home / "keys.jsonl"}"\nfetch_allow = ["127.0.0.1"]\n'
    (home / "zoetrope.toml").write_text(settings)
    os.environ["PYTHONPATH"] = str(Path.cwd())
    service = Service(home, gpus="cpu:1")
    headers = {"Authorization": f"Bearer {keys['red']}"}
    service.http.headers.update(headers)
    blue = httpx.Client(base_url=service.http.base_url, timeout=30, headers={"Authorization": f"Bearer {keys['blue']}"})
    try:
        with receiving() as receiver:
            service.start()
            service.ready(1)
            final_jobs(service.http, blue, receiver, home)
            live_jobs(service.http, blue, receiver)
            reported = {"receiver": receiver.url, "red": answers(service.http), "blue": answers(blue)}
            everybody = service.everybody()
            for name in ("broker", "edge", "workers"):
                service.kill(name, signal.SIGKILL)
            for process in everybody:
                if process.is_running():
                    process.kill()
        keep(home, target, reported)
    finally:
        service.close()
        blue.close()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
