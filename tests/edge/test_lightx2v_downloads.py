"""Results by their paths (`/v1/files/download/...`, `/v1/file/download/...`) and the first generation's distributed variant."""

from __future__ import annotations

from typing import Any

import pytest

from broker.wire.jobspec import decode_spec
from tests.edge.conftest import World
from tests.edge.small_media import picture

FILES = "/v1/files/download"
FORM = "/v1/local/video/generate_form"
RESULT = "/v1/local/video/generate/get_task_result"


def newest(world: World) -> str:
    return list(world.fake.jobs)[-1]


def finished(world: World, path: str = "/v1/tasks/video", **fields: Any) -> None:
    answer = world.http.post(path, json={"prompt": "a cat", **fields})
    assert answer.status_code == 200, answer.text
    files = {"image_png": b"\x89PNG\r\n"} if "image" in path else {}
    world.do(world.fake.run, newest(world))
    world.do(world.fake.succeed, newest(world), **files)
    # Whoever is told that it is done finds its copy in place.
    assert world.http.get(f"/v1/tasks/{answer.json()['task_id']}/status").json()["status"] == "completed"


@pytest.mark.parametrize(
    "path",
    ["t1", "t1.mp4", "outputs/videos/t1.mp4", "./t1.mp4", "out/clip.mp4", "./out/clip.mp4", "out/../out/clip.mp4"],
)
def test_a_result_is_found_by_task_and_by_where_it_was_saved(world: World, path: str) -> None:
    finished(world, task_id="t1", save_result_path="out/clip.mp4")
    answer = world.http.request("GET", f"{FILES}/{path.replace('..', '%2e%2e')}")
    assert (answer.status_code, answer.content[4:8]) == (200, b"ftyp")
    assert answer.headers["content-disposition"] == 'attachment; filename="clip.mp4"'
    part = world.http.get(f"{FILES}/t1.mp4", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_an_absolute_path_is_where_it_says(world: World) -> None:
    finished(world, save_result_path="clip.mp4")
    answer = world.http.get(f"{FILES}/{world.start}/clip.mp4")
    assert (answer.status_code, answer.content[4:8]) == (200, b"ftyp")


def test_an_images_name_has_its_own_suffix(world: World) -> None:
    finished(world, "/v1/tasks/image", task_id="t1")
    assert world.http.get(f"{FILES}/t1.png").content == b"\x89PNG\r\n"
    assert world.http.get(f"{FILES}/t1.mp4").status_code == 404


def test_only_what_the_service_wrote_is_sent(world: World) -> None:
    finished(world, save_result_path="clip.mp4")
    (world.start / "secret.mp4").write_bytes(b"mine")
    (world.start / "zoetrope.toml").write_text("key = 1")
    for path in ("secret.mp4", "zoetrope.toml", "nothing.mp4", "x" * 5000, "a%00b"):
        answer = world.http.get(f"{FILES}/{path}")
        assert (answer.status_code, answer.json()["detail"].startswith("File not found")) == (404, True)
    (world.start / "clip.mp4").write_bytes(b"changed since")
    assert world.http.get(f"{FILES}/clip.mp4").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "%2e%2e/clip.mp4",
        "/etc/passwd",
        "%2e%2e%2f%2e%2e%2fetc/passwd",
        ".zoetrope/jobs.sqlite",
        ".zoetrope/uploads/a.png",
    ],
)
def test_a_path_out_of_the_output_directories_is_403(world: World, path: str) -> None:
    if path.startswith(".zoetrope"):
        (world.start / ".zoetrope").mkdir(exist_ok=True)
    answer = world.http.get(f"{FILES}/{path}")
    status = 404 if path == ".zoetrope/jobs.sqlite" else 403
    assert answer.status_code == status
    assert status == 404 or answer.json()["detail"] == "Access to this file is not allowed"


def test_a_task_that_is_not_done_has_no_file(world: World) -> None:
    world.http.post("/v1/tasks/video", json={"prompt": "a", "task_id": "t1"})
    assert world.http.get(f"{FILES}/t1.mp4").status_code == 404


def test_asking_leaves_nothing_on_the_disk(world: World) -> None:
    for number in range(5):
        world.http.get(f"{FILES}/nothing-{number}.mp4")
    assert not list((world.start / ".zoetrope").rglob("*.lock"))


# ---------------------------------------------------------------- gen-1, distributed


QUERY = {
    "task_id": "t1",
    "prompt": "a cat",
    "save_video_path": "out.mp4",
    "num_fragments": "1",
    "task_id_must_unique": "true",
}


def test_the_form_takes_scalars_in_the_query_and_a_file(world: World) -> None:
    answer = world.http.post(FORM, params=QUERY, files={"image_file": ("cat.png", picture(), "image/png")})
    assert answer.json() == {"task_id": "t1", "task_status": "processing", "save_video_path": "out.mp4"}
    view = world.fake.jobs[newest(world)]
    spec = decode_spec(view.body)
    assert (view.submission.origin, spec.model, spec.image.endswith(".png")) == ("lightx2v-1", "animate", True)
    assert (spec.echo["image_path"], spec.echo["task_id_must_unique"]) == ("cat.png", True)
    world.do(world.fake.run, newest(world))
    again = world.http.post(FORM, params=QUERY, files={"image_file": ("cat.png", picture(), "image/png")})
    assert again.json() == {"error": "Task ID t1 already exists"}


def test_the_form_does_with_scalars_alone_or_in_its_fields(world: World) -> None:
    assert world.http.post(FORM, params=QUERY).json()["task_status"] == "processing"
    world.do(world.fake.run, newest(world))
    answer = world.http.post(f"{FORM}/", data={**QUERY, "task_id": "t2"}, follow_redirects=False)
    assert answer.json()["task_status"] == "processing"


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"prompt": ""}, ["query", "prompt"], "must not be empty"),
        ({"save_video_path": "../x.mp4"}, ["body", "save_video_path"], "output_roots"),
        ({"num_fragments": "few"}, ["query", "num_fragments"], "whole number"),
    ],
)
def test_a_bad_form_is_422(world: World, change: dict[str, str], place: list[str], words: str) -> None:
    answer = world.http.post(FORM, params={**QUERY, **change})
    (item,) = answer.json()["detail"]
    assert (answer.status_code, item["loc"]) == (422, place)
    assert words in item["msg"]


def test_a_file_that_is_no_picture_is_422(world: World) -> None:
    answer = world.http.post(FORM, params=QUERY, files={"image_file": ("cat.png", b"no picture", "image/png")})
    (item,) = answer.json()["detail"]
    assert (answer.status_code, item["loc"]) == (422, ["body", "image_file"])
    assert world.fake.jobs == {}


def test_a_form_without_anything_names_what_it_needs(world: World) -> None:
    detail = world.http.post(FORM).json()["detail"]
    assert [item["loc"][1] for item in detail] == ["task_id", "prompt", "save_video_path"]


def test_the_result_comes_for_a_get_with_a_body(world: World) -> None:
    absent = {"status": "not_found", "message": "Task result not found"}
    assert world.http.request("GET", RESULT, json={"task_id": "t1"}).json() == absent
    world.http.post(FORM, params=QUERY)
    assert world.http.request("GET", RESULT, json={"task_id": "t1"}).json() == absent
    world.do(world.fake.run, newest(world))
    world.do(world.fake.succeed, newest(world))
    for answer in (
        world.http.request("GET", RESULT, json={"task_id": "t1"}),
        world.http.request("GET", f"{RESULT}/", params={"task_id": "t1"}, follow_redirects=False),
        world.http.post(RESULT, json={"task_id": "t1"}),
    ):
        assert (answer.status_code, answer.content[4:8]) == (200, b"ftyp")
    nothing = world.http.get(RESULT)
    assert nothing.status_code == 422


def test_file_downloads_say_what_is_wrong_with_status_200(world: World) -> None:
    world.http.post(FORM, params=QUERY)
    world.do(world.fake.run, newest(world))
    world.do(world.fake.succeed, newest(world))
    assert world.http.get("/v1/local/video/generate/get_all_tasks").json()["t1"]["success"]
    for path in ("/v1/file/download/out.mp4", "/v1/file/download?file_path=out.mp4", "/v1/file/download/t1.mp4"):
        assert world.http.get(path).content[4:8] == b"ftyp"
    for path, word in (
        ("%2e%2e/x.mp4", "forbidden"),
        ("nothing.mp4", "not_found"),
        ("", "not_found"),
    ):
        answer = world.http.get(f"/v1/file/download/{path}")
        assert (answer.status_code, answer.json()["status"]) == (200, word)
    world.fake.down = True
    answer = world.http.get("/v1/file/download/nothing.mp4")
    assert (answer.status_code, answer.json()["status"]) == (200, "error")
