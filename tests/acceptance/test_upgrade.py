"""The journal of version 0.1.0, taken over by a whole service of today: see `tests/journal/data/make_jobs_0_1_0.py`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.shell.journal import schema
from tests.acceptance.keys import add_key, post
from tests.support.waiting import wait_until
from tests.testing.receiver import Receiver, receiving
from tests.testing.service import Service

DATA = Path(__file__).parents[1] / "journal" / "data"
FINAL = ("succeeded", "failed", "cancelled")
#: How long a finished job is kept is a setting of the edge, and what is still owed of a webhook goes on.
NOT_KEPT = {"expires_at", "webhook"}


class Upgraded:
    """The service, the clients of both tenants, and what 0.1.0 said of their jobs."""

    def __init__(self, service: Service, blue: httpx.Client, receiver: Receiver, reported: dict[str, Any]) -> None:
        self.service = service
        self.clients = {"red": service.http, "blue": blue}
        self.receiver = receiver
        self.reported: dict[str, dict[str, dict[str, Any]]] = {
            tenant: {job["id"]: job for job in reported[tenant]} for tenant in self.clients
        }

    def now(self, tenant: str, job_id: str) -> dict[str, Any]:
        answer = self.clients[tenant].get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def jobs(self, *states: str) -> list[tuple[str, str]]:
        """(tenant, id) of those that 0.1.0 had in one of these states."""
        return [
            (tenant, job["id"])
            for tenant, jobs in self.reported.items()
            for job in jobs.values()
            if job["state"] in states
        ]


@pytest.fixture
def upgraded(short_dir) -> Iterator[Upgraded]:
    """A service of today over the old journal, whose webhooks lead to a receiver of today."""
    reported = json.loads((DATA / "jobs-0.1.0.json").read_text(encoding="utf-8"))
    home = short_dir / "z"
    home.mkdir(mode=0o700)
    with receiving() as receiver:
        # As long as the old one: the file's bytes stay where they are.
        old, new = reported["receiver"].encode(), receiver.url.ljust(len(reported["receiver"]), "1").encode()
        (home / "jobs.sqlite").write_bytes((DATA / "jobs-0.1.0.sqlite").read_bytes().replace(old, new))
        keys = {name: add_key(short_dir, name) for name in ("red", "blue")}
        (short_dir / "zoetrope.toml").write_text(
            f'[edge]\nkeys_file = "{short_dir / "keys.jsonl"}"\nfetch_allow = ["127.0.0.1"]\nretention_s = 0\n'
        )
        service = Service(short_dir, gpus="cpu:1")
        service.http.headers["Authorization"] = f"Bearer {keys['red']}"
        headers = {"Authorization": f"Bearer {keys['blue']}"}
        with httpx.Client(base_url=service.http.base_url, timeout=30, headers=headers) as blue:
            try:
                yield Upgraded(service, blue, receiver, reported)
            finally:
                service.close()


def test_a_service_of_today_has_every_job_as_the_old_one_left_it_however_often_it_is_started(upgraded):
    service = upgraded.service
    for _ in range(2):
        service.start("broker", "edge")
        wait_until(lambda: service._idle() >= 0, 60, "the edge to answer")
        compare(upgraded)
        for name in ("broker", "edge"):
            service.kill(name)
    connection = sqlite3.connect(service.home / "z" / "jobs.sqlite")
    assert connection.execute("PRAGMA user_version").fetchone()[0] == schema.SCHEMA
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def known_of(now: Any, was: Any) -> Any:
    """What `now` says of what `was` speaks of, members that came since left out."""
    if isinstance(now, dict) and isinstance(was, dict):
        return {key: known_of(now.get(key), was[key]) for key in was.keys() - NOT_KEPT}
    if isinstance(now, list) and isinstance(was, list) and len(now) == len(was):
        return [known_of(one, other) for one, other in zip(now, was, strict=True)]
    return now


def compare(upgraded: Upgraded) -> None:
    for tenant, job_id in upgraded.jobs(*FINAL):
        was, is_ = upgraded.reported[tenant][job_id], upgraded.now(tenant, job_id)
        assert known_of(is_, was) == {key: was[key] for key in was.keys() - NOT_KEPT}, job_id
    for tenant, job_id in upgraded.jobs("queued", "running"):
        was, is_ = upgraded.reported[tenant][job_id], upgraded.now(tenant, job_id)
        fixed = {name: was[name] for name in ("spec", "priority", "deadline_at", "submitted_at", "output", "model")}
        assert known_of(is_, fixed) == known_of(fixed, fixed), job_id
        if was["deadline_at"] is None:
            assert is_["state"] in ("queued", "running", "delayed")
        assert is_["story"][: len(was["story"])] == was["story"]
    for tenant, client in upgraded.clients.items():
        listed = [job["id"] for job in client.get("/v1/jobs", params={"limit": 100}).json()["data"]]
        assert listed == list(upgraded.reported[tenant])
        other = upgraded.reported["blue" if tenant == "red" else "red"]
        assert {client.get(f"/v1/jobs/{job_id}").status_code for job_id in other} == {404}
    assert upgraded.clients["red"].get("/v1/jobs/deleted").status_code == 404


def test_queued_jobs_run_keys_answer_and_webhooks_that_are_owed_arrive(upgraded):
    service, receiver = upgraded.service, upgraded.receiver
    service.start()
    service.ready(0)
    replay = post(upgraded.clients["red"], "made once", seed=11, negative_prompt="grün, 雨")
    assert (replay.status_code, replay.headers["idempotency-replayed"]) == (200, "true"), replay.text
    assert replay.json()["id"] in upgraded.reported["red"]
    assert replay.json()["state"] == "succeeded"
    assert post(upgraded.clients["red"], "made once", seed=12).status_code == 422
    theirs = post(upgraded.clients["blue"], "made once", output="image", num_outputs=2)
    assert theirs.json()["id"] in upgraded.reported["blue"]
    for tenant, job_id in upgraded.jobs("queued", "running"):
        client = upgraded.clients[tenant]
        wait_until(
            lambda c=client, j=job_id: c.get(f"/v1/jobs/{j}").json()["state"] in FINAL, 60, f"{job_id} to be final"
        )
        # One had thirty days to be drawn in.
        ends = ("succeeded",) if upgraded.reported[tenant][job_id]["deadline_at"] is None else ("succeeded", "failed")
        assert upgraded.now(tenant, job_id)["state"] in ends
    got = [json.loads(receiver.next().body) for _ in range(4)]
    reported = sorted((event["type"], event["data"]["id"]) for event in got)
    assert reported == [
        ("video.cancelled", "stopped"),
        ("video.completed", "running"),
        ("video.completed", "waiting"),
        ("video.started", "waiting"),
    ]
    service.close()
    assert receiver.quiet
