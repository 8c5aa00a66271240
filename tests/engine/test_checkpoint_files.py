"""Files of checkpoints: whatever was done to one, it is read as it was written or not at all, and the one before it takes its place."""

from __future__ import annotations

import os
import random
import shutil
import stat
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from workers.engine.checkpoints import Binding, Checkpoints, State

BINDING: Binding = {"request": "r", "model": "m"}


def state(step: int, output: int = 0) -> State:
    """A state that tells its step and output."""
    tensors = {"loop.latents": torch.full((2, 3), float(step)), "noise": torch.arange(5, dtype=torch.uint8) + output}
    return State(output, step, 9, tensors, {"loop": {"latents": {"tensor": "loop.latents"}}, "answers": {}}, 0.5 * step)


def written(place: Path, *states: State, binding: Binding = BINDING) -> Checkpoints:
    store = Checkpoints(place, 0.0)
    for one in states:
        store.keep(one, binding)
        store.settle()
    return store


def is_whole(found: State | None, step: int) -> bool:
    if found is None or (found.step, found.plain, found.denoise_s) != (step, state(step).plain, 0.5 * step):
        return False
    expected = state(step).tensors
    return found.tensors.keys() == expected.keys() and all(
        torch.equal(found.tensors[name], tensor) for name, tensor in expected.items()
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found, refused = written(tmp_path, state(3), state(4)).find(0, BINDING)
    assert is_whole(found, 4)
    assert refused == ""


def test_one_flipped_bit_anywhere_is_refused_and_the_older_one_taken(tmp_path: Path) -> None:
    store = written(tmp_path, state(3), state(4))
    newest = tmp_path / "0-4.safetensors"
    content = newest.read_bytes()
    draw = random.Random(1)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        newest.write_bytes(damaged)
        found, refused = store.find(0, BINDING)
        assert is_whole(found, 3), f"byte {position}"
        assert refused, f"byte {position}"


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    store = written(tmp_path, state(3), state(4))
    newest = tmp_path / "0-4.safetensors"
    content = newest.read_bytes()
    for length in range(len(content)):
        newest.write_bytes(content[:length])
        found, refused = store.find(0, BINDING)
        assert is_whole(found, 3), f"{length} bytes"
        assert refused, f"{length} bytes"


def test_a_file_with_more_behind_it_is_refused(tmp_path: Path) -> None:
    store = written(tmp_path, state(4))
    newest = tmp_path / "0-4.safetensors"
    newest.write_bytes(newest.read_bytes() + b"\0")
    assert store.find(0, BINDING) == (None, "it is damaged: its digest is another")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1-4", "it is of step 4 of output 1, and bears another's name"),
        ("0-7", "it is of step 4 of output 1, and bears another's name"),
    ],
)
def test_a_file_under_the_name_of_another_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    store = written(tmp_path, state(4))
    (tmp_path / "0-4.safetensors").rename(tmp_path / f"{name}.safetensors")
    assert store.find(int(name[0]), BINDING) == (None, reason)


def test_a_file_of_another_job_is_refused(tmp_path: Path) -> None:
    store = written(tmp_path / "a", state(3))
    written(tmp_path / "b", state(4), binding={**BINDING, "request": "s"})
    (tmp_path / "b" / "0-4.safetensors").rename(tmp_path / "a" / "0-4.safetensors")
    found, refused = store.find(0, BINDING)
    assert is_whole(found, 3)
    assert refused == "it was made with another request"


@pytest.mark.parametrize(("seconds", "due", "last_due"), [(0.9, False, False), (1.1, False, True), (10.1, True, True)])
def test_after_the_last_step_less_is_worth_a_file(tmp_path: Path, seconds: float, due: bool, last_due: bool) -> None:
    now = 100.0
    store = Checkpoints(tmp_path, 10.0, clock=lambda: now)
    assert (store.times.due(), store.times.last_due()) == (False, False), "nothing is denoised yet"
    store.times.begin()
    now += seconds
    store.times.stepped()
    assert (store.times.due(), store.times.last_due()) == (due, last_due)
    store.keep_now(state(1), BINDING)
    assert (store.times.due(), store.times.last_due()) == (False, False)


@pytest.mark.parametrize(
    ("step_s", "write_s", "at_s"),
    [
        (1.0, 0.0, 9.0),  # after another step it would be there just in time, and its write takes a moment
        (3.0, 0.0, 9.0),
        (3.0, 2.0, 6.0),
        (6.0, 0.0, 6.0),
        (25.0, 0.0, 25.0),
        (1.0, 100.0, 5.0),  # nothing that is written would be there in time: each half of the interval does
    ],
)
def test_a_checkpoint_is_there_within_the_interval_and_none_comes_much_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float, write_s: float, at_s: float
) -> None:
    now = 100.0
    store = Checkpoints(tmp_path, 10.0, clock=lambda: now)
    own = Path.rename

    def rename(path: Path, target: Path) -> None:
        nonlocal now
        now += write_s + 0.001
        own(path, target)

    store.times.begin()
    now += step_s
    store.times.stepped()
    monkeypatch.setattr(Path, "rename", rename)
    assert store.keep_now(state(1), BINDING)
    monkeypatch.undo()
    store.times.begin()
    began, step = now, 1
    store.keep(state(1), BINDING)
    store.settle()
    while True:
        now, step = now + step_s, step + 1
        store.times.stepped()
        if store.times.due():
            break
    assert now - began == pytest.approx(at_s)


def test_a_file_is_found_before_the_disk_has_it_and_counts_when_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    own = os.fsync

    def fsync(descriptor: int) -> None:
        begun.set()
        assert go_on.wait(30.0)
        own(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = Checkpoints(tmp_path, 0.0)
    store.keep(state(4), BINDING)
    assert begun.wait(30.0)
    assert is_whole(Checkpoints(tmp_path, 0.0).find(0, BINDING)[0], 4), "the attempt that follows the death of this one"
    assert store.kept == 0
    go_on.set()
    store.settle()
    assert store.kept == 4


def test_only_the_last_two_of_each_output_are_left(tmp_path: Path) -> None:
    written(tmp_path, state(1), state(2), state(9), state(1, output=1), state(2, output=1), state(3, output=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0-2.safetensors",
        "0-9.safetensors",
        "1-2.safetensors",
        "1-3.safetensors",
    ]


class SlowDisk:
    """Holds up the first file until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.written: list[tuple[int, int]] = []
        own = Checkpoints._write

        def write(store: Checkpoints, one: State, binding: Binding) -> BinaryIO:
            self.begun.set()
            assert self.go_on.wait(30.0)
            file = own(store, one, binding)
            self.written.append((one.output, one.step))
            return file

        monkeypatch.setattr(Checkpoints, "_write", write)


def test_behind_a_disk_that_is_slow_the_newest_alone_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    store = Checkpoints(tmp_path, 0.0)
    store.keep(state(1), BINDING)
    assert disk.begun.wait(30.0)
    for step in (2, 3, 4):
        store.keep(state(step), BINDING)
    disk.go_on.set()
    store.settle()

    assert disk.written == [(0, 1), (0, 4)]
    assert store.kept == 4
    store.keep(state(5), BINDING)
    store.settle()
    assert store.kept == 5


def test_an_output_that_is_denoised_waits_for_the_disk_however_many_states_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    store = Checkpoints(tmp_path, 0.0)
    store.keep(state(8), BINDING)
    assert disk.begun.wait(30.0)
    store.keep_finished(state(9), BINDING)
    for step in (1, 2):
        store.keep(state(step, output=1), BINDING)
    disk.go_on.set()
    store.settle()

    assert disk.written == [(0, 8), (0, 9), (1, 2)]
    assert is_whole(store.find(0, BINDING)[0], 9)


def test_a_write_that_fails_holds_up_none_that_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Checkpoints._write

    def write(store: Checkpoints, one: State, binding: Binding) -> BinaryIO:
        if one.step == 1:
            raise MemoryError
        return own(store, one, binding)

    monkeypatch.setattr(Checkpoints, "_write", write)
    store = Checkpoints(tmp_path, 0.0)
    assert not store.keep_now(state(1), BINDING)
    assert store.keep_now(state(2), BINDING)
    assert store.kept == 2


class Flushes:
    """A disk that keeps whoever flushes waiting, until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._own = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        self.begun.set()
        assert self.go_on.wait(60)
        self._own(descriptor)


def steps(place: Path) -> list[int]:
    return sorted(int(path.stem.partition("-")[2]) for path in place.iterdir())


def test_a_job_that_leaves_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = written(tmp_path, state(1), state(2))
    disk = Flushes(monkeypatch)
    store.keep(state(3), BINDING)
    assert disk.begun.wait(60)
    assert store.keep_now(state(4), BINDING), "nor for what was written before"
    assert store.kept == 4
    assert is_whole(Checkpoints(tmp_path, 0.0).find(0, BINDING)[0], 4)
    assert steps(tmp_path) == [1, 2, 3, 4], "older ones stay until it is flushed"
    disk.go_on.set()
    store.settle()
    assert steps(tmp_path) == [3, 4]
    assert store.kept == 4


def test_a_disk_that_is_slow_to_flush_costs_a_process_that_dies_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, disk = Checkpoints(tmp_path, 0.0), Flushes(monkeypatch)
    store.keep(state(3), BINDING)
    assert disk.begun.wait(60)
    for step in (4, 5, 6):
        store.keep(state(step), BINDING)
        if (writing := store._writing) is not None:
            writing.join(2)
    found, _ = Checkpoints(tmp_path, 0.0).find(0, BINDING)
    kept = store.kept
    disk.go_on.set()
    store.settle()
    assert is_whole(found, 6), "the attempt that follows the death of this one"
    assert kept == 0
    assert store.kept == 6
    assert steps(tmp_path) == [5, 6]


def test_what_is_flushed_after_a_job_has_left_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[int] = []
    store = Checkpoints(tmp_path, 0.0, report=reported.append)
    disk = Flushes(monkeypatch)
    store.keep(state(3), BINDING)
    assert disk.begun.wait(60)
    assert store.keep_now(state(4), BINDING)
    store.let_go()
    store.settle()
    before = [*reported]
    disk.go_on.set()
    store._flushing.join()
    assert reported == before == [4]


def test_files_of_later_steps_that_were_refused_make_way_for_those_that_are_of_use(tmp_path: Path) -> None:
    written(tmp_path, state(7), state(8), binding={**BINDING, "ranks": "others"})
    store = Checkpoints(tmp_path, 0.0)
    assert store.find(0, BINDING)[0] is None
    assert steps(tmp_path) == [7, 8], "until there is another"
    assert store.keep_now(state(2), BINDING)
    store.settle()
    assert steps(tmp_path) == [2]
    assert is_whole(Checkpoints(tmp_path, 0.0).find(0, BINDING)[0], 2)


def test_a_step_that_was_refused_counts_once_it_is_written_anew(tmp_path: Path) -> None:
    written(tmp_path, state(2), binding={**BINDING, "ranks": "others"})
    store = Checkpoints(tmp_path, 0.0)
    assert store.find(0, BINDING)[0] is None
    for step in (1, 2, 3):
        assert store.keep_now(state(step), BINDING)
    store.settle()
    assert steps(tmp_path) == [2, 3]


def test_a_job_leaves_when_all_outputs_before_have_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, disk = Checkpoints(tmp_path, 0.0), Flushes(monkeypatch)
    store.keep_finished(state(9), BINDING)
    store.keep_finished(state(9, output=1), BINDING)
    store.keep(state(1, output=2), BINDING)
    assert disk.begun.wait(60)
    assert store.keep_now(state(2, output=2), BINDING)
    store.let_go()
    names = sorted(path.name for path in tmp_path.iterdir())
    disk.go_on.set()
    assert names == ["0-9.safetensors", "1-9.safetensors", "2-1.safetensors", "2-2.safetensors"]


def test_a_job_whose_files_go_while_they_are_flushed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "job"
    store, disk = Checkpoints(place, 0.0), Flushes(monkeypatch)
    assert store.keep_now(state(4), BINDING)
    shutil.rmtree(place)
    disk.go_on.set()
    store.settle()
    assert not store.failed


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "link"])
def test_what_is_no_regular_file_is_no_checkpoint(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "job"
    other = written(tmp_path / "other", state(8))
    assert other.kept == 8
    written(place, state(3))
    plant(kind, place / "0-8.safetensors", tmp_path / "other" / "0-8.safetensors")

    store = Checkpoints(place, 0.0)
    assert store.kept == 3
    found, refused = store.find(0, BINDING)
    assert is_whole(found, 3)
    assert refused == ""

    assert store.keep_now(state(4), BINDING)
    assert store.keep_now(state(5), BINDING)
    store.settle()
    assert not (place / "0-3.safetensors").exists(), "older ones go all the same"
    assert is_whole(store.find(0, BINDING)[0], 5)


def test_a_link_in_place_of_what_is_being_written_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"theirs")
    place = tmp_path / "job"
    place.mkdir()
    (place / f".0-3.safetensors.{os.getpid()}.part").symlink_to(victim)
    assert is_whole(written(place, state(3)).find(0, BINDING)[0], 3)
    assert victim.read_bytes() == b"theirs"


def plant(kind: str, path: Path, target: Path) -> None:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case _:
            path.symlink_to(target)
