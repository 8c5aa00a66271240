"""Jobs whose record was damaged on the broker's disk."""

from __future__ import annotations

import msgspec
import pytest

from tests.edge.conftest import World
from tests.support.waiting import wait_until


@pytest.fixture
def damaged(world: World) -> World:
    """A world whose job `bad` is over and cannot be read."""
    world.submit(id="bad")
    world.do(world.fake.run, "bad")
    world.do(world.fake.succeed, "bad")
    fake = world.fake
    fake.jobs["bad"] = msgspec.structs.replace(
        fake.jobs["bad"], damaged="its row does not match its checksum", body=b""
    )
    fake.damaged = 1
    world.edge.calls.hub.memory.forget("bad")
    return world


@pytest.mark.parametrize("path", ["/v1/jobs/bad", "/v1/jobs/bad/result", "/v1/jobs/bad/events", "/v1/videos/bad"])
def test_every_question_for_it_is_a_fault_that_says_so(damaged: World, path: str) -> None:
    answer = damaged.http.get(path)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["code"] == "damaged"
    assert "record of job 'bad' is damaged on the broker's disk: its row does not match" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_it_can_be_deleted(damaged: World) -> None:
    answer = damaged.http.delete("/v1/jobs/bad?purge=true")
    assert answer.json() == {"id": "bad", "object": "job.deleted", "deleted": True}
    assert damaged.http.get("/v1/jobs/bad").status_code == 404


def test_health_counts_such_records(damaged: World) -> None:
    warned = wait_until(lambda: damaged.http.get("/health").json().get("warnings"))
    assert warned == ["1 records of jobs are damaged on the broker's disk: its log names them"]


def test_health_says_that_indexes_were_built_anew(world: World) -> None:
    world.fake.rebuilt_indexes = 2
    warned = wait_until(lambda: world.http.get("/health").json().get("warnings"))
    assert warned == ["2 indexes of the broker's journal were damaged and were built anew: its log names them"]
