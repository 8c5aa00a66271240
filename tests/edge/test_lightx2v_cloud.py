"""LightX2V's cloud API: what its command-line client sends, and the answers it reads."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import msgspec
import pytest

from broker.client import errors
from broker.wire.jobspec import JobSpec, decode_spec
from tests.edge.conftest import World
from tests.edge.small_media import picture
from tests.testing.fake_broker import T0

#: What `lightx2v run t2v/demo --prompt … --shape 48,96` sends.
RUN = {"task": "t2v", "model_cls": "demo", "stage": "single_stage", "prompt": "waves", "custom_shape": [48, 96]}


def submit(world: World, **fields: Any) -> str:
    answer = world.http.post("/api/v1/task/submit", json={**RUN, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["task_id"])


def newest(world: World) -> str:
    return list(world.fake.jobs)[-1]


def spec(world: World) -> JobSpec:
    """What the newest job draws, whatever trace it belongs to."""
    return msgspec.structs.replace(decode_spec(world.fake.jobs[newest(world)].body), traceparent="")


def run(world: World, *, succeed: bool = False, **files: bytes) -> None:
    world.do(world.fake.run, newest(world))
    if succeed:
        world.do(world.fake.succeed, newest(world), **files)


def query(world: World, task_id: str) -> dict[str, Any]:
    return world.http.get("/api/v1/task/query", params={"task_id": task_id}).json()


def test_the_clients_way_from_request_to_file(world: World) -> None:
    answer = world.http.post("/api/v1/task/submit", json={**RUN, "seed": 3}).json()
    task_id = answer["task_id"]
    assert str(uuid.UUID(task_id)) == task_id
    assert set(answer) == {"task_id", "workers", "params", "wait_time"}
    assert (answer["params"]["prompt"], answer["params"]["seed"], answer["wait_time"]) == ("waves", 3, 0.0)
    assert (spec(world).width, spec(world).height, spec(world).model) == (96, 48, "demo")
    assert query(world, task_id)["status"] == "PENDING"
    run(world)
    assert query(world, task_id)["status"] == "RUNNING"
    early = world.http.get("/api/v1/task/result_url", params={"task_id": task_id, "name": "output_video"})
    assert (early.status_code, early.json()["message"]) == (404, f"error: Task {task_id} not succeed!")
    world.do(world.fake.succeed, newest(world))
    done = query(world, task_id)
    assert (done["status"], done["task_type"], done["model_cls"], done["stage"]) == (
        "SUCCEED",
        "t2v",
        "demo",
        "single_stage",
    )
    assert (done["create_t"], done["update_t"]) == (T0 + 1.5, T0 + 4.5)
    assert list(done["outputs"]) == ["output_video"]
    (sub,) = done["subtasks"]
    assert (sub["status"], sub["worker_identity"], sub["infer_cost"]) == ("SUCCEED", "cpu-0", 2.5)
    where = world.http.get("/api/v1/task/result_url", params={"task_id": task_id, "name": "output_video"}).json()
    assert where == {"url": f"http://localhost/assets/task/result?task_id={task_id}&name=output_video"}
    file = world.http.get(where["url"])
    assert (file.content[4:8], file.headers["content-type"]) == (b"ftyp", "video/mp4")
    assert file.headers["content-disposition"] == f'attachment; filename="{task_id}.mp4"'
    assert world.http.get(where["url"], headers={"Range": "bytes=0-3"}).status_code == 206


def test_an_image_task(world: World) -> None:
    task_id = submit(world, task="t2i", model_cls="org/picture", aspect_ratio="1:1", custom_shape=None)
    assert spec(world).output == "image"
    run(world, succeed=True, image_png=b"\x89PNG\r\n")
    done = query(world, task_id)
    assert (list(done["outputs"]), done["params"]["aspect_ratio"]) == (["output_image"], "1:1")
    wrong = world.http.get("/api/v1/task/result_url", params={"task_id": task_id, "name": "output_video"})
    assert (wrong.status_code, "output_image" in wrong.json()["message"]) == (404, True)
    url = world.http.get("/api/v1/task/result_url", params={"task_id": task_id, "name": "output_image"}).json()["url"]
    assert world.http.get(url).content == b"\x89PNG\r\n"


def test_an_image_to_video_task_brings_its_picture_as_base64(world: World) -> None:
    image = {"type": "base64", "data": base64.b64encode(picture()).decode()}
    task_id = submit(world, task="i2v", model_cls="animate", input_image=image)
    assert spec(world).image.endswith(".png")
    shown = query(world, task_id)
    assert (shown["task_type"], list(shown["inputs"])) == ("i2v", ["input_image"])


def test_the_duration_of_the_clients_flag(world: World) -> None:
    submit(world, video_duration_seconds=2.0)
    assert spec(world).num_frames == 17
    submit(world, duration=5, cfg_scale=4)
    assert (spec(world).num_frames, spec(world).guidance_scale) == (41, 4.0)


def test_models_are_listed_by_what_they_can_do(world: World) -> None:
    models = world.http.get("/api/v1/model/list").json()["models"]
    assert [(model["task"], model["model_cls"], model["stage"]) for model in models] == [
        ("t2v", "demo", "single_stage"),
        ("i2v", "animate", "single_stage"),
        ("t2i", "org/picture", "single_stage"),
    ]
    assert models[0]["supported_plans"] == []


def test_a_model_that_is_not_named_is_chosen(world: World) -> None:
    submit(world, model_cls="", task="t2i", custom_shape=None)
    assert spec(world).model == "org/picture"


def test_several_tasks_are_asked_for_at_once(world: World) -> None:
    names = [submit(world) for _ in range(3)]
    tasks = world.http.get("/api/v1/task/query", params={"task_ids": ",".join([*names, "nobody", ""])}).json()["tasks"]
    assert [task["task_id"] for task in tasks] == names
    many = world.http.get("/api/v1/task/query", params={"task_ids": ",".join(["x"] * 101)})
    assert many.status_code == 400


def test_pages_of_hundreds_of_tasks(world: World) -> None:
    names = [submit(world) for _ in range(230)]
    world.submit()
    seen: list[str] = []
    for page in range(1, 6):
        answer = world.http.get("/api/v1/task/list", params={"page": page, "page_size": 50}).json()
        assert answer["pagination"] == {"page": page, "page_size": 50, "total": 230, "total_pages": 5}
        seen += [task["task_id"] for task in answer["tasks"]]
    assert seen == names[::-1]
    assert world.http.get("/api/v1/task/list", params={"page": 6, "page_size": 50}).json()["tasks"] == []
    assert len(world.http.get("/api/v1/task/list").json()["tasks"]) == 10


def test_pages_of_one_status(world: World) -> None:
    for _ in range(3):
        submit(world)
    run(world, succeed=True)
    for status, count in (("SUCCEED", 1), ("pending", 2), ("RUNNING", 0), ("CREATED", 0), ("ALL", 3)):
        answer = world.http.get("/api/v1/task/list", params={"status": status}).json()
        assert (len(answer["tasks"]), answer["pagination"]["total"]) == (count, count)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_cancelling_by_either_method(world: World, method: str) -> None:
    task_id = submit(world)
    run(world)
    how = {"params": {"task_id": task_id}} if method == "GET" else {"json": {"task_id": task_id}}
    assert world.http.request(method, "/api/v1/task/cancel", **how).json() == {"msg": "Task cancelled successfully"}
    world.do(lambda: None)
    assert query(world, task_id)["status"] == "CANCEL"
    again = world.http.request(method, "/api/v1/task/cancel", **how)
    assert (again.status_code, again.json()["message"]) == (400, f"error: Task {task_id} cancel failed: it is CANCEL!")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_resuming_draws_the_same_again_under_the_same_id(world: World, method: str) -> None:
    task_id = submit(world, seed=5)
    run(world)
    world.do(world.fake.fail, newest(world), "CUDA error")
    failed = query(world, task_id)
    assert (failed["status"], failed["extra_info"]) == ("FAILED", {"fail_msg": "CUDA error"})
    first = spec(world)
    how = {"params": {"task_id": task_id}} if method == "GET" else {"json": {"task_id": task_id}}
    assert world.http.request(method, "/api/v1/task/resume", **how).json() == {"msg": "ok"}
    assert (query(world, task_id)["status"], spec(world)) == ("PENDING", first)
    listed = world.http.get("/api/v1/task/list").json()
    assert [task["status"] for task in listed["tasks"]] == ["PENDING"]
    assert world.http.get("/api/v1/task/list", params={"status": "FAILED"}).json()["tasks"] == []
    early = world.http.request(method, "/api/v1/task/resume", **how)
    assert (early.status_code, "it is PENDING" in early.json()["message"]) == (400, True)
    run(world, succeed=True)
    assert query(world, task_id)["status"] == "SUCCEED"


def test_a_task_that_is_over_can_be_deleted(world: World) -> None:
    task_id = submit(world)
    early = world.http.delete("/api/v1/task/delete", params={"task_id": task_id})
    assert (early.status_code, early.json()["message"]) == (400, "error: Only finished tasks can be deleted!")
    run(world)
    world.do(world.fake.fail, newest(world), "CUDA error")
    world.http.post("/api/v1/task/resume", json={"task_id": task_id})
    run(world, succeed=True)
    done = world.http.delete("/api/v1/task/delete", params={"task_id": task_id})
    assert (done.status_code, done.json()) == (200, {"message": "Task deleted successfully"})
    assert world.fake.jobs == {}
    assert not list((world.start / ".zoetrope" / "artefacts").rglob("*.mp4"))
    again = world.http.delete("/api/v1/task/delete", params={"task_id": task_id})
    assert (again.status_code, again.json()["message"]) == (404, f"error: Task {task_id} not found!")


def test_an_unknown_task_is_404_with_a_message(world: World) -> None:
    for method, path in (
        ("GET", "query"),
        ("GET", "result_url"),
        ("GET", "cancel"),
        ("POST", "cancel"),
        ("GET", "resume"),
    ):
        answer = world.http.request(method, f"/api/v1/task/{path}", params={"task_id": "nobody"})
        assert (answer.status_code, answer.json()["message"]) == (404, "error: Task nobody not found!")
    assert world.http.get("/assets/task/result", params={"task_id": "nobody", "name": "x"}).status_code == 404


def test_tasks_of_other_apis_are_not_its_own(world: World) -> None:
    world.http.post("/v1/tasks/video", json={"prompt": "a", "task_id": "mine"})
    assert world.http.get("/api/v1/task/query", params={"task_id": "mine"}).status_code == 404


#: (fields, words in the message)
INVALID: list[tuple[dict[str, Any], str]] = [
    ({"task": None}, "task: it is required"),
    ({"task": "s2v"}, 'task: "s2v" is not supported; supported: t2v, i2v, flf2v, t2i, i2i'),
    ({"task": 3}, "task: 3 is not a string"),
    ({"prompt": None}, "prompt: it is required"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": 5}, "prompt: 5 is not a string"),
    ({"model_cls": "Qwen-Image-2512"}, 'model_cls: "Qwen-Image-2512" is not a model of this service'),
    ({"model_cls": "org/picture"}, 'model "org/picture"'),
    ({"custom_shape": [48]}, "custom_shape: a list of 1"),
    ({"custom_shape": [48, 100]}, "width 100 of custom_shape"),
    ({"seed": -2}, "seed: -2"),
    ({"aspect_ratio": "wide", "custom_shape": None}, 'aspect_ratio: "wide"'),
    ({"video_duration_seconds": 600}, "video_duration_seconds"),
    ({"input_audio": {"type": "base64", "data": "x"}}, "input_audio"),
    ({"input_image": {"type": "path", "data": "/etc/passwd"}}, "input_image.type"),
    ({"input_image": {"type": "base64", "data": "/etc/passwd"}}, "input_image"),
    ({"input_image": {"type": "base64"}}, "input_image"),
    ({"input_image": 5}, "input_image: 5"),
    ({"task": "i2v", "model_cls": "animate"}, "input_image: it is required"),
]


@pytest.mark.parametrize(("fields", "words"), INVALID, ids=range(len(INVALID)))
def test_a_bad_request_is_400_with_a_message(world: World, fields: dict[str, Any], words: str) -> None:
    answer = world.http.post("/api/v1/task/submit", json={**RUN, **fields})
    body = answer.json()
    assert answer.status_code == 400, body
    assert body["message"].startswith("error: ")
    assert words in body["message"]
    assert world.fake.jobs == {}


@pytest.mark.parametrize(
    ("path", "params", "words"),
    [
        ("query", {}, "task_id"),
        ("list", {"page": "0"}, "page"),
        ("list", {"page_size": "many"}, "page_size"),
        ("list", {"page_size": "1000"}, "1 to 100"),
        ("list", {"status": "LOST"}, "PENDING"),
        ("cancel", {}, "task_id"),
    ],
)
def test_bad_parameters_are_400(world: World, path: str, params: dict[str, str], words: str) -> None:
    answer = world.http.get(f"/api/v1/task/{path}", params=params)
    assert (answer.status_code, words in answer.json()["message"]) == (400, True)


def test_a_full_queue_is_429_and_a_broker_that_is_down_503(world: World) -> None:
    world.fake.refuse_with = errors.QueueFull("queue_full", "full", 9.0)
    answer = world.http.post("/api/v1/task/submit", json=RUN)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "9")
    world.fake.down = True
    answer = world.http.get("/api/v1/task/query", params={"task_id": "x"})
    assert (answer.status_code, answer.json()["message"].startswith("error: the broker did not answer")) == (503, True)
