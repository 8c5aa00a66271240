"""Bad input to `/v1/tasks`: one 4xx that names field, value and rule, in the shape of FastAPI's servers; none is a 500."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge.conftest import World
from tests.edge.json_values import JSON

#: (fields beside the prompt, the field blamed, words the message must hold)
INVALID: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"prompt": None}, "prompt", ["required"]),
    ({"prompt": ""}, "prompt", ['prompt: ""', "must not be empty"]),
    ({"prompt": 7}, "prompt", ["prompt: 7", "is not a string"]),
    ({"prompt": "x" * 20_001}, "prompt", ["20001 characters"]),
    ({"negative_prompt": {}}, "negative_prompt", ["is not a string"]),
    ({"task_id": 5}, "task_id", ["is not a string"]),
    ({"task_id": "x" * 257}, "task_id", ["at most 256"]),
    ({"task_id": "a/b"}, "task_id", ['"a/b"', "path"]),
    ({"task_id": "queue"}, "task_id", ['"queue"', "path"]),
    ({"task_id": ".."}, "task_id", ["path"]),
    ({"task_id": "a\0b"}, "task_id", ["NUL"]),
    ({"infer_steps": 51}, "infer_steps", ["51", "1 to 50"]),
    ({"infer_steps": 0}, "infer_steps", ["must be 1 to"]),
    ({"infer_steps": "many"}, "infer_steps", ['"many"', "whole number"]),
    ({"infer_steps": True}, "infer_steps", ["whole number"]),
    ({"target_video_length": 129}, "target_video_length", ["129", "1 to 81"]),
    ({"target_video_length": 18}, "target_video_length", ["17 or 21"]),
    ({"num_frames": 18}, "num_frames", ["17 or 21"]),
    ({"video_duration": 60}, "video_duration", ["480 frames", "at most 81"]),
    ({"video_duration": 0}, "video_duration", ["0.001"]),
    ({"target_fps": 0}, "target_fps", ["1 to 240"]),
    ({"fps": "fast"}, "fps", ["is not a number"]),
    ({"size": [48]}, "size", ["a list of 1", "[height, width]"]),
    ({"size": [48, 96, 3]}, "size", ["[height, width]"]),
    ({"size": [48, -96]}, "size", ["[height, width]"]),
    ({"size": [48.5, 96]}, "size", ["[height, width]"]),
    ({"size": [48, 10**12]}, "size", ["[height, width]"]),
    ({"size": [48, 0]}, "size", ["[height, width]"]),
    ({"size": [True, 96]}, "size", ["[height, width]"]),
    ({"size": "[48, 96"}, "size", ["[height, width]"]),
    ({"size": {"h": 1}}, "size", ["[height, width]"]),
    ({"size": "big"}, "size", ['"big"']),
    ({"target_shape": [48, 100]}, "target_shape", ["width 100 of target_shape", "96 or 112"]),
    ({"target_shape": [4096, 4096]}, "target_shape", ["4096", "32 to 256"]),
    ({"width": 100}, "width", ["96 or 112"]),
    ({"aspect_ratio": "wide"}, "aspect_ratio", ['"wide"', "16:9"]),
    ({"aspect_ratio": 1.5}, "aspect_ratio", ["is not a string"]),
    ({"aspect_ratio": "99:1"}, "aspect_ratio", ["99:1", "cannot draw"]),
    ({"seed": -2}, "seed", ["seed: -2", "must be -1"]),
    ({"seed": 2**63}, "seed", ["must be -1"]),
    ({"guidance_scale": 101}, "guidance_scale", ["0 to 100"]),
    ({"model": "sora"}, "model", ['"sora"', "known: demo"]),
    ({"task": "s2v"}, "task", ['"s2v"', "t2v, i2v, flf2v, t2i, i2i"]),
    ({"task": "t2i"}, "task", ["makes an image", "makes a video"]),
    ({"task": "i2v"}, "image_path", ["i2v", "needs an image"]),
    ({"save_result_path": "../out.mp4"}, "save_result_path", ['"../out.mp4"', "output_roots"]),
    ({"save_result_path": "/etc/out.mp4"}, "save_result_path", ["output_roots"]),
    ({"save_result_path": "out.png"}, "save_result_path", [".mp4"]),
    ({"save_result_path": "out/"}, "save_result_path", [".mp4"]),
    ({"save_video_path": 4}, "save_video_path", ["is not a string"]),
    ({"save_result_path": "x" * 2000}, "save_result_path", ["at most 1024"]),
    ({"image_path": "nothing.png"}, "image_path", ['"nothing.png"', "does not exist"]),
    ({"image_path": "../x.png"}, "image_path", ["input_roots"]),
    ({"image_path": 3}, "image_path", ["is not a string"]),
    ({"image_path": "data:image/png;base64,AAAA"}, "image_path", ["is not an image"]),
    ({"image_path": "file:///etc/passwd"}, "image_path", ["http"]),
    ({"image_path": "http://127.0.0.1/x.png"}, "image_path", ["127.0.0.1"]),
    ({"audio_path": "a.wav"}, "audio_path", ['"a.wav"', "is not supported"]),
    ({"video_path": "a.mp4"}, "video_path", ['model "demo" takes no ']),
    ({"last_frame_path": "a.png"}, "last_frame_path", ['model "demo" takes no ']),
    ({"image_mask_path": "a.png"}, "image_mask_path", ['model "demo" takes no ']),
    ({"talk_objects": [{"audio": "a", "mask": "b"}]}, "talk_objects", ["a list of 1", "is not supported"]),
    ({"lora_name": "style"}, "lora_name", ['"style"', "has no LoRAs"]),
    ({"presigned_url": "https://example.com/x"}, "presigned_url", ["/v1/tasks/image/sync"]),
    ({"use_prompt_enhancer": "maybe"}, "use_prompt_enhancer", ["true or false"]),
    ({"num_fragments": "few"}, "num_fragments", ["whole number"]),
]


@pytest.mark.parametrize(("fields", "param", "words"), INVALID, ids=[f"{n}-{row[1]}" for n, row in enumerate(INVALID)])
def test_bad_values_are_422_with_a_detail_list(
    world: World, fields: dict[str, Any], param: str, words: list[str]
) -> None:
    answer = world.http.post("/v1/tasks/video", json={"prompt": "a cat", **fields})
    body = answer.json()
    assert answer.status_code == 422, body
    (item,) = body["detail"]
    assert (item["loc"], body["error"]["param"]) == (["body", param], param)
    for word in words:
        assert word in item["msg"]
    assert world.fake.jobs == {}


def test_bad_values_of_image_tasks(world: World) -> None:
    for fields, words in (
        ({"task": "t2v"}, "makes a video; this route makes an image"),
        ({"save_result_path": "out.mp4"}, ".png"),
        ({"model": "demo"}, 'not what model "demo" makes'),
    ):
        answer = world.http.post("/v1/tasks/image", json={"prompt": "a", **fields})
        assert answer.status_code == 422
        assert words in answer.json()["detail"][0]["msg"]


def test_bad_forms_are_422(world: World) -> None:
    for data, files, param, words in (
        ({"prompt": "a", "infer_steps": "many"}, {}, "infer_steps", "whole number"),
        ({"prompt": "a"}, {"image_file": ("a.png", b"no picture")}, "image_file", "is not an image"),
        ({"prompt": "a"}, {"audio_file": ("a.wav", b"RIFF")}, "audio_file", "is not supported"),
        ({"prompt": "a"}, {"last_frame_file": ("a.png", b"x")}, "last_frame_file", "is not an image"),
        ({"prompt": "a"}, {"picture": ("a.png", b"x")}, "picture", "nothing here reads a file of this name"),
        ({"prompt": "a", "size": "[48"}, {}, "size", "[height, width]"),
        ({"infer_steps": "3"}, {}, "prompt", "required"),
    ):
        answer = world.http.post("/v1/tasks/video/form", data=data, files=files or None)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"] == ["body", param]
        assert words in answer.json()["detail"][0]["msg"]
    assert world.fake.jobs == {}


#: Bodies that hold no request.
BROKEN = [b"", b"{", b"[]", b"null", b'"prompt"', b"\xff\xfe", b"[" * 5000, b'{"prompt": "a" "b"}']


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_object_is_422(world: World, body: bytes) -> None:
    for path in ("/v1/tasks/", "/v1/tasks/video", "/v1/tasks/image/sync"):
        answer = world.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body"])


#: (method, path, status)
WRONG_WAY = [
    ("GET", "/v1/tasks/nothing", 405),
    ("PUT", "/v1/tasks", 405),
    ("POST", "/v1/tasks/x/status", 405),
    ("DELETE", "/v1/tasks/x/result", 405),
    ("GET", "/v1/tasks/video/form", 405),
    ("POST", "/v1/service/status", 405),
    ("GET", "/v1/service/nothing", 404),
    ("GET", "/v1/tasks/a/b/c", 404),
    ("POST", "/v1/files/download/x", 405),
]


@pytest.mark.parametrize(("method", "path", "status"), WRONG_WAY, ids=range(len(WRONG_WAY)))
def test_a_wrong_path_or_method_has_a_detail(world: World, method: str, path: str, status: int) -> None:
    answer = world.http.request(method, path)
    assert (answer.status_code, isinstance(answer.json()["detail"], str)) == (status, True)
    if status == 405:
        assert answer.headers["allow"] in answer.json()["detail"]


#: Every route of this family, as clients write it and with the slash at its other end.
ROUTES = [
    ("POST", "/v1/tasks", {"json": {"prompt": "a"}}),
    ("GET", "/v1/tasks", {}),
    ("POST", "/v1/tasks/form", {"data": {"prompt": "a"}}),
    ("POST", "/v1/tasks/video", {"json": {"prompt": "a"}}),
    ("POST", "/v1/tasks/video/form", {"data": {"prompt": "a"}}),
    ("POST", "/v1/tasks/image", {"json": {"prompt": "a"}}),
    ("POST", "/v1/tasks/image/form", {"data": {"prompt": "a"}}),
    ("DELETE", "/v1/tasks/all/running", {}),
    ("DELETE", "/v1/tasks/running", {}),
    ("DELETE", "/v1/tasks/nobody", {}),
    ("GET", "/v1/tasks/queue/status", {}),
    ("GET", "/v1/service/status", {}),
    ("GET", "/v1/service/metadata", {}),
    ("GET", "/api/v1/model/list", {}),
    ("GET", "/api/v1/task/list", {}),
]


@pytest.mark.parametrize(("method", "path", "how"), ROUTES, ids=[f"{row[0]} {row[1]}" for row in ROUTES])
def test_a_slash_at_the_end_makes_no_difference(world: World, method: str, path: str, how: dict[str, Any]) -> None:
    for way in (path, f"{path}/"):
        assert world.http.request(method, way, follow_redirects=False, **how).status_code == 200


NAMES = (
    "prompt",
    "negative_prompt",
    "task_id",
    "task",
    "image_path",
    "save_result_path",
    "save_video_path",
    "presigned_url",
    "infer_steps",
    "seed",
    "size",
    "target_shape",
    "custom_shape",
    "aspect_ratio",
    "num_frames",
    "target_video_length",
    "target_fps",
    "video_duration",
    "width",
    "talk_objects",
    "lora_name",
    "use_prompt_enhancer",
    "num_fragments",
    "model",
    "model_cls",
    "input_image",
    "stage",
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6), strict=st.booleans())
def test_no_json_at_all_is_a_fault(world: World, fields: dict[str, Any], strict: bool) -> None:
    base = {} if strict else {"prompt": "a cat", "task": "t2v"}
    for path in ("/v1/tasks/", "/v1/tasks/video", "/v1/tasks/image", "/api/v1/task/submit"):
        # A client of this process raises what the application raises: a fault of ours fails here.
        answer = world.http.post(path, json={**base, **fields})
        assert answer.status_code in (200, 400, 422, 503)
        assert answer.json()


def test_bad_input_is_not_logged_as_a_fault(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for fields, _, _ in INVALID:
            world.http.post("/v1/tasks/video", json={"prompt": "a cat", **fields})
        for body in BROKEN:
            world.http.post("/v1/tasks/image/sync", content=body)
        for method, path, _ in WRONG_WAY:
            world.http.request(method, path)
    assert [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []
