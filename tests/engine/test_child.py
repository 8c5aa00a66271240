"""The engine as its agent sees it: a real process, the demo model, jobs over the socketpair, files on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from broker.wire.jobspec import ModelCard
from tests.engine.child import Child
from tests.engine.conftest import spec_for
from tests.engine.media import centre_of, colour_of, read_clip, top_level_boxes
from workers.ipc.messages import JobCancelled, JobFailed, JobFinished, RunJob


def _finished(ending: object) -> JobFinished:
    assert isinstance(ending, JobFinished), ending
    return ending


def _failed(ending: object) -> JobFailed:
    assert isinstance(ending, JobFailed), ending
    return ending


def test_prompt_becomes_a_playable_mp4(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    ending = _finished(child.run(spec_for(demo_card), tmp_path))

    (artefact,) = ending.result.artefacts
    file = tmp_path / "video.mp4"
    assert [entry.name for entry in tmp_path.iterdir()] == ["video.mp4"]
    assert (artefact.name, artefact.media_type) == ("video.mp4", "video/mp4")
    assert artefact.size == file.stat().st_size
    assert artefact.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (artefact.width, artefact.height, artefact.num_frames, artefact.fps) == (64, 64, 17, 8.0)
    clip = read_clip(file)
    assert (clip.width, clip.height, len(clip.frames), clip.fps) == (64, 64, 17, 8)
    assert (clip.codec, clip.pix_fmt, clip.tags) == ("h264", "yuv420p", (1, 1, 1, 1))
    boxes = top_level_boxes(file)
    assert boxes.index("moov") < boxes.index("mdat")


def test_result_says_what_the_attempt_cost(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    ending = _finished(child.run(spec_for(demo_card, seed=99), tmp_path))

    assert list(ending.result.stage_durations) == ["encode", "denoise", "decode", "save"]
    assert all(seconds > 0 for seconds in ending.result.stage_durations.values())
    assert sum(ending.result.stage_durations.values()) <= ending.run_s + 1e-3
    used, total = child.words.memory()
    assert 100 < used < total
    assert used / 2 < ending.result.peak_memory_mb < total
    assert (ending.result.seed, ending.model) == (99, "demo")
    progress = child.words.slots[0].progress()
    assert (progress.fence, progress.phase) == (ending.fence, "save")


def test_the_circle_is_red_and_moves_right(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    _finished(child.run(spec_for(demo_card), tmp_path))

    frames = read_clip(tmp_path / "video.mp4").frames
    assert np.abs(colour_of(frames[8]) - (255, 0, 0)).max() <= 24
    assert frames[8][0, 0].max() <= 16  # the background is black
    first, last = centre_of(frames[0]), centre_of(frames[-1])
    assert last[0] - first[0] > 12
    assert abs(last[1] - first[1]) < 6


def test_jobs_that_overlap_are_drawn_as_if_alone(
    child: Child, demo_card: ModelCard, tmp_path: Path, picture: Path
) -> None:
    jobs = [
        spec_for(demo_card, seed=21),
        spec_for(demo_card, seed=22, image=str(picture)),
        spec_for(demo_card, seed=23, previews=2),
        spec_for(demo_card, seed=24, num_inference_steps=2),
    ]
    outs = {kind: [tmp_path / f"{kind}-{number}" for number in range(len(jobs))] for kind in ("alone", "beside")}
    for out in (*outs["alone"], *outs["beside"]):
        out.mkdir()
    for job, out in zip(jobs, outs["alone"], strict=True):
        _finished(child.run(job, out))

    overlapped = child.run_all(jobs, outs["beside"])

    assert overlapped == len(jobs)
    for alone, beside in zip(outs["alone"], outs["beside"], strict=True):
        assert (alone / "video.mp4").read_bytes() == (beside / "video.mp4").read_bytes()


def test_each_output_is_drawn_from_its_own_seed(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "second").mkdir()
    both = _finished(child.run(spec_for(demo_card, num_outputs=2, seed=3), tmp_path / "both"))
    _finished(child.run(spec_for(demo_card, seed=4), tmp_path / "second"))

    assert [artefact.name for artefact in both.result.artefacts] == ["video.mp4", "video-2.mp4"]
    first = read_clip(tmp_path / "both" / "video.mp4").frames
    second = read_clip(tmp_path / "both" / "video-2.mp4").frames
    assert (tmp_path / "both" / "video-2.mp4").read_bytes() == (tmp_path / "second" / "video.mp4").read_bytes()
    assert np.abs(first.astype(int) - second).max() > 100


def test_one_frame_is_a_video_too(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    ending = _finished(child.run(spec_for(demo_card, num_frames=1, width=96, height=64), tmp_path))

    clip = read_clip(tmp_path / "video.mp4")
    assert (clip.width, clip.height, len(clip.frames)) == (96, 64, 1)
    assert ending.result.artefacts[0].num_frames == 1


def test_cancel_in_the_middle_leaves_a_clean_engine(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    for name in ("before", "cancelled", "after"):
        (tmp_path / name).mkdir()
    _finished(child.run(spec_for(demo_card), tmp_path / "before"))

    fence = child.send(spec_for(demo_card, num_inference_steps=200), tmp_path / "cancelled")
    child.words.slots[0].request_cancel(fence)
    ending = child.ending(fence)
    _finished(child.run(spec_for(demo_card), tmp_path / "after"))

    assert isinstance(ending, JobCancelled)
    assert ending.model == "demo"
    assert list((tmp_path / "cancelled").iterdir()) == []
    assert (tmp_path / "before" / "video.mp4").read_bytes() == (tmp_path / "after" / "video.mp4").read_bytes()


def test_cancel_that_overtakes_its_job_is_heard(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    fence = child.send(spec_for(demo_card, num_inference_steps=200), tmp_path, cancel=True)

    assert isinstance(child.ending(fence), JobCancelled)


def test_arguments_the_pipeline_refuses_are_invalid_input(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    ending = _failed(child.run(spec_for(demo_card, width=72), tmp_path))

    assert ending.kind == "invalid_input"
    assert "divisible by 16" in ending.message
    assert "72" in ending.message
    assert not ending.fatal


def test_bytes_that_are_no_spec_are_invalid_input(child: Child, tmp_path: Path) -> None:
    child.channel.send(RunJob(job_id="job-1", fence=2**40, body=b"\x80", out_dir=str(tmp_path)))

    ending = _failed(child.ending(2**40))
    assert ending.kind == "invalid_input"
    assert "model" in ending.message  # the first field that is not there


def test_text_to_image_pipeline_gives_a_png(child: Child, image_card: ModelCard, tmp_path: Path) -> None:
    ending = _finished(child.run(spec_for(image_card, num_outputs=2, width=80, height=64), tmp_path))

    assert [artefact.name for artefact in ending.result.artefacts] == ["image.png", "image-2.png"]
    assert {artefact.media_type for artefact in ending.result.artefacts} == {"image/png"}
    with Image.open(tmp_path / "image.png") as image:
        assert (image.size, image.mode) == ((80, 64), "RGB")
    assert ending.model == "chroma"


def test_image_to_video_draws_from_the_image(child: Child, i2v_card: ModelCard, picture: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 64), (255, 255, 0)).save(other)
    clips = []
    for number, image in enumerate((picture, other)):
        out = tmp_path / f"out-{number}"
        out.mkdir()
        _finished(child.run(spec_for(i2v_card, image=str(image)), out))
        clips.append(read_clip(out / "video.mp4"))

    assert [(clip.width, clip.height, len(clip.frames)) for clip in clips] == [(64, 64, 9)] * 2
    assert np.abs(clips[0].frames.astype(int) - clips[1].frames).max() > 20


def test_image_to_video_needs_its_image(child: Child, i2v_card: ModelCard, tmp_path: Path) -> None:
    nothing = _failed(child.run(spec_for(i2v_card), tmp_path))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    broken = _failed(child.run(spec_for(i2v_card, image=str(tmp_path / "broken.png")), tmp_path))

    assert (nothing.kind, broken.kind) == ("invalid_input", "invalid_input")
    assert "image" in nothing.message
    assert "broken.png" in broken.message


def test_a_model_that_draws_from_text_alone_refuses_an_image(
    child: Child, image_card: ModelCard, picture: Path, tmp_path: Path
) -> None:
    ending = _failed(child.run(spec_for(image_card, image=str(picture)), tmp_path))

    assert ending.kind == "invalid_input"
    assert "takes no image" in ending.message


def test_model_that_cannot_be_loaded_fails_its_job_only(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    broken = _failed(child.run(spec_for(demo_card, model="broken"), tmp_path))
    unknown = _failed(child.run(spec_for(demo_card, model="unheard-of"), tmp_path))
    after = child.run(spec_for(demo_card, num_frames=1), tmp_path)

    assert (broken.kind, unknown.kind) == ("engine_error", "engine_error")
    assert "/nowhere/at/all" in broken.message
    assert "unheard-of" in unknown.message
    assert isinstance(after, JobFinished)


def test_directory_that_is_gone_is_an_engine_error(child: Child, demo_card: ModelCard, tmp_path: Path) -> None:
    ending = _failed(child.run(spec_for(demo_card, num_inference_steps=1), tmp_path / "gone"))

    assert ending.kind == "engine_error"
    assert "video.mp4 could not be written" in ending.message
