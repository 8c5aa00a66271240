"""An answer that is a file says in a header what of the request was changed or ignored: the job's `warnings`, in every API."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.edge.conftest import World
from tests.edge.levers import draws, only_job
from tests.edge.small_media import clip, picture

HEADER = "X-Zoetrope-Warnings"

#: Of the engine, with what a header field cannot carry as it is.
FOUND = 'prompt: 81 tokens, the model reads 77; cut before "déjà\nvu" 🎞'

PNG = picture()

#: Is cut to a square.
WIDE = base64.b64encode(picture(size=(64, 48))).decode()


def videos(world: World) -> None:
    draws(world, warnings=(FOUND,), video_mp4=clip())


def images(world: World) -> None:
    draws(world, warnings=(FOUND,), image_png=PNG)


def said(answer: httpx.Response) -> list[str]:
    assert answer.status_code in (200, 206), answer.text
    assert answer.headers["content-type"].partition(";")[0] != "application/json"
    found: list[str] = json.loads(answer.headers[HEADER])
    return found


def job_warnings(world: World) -> list[str]:
    found: list[str] = world.http.get(f"/v1/jobs/{only_job(world).id}").json()["warnings"]
    assert FOUND in found
    return found


def native(world: World) -> Iterator[httpx.Response]:
    videos(world)
    job = world.http.post("/v1/jobs", json={"prompt": "p", "model": "animate", "size": "64x64", "image": WIDE}).json()
    url = job["urls"]["result"]
    yield world.http.get(url)
    yield world.http.get(f"{url}?name=video.mp4", headers={"Range": "bytes=0-9"})
    yield world.http.head(url)


def openai_videos(world: World) -> Iterator[httpx.Response]:
    videos(world)
    yield world.http.post("/v1/videos/sync", json={"prompt": "p", "lora_weights": "x"})
    url = f"/v1/videos/{only_job(world).id}/content"
    for query in ("", "?variant=0", "?variant=thumbnail", "?variant=spritesheet"):
        yield world.http.get(url + query)


def openai_images(world: World) -> Iterator[httpx.Response]:
    images(world)
    asked = {"prompt": "p", "model": "org/picture", "lora_weights": "x", "response_format": "file"}
    yield world.http.post("/v1/images/generations", json=asked)
    url = f"/v1/images/{only_job(world).id}/content"
    for query in ("", "?format=webp", "?variant=thumbnail"):
        yield world.http.get(url + query)


def openai_zip(world: World) -> Iterator[httpx.Response]:
    draws(world, warnings=(FOUND,), a_png=PNG, b_png=PNG)
    asked = {"prompt": "p", "model": "org/picture", "lora_weights": "x", "n": 2, "response_format": "file"}
    yield world.http.post("/v1/images/generations", json=asked)


def lightx2v_sync(world: World) -> Iterator[httpx.Response]:
    images(world)
    yield world.http.post("/v1/tasks/image/sync", json={"prompt": "p", "odd": 1, "task_id": "t"})
    yield world.http.get("/v1/tasks/t/result")


def lightx2v_tasks(world: World) -> Iterator[httpx.Response]:
    videos(world)
    task = world.http.post("/v1/tasks/video", json={"prompt": "p", "odd": 1}).json()["task_id"]
    yield world.http.get(f"/v1/tasks/{task}/result")
    yield world.http.get(f"/v1/files/download/{task}")


def lightx2v_first(world: World) -> Iterator[httpx.Response]:
    videos(world)
    asked = {"task_id": "t", "prompt": "p", "save_video_path": "t.mp4", "odd": 1}
    assert world.http.post("/v1/local/video/generate", json=asked).json()["task_status"] == "processing"
    yield world.http.request("GET", "/v1/local/video/generate/get_task_result", json={"task_id": "t"})
    yield world.http.get("/v1/file/download/t.mp4")


def lightx2v_cloud(world: World) -> Iterator[httpx.Response]:
    videos(world)
    asked = {"task": "t2v", "model_cls": "demo", "stage": "single_stage", "prompt": "p", "odd": 1}
    task = world.http.post("/api/v1/task/submit", json=asked).json()["task_id"]
    yield world.http.get(f"/assets/task/result?task_id={task}")


FAMILIES = (
    native,
    openai_videos,
    openai_images,
    openai_zip,
    lightx2v_sync,
    lightx2v_tasks,
    lightx2v_first,
    lightx2v_cloud,
)


@pytest.mark.parametrize("ask", FAMILIES)
def test_every_file_bears_the_warnings_of_its_job(world: World, ask: Callable[[World], Iterator[Any]]) -> None:
    answers = list(ask(world))
    expected = job_warnings(world)
    assert len(expected) >= 2, "nothing was wrong with the request"
    assert [said(answer) for answer in answers] == [expected] * len(answers)


def test_a_file_without_warnings_has_no_such_header(world: World) -> None:
    draws(world)
    assert HEADER not in world.http.get(world.submit()["urls"]["result"]).headers
    assert HEADER not in world.http.post("/v1/videos/sync", json={"prompt": "p"}).headers


def test_a_copy_that_is_good_is_told_so_and_nothing_else(world: World) -> None:
    videos(world)
    url = world.submit()["urls"]["result"]
    answer = world.http.get(url, headers={"If-None-Match": world.http.get(url).headers["etag"]})
    assert (answer.status_code, HEADER in answer.headers) == (304, False)


def test_many_warnings_are_cut_to_what_proxies_pass_on(world: World) -> None:
    draws(world, warnings=tuple(f"field_{number}: {'ä' * 80}, ignored" for number in range(100)))
    job = world.submit()
    line = world.http.get(job["urls"]["result"]).headers[HEADER]
    *shown, last = json.loads(line)
    assert len(line) <= 2048
    assert shown == [f"field_{number}: {'ä' * 80}, ignored" for number in range(len(shown))]
    assert last == f"{100 - len(shown)} more: GET /v1/jobs/{job['id']}"


def test_one_warning_too_long_for_a_header_is_left_to_the_job(world: World) -> None:
    draws(world, warnings=("a" * 5000,))
    job = world.submit()
    answer = world.http.get(job["urls"]["result"])
    assert json.loads(answer.headers[HEADER]) == [f"1 more: GET /v1/jobs/{job['id']}"]


def test_pages_of_named_origins_may_read_it(open_edge: Callable[..., World]) -> None:
    world = open_edge(cors_origins=("https://studio.example",))
    videos(world)
    answer = world.http.get(world.submit()["urls"]["result"], headers={"Origin": "https://studio.example"})
    assert HEADER.lower() in answer.headers["access-control-expose-headers"].lower()


def test_the_document_names_it_for_files_alone(world: World) -> None:
    paths = world.http.get("/openapi.json").json()["paths"]

    def named(method: str, path: str) -> bool:
        return HEADER in paths[path][method]["responses"]["200"]["headers"]

    assert named("get", "/v1/jobs/{id}/result")
    assert named("post", "/v1/videos/sync")
    assert named("post", "/v1/tasks/image/sync")
    assert not named("get", "/v1/jobs/{id}")
