"""Files that a browser plays: sizes, rates, colours, order of boxes; and none that is half there."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.engine.media import read_clip, top_level_boxes
from workers.engine.artefacts import Mp4Writer, artefact_name, exact_fps, save_png
from workers.engine.errors import InvalidInput, WriteError
from workers.engine.frames import image_pixels

COLOURS = (
    (255, 0, 0),
    (0, 200, 0),
    (0, 0, 255),
    (255, 255, 0),
    (255, 128, 0),
    (128, 0, 200),
    (255, 255, 255),
    (8, 8, 8),
)


def _plain(colour: tuple[int, int, int], frames: int = 3, height: int = 32, width: int = 48) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (frames, height, width, 3))


def _write(directory: Path, frames: np.ndarray, fps: float = 8.0) -> Path:
    with Mp4Writer(directory, "video.mp4", fps) as writer:
        writer.write(frames)
        writer.finish()
    return directory / "video.mp4"


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (16.0, Fraction(16)),
        (23.976, Fraction(24000, 1001)),
        (24000 / 1001, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (24.0, Fraction(24)),
        (12.5, Fraction(25, 2)),
        (0.5, Fraction(1, 2)),
        (1000.0, Fraction(1000)),
    ],
)
def test_rate_is_the_one_meant(fps: float, rate: Fraction) -> None:
    assert exact_fps(fps) == rate


def test_rate_below_all_reason_is_refused() -> None:
    with pytest.raises(InvalidInput, match="fps"):
        exact_fps(1e-9)


@pytest.mark.parametrize("fps", [23.976, 12.5, 1.0])
def test_file_runs_at_its_rate(tmp_path: Path, fps: float) -> None:
    assert read_clip(_write(tmp_path, _plain((1, 2, 3), frames=9), fps)).fps == exact_fps(fps)


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_survive(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    clip = read_clip(_write(tmp_path, _plain(colour)))

    assert clip.tags == (1, 1, 1, 1)  # limited range, BT.709 throughout
    assert np.abs(clip.frames.astype(int) - colour).max() <= 3


def test_index_stands_before_the_pictures(tmp_path: Path) -> None:
    boxes = top_level_boxes(_write(tmp_path, _plain((9, 9, 9))))

    assert boxes.index("moov") < boxes.index("mdat")


def test_odd_sizes_gain_an_edge(tmp_path: Path) -> None:
    clip = read_clip(_write(tmp_path, _plain((200, 30, 30), height=33, width=31)))

    assert (clip.height, clip.width) == (34, 32)
    assert np.abs(clip.frames.astype(int) - (200, 30, 30)).max() <= 3  # the edge repeats, it is not black


def test_record_is_that_of_the_file(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path, "video-2.mp4", 24) as writer:
        writer.write(_plain((1, 1, 1), frames=2))
        writer.write(_plain((2, 2, 2), frames=1))
        record = writer.finish()

    data = (tmp_path / "video-2.mp4").read_bytes()
    assert (record.size, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (record.width, record.height, record.num_frames, record.fps) == (48, 32, 3, 24.0)


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for directory in (first, second):
        directory.mkdir()
        _write(directory, _plain((50, 60, 70)))

    assert (first / "video.mp4").read_bytes() == (second / "video.mp4").read_bytes()


def test_writer_that_is_left_leaves_nothing(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path, "video.mp4", 8) as writer:
        writer.write(_plain((1, 1, 1), frames=100))  # more than the encoder looks ahead: the file is there
        assert [entry.name for entry in tmp_path.iterdir()] == [".video.mp4.part"]

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frames",
    [_plain((1, 1, 1), height=16), np.zeros((1, 32, 48, 3), np.float32), np.zeros((1, 32, 48), np.uint8)],
    ids=["another size", "floats", "no colours"],
)
def test_frames_that_do_not_fit_are_refused(tmp_path: Path, frames: np.ndarray) -> None:
    with Mp4Writer(tmp_path, "video.mp4", 8) as writer:
        writer.write(_plain((1, 1, 1)))
        with pytest.raises(WriteError, match=r"expected uint8 \(32, 48, 3\)"):
            writer.write(frames)


def test_video_without_frames_is_refused(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path, "video.mp4", 8) as writer, pytest.raises(WriteError, match="no frames"):
        writer.finish()


def test_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "gone", "video.mp4", 8) as writer:
        writer.write(_plain((1, 1, 1)))
        with pytest.raises(WriteError, match=r"video\.mp4.*No such"):
            writer.finish()
    with pytest.raises(WriteError, match=r"image\.png.*No such"):
        save_png(tmp_path / "gone", "image.png", _plain((1, 1, 1))[0])


def test_png_is_exact(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 33, 3), dtype=np.uint8)

    record = save_png(tmp_path, "image.png", pixels)

    with Image.open(tmp_path / "image.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
    data = (tmp_path / "image.png").read_bytes()
    assert (record.size, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (record.width, record.height, record.num_frames, record.media_type) == (33, 17, 1, "image/png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["image.png"]


def test_png_keeps_what_is_transparent(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).random((1, 17, 33, 4), np.float32)
    opaque = np.concatenate([drawn[..., :3], np.ones_like(drawn[..., :1])], axis=-1)

    for name, images in (("clear.png", drawn), ("opaque.png", opaque)):
        save_png(tmp_path, name, image_pixels(SimpleNamespace(images=images)))

    with Image.open(tmp_path / "clear.png") as image:
        assert np.array_equal(np.asarray(image), (drawn[0] * 255).round().astype(np.uint8))
    with Image.open(tmp_path / "opaque.png") as image:
        assert image.mode == "RGB"


def test_names_count_from_two() -> None:
    assert [artefact_name("video", "mp4", index) for index in range(3)] == ["video.mp4", "video-2.mp4", "video-3.mp4"]
