"""Where a job's checkpoints go, and when they are removed: at its end, whichever attempt wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.stage import Stage, fence
from workers.agent import attempt_dirs
from workers.agent import effects as fx


def test_all_attempts_of_a_job_share_a_directory() -> None:
    stage = Stage(checkpoint_s=10.0).busy(1)
    first = stage.core.engine_slot.attempts
    assert [attempt.job_id for attempt in first] == ["j1"]
    stage.fail()
    stage.ack(1)
    stage.run(2, "j1")
    [started] = stage.effects(fx.StartJob)
    assert started.message.checkpoints == "/home/artefacts/.checkpoints/j1"
    assert started.message.out_dir == f"/home/artefacts/j1/{fence(2)}"


def test_checkpoints_go_with_an_accepted_result() -> None:
    stage = Stage(checkpoint_s=10.0).busy(1)
    stage.finish()
    assert stage.orders() == []
    stage.ack(1)
    assert stage.orders() == [fx.RemoveCheckpoints("j1")]


@pytest.mark.parametrize("accepted", [True, False])
def test_a_failed_attempt_leaves_them_for_the_next(accepted: bool) -> None:
    stage = Stage(checkpoint_s=10.0).busy(1)
    stage.fail()
    stage.ack(1, accepted=accepted)
    assert not stage.effects(fx.RemoveCheckpoints)


def test_a_result_that_lost_leaves_them_to_the_attempt_that_goes_on() -> None:
    stage = Stage(checkpoint_s=10.0).busy(1)
    stage.finish()
    stage.ack(1, accepted=False)
    assert stage.orders() == [fx.RemoveDir("j1", fence(1))]


def test_removal_takes_one_job_s_and_no_other_path(tmp_path: Path) -> None:
    for job_id in ("a", "b"):
        place = attempt_dirs.checkpoint_dir(tmp_path, job_id)
        place.mkdir(parents=True)
        (place / "0-3.safetensors").write_bytes(b"x")
    attempt_dirs.remove_checkpoints(tmp_path, "a")
    attempt_dirs.remove_checkpoints(tmp_path, "a")
    assert [place.name for place in (tmp_path / ".checkpoints").iterdir()] == ["b"]
    with pytest.raises(ValueError, match="is refused"):
        attempt_dirs.remove_checkpoints(tmp_path, "../b")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_lies_in_place_of_a_jobs_directory_is_removed(kind: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "inside").mkdir(parents=True)
    shelf = tmp_path / ".checkpoints"
    shelf.mkdir()

    def plant(path: Path) -> None:
        if kind == "file":
            path.write_bytes(b"x")
        else:
            path.symlink_to(other)

    plant(shelf / "a")
    attempt_dirs.remove_checkpoints(tmp_path, "a")
    plant(shelf / "b")
    attempt_dirs.remove_old_checkpoints(tmp_path, before=2.0**40)
    (tmp_path / "d").mkdir()
    plant(tmp_path / "d" / "7")
    attempt_dirs.remove(tmp_path, "d", 7)

    assert [*shelf.iterdir()] == []
    assert not (tmp_path / "d").exists()
    assert (other / "inside").is_dir(), "what a link leads to stays"
