"""Image inputs: what is taken, what is refused, and that the engine reads a copy that nobody changes."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from broker.wire.jobspec import decode_spec
from http_edge.base.errors import EdgeError
from http_edge.media import input_store
from http_edge.media.input_store import InputStore
from tests.edge.conftest import World
from tests.edge.small_media import picture
from tests.support.exchange import exchanging


@pytest.fixture
def door(start: Path) -> InputStore:
    start = Path(os.path.realpath(start))
    return InputStore(start / "uploads", start, (start,))


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("BMP", ".bmp")])
def test_images_are_kept_by_their_content(door: InputStore, start: Path, kind: str, suffix: str) -> None:
    # The name is the client's; the format is the file's own.
    (start / "first.dat").write_bytes(picture(kind=kind))
    (start / "second.png").write_bytes(picture(kind=kind))
    kept = Path(door.from_path("image", "first.dat").path)
    assert (kept.parent.name, kept.suffix, len(kept.stem)) == ("uploads", suffix, 64)
    assert kept.read_bytes() == picture(kind=kind)
    assert door.from_path("image", "./second.png").path == str(kept)
    assert [path.name for path in kept.parent.glob("[!.]*")] == [kept.name]


def test_a_refusal_names_each_directory_once(start: Path) -> None:
    start = Path(os.path.realpath(start))
    with pytest.raises(EdgeError) as refused:
        InputStore(start / "uploads", start, (start, start)).from_path("image", "/etc/hostname")
    assert f"which are {start} (setting input_roots)" in refused.value.message


def test_no_directory_that_is_exchanged_for_a_link_leads_a_reader_out(
    door: InputStore, start: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(picture(size=(8, 8)))
    (start / "sub").mkdir()
    (start / "sub" / "x.png").write_bytes(picture())
    (start / "other").symlink_to(outside)
    kept = set()
    with exchanging(start / "sub", start / "other"):
        for _ in range(400):
            with contextlib.suppress(EdgeError):
                kept.add(Path(door.from_path("image", "sub/x.png").path).read_bytes())
    assert kept <= {picture()}


def damaged() -> bytes:
    data = bytearray(picture(size=(64, 64)))
    data[60:80] = bytes(20)
    return bytes(data)


#: (content, words of the rule)
NO_IMAGES = [
    (b"", "is not an image"),
    (b"<html>", "is not an image"),
    (b"GIF89a" + bytes(20), "is not an image"),
    (picture(size=(64, 64))[:-40], "is a damaged image"),
    (picture(kind="JPEG")[:300], "is a damaged image"),
    (damaged(), "is a damaged image"),
]


@pytest.mark.parametrize(("content", "words"), NO_IMAGES, ids=range(len(NO_IMAGES)))
def test_what_is_no_image_is_refused(door: InputStore, start: Path, content: bytes, words: str) -> None:
    (start / "x.png").write_bytes(content)
    with pytest.raises(EdgeError) as caught:
        door.from_path("image", "x.png")
    assert caught.value.message.startswith('image: "x.png"')
    assert words in caught.value.message
    assert not (start / "uploads").exists()


def test_too_many_pixels_are_refused_before_decoding(
    door: InputStore, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (start / "x.png").write_bytes(picture(size=(100, 100)))
    monkeypatch.setattr(input_store, "MAX_IMAGE_PIXELS", 9_999)
    with pytest.raises(EdgeError, match="has 100x100 pixels; at most 9999"):
        door.from_path("image", "x.png")


def black_png(side: int) -> bytes:
    """A whole PNG, square and one bit deep; by hand, as Pillow takes seconds for it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = bytes((1 + (side + 7) // 8) * side)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_the_bomb_is_a_picture_like_any_other(door: InputStore, start: Path) -> None:
    (start / "black.png").write_bytes(black_png(100))
    assert door.from_path("image", "black.png")


def test_a_decompression_bomb_is_refused(door: InputStore, start: Path) -> None:
    # 12000 x 12000 in a few kilobytes: Pillow itself warns of it, and a larger one it refuses.
    for side in (12_000, 20_000):
        (start / "bomb.png").write_bytes(black_png(side))
        with pytest.raises(EdgeError, match="pixels"):
            door.from_path("image", "bomb.png")


def test_a_file_that_is_too_large_is_refused(door: InputStore, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_store, "MAX_IMAGE_BYTES", 10)
    (start / "x.png").write_bytes(picture())
    with pytest.raises(EdgeError, match="bytes, at most 10"):
        door.from_path("image", "x.png")


def test_paths_that_are_no_readable_file_are_refused(door: InputStore, start: Path, tmp_path: Path) -> None:
    (start / "dir").mkdir()
    os.mkfifo(start / "pipe")
    (start / "out.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "outside.png").write_bytes(picture())
    for text, words in (
        ("nothing.png", "does not exist"),
        ("dir", "cannot be read"),
        ("pipe", "not a regular file"),
        ("x" * 300, "cannot be read"),
        ("../outside.png", "input_roots"),
        ("out.png", "input_roots"),
        ("/etc/passwd", "input_roots"),
    ):
        with pytest.raises(EdgeError) as caught:
            door.from_path("image_path", text)
        assert words in caught.value.message


def test_an_image_reaches_the_spec_as_its_kept_copy(world: World) -> None:
    (world.start / "cat.png").write_bytes(picture())
    job = world.submit(image="cat.png")
    assert (job["model"], job["spec"]["image"]) == ("animate", "cat.png")
    kept = Path(decode_spec(world.fake.jobs[job["id"]].body).image)
    assert kept.parent == world.edge.settings.uploads_path
    assert kept.read_bytes() == picture()


def test_lightx2v_names_its_own_field(world: World) -> None:
    fields = {"task_id": "t", "prompt": "a cat", "save_video_path": "out.mp4", "image_path": "cat.txt"}
    (world.start / "cat.txt").write_text("meow")
    answer = world.http.post("/v1/local/video/generate", json=fields)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "image_path"]
    (world.start / "cat.txt").write_bytes(picture())
    assert world.http.post("/v1/local/video/generate", json=fields).json()["task_status"] == "processing"


def test_input_roots_are_a_setting(open_edge: Callable[..., World], tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(picture())
    world = open_edge(input_roots=("/",))
    assert world.submit(image=str(tmp_path / "cat.png"))["model"] == "animate"


def test_a_picture_is_kept_upright_and_without_what_engines_may_read_otherwise(door: InputStore, start: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    # A tag that can be read but not be written again.
    exif[0x8769] = {0x9000: b"0232", 0x9286: "\ud800".encode("utf-16", "surrogatepass")}
    Image.new("RGB", (40, 20), (10, 20, 30)).save(start / "turned.jpg", exif=exif)
    kept = door.from_path("image", "turned.jpg")
    with Image.open(kept.path) as image:
        assert (image.size, image.mode, dict(image.getexif())) == ((20, 40), "RGB", {})
    assert (kept.width, kept.height, kept.notes) == (20, 40, ())


def test_transparency_is_white_and_the_job_says_so(world: World) -> None:
    Image.new("RGBA", (64, 64), (10, 20, 30, 0)).save(world.start / "clear.png")
    job = world.submit(image="clear.png")
    assert job["warnings"] == ["image: what is transparent was laid on white"]
    with Image.open(decode_spec(world.fake.jobs[job["id"]].body).image) as kept:
        assert kept.getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_gives_the_shape_where_the_request_does_not(world: World) -> None:
    Image.new("RGB", (60, 120)).save(world.start / "tall.png")
    free = world.submit(image="tall.png")
    reported = world.submit(image="tall.png", width=64, height=64)
    assert free["spec"]["width"] < free["spec"]["height"]
    assert reported["warnings"] == ["image: cut from 60x120 to the shape of 64x64"]
    assert (reported["spec"]["width"], reported["spec"]["height"]) == (64, 64)
