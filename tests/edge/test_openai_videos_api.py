"""OpenAI's Videos API over a broker in memory: what its SDKs, vLLM-Omni's and SGLang's clients send, and what they look for."""

from __future__ import annotations

import base64
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.client import errors
from broker.wire.inputs import StartFrames
from broker.wire.jobspec import decode_spec
from http_edge.auth.keys import KeyRecord, hash_of, new_key, write_keys
from tests.edge.conftest import World
from tests.edge.levers import draws, leave, only_job, only_spec, then
from tests.edge.small_media import clip, opened, picture
from tests.testing.fake_broker import ANIMATE, T0, VIDEO, worker

URL = "/v1/videos"


def create(world: World, **fields: Any) -> dict[str, Any]:
    answer = world.http.post(URL, json={"prompt": "a red circle", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def completed(world: World, data: bytes = b"", **fields: Any) -> dict[str, Any]:
    video = create(world, **fields)
    world.do(world.fake.run, video["id"])
    world.do(world.fake.succeed, video["id"], **({"video_mp4": data} if data else {}))
    return world.http.get(f"{URL}/{video['id']}").json()


# ---------------------------------------------------------------- create


def test_creation_answers_at_once_with_the_whole_object(world: World) -> None:
    answer = world.http.post(URL, json={"prompt": "a red circle"})
    video = answer.json()
    assert answer.status_code == 200
    assert answer.headers["location"] == f"{URL}/{video['id']}"
    assert answer.headers["openai-poll-after-ms"] == "500"
    assert video["id"].startswith("video_")
    assert {key: video[key] for key in ("object", "status", "progress", "model", "size", "seconds", "prompt")} == {
        "object": "video",
        "status": "queued",
        "progress": 0,
        "model": "demo",
        "size": "64x64",
        "seconds": "2.125",
        "prompt": "a red circle",
    }
    nullable = ("completed_at", "expires_at", "error", "remixed_from_video_id")
    assert [video[key] for key in nullable] == [None] * 4
    assert video["created_at"] == int(T0 + 1.5)
    assert only_job(world).submission.origin == "openai-videos"


def test_a_job_that_started_meanwhile_is_still_created_as_queued(world: World) -> None:
    then(world, world.fake.run)
    assert (create(world)["status"], create(world)["progress"]) == ("queued", 0)


FIELDS = {"prompt": "a cat", "size": "96x48", "seconds": "2", "num_inference_steps": "20", "seed": "7", "fps": "12"}


@pytest.mark.parametrize("how", ["json", "urlencoded", "multipart"])
def test_three_encodings_mean_the_same(world: World, how: str) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "json": {"json": FIELDS},
        "urlencoded": {"data": FIELDS},
        "multipart": {"files": {name: (None, value) for name, value in FIELDS.items()}},
    }
    answer = world.http.post(URL, **kinds[how])
    assert answer.status_code == 200, answer.text
    assert (answer.json()["seconds"], answer.json()["size"]) == ("2", "96x48")
    spec = only_spec(world)
    assert (spec.width, spec.height, spec.num_frames, spec.fps) == (96, 48, 25, 12.0)
    assert (spec.num_inference_steps, spec.seed) == (20, 7)


def test_numbers_and_strings_mean_the_same(world: World) -> None:
    create(world, seconds=2, seed=7)
    assert (only_spec(world).num_frames, only_spec(world).seed) == (17, 7)


def test_every_superset_field_reaches_the_job(world: World) -> None:
    video = create(
        world,
        model="demo",
        negative_prompt="",
        width=96,
        height=64,
        num_frames=25,
        num_inference_steps=12,
        guidance_scale=4.5,
        guidance_scale_2=3,
        true_cfg_scale=2.5,
        flow_shift=8.0,
        max_sequence_length=64,
        num_outputs_per_prompt=2,
        extra={"eta": 0.5},
        priority=9,
        user="me",
        generator_device="cuda",
        quality="auto",
    )
    spec = only_spec(world)
    assert (spec.width, spec.height, spec.num_frames, spec.num_outputs) == (96, 64, 25, 2)
    assert (spec.num_inference_steps, spec.guidance_scale, spec.guidance_scale_2) == (12, 4.5, 3.0)
    assert (spec.negative_prompt, spec.max_sequence_length) == ("", 64)
    assert spec.extra == {"flow_shift": 8.0, "true_cfg_scale": 2.5, "eta": 0.5}
    assert only_job(world).submission.priority == 9
    assert video["warnings"] == []


def test_nested_containers_are_unwrapped_and_explicit_fields_win(world: World) -> None:
    create(
        world,
        num_inference_steps=9,
        extra_body={"num_inference_steps": 3, "seed": 5, "extra_params": json.dumps({"eta": 0.25, "fps": 10})},
        video_params={"width": 96, "height": 48},
    )
    spec = only_spec(world)
    assert (spec.num_inference_steps, spec.seed, spec.fps) == (9, 5, 10.0)
    assert (spec.width, spec.height, spec.extra) == (96, 48, {"eta": 0.25})


def test_bracketed_form_fields_are_the_objects_they_stand_for(world: World) -> None:
    world.http.post(
        URL, data={"prompt": "a cat", "extra_body[seed]": "11", "extra[fake_step_s]": "0.5", "extra[on]": "true"}
    )
    assert (only_spec(world).seed, only_spec(world).extra) == (11, {"fake_step_s": 0.5, "on": True})


def test_what_is_not_honoured_is_reported_and_stays_reported(world: World) -> None:
    video = create(world, generate_sound=True, lora_weights="x", enable_teacache=False, quality="high", nonsense=1)
    names = [warning.partition(":")[0] for warning in video["warnings"]]
    assert names == ["generate_sound", "lora_weights", "nonsense"]
    assert world.http.get(f"{URL}/{video['id']}").json()["warnings"] == video["warnings"]


@pytest.mark.parametrize("seed", [-1, "-1", [5, 6], ""])
def test_other_servers_ways_to_write_a_seed(world: World, seed: Any) -> None:
    create(world, seed=seed)
    assert only_spec(world).seed == 5 if isinstance(seed, list) else 0 <= only_spec(world).seed < 2**32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", [None]),
        ("seed", [None, None]),
        ("loras", [None]),
        ("lora_name", [{}]),
        ("reference_images", [None]),
        ("mask", [{}]),
    ],
)
def test_lists_of_nothing_are_no_values(world: World, field: str, value: Any) -> None:
    answer = world.http.post(URL, json={"prompt": "a cat", field: value})
    assert answer.status_code == 400, answer.text
    assert field in answer.json()["error"]["message"]


@pytest.mark.parametrize("size", ["auto", "", None])
def test_size_auto_is_the_models_own(world: World, size: str | None) -> None:
    assert create(world, size=size)["size"] == "64x64"


# ---------------------------------------------------------------- fitting


@pytest.mark.parametrize(
    ("seconds", "frames", "shown", "warned"),
    [("4", 33, "4", False), ("8", 65, "8", False), ("12", 81, "10.125", True), (60, 81, "10.125", True)],
)
def test_a_length_beyond_the_model_is_its_longest(
    world: World, seconds: Any, frames: int, shown: str, warned: bool
) -> None:
    video = create(world, seconds=seconds)
    assert (only_spec(world).num_frames, video["seconds"]) == (frames, shown)
    assert video["duration_s"] == frames / 8
    assert [warning.startswith("seconds:") for warning in video["warnings"]] == [True] * warned


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ("720x1280", "48x80"),
        ("1280x720", "80x48"),
        ("1024x1792", "48x80"),
        ("5000x100", "256x32"),
        ("128x96", "128x96"),
    ],
)
def test_a_size_beyond_the_model_is_one_of_its_shape_that_suits_it(world: World, size: str, drawn: str) -> None:
    video = create(world, size=size)
    assert video["size"] == drawn
    assert bool(video["warnings"]) == (size != drawn)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"width": 720, "height": 1280}, "width"),
        ({"num_frames": 500}, "num_frames"),
        ({"num_frames": 18}, "num_frames"),
    ],
)
def test_explicit_numbers_beyond_the_model_are_errors(world: World, fields: dict[str, int], param: str) -> None:
    answer = world.http.post(URL, json={"prompt": "p", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert world.fake.jobs == {}


def test_an_aspect_ratio_is_a_shape(world: World) -> None:
    width, height = (int(side) for side in create(world, aspect_ratio="16:9")["size"].split("x"))
    assert 1.5 < width / height < 2.1


# ---------------------------------------------------------------- models


def test_an_unknown_model_is_served_by_the_only_one_that_can(world: World) -> None:
    video = create(world, model="sora-2")
    assert (video["model"], only_job(world).submission.model) == ("sora-2", "demo")
    assert video["warnings"] == ['model: "sora-2" is not a model of this service; "demo" was used']
    assert world.http.get(f"{URL}/{video['id']}").json()["model"] == "sora-2"


def test_an_unknown_model_is_refused_where_several_could(world: World) -> None:
    other = msgspec.structs.replace(VIDEO, name="other")
    world.fake.workers["cpu-1"] = worker("cpu-1", other)
    answer = world.http.post(URL, json={"prompt": "p", "model": "sora-2"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "model_not_found", "model")
    assert "demo" in error["message"]
    assert "other" in error["message"]


def test_unknown_models_can_be_refused_always(open_edge: Callable[..., World]) -> None:
    world = open_edge(unknown_model="refuse", model_aliases=("sora-2-pro=demo",))
    assert world.http.post(URL, json={"prompt": "p", "model": "sora-2"}).status_code == 400
    video = create(world, model="sora-2-pro")
    assert (video["model"], only_job(world).submission.model, video["warnings"]) == ("sora-2-pro", "demo", [])


def test_a_model_of_images_makes_no_video(world: World) -> None:
    answer = world.http.post(URL, json={"prompt": "p", "model": "org/picture"})
    assert answer.status_code == 400
    assert "makes images, not videos" in answer.json()["error"]["message"]


# ---------------------------------------------------------------- images to draw from


def test_an_uploaded_reference_is_drawn_from(world: World) -> None:
    files = {"input_reference": ("upload", picture(), "application/octet-stream")}
    answer = world.http.post(URL, data={"prompt": "p", "model": "sora-2"}, files=files)
    assert answer.status_code == 200, answer.text
    assert only_job(world).submission.model == "animate"
    assert only_spec(world).image.endswith(".png")


@pytest.mark.parametrize("form", ["object", "text", "bracket", "json text"])
def test_a_reference_by_data_url(world: World, form: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture()).decode()
    bodies: dict[str, dict[str, Any]] = {
        "object": {"json": {"prompt": "p", "input_reference": {"image_url": url}}},
        "text": {"json": {"prompt": "p", "reference_url": url}},
        "bracket": {"data": {"prompt": "p", "input_reference[image_url]": url}},
        "json text": {"data": {"prompt": "p", "image_reference": json.dumps({"image_url": url})}},
    }
    answer = world.http.post(URL, **bodies[form])
    assert answer.status_code == 200, answer.text
    assert only_spec(world).image.endswith(".png")


def test_an_image_for_a_model_without_one_is_refused_by_name(world: World) -> None:
    files = {"input_reference": ("a.png", picture(), "image/png")}
    answer = world.http.post(URL, data={"prompt": "p", "model": "demo"}, files=files)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "input_reference", "unsupported")
    assert "takes no image" in error["message"]


def test_a_damaged_image_is_refused(world: World) -> None:
    answer = world.http.post(
        URL, data={"prompt": "p"}, files={"input_reference": ("a.png", picture()[:60], "image/png")}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input_reference")


# ---------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"size": "big"}, "size"),
        ({"size": "0x64"}, "size"),
        ({"seconds": "soon"}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"fps": 0}, "fps"),
        ({"seed": "x"}, "seed"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 51}, "num_inference_steps"),
        ({"num_outputs_per_prompt": 11}, "num_outputs_per_prompt"),
        ({"n": 0}, "n"),
        ({"guidance_scale": "nan"}, "guidance_scale"),
        ({"flow_shift": 0}, "flow_shift"),
        ({"aspect_ratio": "wide"}, "aspect_ratio"),
        ({"priority": 10}, "priority"),
        ({"extra_body": "{"}, "extra_body"),
        ({"extra_params": [1]}, "extra_params"),
        ({"input_reference": {"nothing": 1}}, "input_reference"),
        ({"input_reference": 5}, "input_reference"),
        ({"model": "m" * 300}, "model"),
    ],
)
def test_a_bad_value_is_400_and_names_its_field(world: World, fields: dict[str, Any], param: str) -> None:
    answer = world.http.post(URL, json={"prompt": "a cat", **fields})
    body = answer.json()
    assert (answer.status_code, body["error"]["param"]) == (400, param)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] == body["detail"]
    assert (body["status"], body["title"], body["instance"]) == (400, "Bad Request", URL)
    assert answer.headers["content-type"] == "application/json"
    assert world.fake.jobs == {}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
def test_a_body_that_is_no_object_is_400(world: World, body: bytes) -> None:
    answer = world.http.post(URL, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_json")


def test_a_full_queue_is_429_with_its_wait(world: World) -> None:
    world.fake.refuse_with = errors.QueueFull("queue_full", "full", 900.0)
    answer = world.http.post(URL, json={"prompt": "p"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "120")


# ---------------------------------------------------------------- retrieve


def test_progress_never_falls_and_is_100_only_at_the_end(world: World) -> None:
    video = create(world)
    seen = []

    def look() -> str:
        body = world.http.get(f"{URL}/{video['id']}").json()
        seen.append(body["progress"])
        return body["status"]

    assert look() == "queued"
    world.do(world.fake.run, video["id"])
    assert look() == "in_progress"
    world.do(world.fake.step, video["id"], 6)
    assert look() == "in_progress"
    world.do(world.fake.lose, video["id"])
    assert look() == "in_progress", "a job that has begun is never queued again"
    world.do(world.fake.run, video["id"])
    world.do(world.fake.step, video["id"], 1)
    assert look() == "in_progress"
    world.do(world.fake.step, video["id"], 1, phase="finished")
    assert look() == "in_progress"
    assert max(seen) < 100
    world.do(world.fake.succeed, video["id"])
    assert look() == "completed"
    assert seen == sorted(seen)
    assert seen[-1] == 100


def test_a_completed_video_carries_what_benchmarks_read(world: World) -> None:
    video = completed(world)
    assert (video["status"], video["completed_at"] > video["created_at"], video["error"]) == ("completed", True, None)
    assert (video["stage_durations"], video["inference_time_s"], video["num_outputs"]) == ({"denoise": 1.25}, 2.5, 1)
    assert video["peak_memory_mb"] == 0.0
    assert (video["file_name"], video["media_type"]) == (f"{video['id']}.mp4", "video/mp4")
    assert (video["num_frames"], video["fps"], video["duration_s"]) == (17, 8.0, 2.125)


def test_when_to_ask_again_comes_from_the_eta(world: World) -> None:
    video = create(world)
    url = f"{URL}/{video['id']}"
    world.do(world.fake._change, video["id"], eta_s=12.0)
    assert world.http.get(url).headers["openai-poll-after-ms"] == "1200"
    world.do(world.fake._change, video["id"], eta_s=3600.0)
    assert world.http.get(url).headers["openai-poll-after-ms"] == "5000"
    world.do(world.fake._change, video["id"], eta_s=0.01)
    assert world.http.get(url).headers["openai-poll-after-ms"] == "100"
    world.do(world.fake.run, video["id"])
    world.do(world.fake.succeed, video["id"])
    assert "openai-poll-after-ms" not in world.http.get(url).headers


def test_a_failed_video_is_a_good_answer(world: World) -> None:
    video = create(world)
    world.do(world.fake.run, video["id"])
    world.do(world.fake.fail, video["id"], "the GPU fell off")
    answer = world.http.get(f"{URL}/{video['id']}")
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "failed")
    assert body["error"] == {"code": "engine_error", "message": "the GPU fell off"}
    assert body["progress"] < 100
    assert body["completed_at"] is None


def test_a_cancelled_video_has_failed_by_that(world: World) -> None:
    video = create(world)
    world.http.post(f"/v1/jobs/{video['id']}/cancel")
    body = world.http.get(f"{URL}/{video['id']}").json()
    assert (body["status"], body["error"]["code"]) == ("failed", "cancelled")


@pytest.mark.parametrize("video_id", ["video_nobody", "bad%20id", "x" * 200])
def test_an_unknown_video_is_404(world: World, video_id: str) -> None:
    answer = world.http.get(f"{URL}/{video_id}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "video")


def test_other_apis_jobs_are_not_videos(world: World) -> None:
    job = world.submit()
    assert world.http.get(f"{URL}/{job['id']}").status_code == 404
    assert world.http.delete(f"{URL}/{job['id']}").status_code == 404
    assert world.http.get(URL).json()["data"] == []


# ---------------------------------------------------------------- list


def test_pages_in_both_orders(world: World) -> None:
    ids = [create(world)["id"] for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = world.http.get(URL, params={"limit": 2, "order": "asc", "after": after}).json()
        seen += [video["id"] for video in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == ids
    newest = world.http.get(URL).json()
    assert [video["id"] for video in newest["data"]] == ids[::-1]
    assert (newest["object"], newest["has_more"]) == ("list", False)


def test_videos_behind_many_other_jobs_are_found_and_a_search_for_them_ends(world: World) -> None:
    """An SDK's iterator ends at an empty page, so that one comes only after a long search."""
    first = create(world)["id"]
    others = [world.submit(prompt="no video of OpenAI's") for _ in range(115)]
    newest = create(world)["id"]
    world.fake.looked_at = 1
    short = world.http.get(URL).json()
    assert ([video["id"] for video in short["data"]], short["has_more"]) == ([newest], True)
    assert short["searched_to"] == others[106]["submitted_at"]
    empty = world.http.get(URL, params={"after": short["last_id"]}).json()
    assert (empty["data"], empty["has_more"], empty["first_id"]) == ([], True, None)
    assert empty["searched_to"] == others[6]["submitted_at"]
    last = world.http.get(URL, params={"after": empty["last_id"]}).json()
    assert ([video["id"] for video in last["data"]], last["has_more"], last["last_id"]) == ([first], False, first)
    assert "searched_to" not in last
    world.fake.looked_at = 2
    found = world.http.get(URL, params={"after": newest}).json()
    assert [video["id"] for video in found["data"]] == [first]


def test_a_page_of_none_says_whether_there_are_any(world: World) -> None:
    assert world.http.get(URL, params={"limit": 0}).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }
    create(world)
    assert world.http.get(URL, params={"limit": 0}).json()["has_more"] is True


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_who_deletes_what_it_lists_reaches_the_end(world: World, order: str) -> None:
    ids = {create(world)["id"] for _ in range(7)}
    gone: set[str] = set()
    after = ""
    while True:
        page = world.http.get(URL, params={"limit": 2, "order": order, "after": after}).json()
        for video in page["data"]:
            assert world.http.delete(f"{URL}/{video['id']}").status_code == 200
            gone.add(video["id"])
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert gone == ids


def test_behind_an_id_that_never_was_there_is_nothing(world: World) -> None:
    create(world)
    assert world.http.get(URL, params={"after": "video_nobody"}).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "param"), [("limit=101", "limit"), ("limit=-1", "limit"), ("limit=x", "limit"), ("order=up", "order")]
)
def test_bad_pages_are_400(world: World, query: str, param: str) -> None:
    answer = world.http.get(f"{URL}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


# ---------------------------------------------------------------- delete


def test_deleting_a_queued_video_cancels_and_forgets_it(world: World) -> None:
    video = create(world)
    answer = world.http.delete(f"{URL}/{video['id']}", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()) == (
        200,
        {"id": video["id"], "object": "video.deleted", "deleted": True},
    )
    assert world.http.get(f"{URL}/{video['id']}").status_code == 404
    assert world.http.delete(f"{URL}/{video['id']}").status_code == 404
    assert world.http.get(URL).json()["data"] == []


def test_deleting_a_running_video_waits_for_its_stop(world: World) -> None:
    video = create(world)
    world.do(world.fake.run, video["id"])
    assert world.http.delete(f"{URL}/{video['id']}").json()["deleted"] is True
    assert world.http.get(f"{URL}/{video['id']}").status_code == 404


def test_deleting_what_does_not_stop_asks_to_come_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("http_edge.jobs.delete_job.STOP_WAIT_S", 0.01)
    world.fake.obeys_cancel = False
    video = create(world)
    world.do(world.fake.run, video["id"])
    answer = world.http.delete(f"{URL}/{video['id']}")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "true")
    assert answer.json()["error"]["code"] == "still_stopping"
    world.do(world.fake.stop, video["id"])
    assert world.http.delete(f"{URL}/{video['id']}").status_code == 200


def test_deleting_a_completed_video_takes_its_files(world: World) -> None:
    video = completed(world)
    files = list(world.fake.artefacts.rglob("video.mp4"))
    assert len(files) == 1
    world.http.delete(f"{URL}/{video['id']}")
    assert not files[0].exists()
    assert world.http.get(f"{URL}/{video['id']}/content").status_code == 404


# ---------------------------------------------------------------- content


def test_content_is_the_file(world: World) -> None:
    video = completed(world)
    answer = world.http.get(f"{URL}/{video['id']}/content", headers={"accept": "application/binary"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert answer.content[4:8] == b"ftyp"
    assert video["file_name"] in answer.headers["content-disposition"]
    part = world.http.get(f"{URL}/{video['id']}/content?variant=video", headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_content_by_output(world: World) -> None:
    video = create(world, n=2)
    world.do(world.fake.run, video["id"])
    world.do(world.fake.succeed, video["id"], **{"video_mp4": b"first file", "video-2_mp4": b"second file"})
    url = f"{URL}/{video['id']}/content"
    assert world.http.get(f"{url}?variant=0").content == b"first file"
    assert world.http.get(f"{url}?variant=1").content == b"second file"
    assert world.http.get(f"{url}?index=1").content == b"second file"
    answer = world.http.get(f"{url}?variant=2")
    assert (answer.status_code, "there are 2" in answer.json()["detail"]) == (404, True)


def test_content_before_completion_and_after_failure_is_404(world: World) -> None:
    video = create(world)
    url = f"{URL}/{video['id']}/content"
    assert world.http.get(url).json()["error"]["code"] == "not_ready"
    world.do(world.fake.run, video["id"])
    assert world.http.get(url).status_code == 404
    world.do(world.fake.fail, video["id"], "no luck")
    answer = world.http.get(url)
    assert (answer.status_code, "no luck" in answer.json()["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("query", "media_type"),
    [
        ("variant=thumbnail", "image/webp"),
        ("variant=thumbnail&format=png", "image/png"),
        ("variant=thumbnail&format=jpg", "image/jpeg"),
    ],
)
def test_a_thumbnail_is_the_first_frame(world: World, query: str, media_type: str) -> None:
    video = completed(world, clip())
    url = f"{URL}/{video['id']}/content?{query}"
    answer = world.http.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    image = opened(answer.content).convert("RGB")
    assert image.size == (64, 48)
    assert all(abs(value - 20) < 6 for value in image.getpixel((32, 24)))
    again = world.http.get(url)
    assert (again.content, again.headers["etag"]) == (answer.content, answer.headers["etag"])
    assert world.http.get(url, headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_a_thumbnail_that_the_disk_has_no_room_for_is_507_and_made_once_there_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{URL}/{completed(world, clip())['id']}/content?variant=thumbnail"
    with monkeypatch.context() as full:

        def refuse(path: Path, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(Path, "write_bytes", refuse)
        answer = world.http.get(url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert world.http.get(url).status_code == 200


@pytest.mark.parametrize(("frames", "columns"), [(1, 1), (2, 2), (9, 3), (40, 4)])
def test_a_spritesheet_goes_from_the_first_frame_to_the_last(world: World, frames: int, columns: int) -> None:
    video = completed(world, clip(frames))
    answer = world.http.get(f"{URL}/{video['id']}/content?variant=spritesheet")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    image = opened(answer.content).convert("L")
    rows = -(-min(frames, columns * columns) // columns)
    assert image.size == (64 * columns, 48 * rows)
    assert abs(image.getpixel((32, 24)) - 20) < 8
    if frames >= 9:
        assert abs(image.getpixel((image.width - 32, image.height - 24)) - 220) < 8


def test_an_unknown_variant_is_400(world: World) -> None:
    video = completed(world)
    answer = world.http.get(f"{URL}/{video['id']}/content?variant=hologram")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "variant")
    answer = world.http.get(f"{URL}/{video['id']}/content?variant=thumbnail&format=gif")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "format")


# ---------------------------------------------------------------- remix, edits, extensions, characters


def test_a_remix_draws_the_same_with_another_prompt(world: World) -> None:
    source = completed(world, seed=5, num_frames=9, size="96x48", seconds="1", model="sora-2")
    answer = world.http.post(f"{URL}/{source['id']}/remix", json={"prompt": "a blue circle"})
    remixed = answer.json()
    assert (answer.status_code, remixed["status"], remixed["remixed_from_video_id"]) == (200, "queued", source["id"])
    assert (remixed["model"], remixed["seconds"], remixed["size"]) == ("sora-2", "1", "96x48")
    spec = decode_spec(world.fake.jobs[remixed["id"]].body)
    assert (spec.prompt, spec.seed, spec.num_frames, spec.width) == ("a blue circle", 5, 9, 96)


def test_only_a_completed_video_can_be_remixed(world: World) -> None:
    video = create(world)
    answer = world.http.post(f"{URL}/{video['id']}/remix", json={"prompt": "p"})
    assert (answer.status_code, "must be completed" in answer.json()["detail"]) == (400, True)
    assert world.http.post(f"{URL}/video_nobody/remix", json={"prompt": "p"}).status_code == 404
    source = completed(world)
    assert world.http.post(f"{URL}/{source['id']}/remix", json={}).json()["error"]["param"] == "prompt"


def test_an_extension_goes_on_from_the_last_frame(world: World) -> None:
    source = completed(world, clip(), size="64x48")
    fields = {"prompt": "it goes on", "seconds": "2", "video[id]": source["id"]}
    answer = world.http.post(f"{URL}/extensions", files={name: (None, text) for name, text in fields.items()})
    assert answer.status_code == 200, answer.text
    extended = answer.json()
    assert (extended["remixed_from_video_id"], extended["size"], extended["seconds"]) == (source["id"], "64x48", "2")
    assert any(warning.startswith("video:") for warning in extended["warnings"])
    job = world.fake.jobs[extended["id"]]
    spec = decode_spec(job.body)
    assert (job.submission.model, spec.num_frames) == ("animate", 17)
    with open(spec.image, "rb") as file:
        assert abs(opened(file.read()).convert("L").getpixel((32, 24)) - 220) < 8


@pytest.mark.parametrize(
    ("drawn", "begins"), [(True, "begins with the last frames"), (False, "begins after the video")]
)
def test_an_extension_shows_the_whole_clip_to_a_model_that_takes_one(world: World, drawn: bool, begins: str) -> None:
    seen = StartFrames(least=9, step=8, most=25, drawn=drawn)
    goes_on = msgspec.structs.replace(
        ANIMATE, name="goes-on", needs_image=False, takes_inputs=("start_video",), start_frames=seen
    )
    world.fake.workers = {"cpu-0": worker("cpu-0", VIDEO, ANIMATE, goes_on)}
    data = clip(17)
    source = completed(world, data, size="64x48", fps=12)
    answer = world.http.post(f"{URL}/extensions", json={"prompt": "p", "seconds": "3", "video": {"id": source["id"]}})
    assert answer.status_code == 200, answer.text
    extended = answer.json()
    job = world.fake.jobs[extended["id"]]
    spec = decode_spec(job.body)
    assert (job.submission.model, spec.image, spec.fps) == ("goes-on", "", 12.0)
    assert Path(spec.inputs["start_video"][0]).read_bytes() == data
    assert extended["remixed_from_video_id"] == source["id"]
    assert any(begins in warning for warning in extended["warnings"])
    # A model that is asked for is taken as it is: with the last frame, or with the reason why it cannot.
    form = {"prompt": "p", "seconds": "2", "video": {"id": source["id"]}}
    with_image = world.http.post(f"{URL}/extensions", json={**form, "model": "animate"}).json()
    assert decode_spec(world.fake.jobs[with_image["id"]].body).image
    assert "takes no image" in world.http.post(f"{URL}/extensions", json={**form, "model": "demo"}).json()["detail"]


def test_an_extension_needs_a_model_that_takes_an_image(world: World) -> None:
    world.fake.workers = {"cpu-0": worker("cpu-0", VIDEO)}
    source = completed(world, clip())
    answer = world.http.post(f"{URL}/extensions", json={"prompt": "p", "seconds": "4", "video": {"id": source["id"]}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported")
    assert "draws from an image" in answer.json()["detail"]


@pytest.mark.parametrize("how", ["id", "file", "data", "object"])
def test_an_edit_draws_over_a_video(world: World, how: str) -> None:
    over = msgspec.structs.replace(VIDEO, name="over", takes_inputs=("video",), needs_inputs=("video",))
    world.fake.workers = {"cpu-0": worker("cpu-0", VIDEO, over)}
    data = clip(9, (64, 48))
    source = completed(world, data, size="64x48", num_frames=9)
    text = "data:video/mp4;base64," + base64.b64encode(data).decode()
    if how == "data":
        answer = world.http.post(f"{URL}/edits", json={"prompt": "at night", "video": text})
    elif how == "object":
        answer = world.http.post(f"{URL}/edits", json={"prompt": "at night", "video": {"url": text}})
    elif how == "file":
        answer = world.http.post(f"{URL}/edits", data={"prompt": "at night"}, files={"video": ("v.mp4", data)})
    else:
        answer = world.http.post(f"{URL}/edits", data={"prompt": "at night", "video[id]": source["id"]})
    assert answer.status_code == 200, answer.text
    edited = answer.json()
    assert edited["remixed_from_video_id"] == (source["id"] if how == "id" else None)
    job = world.fake.jobs[edited["id"]]
    spec = decode_spec(job.body)
    assert (job.submission.model, spec.num_frames, spec.width, spec.height) == ("over", 9, 64, 48)
    assert Path(spec.inputs["video"][0]).read_bytes() == data


@pytest.mark.parametrize("route", ["edits", "extensions"])
def test_a_source_that_is_none_is_refused(world: World, route: str) -> None:
    pending = create(world)
    for video, status in [
        ({"id": "video_nobody"}, 404),
        ({"id": pending["id"]}, 400),
        (None, 400),
        ({}, 400),
        ("{", 400),
    ]:
        answer = world.http.post(f"{URL}/{route}", json={"prompt": "p", "seconds": 4, "video": video})
        assert answer.status_code == status, answer.text
    files = {"video": ("a.mp4", b"12345678ftyp", "video/mp4")}
    answer = world.http.post(f"{URL}/{route}", data={"prompt": "p", "seconds": "4"}, files=files)
    why = "uploaded file" if route == "extensions" else "no model of this service takes a video"
    assert (answer.status_code, why in answer.json()["detail"]) == (400, True)


def test_what_no_model_can_do_is_refused_with_the_reason(world: World) -> None:
    source = completed(world)
    edit = world.http.post(f"{URL}/edits", json={"prompt": "p", "video": {"id": source["id"]}})
    assert (edit.status_code, "remix" in edit.json()["detail"]) == (400, True)
    files = {"video": ("a.mp4", b"12345678ftyp", "video/mp4")}
    character = world.http.post(f"{URL}/characters", data={"name": "Bob"}, files=files)
    assert (character.status_code, character.json()["error"]["code"]) == (400, "unsupported")
    assert world.http.get(f"{URL}/characters/char_1").status_code == 404


# ---------------------------------------------------------------- sync


def test_the_synchronous_route_answers_with_the_file(world: World) -> None:
    draws(world)
    answer = world.http.post(f"{URL}/sync", data={"prompt": "p", "model": "sora-2"}, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["content-type"], answer.content[4:8]) == (200, "video/mp4", b"ftyp")
    headers = answer.headers
    assert (headers["x-request-id"], headers["x-model"]) == ("mine", "sora-2")
    assert float(headers["x-inference-time-s"]) == 2.5
    assert json.loads(headers["x-stage-durations"]) == {"denoise": 1.25}
    assert float(headers["x-peak-memory-mb"]) == 0.0
    assert headers["x-video-id"] == only_job(world).id


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (lambda world, job_id: world.fake.fail(job_id, "CUDA error"), 500, "engine_error"),
        (lambda world, job_id: world.fake.fail(job_id, "bad prompt", "invalid_input"), 400, "invalid_input"),
        (lambda world, job_id: world.fake.fail(job_id, "too late", "expired"), 504, "expired"),
        (lambda world, job_id: world.fake.stop(job_id), 409, "cancelled"),
    ],
)
def test_the_synchronous_route_says_how_it_failed(
    world: World, end: Callable[[World, str], Any], status: int, code: str
) -> None:
    then(world, world.fake.run, lambda job_id: end(world, job_id))
    answer = world.http.post(f"{URL}/sync", json={"prompt": "p"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert status == 400 or answer.headers["x-should-retry"] == "false"


def test_the_synchronous_route_gives_up_after_its_time(open_edge: Callable[..., World]) -> None:
    world = open_edge(sync_timeout_s=0.05)
    then(world, world.fake.run)
    answer = world.http.post(f"{URL}/sync", json={"prompt": "p"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (504, "false")
    world.do(lambda: None)
    assert only_job(world).state == "cancelled"


def test_a_client_that_leaves_cancels_its_video(world: World) -> None:
    assert leave(world, f"{URL}/sync", b'{"prompt": "p"}') == 499
    assert only_job(world).state == "cancelled"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", URL, "GET, HEAD, POST"),
        ("GET", f"{URL}/video_1/remix", "POST"),
        ("PATCH", f"{URL}/video_1", "DELETE, GET, HEAD"),
    ],
)
def test_wrong_methods_are_405_in_shape(world: World, method: str, path: str, allow: str) -> None:
    answer = world.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("word", ["sync", "edits", "extensions", "characters"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT"])
def test_paths_that_are_no_videos_name_the_method_that_they_have(world: World, word: str, method: str) -> None:
    response = world.http.request(method, f"/v1/videos/{word}")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        assert response.json()["error"]["code"] == "method_not_allowed"
        assert f'"{method}"' in response.json()["error"]["message"]
    assert world.http.get(f"/v1/videos/{word}x").status_code == 404


# ---------------------------------------------------------------- where the file is


def test_the_url_of_a_video_is_one_that_can_be_asked_for(world: World) -> None:
    video = completed(world, clip())
    assert video["url"] == f"{str(world.http.base_url).rstrip('/')}{URL}/{video['id']}/content"
    assert world.http.get(video["url"]).content[4:8] == b"ftyp"
    by_address = world.http.get(f"{URL}/{video['id']}", headers={"Host": "127.0.0.1:8000"}).json()
    assert by_address["url"] == f"http://127.0.0.1:8000{URL}/{video['id']}/content"
    assert world.http.get(f"{URL}/{video['id']}").json()["url"] == video["url"]
    assert world.http.get(URL).json()["data"][0]["url"] == video["url"]


def test_the_url_of_a_video_begins_with_the_address_that_the_service_is_known_by(
    open_edge: Callable[..., World],
) -> None:
    world = open_edge(public_url="https://media.example.com/")
    video = completed(world, clip())
    assert video["url"] == f"https://media.example.com{URL}/{video['id']}/content"


def test_there_is_no_url_where_it_would_need_a_key(open_edge: Callable[..., World], tmp_path: Path) -> None:
    key = new_key()
    write_keys(tmp_path / "keys", [KeyRecord(name="one", tenant="red", hash=hash_of(key))])
    world = open_edge(keys_file=str(tmp_path / "keys"))
    world.http.headers["Authorization"] = f"Bearer {key}"
    video = completed(world, clip())
    assert (video["status"], video["url"]) == ("completed", None)
