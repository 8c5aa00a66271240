"""Images from wherever they come: taken alike, checked alike, refused by field and rule before a job exists."""

from __future__ import annotations

import base64
import io
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from broker.wire.jobspec import decode_spec
from http_edge.media import input_store
from tests.edge.conftest import World
from tests.edge.small_media import picture


def noise(size: int) -> bytes:
    """A picture that does not compress: so many bytes, and a few."""
    side = int((size / 3) ** 0.5)
    data = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(data, "BMP")
    return data.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Pictures(BaseHTTPRequestHandler):
    """Serves what `data` holds at a path; 404 else."""

    data: dict[str, bytes]

    def do_GET(self) -> None:
        body = self.data.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The address of a server of pictures on this machine, and its pictures by path."""
    data: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Pictures,), {"data": data}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", data
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def trusting(open_edge: Callable[..., World]) -> World:
    return open_edge(fetch_allow=("127.0.0.0/8",))


def kept(world: World, job: dict[str, Any]) -> bytes:
    path = Path(decode_spec(world.fake.jobs[job["id"]].body).image)
    assert path.parent == world.edge.settings.uploads_path
    return path.read_bytes()


def upload(world: World, data: bytes, **fields: str) -> Any:
    return world.http.post("/v1/files", files={"file": ("cat.png", data, "image/png")}, data=fields)


# ---------------------------------------------------------------- every source, every API


def source(world: World, site: tuple[str, dict[str, bytes]], kind: str, data: bytes) -> str:
    """What a client writes to mean these bytes."""
    if kind == "path":
        (world.start / "cat.png").write_bytes(data)
        return "cat.png"
    if kind == "url":
        site[1]["/cat.png?x=1"] = data
        return f"{site[0]}/cat.png?x=1"
    if kind == "file id":
        return str(upload(world, data).json()["id"])
    return {
        "data url": f"data:image/png;base64,{b64(data)}",
        "data url without a type": f"DATA:;base64,{b64(data)}",
        "base64": b64(data),
        "url-safe base64 without padding": base64.urlsafe_b64encode(data).decode().rstrip("="),
        "base64 in lines": base64.encodebytes(data).decode(),
    }[kind]


KINDS = [
    "path",
    "url",
    "file id",
    "data url",
    "data url without a type",
    "base64",
    "url-safe base64 without padding",
    "base64 in lines",
]
ENTRANCES = ["json", "urlencoded", "multipart text", "gen-1"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_image_of_any_source_is_taken_at_any_entrance(
    trusting: World, site: tuple[str, dict[str, bytes]], entrance: str, kind: str
) -> None:
    data = picture(kind="JPEG" if "data" in kind else "PNG")
    text = source(trusting, site, kind, data)
    fields = {"prompt": "a cat", "image": text}
    match entrance:
        case "json":
            response = trusting.http.post("/v1/jobs", json=fields)
        case "urlencoded":
            response = trusting.http.post("/v1/jobs", data=fields)
        case "multipart text":
            response = trusting.http.post("/v1/jobs", files={name: (None, value) for name, value in fields.items()})
        case _:
            body = {"task_id": "t", "prompt": "a cat", "save_video_path": "out.mp4", "image_path": text}
            response = trusting.http.post("/v1/local/video/generate", json=body)
    assert response.status_code == 200, response.text
    (job,) = trusting.fake.jobs.values()
    assert kept(trusting, {"id": job.id}) == data
    echo = decode_spec(job.body).echo
    assert echo["image" if entrance != "gen-1" else "image_path"] == text


def test_a_file_comes_with_its_request(world: World) -> None:
    fields = {"prompt": "a cat", "width": "64", "extra": '{"strength": 0.5}'}
    files = {"image": ("my cat.png", picture(size=(64, 64)), "application/octet-stream")}
    job = world.http.post("/v1/jobs", data=fields, files=files).json()
    assert (job["model"], job["spec"]["image"], job["spec"]["width"]) == ("animate", "my cat.png", 64)
    assert job["spec"]["extra"] == {"strength": 0.5}
    assert job["warnings"] == []
    assert kept(world, job) == picture(size=(64, 64))
    assert os.listdir(world.edge.settings.uploads_path / "tmp") == []


def test_empty_fields_of_a_form_are_absent(world: World) -> None:
    fields = {"prompt": "a", "width": "", "seed": " ", "fps": "", "num_outputs": "", "image": ""}
    job = world.http.post("/v1/jobs", data=fields, files={"image": ("", b"")}).json()
    assert (job["model"], job["spec"]["width"], job["spec"]["num_outputs"]) == ("demo", 64, 1)


def test_large_base64_is_an_image_like_any_other(world: World) -> None:
    data = noise(8_000_000)
    job = world.submit(image=b64(data))
    assert kept(world, job) == data
    # The record names it by its beginning.
    assert len(job["spec"]["image"]) < 200
    assert job["spec"]["image"].endswith(f"({len(b64(data))} characters)")
    assert os.listdir(world.edge.settings.uploads_path / "tmp") == []


# ---------------------------------------------------------------- refused


BOMB = picture(True, (12_000, 12_000), mode="1")

#: (bytes, words)
BAD_BYTES = {
    "nothing": (b"", "is not an image"),
    "a page": (b"<html>" * 20, "is not an image"),
    "a gif": (b"GIF89a" + bytes(100), "is not an image"),
    "cut short": (picture(size=(64, 64))[:-40], "is a damaged image"),
    "a bomb": (BOMB, "pixels"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
@pytest.mark.parametrize("kind", ["path", "url", "file id", "data url", "upload"])
def test_what_is_no_image_is_refused_from_any_source(
    trusting: World, site: tuple[str, dict[str, bytes]], kind: str, name: str
) -> None:
    data, words = BAD_BYTES[name]
    if kind == "upload":
        files = {"image": ("cat.png", data, "image/png")}
        response = trusting.http.post("/v1/jobs", data={"prompt": "a"}, files=files)
    else:
        response = trusting.http.post("/v1/jobs", json={"prompt": "a", "image": source(trusting, site, kind, data)})
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    assert error["param"] == "image"
    assert words in error["message"]
    assert len(error["message"]) < 400
    assert trusting.fake.jobs == {}


#: (what the client writes, words)
BAD_TEXTS = [
    ("data:image/png;base64,", "is not an image"),
    ("data:image/png;base64,####", "is not valid base64"),
    ("data:image/png;base64,AAAAA", "is not valid base64"),
    ("data:image/png,abc", "is a data URL without ;base64"),
    ("iVBORw0KGgo" + "A" * 80, "is not an image"),
    ("iVBORw0KGgo" + "A" * 82, "is not valid base64"),
    ("R0lGODlh" + "A" * 80, "is not an image"),
    ("x" * 5000, "is not an image"),
    ("x" * 5000 + "!", "is not valid base64"),
    ("file-0123456789abcdef01234567", "does not exist"),
    ("ftp://a.example/x.png", "is no URL of http or https"),
    ("http://127.0.0.1/x.png", "does not fetch from"),
    ("http://[::ffff:127.0.0.1]/x.png", "does not fetch from"),
    ("http://169.254.169.254/latest/meta-data", "does not fetch from"),
    ("https://localhost/x.png", "does not fetch from"),
    ("http://8.8.8.8:25/x.png", "does not fetch from"),
    ("../../etc/passwd", "leads out of the directories"),
    ("nothing.png", "does not exist"),
]


@pytest.mark.parametrize(("text", "words"), BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_text_that_means_no_image_is_refused(world: World, text: str, words: str) -> None:
    response = world.http.post("/v1/jobs", json={"prompt": "a", "image": text})
    assert response.status_code == 422
    assert words in response.json()["detail"]
    assert response.json()["error"]["param"] == "image"
    assert len(response.json()["detail"]) < 400
    assert world.fake.jobs == {}


def test_base64_over_the_cap_is_refused_before_it_is_decoded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_store, "MAX_IMAGE_BYTES", 5000)
    response = world.http.post("/v1/jobs", json={"prompt": "a", "image": b64(noise(20_000))})
    assert "at most 5000" in response.json()["detail"]


def test_two_images_are_one_too_many(world: World) -> None:
    two = [("image", ("a.png", picture(), "image/png")), ("image", ("b.png", picture(), "image/png"))]
    response = world.http.post("/v1/jobs", data={"prompt": "a"}, files=two)
    assert (response.status_code, "2 came" in response.json()["detail"]) == (422, True)
    response = world.http.post("/v1/jobs", data={"prompt": "a", "image": "x.png"}, files=two[:1])
    assert (response.status_code, "came as a file, too" in response.json()["detail"]) == (422, True)


def test_a_file_for_a_model_that_takes_none_is_refused_without_a_path_of_ours(world: World) -> None:
    fields = {"prompt": "a", "model": "demo"}
    response = world.http.post("/v1/jobs", data=fields, files={"image": ("a.png", picture(), "image/png")})
    assert response.status_code == 422
    assert "takes no image" in response.json()["detail"]
    assert "uploads" not in response.json()["detail"]


def test_a_url_that_fails_is_the_clients_news(trusting: World, site: tuple[str, dict[str, bytes]]) -> None:
    response = trusting.http.post("/v1/jobs", json={"prompt": "a", "image": f"{site[0]}/none.png"})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "image")
    assert "its server answered 404" in response.json()["detail"]


def test_an_image_that_was_removed_cannot_be_used_again(world: World) -> None:
    job = world.submit(image=b64(picture()))
    Path(decode_spec(world.fake.jobs[job["id"]].body).image).unlink()
    again = world.submit(image=b64(picture()))
    assert kept(world, again) == picture()
