"""`gpus` of a request: on how large a worker the job is to be drawn."""

from __future__ import annotations

import pytest

from broker.client import errors
from tests.edge.conftest import World


@pytest.mark.parametrize(
    ("path", "name"),
    [("/v1/jobs", "gpus"), ("/v1/videos", "gpus"), ("/v1/tasks/video/", "num_gpus")],
)
def test_every_family_asks_for_a_group(world: World, path: str, name: str) -> None:
    assert world.http.post(path, json={"prompt": "a", name: 2}).status_code < 300
    [(job_id, submit)] = world.fake.submits.items()
    assert submit.submission.gpus == 2
    assert world.http.get(f"/v1/jobs/{job_id}").json()["gpus"] == 2


def test_a_job_that_asks_for_none_may_go_anywhere(world: World) -> None:
    job = world.submit()
    assert job["gpus"] == world.fake.submits[job["id"]].submission.gpus == 1


@pytest.mark.parametrize("value", [0, 65, "two"])
def test_what_is_no_number_of_gpus_is_refused(world: World, value: object) -> None:
    refused = world.http.post("/v1/jobs", json={"prompt": "a", "gpus": value})
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "gpus"
    assert str(value) in refused.json()["error"]["message"]


def test_more_than_any_worker_has_is_told_with_the_most(world: World) -> None:
    world.fake.refuse_with = errors.rejection("gpus", "8 is more than any worker of model 'demo' has, 4", 0.0, 0.0)
    refused = world.http.post("/v1/jobs", json={"prompt": "a", "gpus": 8})
    assert refused.status_code == 422
    assert refused.json()["error"]["message"] == "gpus: 8 is more than any worker of model 'demo' has, 4"
    assert refused.json()["error"]["param"] == "gpus"
