"""A model's own encoding of its clips: what is refused at start, and what a player finds in the file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.wire.jobspec import encode_spec
from tests.engine.conftest import spec_for
from tests.engine.media import read_clip
from tests.engine.scripted import Recorder
from workers.engine.artefacts import Mp4Writer
from workers.engine.registry import Registry
from workers.engine.runner import Runner
from workers.ipc.messages import JobFinished, RunJob, Setup
from workers.models.catalogue import default_model, model_for
from workers.models.sources import CatalogueError
from workers.models.video_file import VideoFile, check_video_file

#: What the tags say: limited range, BT.709 thrice.
BT709 = (1, 1, 1, 1)


def gradient(frames: int = 6) -> Any:
    """A picture of soft colours that moves: frames x 48 x 64 x 3."""
    down, across = np.mgrid[0:48, 0:64]
    return np.stack(
        [np.stack([across * 3 + 8 * n, down * 4, 200 - across * 2], axis=-1) for n in range(frames)]
    ).astype(np.uint8)


def written(directory: Path, file: VideoFile, frames: Any) -> Path:
    with Mp4Writer(directory, "video.mp4", 8.0, None, file) as writer:
        writer.write(frames)
        writer.finish()
    return directory / "video.mp4"


@pytest.mark.parametrize(
    ("file", "codec"),
    [
        (VideoFile(), "h264"),
        (VideoFile(crf=12, pixel_format="yuv444p"), "h264"),
        (VideoFile(codec="hevc"), "hevc"),
        (VideoFile(codec="hevc", pixel_format="yuv422p", crf=15), "hevc"),
        (VideoFile(codec="av1", pixel_format="yuv420p10le"), "libdav1d"),
    ],
    ids=str,
)
def test_a_player_finds_what_was_asked_for(tmp_path: Path, file: VideoFile, codec: str) -> None:
    frames = gradient()
    clip = read_clip(written(tmp_path, file, frames))
    assert (clip.codec, clip.pix_fmt, clip.tags[1:]) == (codec, file.pixel_format, BT709[1:])
    assert (clip.width, clip.height, len(clip.frames)) == (64, 48, 6)
    assert np.abs(clip.frames.astype(int) - frames.astype(int)).mean() < 6


@pytest.mark.skipif(not hasattr(os, "SCHED_FIFO"), reason="Linux")
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_no_thread_is_left_that_goes_before_all_else_on_the_machine(tmp_path: Path, codec: Any) -> None:
    def real_time() -> list[str]:
        found = []
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                found += [task] * (os.sched_getscheduler(int(task)) in (os.SCHED_FIFO, os.SCHED_RR))
        return found

    with Mp4Writer(tmp_path, "video.mp4", 8.0, None, VideoFile(codec=codec)) as writer:
        writer.write(gradient(2))
        assert real_time() == []
        writer.finish()
    assert real_time() == []


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_a_lower_factor_makes_a_larger_file_and_the_same_frames_the_same_bytes(tmp_path: Path, codec: Any) -> None:
    sizes = []
    noise = np.random.default_rng(1).integers(0, 256, (6, 48, 64, 3), np.uint8)
    for crf in (10, 40):
        made = [written(tmp_path, VideoFile(codec=codec, crf=crf), noise).read_bytes() for _ in range(3)]
        assert made[0] == made[1] == made[2]
        sizes.append(len(made[0]))
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("size", [(64, 64), (98, 130)])
def test_soft_shapes_in_hevc_give_the_same_bytes_too(tmp_path: Path, size: tuple[int, int], pixel_format: Any) -> None:
    down, across = np.mgrid[0 : size[0], 0 : size[1]]
    frames = [np.stack([across * 3 + n * 5, down * 2 + n * 9, (across + down) * 2 + n], axis=-1) for n in range(17)]
    clip = (np.stack(frames) % 256).astype(np.uint8)
    file = VideoFile(codec="hevc", pixel_format=pixel_format)
    assert len({written(tmp_path, file, clip).read_bytes() for _ in range(6)}) == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"codec": "vp9"}, "'vp9' is not one of av1, h264, hevc"),
        ({"crf": 52}, "[models.m] video_file.crf: 52 is not from 0 to 51, as h264 has it"),
        (
            {"codec": "hevc", "pixel_format": "yuv420p10le"},
            "'yuv420p10le' is not to be had with hevc here, which has yuv420p, yuv422p, yuv444p",
        ),
        ({"codec": "av1", "crf": -1}, "-1 is not from 0 to 63"),
        (
            {"codec": "av1", "pixel_format": "yuv444p"},
            "'yuv444p' is not to be had with av1 here, which has yuv420p, yuv420p10le",
        ),
        ({"crf": "low"}, "[models.m] video_file.crf: 'low' must be a whole number"),
        ({"quality": 3}, "video_file.quality: unknown key"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_at_start(table: dict[str, Any], words: str) -> None:
    with pytest.raises(CatalogueError) as refused:
        model_for(str(default_model()), "m", {"video_file": table})
    assert words in str(refused.value)


def test_an_encoder_that_is_not_there_and_models_without_clips_are_refused() -> None:
    hevc = VideoFile(codec="hevc")
    with pytest.raises(CatalogueError, match=r"\[models\.m\] video_file\.codec: 'hevc' needs libx265, which .* lacks"):
        check_video_file("[models.m]", hevc, "video", encoders={"libx264"})
    with pytest.raises(CatalogueError, match="the model makes images"):
        check_video_file("[models.m]", hevc, "image")
    with pytest.raises(CatalogueError, match="fake"):
        model_for("fake", "m", {"video_file": {"crf": 3}})
    assert check_video_file("[models.m]", VideoFile(), "image", encoders=()) == VideoFile()


def test_a_models_clips_are_written_so_and_the_result_says_it(tmp_path: Path) -> None:
    model = model_for(
        str(default_model()), "m", {"video_file": {"codec": "hevc", "crf": 18}, "limits": {"min_side": 64}}
    )
    said: list[Any] = []
    setup = Setup(models=(model.card,), preload="m", device="cpu", threads=1, setups={"m": model.setup})
    runner = Runner(Registry(setup), {"m": model.card}, _Slots(), said.append, lambda: None)
    for fence, spec in enumerate(
        (
            spec_for(model.card, num_frames=5, num_inference_steps=1),
            spec_for(model.card, output="image", num_frames=1, num_inference_steps=1),
        ),
        start=1,
    ):
        runner.run(RunJob(job_id="a", fence=fence, body=encode_spec(spec), out_dir=str(tmp_path), slot=0, alone=True))
    clip, picture = [message for message in said if isinstance(message, JobFinished)]
    assert read_clip(tmp_path / "video.mp4").codec == "hevc"
    assert clip.result.used["video_file"] == "hevc crf 18 yuv420p"
    assert "video_file" not in picture.result.used


class _Slots:
    def __init__(self) -> None:
        self.slots = (Recorder.recording(),)


def test_hevc_is_refused_where_clips_may_be_too_narrow_for_it() -> None:
    table = {"video_file": {"codec": "hevc"}, "limits": {"min_side": 32}}
    with pytest.raises(
        CatalogueError, match=r"\[models\.m\] video_file\.codec: 'hevc' needs clips of 64 pixels a side and more"
    ):
        model_for(str(default_model()), "m", table)
