"""Promised times over HTTP: asking for one, the refusal, the estimate, and what a job shows."""

from __future__ import annotations

import msgspec
import pytest

from broker.client import errors
from broker.wire import messages as m
from http_edge.jobs.job import major_state
from tests.edge.conftest import World


def test_a_promise_is_asked_for_and_shown(world: World) -> None:
    job = world.submit(ready_within_s=60, ready_confidence=0.9)
    assert world.fake.submits[job["id"]].promise == m.PromiseWish(within_s=60.0, confidence=0.9)
    promise = job["promise"]
    assert (promise["ready_confidence"], promise["first_ready_by"], promise["broken_at"]) == (0.9, None, None)
    assert promise["ready_by"] == pytest.approx(job["submitted_at"] + 60, abs=5)


def test_a_job_without_one_shows_none(world: World) -> None:
    job = world.submit()
    assert job["promise"] is None
    assert world.fake.submits[job["id"]].promise is None


def test_a_broken_promise_is_news_of_the_whole_job() -> None:
    view = m.JobView(id="a", state="queued", submission=m.Submission(model="demo"), revision=1)
    reported = msgspec.structs.replace(view, promise=m.Promise(ready_by=9.0, broken_at=5.0, breaks=1))
    assert major_state(reported) != major_state(view)


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/jobs"])
def test_it_can_be_asked_for_in_every_family(world: World, path: str) -> None:
    job = world.http.post(path, json={"prompt": "a", "ready_within_s": "30"}).json()
    assert world.fake.submits[job["id"]].promise == m.PromiseWish(within_s=30.0, confidence=0.95)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ready_within_s": 0}, ["ready_within_s", "0"]),
        ({"ready_within_s": 10, "ready_confidence": 1}, ["ready_confidence", "1", "0.999"]),
        ({"ready_confidence": 0.9}, ["ready_confidence", "ready_within_s", "missing"]),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(world: World, fields: dict[str, float], words: list[str]) -> None:
    response = world.http.post("/v1/jobs", json={"prompt": "a", **fields})
    assert response.status_code == 422
    assert all(word in response.json()["detail"] for word in words), response.json()


def test_a_refusal_says_the_earliest_time_that_can_be_promised(world: World) -> None:
    world.fake.refuse_with = errors.rejection(
        "promise", "cannot be promised within 5 s: 45.2 s is the earliest", 0.0, 45.2
    )
    response = world.http.post("/v1/jobs", json={"prompt": "a", "ready_within_s": 5})
    assert response.status_code == 422
    assert response.headers["x-ready-within-s"] == "45.200"
    assert "45.2 s is the earliest" in response.json()["detail"]
    assert response.json()["detail"].startswith("ready_within_s: ")


def test_an_estimate_needs_no_prompt_and_submits_nothing(world: World) -> None:
    response = world.http.get("/v1/queue/estimate?steps=20&size=96x48&priority=7&ready_confidence=0.9")
    found = response.json()
    assert response.status_code == 200, found
    assert (found["model"], found["position"], found["workers"]) == ("demo", 2, 1)
    assert (found["ready_within_s"], found["ready_confidence"], found["takes_s"]) == (36.5, 0.9, 10.0)
    assert found["starts_at"] < found["done_at"] < found["ready_by"]
    assert (world.fake.estimated.priority, world.fake.estimated.steps) == (7, 20)
    assert world.fake.submits == {}


def test_a_longer_job_is_asked_for_with_more_work(world: World) -> None:
    world.http.get("/v1/queue/estimate?steps=10")
    less = world.fake.estimated.units
    world.http.get("/v1/queue/estimate?steps=20")
    assert world.fake.estimated.units == pytest.approx(2 * less)


@pytest.mark.parametrize("query", ["steps=nine", "colour=red", "priority=11", "size=9"])
def test_a_query_that_makes_no_sense_is_refused(world: World, query: str) -> None:
    response = world.http.get(f"/v1/queue/estimate?{query}")
    assert response.status_code in (400, 422)
    assert query.partition("=")[0] in response.json()["detail"]
