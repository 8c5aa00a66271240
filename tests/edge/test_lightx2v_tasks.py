"""LightX2V gen-2 and gen-3, `/v1/tasks`: recorded requests of their scripts and clients, and the answers their servers gave."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Any

import pytest

from broker.client import errors
from broker.wire.jobspec import JobSpec, decode_spec
from tests.edge.conftest import World
from tests.edge.small_media import picture
from tests.testing.fake_broker import T0

#: What the second generation's `post.py` sends.
POST = {
    "prompt": "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a spotlighted stage.",
    "negative_prompt": "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕",
    "image_path": "",
}
#: What the third generation's benchmark sends to each route.
BENCH = {"prompt": "a calm sea", "seed": 42, "task_id": "run_case_measure_000", "save_result_path": "out/000.mp4"}

STOPPED = {"stop_status": "success", "reason": "Task stopped successfully."}


def post(world: World, path: str = "/v1/tasks/video/", **fields: Any) -> dict[str, Any]:
    response = world.http.post(path, json={"prompt": "a cat", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def newest(world: World) -> str:
    return list(world.fake.jobs)[-1]


def spec(world: World) -> JobSpec:
    return decode_spec(world.fake.jobs[newest(world)].body)


def status(world: World, task_id: str) -> dict[str, Any]:
    response = world.http.get(f"/v1/tasks/{task_id}/status")
    assert response.status_code == 200, response.text
    return response.json()


def local(at: float) -> str:
    return datetime.fromtimestamp(at).isoformat(timespec="microseconds")


def run(world: World, *, succeed: bool = False, **files: bytes) -> str:
    job_id = newest(world)
    world.do(world.fake.run, job_id)
    if succeed:
        world.do(world.fake.succeed, job_id, **files)
    return job_id


# ---------------------------------------------------------------- taking tasks


def test_the_second_generations_script_from_request_to_file(world: World) -> None:
    answer = world.http.post("/v1/tasks/", json=POST, follow_redirects=False)
    assert answer.status_code == 200
    task_id = answer.json()["task_id"]
    assert re.fullmatch(r"([A-Z0-9]{4}-){4}[A-Z0-9]{4}", task_id)
    assert answer.json() == {
        "task_id": task_id,
        "task_status": "pending",
        "save_result_path": task_id,
        "save_video_path": f"{task_id}.mp4",
    }
    view = world.fake.jobs[newest(world)]
    assert (view.submission.origin, view.submission.alias, view.submission.pinned) == ("lightx2v", task_id, "")
    # The first answer of LightX2V's defaults that counts here is none: the model has its own.
    assert (spec(world).num_frames, spec(world).num_inference_steps, spec(world).image) == (17, 8, "")
    assert spec(world).negative_prompt == POST["negative_prompt"]
    pending = {
        "task_id": task_id,
        "status": "pending",
        "success": None,
        "start_time": local(T0 + 1.5),
        "end_time": None,
        "completion_time": None,
        "error": None,
        "error_type": "",
        "progress": 0.0,
        "save_result_path": task_id,
        "save_video_path": f"{task_id}.mp4",
    }
    assert status(world, task_id) == pending
    run(world)
    assert status(world, task_id) == {**pending, "status": "processing", "start_time": local(T0 + 3.0)}
    world.do(world.fake.succeed, newest(world))
    done = {
        **pending,
        "status": "completed",
        "success": True,
        "start_time": local(T0 + 3.0),
        "end_time": local(T0 + 4.5),
        "completion_time": local(T0 + 4.5),
        "progress": 1.0,
    }
    assert status(world, task_id) == done
    assert world.http.get("/v1/tasks/").json() == {task_id: done}
    result = world.http.get(f"/v1/tasks/{task_id}/result")
    assert result.headers["content-disposition"] == f'attachment; filename="{task_id}.mp4"'
    assert (result.headers["content-type"], result.content[4:8]) == ("video/mp4", b"ftyp")
    assert int(result.headers["content-length"]) == len(result.content)


def test_the_third_generations_benchmark_finds_its_file(world: World) -> None:
    answer = post(world, **BENCH)
    assert answer["task_id"] == BENCH["task_id"]
    assert answer["save_result_path"] == answer["save_video_path"] == "out/000.mp4"
    assert (spec(world).seed, spec(world).save_to) == (42, str(world.start / "out" / "000.mp4"))
    run(world, succeed=True)
    done = status(world, BENCH["task_id"])
    assert (done["status"], done["save_result_path"]) == ("completed", "out/000.mp4")
    assert datetime.fromisoformat(done["end_time"]) > datetime.fromisoformat(done["start_time"])
    assert (world.start / "out" / "000.mp4").read_bytes()[4:8] == b"ftyp"
    result = world.http.get(f"/v1/tasks/{BENCH['task_id']}/result")
    assert result.headers["content-disposition"] == 'attachment; filename="000.mp4"'


#: (fields sent, what the spec holds)
NAMES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"infer_steps": 4}, {"num_inference_steps": 4}),
    ({"num_inference_steps": 4, "infer_steps": "4"}, {"num_inference_steps": 4}),
    ({"steps": 4, "cfg_scale": 3}, {"num_inference_steps": 4, "guidance_scale": 3.0}),
    ({"target_video_length": 33}, {"num_frames": 33}),
    ({"length": 33}, {"num_frames": 33}),
    ({"target_fps": 12}, {"fps": 12.0}),
    ({"fps": 24}, {"fps": 24.0}),
    ({"target_shape": [48, 96]}, {"height": 48, "width": 96}),
    ({"size": [48, 96]}, {"height": 48, "width": 96}),
    ({"size": "96x48"}, {"height": 48, "width": 96}),
    ({"size": "[48, 96]"}, {"height": 48, "width": 96}),
    ({"size": "48,96"}, {"height": 48, "width": 96}),
    ({"size": [48, 96], "target_shape": "96x48"}, {"height": 48, "width": 96}),
    ({"target_shape": []}, {"height": 64, "width": 64}),
    ({"height": 48, "width": 96}, {"height": 48, "width": 96}),
    ({"aspect_ratio": "16:9"}, {"height": 48, "width": 80}),
    ({"aspect_ratio": "16:9", "target_shape": [96, 48]}, {"height": 96, "width": 48}),
    ({"aspect_ratio": ""}, {"height": 64, "width": 64}),
    # Five seconds of eight frames, on the model's grid.
    ({"video_duration": 5}, {"num_frames": 41}),
    ({"video_duration": 5, "target_video_length": 33}, {"num_frames": 33}),
    ({"seed": 7}, {"seed": 7}),
    ({"seed": "7", "infer_steps": "3"}, {"seed": 7, "num_inference_steps": 3}),
    ({"seed": None, "infer_steps": None, "negative_prompt": None}, {"num_inference_steps": 8, "negative_prompt": "blurry"}),
    ({"negative_prompt": ""}, {"negative_prompt": ""}),
    ({"guidance_scale": 4.5}, {"guidance_scale": 4.5}),
    ({"model": "demo"}, {"model": "demo"}),
    ({"task": "t2v"}, {"output": "video"}),
    ({"save_result_path": "a/b"}, {"save_to": "a/b.mp4"}),
    ({"save_video_path": "c.mp4"}, {"save_to": "c.mp4"}),
    ({"num_fragments": 1, "use_prompt_enhancer": False, "resize_mode": "adaptive", "audio_path": "", "lora_name": None,
      "talk_objects": None, "lora_strength": 1.0, "reuse": False}, {"num_frames": 17}),
    ({"extra": 5, "num_outputs": 4, "output": "image"}, {"num_outputs": 1, "output": "video"}),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "drawn"), NAMES, ids=range(len(NAMES)))
def test_every_generations_names_are_understood(world: World, sent: dict[str, Any], drawn: dict[str, Any]) -> None:
    post(world, **sent)
    if drawn.get("save_to"):
        drawn = {"save_to": str(world.start / drawn["save_to"])}
    made = spec(world)
    assert {name: getattr(made, name) for name in drawn} == drawn


def test_an_absent_seed_is_drawn(world: World) -> None:
    seeds = set()
    for _ in range(3):
        post(world)
        seeds.add(spec(world).seed)
    assert len(seeds) == 3


def test_unknown_fields_are_named_and_ignored(world: World) -> None:
    answer = post(world, wand="magic", sr_ratio=2.0, infer_stepz=4)
    expected = ["wand: unknown field, ignored", "infer_stepz: unknown field, ignored; did you mean infer_steps?"]
    assert answer["warnings"] == expected
    assert status(world, answer["task_id"])["warnings"] == expected


def test_an_image_task_goes_to_a_model_that_makes_images(world: World) -> None:
    answer = post(world, "/v1/tasks/image/", aspect_ratio="1:1", target_video_length=81, infer_steps=3)
    assert (spec(world).model, spec(world).output, spec(world).num_frames) == ("org/picture", "image", 1)
    assert answer["save_video_path"] == f"{answer['task_id']}.png"
    run(world, succeed=True, image_png=b"\x89PNG\r\n")
    result = world.http.get(f"/v1/tasks/{answer['task_id']}/result")
    assert (result.headers["content-type"], result.content) == ("image/png", b"\x89PNG\r\n")
    assert result.headers["content-disposition"] == f'attachment; filename="{answer["task_id"]}.png"'


def test_the_shared_route_draws_what_the_task_says(world: World) -> None:
    post(world, "/v1/tasks/", task="t2i")
    assert spec(world).output == "image"


def test_a_form_with_a_picture_is_an_image_to_video_task(world: World) -> None:
    image = picture()
    answer = world.http.post(
        "/v1/tasks/video/form",
        data={"prompt": "a cat", "infer_steps": "3", "target_video_length": "33", "seed": "", "negative_prompt": "",
              "use_prompt_enhancer": "false", "target_fps": "16", "size": "[48, 96]", "save_result_path": ""},
        files={"image_file": ("cat.png", image, "image/png")},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    made = spec(world)
    assert (made.model, made.num_inference_steps, made.num_frames, made.fps) == ("animate", 3, 33, 16.0)
    assert (made.width, made.height) == (96, 48)
    assert made.image.startswith(str(world.start / ".zoetrope" / "uploads"))
    assert answer.json()["save_result_path"] == answer.json()["task_id"]


@pytest.mark.parametrize("path", ["/v1/tasks/form", "/v1/tasks/video/form/", "/v1/tasks/image/form"])
def test_forms_need_no_picture(world: World, path: str) -> None:
    answer = world.http.post(path, data={"prompt": "a cat"}, follow_redirects=False)
    assert answer.status_code == 200, answer.text


def test_a_picture_may_come_as_base64(world: World) -> None:
    post(world, image_path=base64.b64encode(picture()).decode())
    assert (spec(world).model, spec(world).image.endswith(".png")) == ("animate", True)


def test_a_picture_may_be_a_path_here(world: World) -> None:
    (world.start / "cat.png").write_bytes(picture())
    post(world, image_path="cat.png")
    assert (spec(world).model, spec(world).image.endswith(".png")) == ("animate", True)


def test_a_task_id_is_taken_once(world: World) -> None:
    post(world, task_id="mine")
    again = world.http.post("/v1/tasks/video", json={"prompt": "a dog", "task_id": "mine"})
    assert (again.status_code, again.json()["detail"]) == (503, "Task ID mine already exists")
    assert (again.headers["x-should-retry"], "retry-after" in again.headers) == ("false", False)
    assert len(world.fake.jobs) == 1


def test_a_task_id_of_the_first_generation_is_another(world: World) -> None:
    post(world, task_id="mine")
    run(world)
    first = world.http.post(
        "/v1/local/video/generate",
        json={"task_id": "mine", "prompt": "a", "save_video_path": "a.mp4", "task_id_must_unique": True},
    )
    assert first.json()["task_status"] == "processing"
    assert list(world.http.get("/v1/tasks").json()) == ["mine"]


def test_a_full_queue_is_503_with_its_limit_and_retry_after(world: World) -> None:
    world.fake.refuse_with = errors.QueueFull("queue_full", "100 jobs are waiting, the limit is 100", 12.0)
    answer = world.http.post("/v1/tasks/video", json={"prompt": "a"})
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("Task queue is full (max 100 tasks)")
    assert answer.json()["error"]["code"] == "queue_full"
    assert answer.headers["retry-after"] == "12"


def test_tasks_wait_while_all_workers_are_busy(world: World) -> None:
    for number in range(4):
        post(world, task_id=f"t{number}")
        if number < 2:
            world.do(world.fake.run, newest(world), f"cpu-{number}")
    assert [task["status"] for task in world.http.get("/v1/tasks").json().values()] == [
        "processing",
        "processing",
        "pending",
        "pending",
    ]


# ---------------------------------------------------------------- asking


def test_an_unknown_task_is_404_in_the_words_of_both_generations(world: World) -> None:
    for path in ("/v1/tasks/nobody/status", "/v1/tasks/nobody/result", "/v1/tasks/" + "x" * 300 + "/status"):
        answer = world.http.get(path)
        body = answer.json()
        assert (answer.status_code, body["detail"], body["status"]) == (404, "Task not found", "not_found")
        assert body["task_id"] == path.split("/")[3]
        assert body["error"]["code"] == "not_found"


def test_a_failed_task_says_why(world: World) -> None:
    post(world, task_id="t")
    run(world)
    world.do(world.fake.fail, newest(world), "CUDA error: out of memory", "out_of_memory")
    failed = status(world, "t")
    assert (failed["status"], failed["success"], failed["error"]) == ("failed", False, "CUDA error: out of memory")
    assert (failed["error_type"], failed["end_time"]) == ("out_of_memory", local(T0 + 4.5))
    answer = world.http.get("/v1/tasks/t/result")
    assert (answer.status_code, answer.json()["detail"]) == (404, "Task not completed")


def test_a_result_before_the_end_is_404(world: World) -> None:
    post(world, task_id="t")
    answer = world.http.get("/v1/tasks/t/result")
    assert (answer.status_code, answer.json()["detail"]) == (404, "Task not completed")


def test_a_result_that_was_removed_is_404(world: World) -> None:
    post(world, task_id="t")
    job_id = run(world, succeed=True)
    for file in (world.start / ".zoetrope" / "artefacts" / job_id).rglob("*.mp4"):
        file.unlink()
    answer = world.http.get("/v1/tasks/t/result")
    assert (answer.status_code, answer.json()["detail"]) == (404, "Task result file does not exist")


def test_a_result_has_real_ranges(world: World) -> None:
    post(world, task_id="t")
    run(world, succeed=True)
    whole = world.http.get("/v1/tasks/t/result")
    assert whole.headers["accept-ranges"] == "bytes"
    part = world.http.get("/v1/tasks/t/result", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    head = world.http.head("/v1/tasks/t/result")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", whole.headers["etag"])
    beyond = world.http.get("/v1/tasks/t/result", headers={"Range": "bytes=999999-"})
    assert (beyond.status_code, set(beyond.json())) == (416, {"detail", "error"})


def test_a_copy_that_cannot_be_made_is_told_and_the_result_is_there(world: World) -> None:
    post(world, task_id="t", save_result_path="out.mp4")
    (world.start / "out.mp4").write_bytes(b"somebody else's")
    run(world, succeed=True)
    done = status(world, "t")
    assert done["status"] == "completed"
    assert done["error"] == "save_result_path: exists already, and is not a file that this service wrote"
    assert world.http.get("/v1/tasks/t/result").status_code == 200


def test_hundreds_of_tasks_are_listed_once_each_and_in_order(world: World) -> None:
    names = [f"t{number}" for number in range(333)]
    for name in names:
        post(world, task_id=name)
    world.submit()
    listed = world.http.get("/v1/tasks").json()
    assert list(listed) == names
    assert all(task["task_id"] == name for name, task in listed.items())


@pytest.mark.parametrize("path", ["/v1/tasks/", "/api/v1/task/list", "/v1/local/video/generate/get_all_tasks"])
def test_a_list_that_does_not_go_back_to_the_first_job_says_so(world: World, path: str) -> None:
    post(world)
    whole = world.http.get(path)
    assert (whole.status_code, "x-zoetrope-searched-to" in whole.headers) == (200, False)
    others = [world.submit(prompt="no task") for _ in range(101)]
    world.fake.looked_at = 1
    short = world.http.get(path)
    assert (short.status_code, short.headers["x-zoetrope-searched-to"]) == (200, f"{others[1]['submitted_at']:.3f}")


def test_a_long_history_is_listed_by_its_newest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(120):
        post(world, task_id=f"t{number}")
    monkeypatch.setattr("http_edge.api.lightx2v.views.MAX_LISTED", 110)
    listed = world.http.get("/v1/tasks")
    assert list(listed.json()) == [f"t{number}" for number in range(10, 120)]
    assert float(listed.headers["x-zoetrope-searched-to"]) == list(world.fake.jobs.values())[10].submitted_at


def test_progress_is_a_fraction(world: World) -> None:
    post(world, task_id="t")
    run(world)
    world.do(world.fake.step, newest(world), 4)
    assert 0.3 < status(world, "t")["progress"] < 0.7
