"""OpenAI's Videos API: videos are created, from whatever encodings, sizes and images, or refused by name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from broker.client import errors
from tests.edge.conftest import World
from tests.edge.levers import only_job, only_spec, then
from tests.edge.openai_videos import URL, create
from tests.edge.small_media import picture
from tests.testing.fake_broker import T0, VIDEO, worker

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
