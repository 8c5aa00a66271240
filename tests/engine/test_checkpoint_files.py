"""Files of checkpoints: whatever was done to one, it is read as it was written or not at all, and the one before it takes its place."""

from __future__ import annotations

import random
from pathlib import Path

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


def test_only_the_last_two_of_each_output_are_left(tmp_path: Path) -> None:
    written(tmp_path, state(1), state(2), state(9), state(1, output=1), state(2, output=1), state(3, output=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0-2.safetensors",
        "0-9.safetensors",
        "1-2.safetensors",
        "1-3.safetensors",
    ]
