"""Bad input: each gets one 4xx that names field, value and rule, in the shape of its API; none is a 500 or a traceback."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from http_edge.jobs.fields import FIELDS
from tests.edge.conftest import World
from tests.edge.json_values import JSON

OK = {"prompt": "a red circle"}

#: (fields beside the prompt, the field blamed, words the message must hold)
INVALID: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"prompt": ""}, "prompt", ['prompt: ""', "must not be empty"]),
    ({"prompt": " \n"}, "prompt", ["must not be empty"]),
    ({"prompt": 7}, "prompt", ["prompt: 7", "is not a string"]),
    ({"prompt": ["a"]}, "prompt", ["a list of 1", "is not a string"]),
    ({"prompt": "a\0b"}, "prompt", ["NUL"]),
    ({"prompt": "x" * 20_001}, "prompt", ["20001 characters", "at most 20000"]),
    ({"negative_prompt": "x" * 20_001}, "negative_prompt", ["20001 characters"]),
    ({"negative_prompt": {}}, "negative_prompt", ["an object of 0 members", "is not a string"]),
    ({"model": "sora"}, "model", ['"sora"', "known: demo, animate, org/picture"]),
    ({"model": 3}, "model", ["is not a string"]),
    ({"output": "audio"}, "output", ['"audio"', 'must be "video" or "image"']),
    ({"output": "image", "model": "demo"}, "output", ['model "demo"', '"video"']),
    ({"width": 100}, "width", ["width: 100", "multiple of 16", "96 or 112"]),
    ({"width": 8}, "width", ["width: 8", "32 to 256"]),
    ({"height": 4096}, "height", ["4096", "32 to 256"]),
    ({"width": -64}, "width", ["-64"]),
    ({"width": True}, "width", ["width: true", "not a whole number"]),
    ({"width": "64.5"}, "width", ['"64.5"', "not a whole number"]),
    ({"width": [64]}, "width", ["a list of 1", "not a whole number"]),
    ({"width": 64.5}, "width", ["64.5", "not a whole number"]),
    ({"width": 10**30}, "width", ["must be"]),
    ({"width": 10**400}, "width", ["a number of more than 77 digits"]),
    ({"size": "64"}, "size", ['"64"', '"WIDTHxHEIGHT"']),
    ({"size": "64x100"}, "size", ["height 100 of size", "96 or 112"]),
    ({"size": [64, 96]}, "size", ["a list of 2", "which is the width", "WIDTHxHEIGHT"]),
    ({"size": "64,96"}, "size", ['"64,96"', "which is the width"]),
    ({"size": [64, 64, 3]}, "size", ["a list of 3", '"WIDTHxHEIGHT"']),
    ({"size": "64x64", "width": 96}, "size", ["size and width contradict each other", '"64x64" and 96']),
    ({"size": "256x256"}, "size", ["256x256", "65536 pixels", "at most 16384"]),
    ({"num_frames": 18}, "num_frames", ["18", "4k+1", "nearest: 17 or 21"]),
    ({"num_frames": 83}, "num_frames", ["83", "1 to 81"]),
    ({"num_frames": 0}, "num_frames", ["num_frames: 0"]),
    ({"num_frames": 5, "model": "org/picture"}, "num_frames", ["must be 1", "makes images"]),
    ({"seconds": 60}, "seconds", ["60", "480 frames", "at most 81"]),
    ({"seconds": 0}, "seconds", ["seconds: 0"]),
    ({"deadline_s": -1}, "deadline_s", ["deadline_s: -1", "must be 0.001 to 2678400"]),
    ({"seconds": "long"}, "seconds", ['"long"', "is not a number"]),
    ({"seconds": "nan"}, "seconds", ['"nan"', "is not a number"]),
    ({"fps": 0}, "fps", ["fps: 0", "1 to 240"]),
    ({"seconds": "1_0"}, "seconds", ['"1_0"', "is not a number"]),
    ({"seconds": "４"}, "seconds", ['"４"', "is not a number"]),
    ({"fps": True}, "fps", ["is not a number"]),
    ({"num_inference_steps": 51}, "num_inference_steps", ["51", "1 to 50"]),
    ({"num_inference_steps": 0}, "num_inference_steps", ["must be 1 to"]),
    ({"guidance_scale": "2,3"}, "guidance_scale", ['"2,3"', "is not a number"]),
    ({"guidance_scale": 101}, "guidance_scale", ["0 to 100"]),
    ({"seed": -2}, "seed", ["seed: -2", "must be -1 to"]),
    ({"seed": 2**63}, "seed", ["must be -1 to"]),
    ({"seed": [5, 6]}, "seed", ["a list of 2", "not a whole number"]),
    ({"seed": 1.5}, "seed", ["not a whole number"]),
    ({"num_outputs": 11}, "num_outputs", ["1 to 10"]),
    ({"max_sequence_length": 0}, "max_sequence_length", ["must be 1"]),
    ({"image": "a.png"}, "image", ['"a.png"', "does not exist"]),
    ({"image": "a.png", "model": "demo"}, "image", ['model "demo" takes no image']),
    ({"model": "animate"}, "image", ['model "animate" needs an image']),
    ({"extra": []}, "extra", ["is not an object"]),
    ({"extra": {"a b": 1}}, "extra", ['"a b"', "cannot name an argument"]),
    ({"extra": {"deep": {"er": 1}}}, "extra.deep", ["an object of 1 members", "64 bits"]),
    ({"extra": {"big": 2**64}}, "extra.big", ["64 bits"]),
    ({"extra": {f"k{n}": 1 for n in range(65)}}, "extra", ["at most 64"]),
    ({"save_to": "../x.mp4"}, "save_to", ['"../x.mp4"', "output_roots"]),
    ({"save_to": "x.txt"}, "save_to", ['"x.txt"', ".mp4"]),
    ({"save_to": "x.mp4", "num_outputs": 2}, "save_to", ["one file", "makes 2"]),
    ({"id": "a/b"}, "id", ['"a/b"', "1 to 64 characters"]),
    ({"id": ""}, "id", ['""', "1 to 64 characters"]),
    ({"id": 5}, "id", ["is not a string"]),
    ({"priority": 10}, "priority", ["0 to 9"]),
    ({"priority": "high"}, "priority", ["not a whole number"]),
    ({"deadline_s": -5}, "deadline_s", ["-5"]),
]


@pytest.mark.parametrize(("fields", "param", "words"), INVALID, ids=[f"{n}-{row[1]}" for n, row in enumerate(INVALID)])
def test_a_bad_value_is_refused(world: World, fields: dict[str, Any], param: str, words: list[str]) -> None:
    response = world.http.post("/v1/jobs", json={**OK, **fields})
    body = response.json()
    assert response.status_code == 422, body
    assert response.headers["content-type"] == "application/problem+json"
    assert set(body) == {"type", "title", "status", "detail", "instance", "error"}
    assert (body["status"], body["instance"]) == (422, "/v1/jobs")
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["param"] == param
    assert body["error"]["message"] == body["detail"]
    for word in words:
        assert word in body["detail"]
    assert len(body["detail"]) < 500
    assert world.fake.jobs == {}


#: (body, words the message must hold)
BROKEN = [
    (b"", ["empty"]),
    (b"  \n", ["empty"]),
    (b"{", ["valid JSON"]),
    (b"prompt=a", ["valid JSON"]),
    (b'{"prompt": NaN}', ["valid JSON"]),
    (b'{"prompt": "a", "fps": Infinity}', ["valid JSON"]),
    (b'{"prompt": "a", "fps": 1e999}', ["valid JSON"]),
    (b'{"prompt": "\xff"}', ["valid JSON"]),
    (b'{"prompt": "a"} x', ["valid JSON"]),
    ('{"prompt": "a"}'.encode("utf-16"), ["valid JSON"]),
    (b"[" * 200_000, ["nested too deeply"]),
    (b'{"prompt":' + b'{"a":' * 100_000, ["nested too deeply"]),
    (b'["prompt"]', ["a list of 1", "not a JSON object"]),
    (b'"prompt"', ['"prompt"', "not a JSON object"]),
    (b"null", ["null", "not a JSON object"]),
]


@pytest.mark.parametrize(("body", "words"), BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/local/video/generate"])
def test_a_broken_body_is_refused(world: World, path: str, body: bytes, words: list[str]) -> None:
    response = world.http.post(path, content=body, headers={"content-type": "application/json"})
    if path == "/v1/jobs":
        assert response.status_code == 400
        message = response.json()["error"]["message"]
    else:
        assert response.status_code == 422
        message = response.json()["detail"][0]["msg"]
    for word in words:
        assert word in message
    assert len(message) < 300


#: Texts that are small for their number of values.
CROWDED = [b"[" + b"{}," * 600_000 + b"0]", b"[" + b"0," * 600_000 + b"0]", b"[" + b"[]," * 300_000 + b"0]"]


@pytest.mark.parametrize("text", CROWDED, ids=["objects", "numbers", "lists"])
def test_json_has_a_cap_on_its_values_wherever_it_stands(world: World, text: bytes) -> None:
    within = msgspec.json.encode(text.decode())
    for path, body in [
        ("/v1/jobs", b'{"prompt": "a", "x": ' + text + b"}"),
        ("/v1/jobs", b'{"prompt": "a", "extra": ' + within + b"}"),
        ("/v1/jobs", b'{"prompt": "a", "webhook": "https://93.184.216.34/", "webhook_events": ' + within + b"}"),
        ("/v1/videos", b'{"prompt": "a", "extra_params": ' + within + b"}"),
    ]:
        answer = world.http.post(path, content=body)
        assert (answer.status_code // 100, "more than 500000 values" in answer.json()["detail"]) == (4, True), path
    assert world.fake.jobs == {}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/videos", "/v1/tasks/video", "/v1/local/video/generate/task_status"])
def test_json_has_a_cap_on_its_fields(world: World, path: str) -> None:
    answer = world.http.post(path, json={"prompt": "a", "task_id": "t", **{f"k{n}": 1 for n in range(600)}})
    assert (answer.status_code, "more than 512 fields" in answer.json()["detail"]) == (413, True)


def test_unknown_names_are_compared_with_the_known_ones_a_few_times_only(world: World) -> None:
    names = [f"promptx{n}" for n in range(400)]
    answer = world.http.post("/v1/videos", json={"prompt": "a", **dict.fromkeys(names, 1)})
    warnings = answer.json()["warnings"]
    assert [warning.partition(":")[0] for warning in warnings] == names[: len(warnings)]
    assert ["did you mean" in warning for warning in warnings] == [True] * 5 + [False] * (len(warnings) - 5)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_a_byte_order_mark_before_json_is_skipped(world: World, kind: str) -> None:
    headers = {"content-type": kind}
    assert world.http.post("/v1/jobs", content=b'\xef\xbb\xbf{"prompt": "a"}', headers=headers).status_code == 200
    asked = b'\xef\xbb\xbf{"task_id": "nobody"}'
    answer = world.http.post("/v1/local/video/generate/task_status", content=asked, headers=headers)
    assert answer.json() == {"task_status": "not_found"}


def test_a_lone_surrogate_is_refused_and_a_pair_is_a_character(world: World) -> None:
    assert world.http.post("/v1/jobs", content=b'{"prompt": "\\ud800"}').status_code == 400
    pair = world.http.post("/v1/jobs", content=b'{"prompt": "\\ud83d\\ude00"}')
    assert pair.json()["spec"]["prompt"] == "😀"


def test_a_doubled_key_counts_once_with_its_last_value(world: World) -> None:
    job = world.http.post("/v1/jobs", content=b'{"prompt": "a", "prompt": "b"}').json()
    assert job["spec"]["prompt"] == "b"


def test_a_prompt_of_a_megabyte_is_refused_without_repeating_it(world: World) -> None:
    response = world.http.post("/v1/jobs", json={"prompt": "x" * 1_000_000})
    assert response.status_code == 422
    assert "1000000 characters" in response.json()["detail"]
    assert len(response.content) < 1000


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/local/video/generate", "/nowhere"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_cap_is_413(open_edge: Callable[..., World], path: str, declared: bool) -> None:
    world = open_edge(max_upload_mb=1)
    data = b'{"prompt": "' + b"x" * (1024 * 1024) + b'"}'
    content = data if declared else iter([data])
    response = world.http.post(path, content=content)
    if path == "/nowhere" and not declared:
        # Nothing reads the body of a path that is not there.
        assert response.status_code == 404
        return
    assert response.status_code == 413
    assert "at most 1048576" in response.json()["detail"]
    assert world.fake.jobs == {}


@pytest.mark.parametrize("declared", [True, False])
def test_json_over_its_own_cap_is_413(world: World, declared: bool) -> None:
    data = b'{"task_id": "' + b"x" * (2 * 1024 * 1024) + b'"}'
    response = world.http.post("/v1/local/video/generate/task_status", content=data if declared else iter([data]))
    assert response.status_code == 413
    assert "at most 2097152" in response.json()["detail"]


def test_a_large_spec_within_the_limits_is_taken(world: World) -> None:
    job = world.submit(prompt="界" * 20_000, negative_prompt="面" * 20_000)
    assert len(job["spec"]["prompt"]) == 20_000


def test_a_spec_that_the_wire_cannot_carry_is_413(world: World) -> None:
    extra = {f"k{n}": "界" * 4096 for n in range(64)}
    response = world.http.post("/v1/jobs", json={**OK, "extra": extra})
    assert response.status_code == 413
    assert "at most 524288" in response.json()["detail"]


#: (method, path, status, words in the message)
WRONG_WAY = [
    ("GET", "/v1/jobs/nobody", 404, ["nobody", "does not exist"]),
    ("GET", "/v1/jobs/bad%20id", 404, ["does not exist"]),
    ("GET", "/v1/jobs/" + "x" * 300, 404, ["300 characters"]),
    ("DELETE", "/v1/jobs/nobody", 404, ["nobody"]),
    ("POST", "/v1/jobs/nobody/cancel", 404, ["nobody"]),
    ("POST", "/v1/jobs/%00/cancel", 404, ["does not exist"]),
    ("POST", "/v1/jobs/nobody/pause", 404, ["nobody"]),
    ("POST", "/v1/jobs/%00/commit", 404, ["does not exist"]),
    ("GET", "/v1/jobs/nobody/events", 404, ["nobody"]),
    ("GET", "/v1/jobs/nobody/result", 404, ["nobody"]),
    ("GET", "/v1/nothing", 404, ["/v1/nothing"]),
    ("GET", "/v1/jobs?limit=many", 422, ["limit", '"many"', "whole number"]),
    ("GET", "/v1/jobs?limit=", 422, ["limit", '""', "whole number"]),
    ("GET", "/v1/jobs?limit=-1", 422, ["limit", '"-1"', "0 to 200"]),
    ("GET", "/v1/jobs?limit=1000", 422, ["limit", "0 to 200"]),
    ("GET", "/v1/jobs?order=up", 422, ["order", '"up"', "asc"]),
    ("GET", "/v1/jobs?state=lost", 422, ["state", '"lost"', "queued"]),
    ("GET", "/v1/jobs?after=" + "x" * 65, 422, ["after", "at most 64"]),
    ("GET", "/v1/jobs?stat=failed", 422, ["stat: unknown parameter", "did you mean state?"]),
    ("GET", "/v1/jobs?limit=1&tenant=a", 422, ["tenant: unknown parameter", "known: limit, after, order, state"]),
    ("GET", "/v1/jobs/nobody?wait=5", 422, ["wait: unknown parameter", "known: none"]),
    ("DELETE", "/v1/jobs/nobody?purg=1", 422, ["purg", "did you mean purge?"]),
    ("POST", "/v1/jobs?prompt=a", 422, ["prompt: unknown parameter"]),
    ("GET", "/v1/jobs/nobody/result?idx=1", 422, ["idx", "did you mean index?"]),
    ("GET", "/v1/workers?state=idle", 422, ["state: unknown parameter"]),
    ("POST", "/v1/workers/cpu-0/drain?hand_bak=1", 422, ["did you mean hand_back?"]),
    ("GET", "/v1/usage?form=2026-11-01", 422, ["did you mean from?"]),
    ("GET", "/v1/jobs?" + "x" * 200 + "=1", 422, ["x" * 80 + ": unknown"]),
    ("PUT", "/v1/jobs", 405, ['"PUT"', "GET, HEAD, POST"]),
    ("PATCH", "/v1/jobs/nobody", 405, ['"PATCH"', "DELETE, GET, HEAD"]),
    ("GET", "/v1/jobs/nobody/cancel", 405, ["POST"]),
    ("POST", "/health", 405, ["GET, HEAD"]),
]


@pytest.mark.parametrize(("method", "path", "status", "words"), WRONG_WAY, ids=range(len(WRONG_WAY)))
def test_a_wrong_path_or_method_is_refused_in_shape(
    world: World, method: str, path: str, status: int, words: list[str]
) -> None:
    response = world.http.request(method, path)
    body = response.json()
    assert response.status_code == status, body
    assert response.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in body["error"]["message"]
    if status == 405:
        assert response.headers["allow"] in body["error"]["message"]


@pytest.mark.parametrize("path", ["/health?probe=1", "/metrics?x=1", "/v1/models?x=1", "/v1/videos?x=1", "/livez?_=2"])
def test_probes_and_other_apis_ignore_parameters_that_they_do_not_know(world: World, path: str) -> None:
    assert world.http.get(path).status_code == 200


#: (body of a request, words in the message)
BAD_TEXT = [
    (b'{"prompt": "caf\xe9"}', ["must be UTF-8", "byte 15 (0xe9)"]),
    ('{"prompt": "a"}'.encode("utf-16"), ["must be UTF-8", "byte 0"]),
    (b'{"prompt": "\\ud800"}', ["\\ud800 is half of a surrogate pair"]),
    (b'{"prompt": "a"', ["truncated"]),
    (b'{"prompt": "a", }', ["not valid JSON"]),
]


@pytest.mark.parametrize(("body", "words"), BAD_TEXT, ids=range(len(BAD_TEXT)))
def test_text_that_is_no_json_is_told_why(world: World, body: bytes, words: list[str]) -> None:
    response = world.http.post("/v1/jobs", content=body)
    assert response.status_code == 400
    for word in words:
        assert word in response.json()["error"]["message"]


def test_bad_result_parameters_are_refused(world: World) -> None:
    job = world.finished()
    response = world.http.get(job["urls"]["result"], params={"index": "first"})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "index")


#: Fields of a gen-1 request and the field blamed.
GEN1 = {"task_id": "t", "prompt": "a cat", "save_video_path": "out.mp4"}
GEN1_INVALID: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"prompt": ""}, ["body", "prompt"], ["must not be empty"]),
    ({"task_id": 5}, ["body", "task_id"], ["is not a string"]),
    ({"task_id": ""}, ["body", "task_id"], ["must not be empty"]),
    ({"task_id": "x" * 257}, ["body", "task_id"], ["at most 256"]),
    ({"save_video_path": "../out.mp4"}, ["body", "save_video_path"], ['"../out.mp4"', "output_roots"]),
    ({"save_video_path": "/etc/out.mp4"}, ["body", "save_video_path"], ["output_roots"]),
    ({"save_video_path": "out"}, ["body", "save_video_path"], [".mp4"]),
    ({"save_video_path": "out.png"}, ["body", "save_video_path"], [".mp4", "video"]),
    ({"save_video_path": ".mp4"}, ["body", "save_video_path"], [".mp4"]),
    ({"save_video_path": ""}, ["body", "save_video_path"], ["must not be empty"]),
    ({"image_path": 3}, ["body", "image_path"], ["is not a string"]),
    ({"image_path": "nothing.png"}, ["body", "image_path"], ["does not exist"]),
    ({"task_id_must_unique": "maybe"}, ["body", "task_id_must_unique"], ['"maybe"', "true or false"]),
    ({"num_fragments": "few"}, ["body", "num_fragments"], ["whole number"]),
    ({"infer_steps": 51}, ["body", "infer_steps"], ["51", "1 to 50"]),
    ({"infer_steps": "8.5"}, ["body", "infer_steps"], ["whole number"]),
    ({"target_video_length": 18}, ["body", "target_video_length"], ["18", "17 or 21"]),
    ({"target_video_length": 129}, ["body", "target_video_length"], ["129", "1 to 81"]),
    ({"width": 100}, ["body", "width"], ["96 or 112"]),
    ({"seed": -2}, ["body", "seed"], ["must be -1"]),
    ({"lora_name": "style"}, ["body", "lora_name"], ['"style"', "has no LoRAs"]),
]


@pytest.mark.parametrize(
    ("fields", "place", "words"), GEN1_INVALID, ids=[f"{n}-{row[1][1]}" for n, row in enumerate(GEN1_INVALID)]
)
def test_lightx2v_validation_is_422_with_a_detail_list(
    world: World, fields: dict[str, Any], place: list[str], words: list[str]
) -> None:
    response = world.http.post("/v1/local/video/generate", json={**GEN1, **fields})
    assert response.status_code == 422
    (item,) = response.json()["detail"]
    assert item["loc"] == place
    for word in words:
        assert word in item["msg"]
    assert world.fake.jobs == {}


def test_lightx2v_names_every_missing_field(world: World) -> None:
    response = world.http.post("/v1/local/video/generate", json={"negative_prompt": "x"})
    assert response.status_code == 422
    detail = response.json()["detail"]
    assert [item["loc"] for item in detail] == [["body", "task_id"], ["body", "prompt"], ["body", "save_video_path"]]
    assert {item["type"] for item in detail} == {"missing"}


def test_lightx2v_wrong_paths_and_methods_have_a_detail(world: World) -> None:
    missing = world.http.get("/v1/local/video/nothing")
    assert (missing.status_code, "does not exist" in missing.json()["detail"]) == (404, True)
    wrong = world.http.get("/v1/local/video/generate")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    no_id = world.http.post("/v1/local/video/generate/task_status", json={})
    assert (no_id.status_code, no_id.json()["detail"][0]["loc"]) == (422, ["body", "task_id"])
    no_query = world.http.get("/v1/local/video/generate/task_status")
    assert (no_query.status_code, no_query.json()["detail"][0]["loc"]) == (422, ["query", "task_id"])


NAMES = (*FIELDS, "id", "priority", "deadline_s", "task_id", "save_video_path", "image_path", "num_fragments")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6), strict=st.booleans())
def test_no_json_at_all_is_a_fault(world: World, fields: dict[str, Any], strict: bool) -> None:
    base = {} if strict else {**OK, **GEN1}
    for path in ("/v1/jobs", "/v1/local/video/generate"):
        # A client of this process raises what the application raises: a fault of ours fails here.
        response = world.http.post(path, json={**base, **fields})
        assert response.status_code in (200, 409, 422)
        assert response.json()


def test_a_client_that_leaves_while_sending_is_no_fault(world: World) -> None:
    """Run as the server runs it: what the application raised would be the server's traceback."""
    sent: list[dict[str, Any]] = []
    parts = iter([{"type": "http.request", "body": b'{"prompt": ', "more_body": True}, {"type": "http.disconnect"}])
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/jobs",
        "raw_path": b"/v1/jobs",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }

    async def receive() -> dict[str, Any]:
        return next(parts)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    assert world.http.portal is not None
    world.http.portal.call(world.http.app, scope, receive, send)
    assert world.fake.jobs == {}
    assert sent[0]["status"] < 500


def test_bad_input_is_not_logged_as_a_fault(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for fields, _, _ in INVALID:
            world.http.post("/v1/jobs", json={**OK, **fields})
        for body, _ in BROKEN:
            world.http.post("/v1/jobs", content=body)
        for method, path, _, _ in WRONG_WAY:
            world.http.request(method, path)
    assert [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []
