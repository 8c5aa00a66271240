"""The native API: submit, look up, list, cancel, result."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from tests.edge.conftest import World
from tests.testing.fake_broker import T0


def test_a_prompt_alone_is_a_complete_job(world: World) -> None:
    response = world.http.post("/v1/jobs", json={"prompt": "a red circle"})
    job = response.json()
    assert response.status_code == 200
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued"
    assert job["progress"] == 0
    assert job["urls"] == {
        "self": f"/v1/jobs/{job['id']}",
        "events": f"/v1/jobs/{job['id']}/events",
        "cancel": f"/v1/jobs/{job['id']}/cancel",
        "result": f"/v1/jobs/{job['id']}/result",
    }
    assert job["warnings"] == []
    spec = job["spec"]
    assert 0 <= spec.pop("seed") < 2**32
    assert spec == {
        "model": "demo",
        "output": "video",
        "prompt": "a red circle",
        "negative_prompt": "blurry",
        "width": 64,
        "height": 64,
        "num_frames": 17,
        "fps": 8.0,
        "num_inference_steps": 8,
        "guidance_scale": None,
        "guidance_scale_2": None,
        "max_sequence_length": None,
        "num_outputs": 1,
        "preset": "",
        "loras": [],
        "cache": "",
        "extra": {},
    }


def test_every_field_reaches_the_broker(world: World) -> None:
    job = world.submit(
        id="mine-1",
        model="demo",
        negative_prompt="",
        size="96x48",
        num_frames=25,
        fps=12,
        num_inference_steps=20,
        guidance_scale=4.5,
        guidance_scale_2=3,
        max_sequence_length=128,
        seed=7,
        num_outputs=2,
        extra={"flow_shift": 3.0, "note": None},
        priority=9,
        deadline_s=60,
    )
    spec = job["spec"]
    assert (job["id"], spec["width"], spec["height"], spec["num_frames"], spec["seed"]) == ("mine-1", 96, 48, 25, 7)
    assert spec["negative_prompt"] == ""
    assert spec["extra"] == {"flow_shift": 3.0, "note": None}
    submit = world.fake.submits["mine-1"]
    assert submit.submission.priority == 9
    assert submit.deadline_s == 60.0
    # steps x (96/16 x 48/16) tokens x (1 + 24/4) latent frames x outputs
    assert submit.submission.units == 20 * 18 * 7 * 2


def test_seconds_become_the_nearest_valid_frame_count(world: World) -> None:
    assert world.submit(seconds=2)["spec"]["num_frames"] == 17
    assert world.submit(seconds="4", fps=16)["spec"]["num_frames"] == 65
    assert world.submit(seconds=2, num_frames=5)["spec"]["num_frames"] == 5
    assert world.submit(seconds=0.01)["spec"]["num_frames"] == 1


def test_a_model_is_chosen_by_what_the_request_needs(world: World) -> None:
    assert world.submit(output="image")["model"] == "org/picture"
    assert world.submit(output="video")["model"] == "demo"
    image = world.submit(model="org/picture")
    assert (image["output"], image["spec"]["num_frames"]) == ("image", 1)


def test_the_same_id_and_request_is_the_same_job(world: World) -> None:
    first = world.submit(id="again")
    second = world.submit(id="again")
    assert second["duplicate"] is True
    assert second["spec"]["seed"] == first["spec"]["seed"]
    assert len(world.fake.jobs) == 1
    refused = world.http.post("/v1/jobs", json={"prompt": "something else", "id": "again"})
    assert refused.status_code == 409
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json()["error"]["code"] == "id_conflict"


def test_a_running_job_shows_how_far_it_is(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    world.do(world.fake.step, job["id"], 4)
    seen = world.http.get(job["urls"]["self"]).json()
    assert (seen["state"], seen["phase"], seen["step"], seen["total"]) == ("running", "denoise", 4, 8)
    assert seen["progress"] == 47
    assert (seen["worker"], seen["attempts"], seen["position"]) == ("cpu-0", 1, None)


def test_progress_never_falls_and_is_100_only_at_success(world: World) -> None:
    job = world.submit()
    world.poll(job["id"])
    reads = []

    def read() -> None:
        reads.append(world.http.get(job["urls"]["self"]).json()["progress"])

    world.do(world.fake.run, job["id"])
    world.do(world.fake.follow, job["id"])  # as of a job that is polled
    read()
    world.do(world.fake.step, job["id"], 8)
    read()
    world.do(world.fake.lose, job["id"])
    read()
    world.do(world.fake.run, job["id"])
    world.do(world.fake.step, job["id"], 1)
    read()
    world.do(world.fake.step, job["id"], 8, phase="finished")
    read()
    assert reads == [0, 90, 90, 90, 99]
    world.do(world.fake.succeed, job["id"])
    read()
    assert reads[-1] == 100


def test_a_finished_job_lists_its_files_and_times(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    world.do(world.fake.step, job["id"], 1, 5, phase="decode")
    world.do(world.fake.succeed, job["id"])
    job = world.http.get(job["urls"]["self"]).json()
    assert (job["state"], job["step"], job["total"]) == ("succeeded", 8, 8)
    (artefact,) = job["artefacts"]
    assert artefact["url"] == f"/v1/jobs/{job['id']}/result?name=video.mp4"
    assert artefact["media_type"] == "video/mp4"
    assert job["timings"] == {"queued_s": 1.5, "run_s": 2.5, "total_s": 3.0, "stages": {"denoise": 1.25}}
    assert job["submitted_at"] == T0 + 1.5
    assert [move["to"] for move in job["history"]] == ["queued", "running", "succeeded"]
    assert job["story"] == job["history"]
    data = world.http.get(artefact["url"])
    assert data.status_code == 200
    assert data.content[4:8] == b"ftyp"
    assert len(data.content) == artefact["size"]


def test_a_failed_job_is_a_200_with_its_error(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    world.do(world.fake.fail, job["id"], "CUDA out of memory", "out_of_memory")
    response = world.http.get(job["urls"]["self"])
    assert response.status_code == 200
    assert response.json()["error"] == {"code": "out_of_memory", "message": "CUDA out of memory"}
    result = world.http.get(job["urls"]["result"])
    assert result.status_code == 404
    assert "failed and has no result: CUDA out of memory" in result.json()["detail"]


def test_further_artefacts_by_index_and_name(world: World) -> None:
    job = world.submit(model="org/picture", num_outputs=2)
    world.do(world.fake.run, job["id"])
    world.do(world.fake.succeed, job["id"], a_png=b"one", b_png=b"two")
    url = job["urls"]["result"]
    assert world.http.get(url).content == b"one"
    second = world.http.get(url, params={"index": 1})
    assert (second.content, second.headers["content-disposition"]) == (b"two", f'inline; filename="{job["id"]}-1.png"')
    assert world.http.get(url, params={"name": "b.png"}).content == b"two"
    missing = world.http.get(url, params={"name": "c.png"})
    assert (missing.status_code, missing.json()["detail"]) == (
        404,
        'name: "c.png" is not an artefact of this job; there are: a.png, b.png',
    )
    assert world.http.get(url, params={"index": 2}).status_code == 404


def test_the_result_of_an_unfinished_job_is_404_with_its_state(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    world.do(world.fake.step, job["id"], 3)
    early = world.http.get(job["urls"]["result"])
    assert early.status_code == 404
    assert early.json()["error"]["code"] == "not_ready"
    assert early.json()["detail"] == f"job {job['id']} is running at step 3 of 8; it has no result yet"


def test_cancel_says_what_became_of_it(world: World) -> None:
    queued, running = world.submit(), world.submit()
    world.do(world.fake.run, running["id"])
    first = world.http.delete(queued["urls"]["self"]).json()
    assert (first["outcome"], first["job"]["state"]) == ("cancelled", "cancelled")
    world.fake.obeys_cancel = False
    second = world.http.post(running["urls"]["cancel"]).json()
    assert (second["outcome"], second["job"]["state"], second["job"]["cancel_requested"]) == (
        "requested",
        "running",
        True,
    )
    world.do(world.fake.stop, running["id"])
    third = world.http.post(running["urls"]["cancel"]).json()
    assert (third["outcome"], third["job"]["state"]) == ("already_final", "cancelled")


def test_lists_are_paged_by_cursor(world: World) -> None:
    ids = [world.submit()["id"] for _ in range(5)]
    page = world.http.get("/v1/jobs", params={"limit": 2}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([ids[4], ids[3]], True)
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", ids[4], ids[3])
    page = world.http.get("/v1/jobs", params={"limit": 10, "after": ids[3]}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([ids[2], ids[1], ids[0]], False)
    page = world.http.get("/v1/jobs", params={"limit": 2, "order": "asc"}).json()
    assert [job["id"] for job in page["data"]] == ids[:2]
    empty = world.http.get("/v1/jobs", params={"after": "nobody"}).json()
    assert empty == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
        "searched_to": None,
    }
    none = world.http.get("/v1/jobs", params={"limit": 0}).json()
    assert (none["data"], none["has_more"]) == ([], True)


def test_a_search_of_a_long_history_comes_in_bounded_pieces(world: World) -> None:
    jobs = [world.submit(prompt="rare" if number == 2 else "a red circle") for number in range(60)]
    world.fake.looked_at = 2

    def walk(**params: object) -> list[dict[str, Any]]:
        pages: list[dict[str, Any]] = [{"has_more": True}]
        while pages[-1]["has_more"]:
            after = {"after": pages[-1]["last_id"]} if len(pages) > 1 else {}
            pages.append(world.http.get("/v1/jobs", params={**params, **after}).json())
        return pages[1:]

    pages = walk(prompt="rare", limit=1)
    assert [[job["id"] for job in page["data"]] for page in pages] == [[], [], [jobs[2]["id"]]]
    at = [page["searched_to"] for page in pages]
    assert at == [jobs[40]["submitted_at"], jobs[20]["submitted_at"], None]
    assert [page["searched_to"] for page in walk(prompt="nosuch", order="asc")] == [
        jobs[19]["submitted_at"],
        jobs[39]["submitted_at"],
        None,
    ]
    whole = walk(limit=25)
    assert [job["id"] for page in whole for job in page["data"]] == [job["id"] for job in jobs[::-1]]


def test_lists_are_filtered_by_prompt_and_time(world: World) -> None:
    jobs = [world.submit(prompt=prompt) for prompt in ("A red circle", "a blue circle", "a RED square")]

    def found(**params: object) -> list[int]:
        page = world.http.get("/v1/jobs", params={"order": "asc", **params}).json()
        return [[job["id"] for job in jobs].index(entry["id"]) for entry in page["data"]]

    assert found(prompt="Red") == [0, 2]
    assert found(prompt="circle", since=jobs[1]["submitted_at"]) == [1]
    assert found(until=jobs[1]["submitted_at"]) == [0]
    assert found(since=jobs[1]["submitted_at"], until=jobs[2]["submitted_at"]) == [1]
    assert found(since=0, prompt="") == [0, 1, 2]
    for name, value in (("since", "yesterday"), ("since", -1), ("until", 0), ("prompt", "x" * 257)):
        reply = world.http.get("/v1/jobs", params={name: value})
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, name)


def test_lists_are_filtered(world: World) -> None:
    video, image = world.submit(), world.submit(output="image")
    world.do(world.fake.run, image["id"], "cpu-1")

    def found(**params: str) -> list[str]:
        return [job["id"] for job in world.http.get("/v1/jobs", params=params).json()["data"]]

    assert found(state="queued,delayed") == [video["id"]]
    assert found(state="running") == [image["id"]]
    assert found(model="org/picture") == [image["id"]]
    assert found(worker="cpu-1") == [image["id"]]
    both = world.http.get("/v1/jobs?state=running&state=queued").json()["data"]
    assert len(both) == 2


def test_status_reads_do_not_ask_the_broker_each_time(world: World) -> None:
    job = world.finished()
    world.fake.calls.clear()
    for _ in range(3):
        assert world.http.get(job["urls"]["self"]).json()["state"] == "succeeded"
    assert world.fake.calls == []


def test_a_remembered_job_that_is_polled_follows_its_events(world: World) -> None:
    job = world.submit()
    world.poll(job["id"])
    world.do(world.fake.run, job["id"])
    assert world.http.get(job["urls"]["self"]).json()["step"] == 0
    world.do(world.fake.follow, job["id"])  # as of a job that is polled
    world.do(world.fake.step, job["id"], 2)
    world.fake.calls.clear()
    assert world.http.get(job["urls"]["self"]).json()["step"] == 2
    assert world.fake.calls == []
    world.do(world.fake.succeed, job["id"])
    assert world.http.get(job["urls"]["self"]).json()["state"] == "succeeded"


def test_after_a_gap_nothing_remembered_is_believed(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    world.http.get(job["urls"]["self"])
    # The event of this step is lost.
    tell, world.fake.on_event = world.fake.on_event, lambda view: None
    world.do(world.fake.step, job["id"], 5)
    world.fake.on_event = tell
    world.do(world.fake.gap)
    assert world.http.get(job["urls"]["self"]).json()["step"] == 5


# ---------------------------------------------------------------- delete


@pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
def test_a_job_can_be_deleted_with_its_files_whatever_its_state(world: World, state: str) -> None:
    job = world.finished() if state == "succeeded" else world.submit()
    if state == "running":
        world.do(world.fake.run, job["id"])
    directory = world.fake.artefacts / job["id"]
    assert directory.exists() == (state == "succeeded")
    world.http.put(f"{job['urls']['self']}/pin")
    response = world.http.delete(job["urls"]["self"], params={"purge": "true"})
    assert response.status_code == 200
    assert response.json() == {"id": job["id"], "object": "job.deleted", "deleted": True}
    assert world.http.get(job["urls"]["self"]).status_code == 404
    assert world.http.get(f"{job['urls']['self']}/pin").status_code == 404
    assert not directory.exists()
    assert world.http.delete(job["urls"]["self"], params={"purge": "true"}).status_code == 404
    assert world.http.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("query", ["", "?purge=false", "?purge=0"])
def test_without_purge_a_job_is_only_cancelled(world: World, query: str) -> None:
    job = world.finished()
    assert world.http.delete(job["urls"]["self"] + query).json()["outcome"] == "already_final"
    assert world.http.get(job["urls"]["self"]).json()["state"] == "succeeded"


def test_what_is_no_flag_is_refused_and_nothing_happens(world: World) -> None:
    job = world.submit()
    response = world.http.delete(job["urls"]["self"] + "?purge=perhaps")
    assert (response.status_code, response.json()["error"]["param"]) == (422, "purge")
    assert world.http.get(job["urls"]["self"]).json()["state"] == "queued"


def test_a_job_that_does_not_stop_is_not_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_edge.jobs.delete_job.STOP_WAIT_S", 0.01)
    world.fake.obeys_cancel = False
    job = world.submit()
    world.do(world.fake.run, job["id"])
    response = world.http.delete(job["urls"]["self"] + "?purge=true")
    assert (response.status_code, response.headers["retry-after"]) == (409, "5")
    assert response.json()["error"]["code"] == "still_stopping"
    assert world.http.get(job["urls"]["self"]).json()["cancel_requested"] is True


def test_what_a_job_was_drawn_with_is_in_its_record(world):
    job = world.submit()
    assert job["used"] == {}
    world.do(world.fake.run, job["id"])
    world.do(world.fake.succeed, job["id"], used={"quantize": "transformer int8"})
    assert world.http.get(job["urls"]["self"]).json()["used"] == {"quantize": "transformer int8"}


def test_warnings_of_the_engine_are_the_jobs_own(world):
    job = world.submit()
    world.do(world.fake.run, job["id"])
    world.do(world.fake.succeed, job["id"], warnings=("size: another one came out",))
    assert "size: another one came out" in world.http.get(job["urls"]["self"]).json()["warnings"]


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(errno.ENOSPC, 507, "disk_full"), (errno.EDQUOT, 507, "disk_full"), (errno.EROFS, 503, "unavailable")],
)
def test_a_pin_that_the_disk_refuses_is_an_answer_and_no_fault_of_the_service(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int, status: int, code: str
) -> None:
    def refuse(job_id: str) -> None:
        raise OSError(number, os.strerror(number))

    job = world.submit()
    monkeypatch.setattr(world.edge.calls.deletion.artefacts, "pin", refuse)
    answer = world.http.put(f"/v1/jobs/{job['id']}/pin")
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (status, code, "30")


def test_readers_that_ask_at_the_same_time_are_shown_one_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = world.submit()["id"]
    world.edge.hub.memory.forget(job_id)
    answer, everybody = world.fake.get, asyncio.Barrier(3)

    async def get(*args: Any) -> Any:
        await everybody.wait()
        return await answer(*args)

    async def ask_together() -> list[Any]:
        return await asyncio.gather(*(world.edge.calls.jobs.get(job_id) for _ in range(3)))

    monkeypatch.setattr(world.fake, "get", get)
    first, *others = world.do(ask_together)
    assert all(one is first for one in others)
