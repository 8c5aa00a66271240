"""OpenAI's Images API over a broker in memory: pictures as base64, links and files, streams with previews, edits, bad input."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from broker.client import errors
from broker.wire.job_files import preview_name
from broker.wire.jobspec import decode_spec
from tests.edge.conftest import World
from tests.edge.levers import draws, leave, only_job, only_spec, then
from tests.edge.small_media import opened, picture
from tests.testing.fake_broker import PICTURE, VIDEO, worker

URL = "/v1/images/generations"
EDITS = "/v1/images/edits"
PNG = picture()


def generate(world: World, **fields: Any) -> dict[str, Any]:
    answer = world.http.post(URL, json={"prompt": "a cat", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(event, data) of a stream, comments left out."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


# ---------------------------------------------------------------- generations


def test_a_picture_comes_as_base64(world: World) -> None:
    draws(world, image_png=PNG)
    body = generate(world)
    assert base64.b64decode(body["data"][0]["b64_json"]) == PNG
    assert (body["data"][0]["revised_prompt"], "url" in body["data"][0]) == (None, False)
    assert (body["output_format"], body["size"], body["quality"], body["background"]) == (
        "png",
        "64x64",
        "standard",
        "opaque",
    )
    assert body["created"] > 1_700_000_000
    assert body["usage"]["total_tokens"] == 0
    assert (body["id"], body["model"], body["inference_time_s"]) == (only_job(world).id, "org/picture", 2.5)
    assert (body["peak_memory_mb"], body["stage_durations"]) == (0.0, {"denoise": 1.25})
    assert (only_job(world).submission.origin, only_spec(world).output, only_spec(world).num_frames) == (
        "openai-images",
        "image",
        1,
    )


def test_several_pictures(world: World) -> None:
    draws(world, image_png=PNG, **{"image-2_png": picture((0, 0, 255))})
    body = generate(world, n=2)
    assert only_spec(world).num_outputs == 2
    assert [opened(base64.b64decode(item["b64_json"])).getpixel((0, 0)) for item in body["data"]] == [
        (200, 30, 30),
        (0, 0, 255),
    ]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"output_format": "jpeg", "output_compression": 80}, "JPEG"),
        ({"output_format": "webp"}, "WEBP"),
        ({"output_format": "webp", "output_compression": 0}, "WEBP"),
        ({"output_format": "png", "output_compression": 100}, "PNG"),
    ],
)
def test_other_formats(world: World, fields: dict[str, Any], kind: str) -> None:
    draws(world, image_png=PNG)
    body = generate(world, **fields)
    image = opened(base64.b64decode(body["data"][0]["b64_json"]))
    assert (image.format, image.size, body["output_format"], body["warnings"]) == (
        kind,
        (64, 48),
        fields["output_format"],
        [],
    )
    assert all(abs(a - b) < 12 for a, b in zip(image.convert("RGB").getpixel((9, 9)), (200, 30, 30), strict=True))


def test_more_compression_is_a_smaller_file(world: World) -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(out, "PNG")
    draws(world, image_png=out.getvalue())
    low, high = (
        len(generate(world, output_format="jpeg", output_compression=level)["data"][0]["b64_json"])
        for level in (10, 95)
    )
    assert low < high / 2


@pytest.mark.parametrize("fields", [{}, {"output_format": "webp", "output_compression": 50}])
def test_a_picture_by_link(world: World, fields: dict[str, Any]) -> None:
    draws(world, image_png=PNG)
    body = generate(world, response_format="url", **fields)
    url = body["data"][0]["url"]
    assert url.startswith(f"http://localhost/v1/images/{body['id']}/content")
    answer = world.http.get(url)
    assert opened(answer.content).format == ("WEBP" if fields else "PNG")
    assert answer.headers["content-type"] == ("image/webp" if fields else "image/png")
    assert world.http.get(url, headers={"range": "bytes=0-3"}).status_code == 206


def test_links_name_the_public_address(open_edge: Callable[..., World]) -> None:
    world = open_edge(public_url="https://media.example.com/")
    draws(world, image_png=PNG)
    url = generate(world, response_format="url")["data"][0]["url"]
    assert url.startswith("https://media.example.com/v1/images/img_")


def test_a_picture_as_a_file_and_several_as_a_zip(world: World) -> None:
    draws(world, image_png=PNG, **{"image-2_png": PNG})
    answer = world.http.post(URL, json={"prompt": "p", "n": 2, "response_format": "file"})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["image_0.png", "image_1.png"]
        assert archive.read("image_1.png") == PNG


def test_one_picture_as_a_file(world: World) -> None:
    draws(world, image_png=PNG)
    answer = world.http.post(URL, json={"prompt": "p", "response_format": "file"})
    assert (answer.headers["content-type"], answer.content) == ("image/png", PNG)


def test_content_by_number_and_as_thumbnail(world: World) -> None:
    draws(world, image_png=PNG, **{"image-2_png": picture((0, 0, 255), (1280, 640))})
    body = generate(world, n=2)
    url = f"/v1/images/{body['id']}/content"
    assert opened(world.http.get(f"{url}?variant=1").content).size == (1280, 640)
    assert opened(world.http.get(f"{url}?index=1&variant=thumbnail&format=webp").content).size == (640, 320)
    assert world.http.get(f"{url}?variant=2").status_code == 404
    assert world.http.get(f"{url}?variant=film").status_code == 400
    assert world.http.get("/v1/images/img_nobody/content").json()["error"]["param"] == "image"


def test_fields_of_three_servers_reach_the_job(world: World) -> None:
    draws(world, image_png=PNG)
    body = generate(
        world,
        size="128x96",
        seed="3",
        num_inference_steps=7,
        guidance_scale=2.5,
        negative_prompt="blurry",
        style="vivid",
        quality="hd",
        moderation="low",
        user="me",
        background="auto",
        extra_params={"eta": 1},
    )
    spec = only_spec(world)
    assert (spec.width, spec.height, spec.seed, spec.num_inference_steps) == (128, 96, 3, 7)
    assert (spec.guidance_scale, spec.negative_prompt, spec.extra) == (2.5, "blurry", {"eta": 1})
    assert (body["warnings"], body["quality"], body["seed"]) == ([], "hd", 3)


def test_what_is_not_honoured_is_reported(world: World) -> None:
    draws(world, image_png=PNG)
    body = generate(world, background="transparent", output_compression=50, svg={"x": 1}, partial_images=2, layers=4)
    names = [warning.partition(":")[0] for warning in body["warnings"]]
    assert names == ["background", "output_compression", "partial_images", "svg", "layers"]


@pytest.mark.parametrize("size", ["1024x1536", "1792x1024"])
def test_a_size_beyond_the_model_is_one_of_its_shape_that_suits_it(world: World, size: str) -> None:
    draws(world, image_png=PNG)
    body = generate(world, size=size)
    spec = only_spec(world)
    width, height = (int(side) for side in size.split("x"))
    assert max(spec.width, spec.height) <= 512
    assert 0.8 < spec.width / spec.height / (width / height) < 1.25
    assert body["warnings"][0].startswith("size:")


# ---------------------------------------------------------------- which model


def test_a_video_model_draws_one_frame(world: World) -> None:
    card = msgspec.structs.replace(VIDEO, also_image=True)
    world.fake.workers = {"cpu-0": worker("cpu-0", card)}
    draws(world, image_png=PNG)
    body = generate(world, model="gpt-image-1")
    assert (only_job(world).submission.model, only_spec(world).output, only_spec(world).num_frames) == (
        "demo",
        "image",
        1,
    )
    assert (body["model"], len(body["warnings"])) == ("gpt-image-1", 1)


def test_an_image_model_is_preferred_to_a_video_model(world: World) -> None:
    card = msgspec.structs.replace(VIDEO, also_image=True)
    world.fake.workers = {"cpu-0": worker("cpu-0", card, PICTURE)}
    draws(world, image_png=PNG)
    generate(world, model="dall-e-3")
    assert only_job(world).submission.model == "org/picture"


def test_a_video_model_that_makes_no_images_is_refused(world: World) -> None:
    answer = world.http.post(URL, json={"prompt": "p", "model": "demo"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        'model: "demo" makes videos, not images',
    )


# ---------------------------------------------------------------- edits


@pytest.fixture
def editing(world: World) -> World:
    """A world whose image model takes an image."""
    world.fake.workers = {"cpu-0": worker("cpu-0", msgspec.structs.replace(PICTURE, takes_image=True))}
    draws(world, image_png=PNG)
    return world


@pytest.mark.parametrize("field", ["image", "image[]"])
def test_an_edit_draws_from_the_picture(editing: World, field: str) -> None:
    source = picture((0, 255, 0))
    answer = editing.http.post(EDITS, data={"prompt": "p"}, files={field: ("a.png", source, "image/png")})
    assert answer.status_code == 200, answer.text
    with open(only_spec(editing).image, "rb") as file:
        assert file.read() == source


def test_several_pictures_are_refused_where_one_is_taken(editing: World) -> None:
    files = [("image[]", (f"{n}.png", picture((n, 0, 0)), "image/png")) for n in range(2)]
    answer = editing.http.post(EDITS, data={"prompt": "p"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert 'model "org/picture" takes no further images' in answer.json()["error"]["message"]


def test_an_edit_by_data_url(editing: World) -> None:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert editing.http.post(EDITS, data={"prompt": "p", "url[]": url}).status_code == 200
    assert only_spec(editing).image


def test_an_edit_without_a_picture_or_with_a_mask_is_refused(editing: World) -> None:
    answer = editing.http.post(EDITS, data={"prompt": "p"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    files = {"image": ("a.png", PNG, "image/png"), "mask": ("m.png", PNG, "image/png")}
    answer = editing.http.post(EDITS, data={"prompt": "p"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "mask")


@pytest.mark.parametrize("field", ["image", "image_url", "input_reference"])
def test_a_generation_that_brings_a_picture_draws_from_it(editing: World, field: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert editing.http.post(URL, json={"prompt": "p", field: url}).status_code == 200
    with open(only_spec(editing).image, "rb") as file:
        assert file.read() == PNG


def test_a_generation_with_a_picture_and_a_model_of_text_is_refused(world: World) -> None:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    answer = world.http.post(URL, json={"prompt": "p", "image": url})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert world.fake.jobs == {}


def test_an_edit_with_a_model_of_text_is_refused_with_the_reason(world: World) -> None:
    answer = world.http.post(EDITS, data={"prompt": "p", "model": "gpt-image-1"}, files={"image": ("a.png", PNG)})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert "org/picture" in answer.json()["detail"]


def test_variations_are_gone(world: World) -> None:
    answer = world.http.post("/v1/images/variations", files={"image": ("a.png", PNG)})
    assert (answer.status_code, "edits" in answer.json()["error"]["message"]) == (410, True)


# ---------------------------------------------------------------- streams


def show(world: World, *numbers: int) -> Callable[[str], None]:
    """A lever: the engine has drawn these previews."""

    def lever(job_id: str) -> None:
        directory = world.fake.artefacts / job_id / str(world.fake.jobs[job_id].fence)
        directory.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (directory / preview_name(number)).write_bytes(picture((number, 0, 0)))
        world.fake.step(job_id, 4)

    return lever


def test_a_stream_shows_the_previews_then_the_picture(world: World) -> None:
    then(world, world.fake.run, show(world, 1, 2), lambda job_id: world.fake.succeed(job_id, image_png=PNG))
    answer = world.http.post(URL, json={"prompt": "p", "stream": True, "partial_images": 2, "size": "64x64"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    found = events(answer.text)
    assert [event for event, _ in found] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    for number, (event, data) in enumerate(found):
        assert data["type"] == event
        assert {"b64_json", "created_at", "size", "quality", "background", "output_format"} <= set(data)
        if number < 2:
            assert data["partial_image_index"] == number
            assert opened(base64.b64decode(data["b64_json"])).getpixel((0, 0)) == (number + 1, 0, 0)
    assert base64.b64decode(found[2][1]["b64_json"]) == PNG
    assert found[2][1]["usage"]["total_tokens"] == 0
    assert only_spec(world).previews == 2
    assert list(world.fake.artefacts.rglob("preview-*")) == [], "previews are no artefacts"


def test_a_stream_in_another_format_with_several_outputs(world: World) -> None:
    files = {"image_png": PNG, "image-2_png": PNG}
    then(world, world.fake.run, show(world, 1, 2), lambda job_id: world.fake.succeed(job_id, **files))
    fields = {"prompt": "p", "stream": "true", "partial_images": "1", "n": "2", "output_format": "webp"}
    found = events(world.http.post(URL, data=fields).text)
    assert [(data["output_index"], data.get("partial_image_index")) for _, data in found] == [
        (0, 0),
        (1, 0),
        (0, None),
        (1, None),
    ]
    assert {opened(base64.b64decode(data["b64_json"])).format for _, data in found} == {"WEBP"}


def test_an_edit_streams_its_own_events(editing: World) -> None:
    found = events(
        editing.http.post(EDITS, data={"prompt": "p", "stream": "true"}, files={"image": ("a.png", PNG)}).text
    )
    assert [event for event, _ in found] == ["image_edit.completed"]


def test_a_stream_that_fails_ends_with_its_error(world: World) -> None:
    then(world, world.fake.run, lambda job_id: world.fake.fail(job_id, "CUDA error"))
    answer = world.http.post(URL, json={"prompt": "p", "stream": True})
    ((event, data),) = events(answer.text)
    assert (answer.status_code, event) == (200, "error")
    assert (data["error"]["code"], data["error"]["message"]) == ("engine_error", "CUDA error")


def test_a_stream_is_refused_before_it_begins(world: World) -> None:
    answer = world.http.post(URL, json={"prompt": "p", "stream": True, "partial_images": 4})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "partial_images")
    world.fake.refuse_with = errors.QueueFull("queue_full", "full", 3.0)
    answer = world.http.post(URL, json={"prompt": "p", "stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


def test_a_client_that_leaves_a_stream_cancels_its_picture(world: World) -> None:
    assert leave(world, URL, b'{"prompt": "p", "stream": true}') == 200
    assert only_job(world).state == "cancelled"


def test_a_stream_ends_with_its_time(open_edge: Callable[..., World]) -> None:
    world = open_edge(sync_timeout_s=0.01)
    then(world, world.fake.run)
    ((event, data),) = events(world.http.post(URL, json={"prompt": "p", "stream": True}).text)
    assert (event, data["error"]["code"]) == ("error", "wait_timeout")
    world.do(lambda: None)
    assert only_job(world).state == "cancelled"


def test_a_waiting_stream_is_kept_alive(open_edge: Callable[..., World]) -> None:
    world = open_edge(keep_alive_s=1e-9, sync_timeout_s=0.6)
    then(world, world.fake.run)
    assert ": keep-alive\n\n" in world.http.post(URL, json={"prompt": "p", "stream": True}).text


# ---------------------------------------------------------------- ends and bad values


def test_a_client_that_leaves_cancels_its_picture(world: World) -> None:
    assert leave(world, URL, b'{"prompt": "p"}') == 499
    assert only_job(world).state == "cancelled"


def test_an_edge_that_stops_cancels_what_clients_wait_for(world: World) -> None:
    then(world, world.fake.run, lambda job_id: world.edge.hub.close())
    answer = world.http.post(URL, json={"prompt": "p"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    world.do(lambda: None)
    assert only_job(world).state == "cancelled"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"n": 11}, "n"),
        ({"n": "two"}, "n"),
        ({"size": "square"}, "size"),
        ({"width": 100, "height": 100}, "width"),
        ({"num_frames": 5}, "num_frames"),
        ({"response_format": "pigeon"}, "response_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"stream": "maybe"}, "stream"),
        ({"partial_images": -1}, "partial_images"),
        ({"strength": 2}, "strength"),
    ],
)
def test_a_bad_value_is_400_and_names_its_field(world: World, fields: dict[str, Any], param: str) -> None:
    answer = world.http.post(URL, json={"prompt": "a cat", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert world.fake.jobs == {}


def test_what_was_asked_is_in_the_spec_alone(world: World) -> None:
    """Presentation is the edge's affair: the engine's spec does not know it."""
    draws(world, image_png=PNG)
    generate(world, response_format="url", output_format="webp")
    spec = decode_spec(only_job(world).body)
    assert spec.extra == {}
    assert set(spec.echo) == {"model"}


@pytest.mark.parametrize(("model", "member"), [("dall-e-2", "url"), ("dall-e-3", "url"), ("gpt-image-1", "b64_json")])
def test_the_models_that_answered_with_links_still_do(world: World, model: str, member: str) -> None:
    draws(world, image_png=PNG)
    assert set(generate(world, model=model)["data"][0]) == {member, "revised_prompt"}
    assert set(generate(world, model=model, response_format="b64_json")["data"][0]) == {"b64_json", "revised_prompt"}


def test_a_stream_of_such_a_model_carries_pictures(world: World) -> None:
    draws(world, image_png=PNG)
    answer = world.http.post(URL, json={"prompt": "a", "model": "dall-e-3", "stream": True})
    ((_, body),) = events(answer.text)
    assert base64.b64decode(body["b64_json"]) == PNG
    assert not [warning for warning in body["warnings"] if warning.startswith("response_format")]


def test_the_peak_of_memory_stands_where_benchmarks_look(world: World) -> None:
    draws(world, image_png=PNG)
    body = generate(world)
    assert body["usage"]["peak_memory_mb"] == body["peak_memory_mb"] is not None
