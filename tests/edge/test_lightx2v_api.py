"""LightX2V gen-1: recorded requests of its scripts and the answers its server gave."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from broker.client import errors
from broker.wire.jobspec import decode_spec
from http_edge.api.lightx2v.video_api import origin_of
from tests.edge.conftest import World
from tests.testing.fake_broker import T0, VIDEO, worker

BASE = "/v1/local/video/generate"

#: The message of the guide, unchanged.
GUIDE = {
    "task_id": "A1B2-C3D4-E5F6-G7H8-I9J0",
    "task_id_must_unique": True,
    "prompt": "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a spotlighted stage.",
    "negative_prompt": (
        "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
        "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，"
        "形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
    ),
    "image_path": "",
    "save_video_path": "./output_lightx2v_wan_t2v_t02.mp4",
}
#: What the record of such a task repeats: all fields of the first server's request, with its defaults.
GUIDE_ECHO = {**GUIDE, "use_prompt_enhancer": False, "num_fragments": 1}

MINE = {"task_id": "mine", "prompt": "a cat", "save_video_path": "out.mp4"}


def post(world: World, **fields: Any) -> dict[str, Any]:
    response = world.http.post(BASE, json={**MINE, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def status(world: World, task_id: str) -> dict[str, Any]:
    return world.http.post(f"{BASE}/task_status", json={"task_id": task_id}).json()


def service(world: World) -> dict[str, Any]:
    return world.http.get(f"{BASE}/service_status").json()


def only_job(world: World) -> str:
    (job_id,) = world.fake.jobs
    return job_id


def local(at: float) -> str:
    return datetime.fromtimestamp(at).isoformat(timespec="microseconds")


def test_the_guides_message_from_request_to_record(world: World) -> None:
    assert service(world) == {"service_status": "idle"}
    answer = world.http.post(BASE, json=GUIDE)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "task_id": GUIDE["task_id"],
            "task_status": "processing",
            "save_video_path": "./output_lightx2v_wan_t2v_t02.mp4",
        },
    )
    job_id = only_job(world)
    spec = decode_spec(world.fake.jobs[job_id].body)
    assert (spec.prompt, spec.negative_prompt, spec.image) == (GUIDE["prompt"], GUIDE["negative_prompt"], "")
    assert spec.save_to == str(world.start / "output_lightx2v_wan_t2v_t02.mp4")
    assert status(world, GUIDE["task_id"]) == {"task_status": "processing"}
    assert world.http.get(f"{BASE}/get_all_tasks").json() == {}
    world.do(world.fake.run, job_id)
    world.do(world.fake.succeed, job_id)
    record = {
        "success": True,
        "message": GUIDE_ECHO,
        "start_time": local(T0 + 3.0),
        "completion_time": local(T0 + 4.5),
    }
    assert status(world, GUIDE["task_id"]) == {"task_status": "completed", **record}
    assert world.http.get(f"{BASE}/get_all_tasks").json() == {GUIDE["task_id"]: record}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", record["start_time"])
    assert (world.start / "output_lightx2v_wan_t2v_t02.mp4").read_bytes()[4:8] == b"ftyp"


def test_an_unknown_task_is_not_found(world: World) -> None:
    assert status(world, "nobody") == {"task_status": "not_found"}
    by_query = world.http.get(f"{BASE}/task_status", params={"task_id": "nobody"})
    assert (by_query.status_code, by_query.json()) == (200, {"task_status": "not_found"})


def test_task_status_also_answers_a_get(world: World) -> None:
    post(world)
    answer = world.http.get(f"{BASE}/task_status", params={"task_id": "mine"})
    assert answer.json() == {"task_status": "processing"}


def test_a_failed_task_is_completed_without_success(world: World) -> None:
    post(world)
    world.do(world.fake.run, only_job(world))
    world.do(world.fake.fail, only_job(world), "CUDA error: out of memory")
    answer = status(world, "mine")
    assert answer == {
        "task_status": "completed",
        "success": False,
        "message": answer["message"],
        "start_time": local(T0 + 3.0),
        "error": "CUDA error: out of memory",
    }
    assert answer["message"]["task_id"] == "mine"


def test_busy_is_an_error_with_status_200(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    for number in range(2):
        post(world, task_id=f"t{number}")
        world.do(world.fake.run, list(world.fake.jobs)[-1], f"cpu-{number}")
    assert service(world) == {"service_status": "busy", "task_id": "t0"}
    # Busy comes before duplicate, as it did.
    assert post(world, task_id="t0", task_id_must_unique=True) == {"error": "Service busy"}


def test_busy_with_other_apis_jobs_names_no_task(world: World) -> None:
    for name in ("cpu-0", "cpu-1"):
        world.do(world.fake.run, world.submit()["id"], name)
    assert service(world) == {"service_status": "busy", "task_id": ""}
    assert post(world) == {"error": "Service busy"}


def test_one_free_worker_is_idle(world: World) -> None:
    post(world)
    world.do(world.fake.run, only_job(world))
    assert service(world) == {"service_status": "idle"}


def test_with_the_queue_setting_tasks_wait(open_edge: Callable[..., World]) -> None:
    world = open_edge(lightx2v_admission="queue")
    for name in ("cpu-0", "cpu-1"):
        world.do(world.fake.run, world.submit()["id"], name)
    assert post(world)["task_status"] == "processing"
    world.fake.refuse_with = errors.QueueFull("queue_full", "full", 9.0)
    assert post(world, task_id="more") == {"error": "Service busy"}


def test_a_unique_task_id_is_refused_the_second_time(world: World) -> None:
    post(world, task_id_must_unique=True)
    world.do(world.fake.run, only_job(world))
    world.do(world.fake.succeed, only_job(world))
    assert post(world, task_id_must_unique=True) == {"error": "Task ID mine already exists"}
    assert len(world.fake.jobs) == 1


def test_without_uniqueness_the_newer_record_replaces_the_older(world: World) -> None:
    for prompt in ("first", "second"):
        post(world, prompt=prompt)
        job_id = list(world.fake.jobs)[-1]
        world.do(world.fake.run, job_id)
        world.do(world.fake.succeed, job_id)
    assert status(world, "mine")["message"]["prompt"] == "second"
    tasks = world.http.get(f"{BASE}/get_all_tasks").json()
    assert {task_id: task["message"]["prompt"] for task_id, task in tasks.items()} == {"mine": "second"}


def test_stop_waits_until_the_task_has_stopped_and_takes_new_work_at_once(world: World) -> None:
    stop = f"{BASE}/stop_running_task"
    assert world.http.get(stop).json() == {"stop_status": "do_nothing", "reason": "No running task found."}
    for number in range(2):
        post(world, task_id=f"t{number}")
        world.do(world.fake.run, list(world.fake.jobs)[-1], f"cpu-{number}")
    assert world.http.get(stop).json() == {"stop_status": "success", "reason": "Task stopped successfully."}
    assert {job.state for job in world.fake.jobs.values()} == {"cancelled"}
    stopped = status(world, "t1")
    assert (stopped["task_status"], stopped["success"], stopped["error"]) == (
        "completed",
        False,
        "Task stopped by user",
    )
    assert "completion_time" not in stopped
    assert post(world, task_id="next")["task_status"] == "processing"


def test_stop_leaves_other_apis_jobs_alone(world: World) -> None:
    other = world.submit()
    world.do(world.fake.run, other["id"])
    assert world.http.get(f"{BASE}/stop_running_task").json()["stop_status"] == "do_nothing"
    assert world.fake.jobs[other["id"]].state == "running"


def test_stop_of_one_task_by_its_id(world: World) -> None:
    for number in range(2):
        post(world, task_id=f"t{number}")
        world.do(world.fake.run, list(world.fake.jobs)[-1], f"cpu-{number}")
    answer = world.http.get(f"{BASE}/stop_running_task", params={"task_id": "t0"})
    assert answer.json()["stop_status"] == "success"
    assert status(world, "t1") == {"task_status": "processing"}
    again = world.http.get(f"{BASE}/stop_running_task", params={"task_id": "t0"})
    assert again.json()["stop_status"] == "do_nothing"


def test_stop_without_a_broker_is_an_error_in_its_shape(world: World) -> None:
    world.fake.down = True
    answer = world.http.get(f"{BASE}/stop_running_task")
    assert (answer.status_code, answer.json()) == (
        200,
        {"stop_status": "error", "reason": "the broker did not answer within 10 s"},
    )


def test_a_task_that_does_not_stop_is_a_warning(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_edge.api.lightx2v.video_api._STOP_WAIT_S", 0.01)
    world.fake.obeys_cancel = False
    post(world)
    world.do(world.fake.run, only_job(world))
    assert world.http.get(f"{BASE}/stop_running_task").json()["stop_status"] == "warning"


def test_the_newer_servers_sampler_fields_are_honoured_and_repeated(world: World) -> None:
    sent = {"infer_steps": 4, "target_video_length": 33, "width": 96, "height": 48, "fps": 12, "seed": 9}
    post(world, **sent, guidance_scale=5.5, talk_objects=[], num_inference_steps=None)
    spec = decode_spec(world.fake.jobs[only_job(world)].body)
    assert (spec.num_inference_steps, spec.num_frames, spec.width, spec.height) == (4, 33, 96, 48)
    assert (spec.fps, spec.seed, spec.guidance_scale) == (12.0, 9, 5.5)
    assert spec.echo == {
        **MINE,
        "task_id_must_unique": False,
        "use_prompt_enhancer": False,
        "negative_prompt": "",
        "image_path": "",
        "num_fragments": 1,
        **sent,
        "guidance_scale": 5.5,
    }


def test_lengths_of_lightx2v_that_the_model_cannot_make_matter_only_when_sent(world: World) -> None:
    refused = world.http.post(BASE, json={**MINE, "target_video_length": 85})
    assert refused.status_code == 422
    post(world)
    assert decode_spec(world.fake.jobs[only_job(world)].body).num_frames == 17


def test_an_absent_negative_prompt_is_empty(world: World) -> None:
    post(world)
    assert decode_spec(world.fake.jobs[only_job(world)].body).negative_prompt == ""


def test_fields_of_other_apis_are_not_theirs_to_set(world: World) -> None:
    answer = post(world, model="org/picture", extra=5, output=3, num_outputs="x", priority=99)
    reported = [warning.partition(":")[0] for warning in answer["warnings"]]
    assert reported == ["model", "extra", "output", "num_outputs", "priority"]
    world.do(world.fake.cancel, only_job(world), "")
    assert status(world, "mine")["warnings"] == answer["warnings"]
    spec = decode_spec(world.fake.jobs[only_job(world)].body)
    assert (spec.model, spec.num_outputs) == ("demo", 1)


def test_a_result_that_cannot_be_saved_is_a_failed_record(world: World) -> None:
    post(world)
    (world.start / "out.mp4").write_bytes(b"somebody else's")
    world.do(world.fake.run, only_job(world))
    world.do(world.fake.succeed, only_job(world))
    answer = status(world, "mine")
    assert (answer["success"], answer["error"]) == (
        False,
        "save_video_path: exists already, and is not a file that this service wrote",
    )
    assert (world.start / "out.mp4").read_bytes() == b"somebody else's"


def test_every_route_answers_with_a_trailing_slash(world: World) -> None:
    assert world.http.post(f"{BASE}/", json=MINE, follow_redirects=False).json()["task_status"] == "processing"
    for name in ("service_status", "get_all_tasks", "stop_running_task"):
        assert world.http.get(f"{BASE}/{name}/", follow_redirects=False).status_code == 200
    answer = world.http.post(f"{BASE}/task_status/", json={"task_id": "x"}, follow_redirects=False)
    assert answer.status_code == 200


def test_a_broker_that_is_down_is_503_with_error_and_detail(world: World) -> None:
    world.fake.down = True
    answer = world.http.post(BASE, json=MINE)
    assert answer.status_code == 503
    assert set(answer.json()) == {"error", "detail"}
    assert answer.headers["retry-after"] == "2"


# ---------------------------------------------------------------- one worker's view


def test_a_workers_edge_shows_and_stops_only_its_own_tasks(open_edge: Callable[..., World]) -> None:
    zero, one = open_edge(worker="cpu-0"), open_edge(worker="cpu-1")
    assert post(zero, task_id_must_unique=True)["task_status"] == "processing"
    (first,) = zero.fake.jobs
    assert zero.fake.jobs[first].submission.pinned == "cpu-0"
    zero.do(zero.fake.run, first, "cpu-0")
    assert service(zero) == {"service_status": "busy", "task_id": "mine"}
    assert service(one) == {"service_status": "idle"}
    assert status(one, "mine") == {"task_status": "not_found"}
    # Each of the servers that this stands for kept its own task ids.
    assert post(one, task_id_must_unique=True)["task_status"] == "processing"
    second = list(one.fake.jobs)[-1]
    one.do(one.fake.run, second, "cpu-1")
    assert post(zero) == {"error": "Service busy"}
    assert one.http.get(f"{BASE}/stop_running_task").json()["stop_status"] == "success"
    assert (zero.fake.jobs[first].state, zero.fake.jobs[second].state) == ("running", "cancelled")
    assert list(one.http.get(f"{BASE}/get_all_tasks").json()) == ["mine"]
    assert zero.http.get(f"{BASE}/get_all_tasks").json() == {}


def test_a_workers_edge_takes_its_workers_models(open_edge: Callable[..., World]) -> None:
    world = open_edge(worker="gpu-7")
    answer = world.http.post(BASE, json=MINE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert 'worker "gpu-7" has not registered yet' in answer.json()["error"]
    world.fake.workers["gpu-7"] = worker("gpu-7", VIDEO)
    assert post(world)["task_status"] == "processing"


def test_long_worker_names_still_make_distinct_origins() -> None:
    names = ["w" * 100 + end for end in "ab"]
    origins = {origin_of(name) for name in names}
    assert len(origins) == 2
    assert all(len(origin) <= 32 for origin in origins)
    assert origin_of("gpu-0") == "lightx2v-1:gpu-0"
    assert origin_of("") == "lightx2v-1"
