"""OpenAI's Videos API: files of videos, videos made of videos, and the synchronous route."""

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

from broker.wire.inputs import StartFrames
from broker.wire.jobspec import decode_spec
from tests.edge.conftest import World
from tests.edge.levers import draws, leave, only_job, then
from tests.edge.openai_videos import URL, completed, create
from tests.edge.small_media import clip, opened
from tests.testing.fake_broker import ANIMATE, VIDEO, worker

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
