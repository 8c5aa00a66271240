"""Pictures of a job: previews while it is drawn, and a small one of its result."""

from __future__ import annotations

import io
import json

from PIL import Image

from broker.wire.job_files import CHECKPOINTS, preview_name
from tests.edge.conftest import World


def leave_preview(world: World, job_id: str, number: int, colour: str) -> None:
    view = world.fake.jobs[job_id]
    directory = world.fake.artefacts / job_id / str(view.fence)
    directory.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(directory / preview_name(number))


def colour_of(data: bytes) -> tuple[int, ...]:
    return Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))


def test_events_name_the_newest_preview_and_it_is_there(world: World) -> None:
    job = world.submit(previews=4)
    assert job["preview"] is None
    with world.http.stream("GET", job["urls"]["events"]) as response:
        events = response.iter_lines()

        def next_data() -> dict:
            return json.loads(next(line for line in events if line.startswith("data:"))[5:])

        next_data()
        world.do(world.fake.run, job["id"])
        assert next_data()["preview"] is None
        leave_preview(world, job["id"], 1, "red")
        world.do(world.fake.step, job["id"], 2)
        first = next_data()["preview"]
        assert first == f"/v1/jobs/{job['id']}/preview?number=1&attempt=1"
        leave_preview(world, job["id"], 2, "blue")
        world.do(world.fake.step, job["id"], 4)
        second = next_data()["preview"]
        assert colour_of(world.http.get(first).content) == (255, 0, 0)
        picture = world.http.get(second)
        assert (picture.headers["content-type"], colour_of(picture.content)) == ("image/png", (0, 0, 255))
        assert colour_of(world.http.get(f"/v1/jobs/{job['id']}/preview").content) == (0, 0, 255)
        world.do(world.fake.succeed, job["id"])
        assert next_data()["preview"] is None


def test_jobs_that_asked_for_no_previews_name_none(world: World) -> None:
    job = world.submit()
    world.do(world.fake.run, job["id"])
    leave_preview(world, job["id"], 1, "red")
    assert world.http.get(job["urls"]["self"]).json()["preview"] is None


def test_a_preview_that_is_not_there_is_404(world: World) -> None:
    job = world.submit(previews=1)
    for query in ("", "?number=1"):
        reply = world.http.get(f"/v1/jobs/{job['id']}/preview{query}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_ready")
    for number in ("0", "1000", "x"):
        reply = world.http.get(f"/v1/jobs/{job['id']}/preview?number={number}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, "number")
    assert world.http.get("/v1/jobs/nobody/preview").status_code == 404


def test_a_draft_is_a_clip_or_else_a_picture(world: World) -> None:
    job = world.submit()
    url = f"/v1/jobs/{job['id']}/draft"
    reply = world.http.get(url)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_ready")
    kept = world.fake.artefacts / CHECKPOINTS / job["id"]
    kept.mkdir(parents=True)
    for name, media in (("draft.png", "image/png"), ("draft.mp4", "video/mp4")):
        (kept / name).write_bytes(name.encode())
        reply = world.http.get(url)
        assert (reply.headers["content-type"], reply.content) == (media, name.encode())
    assert world.http.get("/v1/jobs/nobody/draft").status_code == 404


def test_more_previews_than_there_can_be_are_refused(world: World) -> None:
    reply = world.http.post("/v1/jobs", json={"prompt": "x", "previews": 9})
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "previews")


def test_a_thumbnail_of_a_result(world: World) -> None:
    job = world.submit(output="image")
    picture = io.BytesIO()
    Image.new("RGB", (1280, 960), "red").save(picture, "PNG")
    world.do(world.fake.run, job["id"])
    world.do(lambda: world.fake.succeed(job["id"], image_png=picture.getvalue()))
    path = f"/v1/jobs/{job['id']}/thumbnail"
    small = world.http.get(path)
    assert small.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(small.content)).size == (640, 480)
    assert world.http.get(path, headers={"If-None-Match": small.headers["etag"]}).status_code == 304
    assert world.http.get(f"{path}?format=png").headers["content-type"] == "image/png"
    assert world.http.get(f"{path}?format=gif").json()["error"]["param"] == "format"
    assert world.http.get(f"{path}?index=5").status_code == 404
    assert world.http.get(f"/v1/jobs/{world.submit()['id']}/thumbnail").json()["error"]["code"] == "not_ready"
