"""What was drawn beside what was asked for, and values that are no pixels."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from broker.wire.jobspec import Artefact, JobSpec, encode_spec
from tests.engine.scripted_runner import CARDS, Bench
from workers.engine.base import Stage
from workers.engine.errors import EngineError
from workers.engine.frames import image_pixels, to_uint8, video_frames
from workers.engine.result_check import differences
from workers.ipc.messages import JobFailed, JobFinished, RunJob

SPEC = JobSpec(
    model="one", output="video", prompt="x", width=64, height=48, num_frames=9, fps=16.0, num_inference_steps=1, seed=1
)


def file(**changes: Any) -> Artefact:
    fields = {"media_type": "video/mp4", "width": 64, "height": 48, "num_frames": 9, "fps": 16.0, **changes}
    return Artefact(name="video.mp4", size=1, sha256="0" * 64, **fields)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"width": 0, "height": 0, "num_frames": 0, "fps": 0.0}, []),
        ({"width": 80}, ["size: 64x48 was asked for, video.mp4 is 80x48"]),
        ({"num_frames": 5}, ["num_frames: 9 were asked for, video.mp4 has 5"]),
        ({"fps": 8.0}, ["fps: 16 was asked for, video.mp4 has 8"]),
        ({"fps": 16.0001}, []),
        ({"sound_s": 0.5625}, []),
        ({"sound_s": 0.5}, ["sound: that of video.mp4 lasts 0.50 s, its pictures 0.56 s"]),
    ],
)
def test_differences_are_told(changes, said):
    assert list(differences(SPEC, [file(**changes)])) == said


@pytest.mark.parametrize("files", [[], [file(), file()], [file(media_type="image/png")]])
def test_the_wrong_files_are_no_success(files):
    with pytest.raises(EngineError):
        list(differences(SPEC, files))


def ended(bench: Bench, artefact: Artefact) -> Any:
    bench.engine.generate = lambda card, spec, out, monitor, profile: Stage("host", lambda: (artefact,))  # type: ignore[method-assign]
    assert SPEC.model in CARDS
    bench.runner.run(RunJob(job_id="j", fence=1, body=encode_spec(SPEC), out_dir="/nowhere", slot=1))
    return bench.end(1)


def test_a_job_bears_the_differences_as_warnings(bench):
    finished = ended(bench, file(num_frames=5))
    assert isinstance(finished, JobFinished)
    assert finished.result.warnings == ("num_frames: 9 were asked for, video.mp4 has 5",)


def test_a_job_that_made_another_kind_of_file_fails(bench):
    failed = ended(bench, file(media_type="image/png"))
    assert isinstance(failed, JobFailed)
    assert (failed.kind, failed.fatal) == ("engine_error", False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_picture(value):
    picture = np.zeros((8, 8, 3), np.float32)
    picture[2, 3, 1] = value
    with pytest.raises(EngineError, match="1 of the 192 values"):
        image_pixels(SimpleNamespace(images=[picture]))
    with pytest.raises(EngineError, match="1 of the 384 values"):
        video_frames(SimpleNamespace(frames=[[picture, np.zeros_like(picture)]]))
    with pytest.raises(EngineError, match="1 of the 192 values"):
        to_uint8(torch.from_numpy(picture))
