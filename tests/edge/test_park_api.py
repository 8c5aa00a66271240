"""Pausing, drafts and drains with hand-back, from the client's side."""

from __future__ import annotations

import msgspec
import pytest

from broker.wire import messages as m
from tests.edge.conftest import World
from tests.testing.fake_broker import VIDEO, worker


def resumable(world: World) -> None:
    """The worker's model goes on from checkpoints."""
    world.fake.workers["cpu-0"] = worker("cpu-0", msgspec.structs.replace(VIDEO, resumes=True))


def test_a_waiting_job_is_paused_and_resumed(world: World) -> None:
    job = world.submit()
    answer = world.http.post(f"/v1/jobs/{job['id']}/pause").json()
    assert (answer["id"], answer["outcome"], answer["job"]["state"]) == (job["id"], "done", "parked")
    assert answer["job"]["parking"]["reason"] == "paused"
    listed = world.http.get("/v1/jobs?state=parked").json()["data"]
    assert [one["id"] for one in listed] == [job["id"]]
    answer = world.http.post(f"/v1/jobs/{job['id']}/resume").json()
    assert (answer["outcome"], answer["job"]["state"], answer["job"]["parking"]) == ("done", "queued", None)


def test_a_running_job_is_asked_for(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    answer = world.http.post(f"/v1/jobs/{job['id']}/pause").json()
    assert (answer["outcome"], answer["job"]["parking"]["requested"]) == ("requested", True)


@pytest.mark.parametrize("action", ["pause", "resume", "commit"])
def test_what_cannot_be_done_is_409_with_the_reason(world: World, action: str) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    world.do(world.fake.succeed, job["id"])
    refused = world.http.post(f"/v1/jobs/{job['id']}/{action}")
    assert refused.status_code == 409
    error = refused.json()["error"]
    assert error["code"] == "wrong_state"
    assert job["id"] in error["message"]
    assert "it is over: succeeded" in error["message"]


def test_a_draft_is_asked_for_by_its_steps(world: World) -> None:
    resumable(world)
    job = world.submit(draft_steps=3)
    assert job["draft_steps"] == 3
    reported = world.fake.submits[job["id"]].submission
    assert (reported.draft_steps, reported.steps) == (3, 8)


def test_a_draft_of_several_outputs_counts_the_steps_of_all_and_shows_what_was_asked(world: World) -> None:
    resumable(world)
    job = world.submit(draft_steps=3, num_outputs=4)
    reported = world.fake.submits[job["id"]].submission
    assert (reported.draft_steps, reported.steps) == (12, 32)
    assert world.http.get(f"/v1/jobs/{job['id']}").json()["draft_steps"] == job["draft_steps"] == 3
    assert world.http.get("/v1/jobs").json()["data"][0]["draft_steps"] == 3


def test_a_draft_is_for_every_family(world: World) -> None:
    resumable(world)
    video = world.http.post("/v1/videos", json={"prompt": "a", "draft_steps": 2}).json()
    assert world.fake.submits[video["id"]].submission.draft_steps == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"draft_steps": 8}, ["draft_steps", "8", "less than the job's 8 steps"]),
        ({"draft_steps": 0}, ["draft_steps", "0"]),
        ({"draft_steps": 8, "num_outputs": 2}, ["draft_steps", "8", "less than the job's 8 steps"]),
    ],
)
def test_a_draft_that_cannot_be_is_refused(world: World, fields: dict[str, object], words: list[str]) -> None:
    resumable(world)
    refused = world.http.post("/v1/jobs", json={"prompt": "a", **fields})
    assert refused.status_code == 422
    assert all(word in refused.json()["error"]["message"] for word in words)


def test_a_draft_of_a_model_that_does_not_resume_is_refused(world: World) -> None:
    refused = world.http.post("/v1/jobs", json={"prompt": "a", "draft_steps": 2})
    assert refused.status_code == 422
    assert "cannot go on from a draft" in refused.json()["error"]["message"]


def test_other_families_call_a_parked_job_waiting(world: World) -> None:
    video = world.http.post("/v1/videos", json={"prompt": "a"}).json()
    world.http.post(f"/v1/jobs/{video['id']}/pause")
    assert world.http.get(f"/v1/videos/{video['id']}").json()["status"] == "queued"


def test_a_draft_has_its_state_and_end_in_the_answer(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    parking = m.Parking(reason="draft", at=5.0, draft_expires_at=3605.0, draft_fence=7)
    world.do(world.fake.park, job["id"], parking, 3)
    shown = world.http.get(f"/v1/jobs/{job['id']}").json()
    assert (shown["state"], shown["kept"]) == ("parked", 3)
    assert (shown["parking"]["reason"], shown["parking"]["draft_expires_at"]) == ("draft", 3605.0)


def test_a_drain_may_hand_back(world: World) -> None:
    assert world.http.post("/v1/workers/cpu-1/drain?hand_back=true").status_code == 202
    assert "drain_worker, hand back" in world.fake.calls
    assert world.http.post("/v1/workers/cpu-1/drain?hand_back=perhaps").status_code == 422
