"""The fake engine does what a job's `extra` asks, and otherwise draws like a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.wire.jobspec import Artefact, ModelCard
from tests.engine.conftest import spec_for
from tests.engine.media import centre_of, read_clip
from workers.engine.base import complete
from workers.engine.errors import EngineError, InvalidInput, LoadError, OutOfMemory
from workers.engine.fake import FakeEngine
from workers.engine.memory import ProcessMemory
from workers.engine.progress import Cancelled, Monitor
from workers.ipc.shared import Slot
from workers.models.catalogue import card_for

CARD = card_for("fake")


def _run(slot: Slot, out: Path, card: ModelCard = CARD, **changes: object) -> tuple[Artefact, ...]:
    spec = spec_for(card, **changes)
    slot.begin(1)
    return complete(
        FakeEngine().generate(card, spec, out, Monitor(slot, 1, spec.num_outputs, ProcessMemory()), "normal")
    )


def test_draws_a_real_video(slot: Slot, tmp_path: Path) -> None:
    (artefact,) = _run(slot, tmp_path, width=63, height=65, num_frames=5, fps=23.976)

    clip = read_clip(tmp_path / "video.mp4")
    assert (clip.width, clip.height, len(clip.frames)) == (64, 66, 5)  # even, as H.264 wants them
    assert (artefact.width, artefact.height, artefact.num_frames) == (64, 66, 5)
    assert clip.fps.as_integer_ratio() == (24000, 1001)
    assert centre_of(clip.frames[-1])[0] > centre_of(clip.frames[0])[0] + 20
    progress = slot.progress()
    assert progress.phase == "save"


def test_draws_a_real_image(slot: Slot, tmp_path: Path) -> None:
    card = card_for("fake", "fake-image", {"output": "image"})

    artefacts = _run(slot, tmp_path, card, num_outputs=3, width=33, height=17)

    assert [artefact.name for artefact in artefacts] == ["image.png", "image-2.png", "image-3.png"]
    assert {(artefact.width, artefact.height) for artefact in artefacts} == {(33, 17)}


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        ("fail", EngineError, "told to fail"),
        ("invalid", InvalidInput, "refuse"),
        ("oom", OutOfMemory, "memory"),
        ("load_fail", LoadError, "not to load"),
        ("explode", InvalidInput, r"extra\.fake: 'explode' is not one of slow, fail"),
    ],
)
def test_fails_as_asked(slot: Slot, tmp_path: Path, behaviour: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _run(slot, tmp_path, extra={"fake": behaviour})


@pytest.mark.parametrize("value", [-1, "soon", True])
def test_numbers_that_are_none_are_refused(slot: Slot, tmp_path: Path, value: object) -> None:
    with pytest.raises(InvalidInput, match="fake_step_s"):
        _run(slot, tmp_path, extra={"fake": "slow", "fake_step_s": value})


def test_fails_in_the_first_attempts_only(slot: Slot, tmp_path: Path) -> None:
    extra = {"fake": "fail", "fake_once": str(tmp_path / "counter"), "fake_times": 2}
    for _ in range(2):
        with pytest.raises(EngineError, match="told to fail"):
            _run(slot, tmp_path, extra=extra)

    (artefact,) = _run(slot, tmp_path, extra=extra)

    assert artefact.num_frames == 17


def test_happens_at_the_step_asked_for(slot: Slot, tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        _run(slot, tmp_path, extra={"fake": "fail", "fake_at": 3})

    progress = slot.progress()
    assert (progress.phase, progress.step, progress.total) == ("denoise", 3, 10)


def test_hears_a_cancel_between_steps(slot: Slot, tmp_path: Path) -> None:
    slot.request_cancel(1)

    with pytest.raises(Cancelled):
        _run(slot, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_deaf_on_request(slot: Slot, tmp_path: Path) -> None:
    slot.request_cancel(1)

    (artefact,) = _run(slot, tmp_path, extra={"fake": "ignore_cancel", "fake_step_s": 0})

    assert artefact.num_frames == 17
