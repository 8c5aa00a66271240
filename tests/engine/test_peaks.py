"""What jobs were seen to take: kept over restarts, shared by engines, estimated for sizes that nobody drew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workers.engine.peaks import Peaks, revision_of, shape
from workers.models.catalogue import card_for, default_model
from workers.models.model import ModelSetup
from workers.models.placement import Need

MB = 2**20
SMALL = shape("wan", 100, 100, 10)
LARGE = shape("wan", 200, 100, 10)


def learned(file: Path | None = None, placement: str = "resident", revision: str = "wan 1") -> Peaks:
    peaks = Peaks(file)
    peaks.placed("wan", revision, placement)
    return peaks


def test_the_highest_of_all_measurements_counts() -> None:
    peaks = learned()
    assert peaks.denoise(SMALL) == 0
    for mb in (10.0, 30.0, 20.0):
        peaks.denoise_took(SMALL, mb)
        peaks.postprocess_took(SMALL, mb / 2)
    assert (peaks.denoise(SMALL), peaks.postprocess(SMALL), peaks.denoise(LARGE)) == (30.0, 15.0, 0.0)


def test_it_is_known_after_a_restart_and_to_the_other_engines(tmp_path: Path) -> None:
    file = tmp_path / "peaks.json"
    one, other = learned(file), learned(file)
    one.denoise_took(SMALL, 10.0)
    other.denoise_took(LARGE, 25.0)
    again = learned(file)
    assert (again.denoise(SMALL), again.denoise(LARGE)) == (10.0, 25.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peaks.json", "peaks.lock"]


def test_another_placement_and_another_model_are_learned_anew(tmp_path: Path) -> None:
    file = tmp_path / "peaks.json"
    learned(file).denoise_took(SMALL, 10.0)
    assert learned(file, placement="group").denoise(SMALL) == 0
    assert learned(file, revision="wan 2").denoise(SMALL) == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version":1}', b'{"version":99,"models":{"wan 1":{}}}', b"\xff"]
)
def test_a_file_that_cannot_be_read_is_begun_afresh(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "peaks.json"
    file.write_bytes(content)
    learned(file).denoise_took(SMALL, 10.0)
    assert learned(file).denoise(SMALL) == 10.0
    assert json.loads(file.read_text())["version"] == 1


def test_a_home_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    peaks = learned(tmp_path / "nowhere" / "peaks.json")
    peaks.denoise_took(SMALL, 10.0)
    assert peaks.denoise(SMALL) == 10.0


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    peaks = learned(tmp_path / "peaks.json")
    for width in range(1, 300):
        peaks.denoise_took(shape("wan", width, 10, 1), 10.0)
    assert len(json.loads((tmp_path / "peaks.json").read_text())["models"]["wan 1"]) <= 256


# ------------------------------------------------------------------ what a job is to be given


def test_of_a_model_that_drew_nothing_nothing_is_assumed() -> None:
    assert learned().need("wan 1", SMALL) == Need(0, 0)


def test_a_size_that_was_drawn_needs_what_it_took_in_the_placement_that_shows_it_best() -> None:
    peaks = learned(placement="text_encoder_aside")
    peaks.denoise_took(SMALL, 50.0)  # the encoder came and went
    peaks.placed("wan", "wan 1", "resident")
    peaks.denoise_took(SMALL, 10.0)
    peaks.postprocess_took(SMALL, 20.0)
    assert peaks.need("wan 1", SMALL) == Need(10 * MB, 20 * MB)


def test_another_size_is_estimated_by_the_next_and_is_not_certain() -> None:
    peaks = learned()
    peaks.denoise_took(LARGE, 40.0)
    assert peaks.need("wan 1", SMALL) == Need(20 * MB, 0)
    assert peaks.need("wan 1", SMALL, certain=True) == Need(0, 0)
    peaks.denoise_took(shape("wan", 800, 100, 10), 80.0)
    larger = shape("wan", 1600, 100, 10)
    assert peaks.need("wan 1", larger) == Need(160 * MB, 0)
    assert peaks.need("wan 1", LARGE, certain=True) == Need(40 * MB, 0)


def test_what_ran_out_needs_more_than_there_was_until_the_restart(tmp_path: Path) -> None:
    peaks = learned(tmp_path / "peaks.json")
    peaks.denoise_took(SMALL, 10.0)
    peaks.ran_out("wan 1", SMALL, 70.0)
    assert peaks.need("wan 1", SMALL) == Need(70 * MB, 70 * MB)
    assert peaks.need("wan 1", LARGE).denoise == 20 * MB
    assert learned(tmp_path / "peaks.json").need("wan 1", SMALL) == Need(10 * MB, 0)


def test_a_revision_is_of_files_settings_and_device() -> None:
    card = card_for(str(default_model()), "demo")
    same = revision_of(card, ModelSetup(), "cuda", "bfloat16")
    assert same == revision_of(card, ModelSetup(), "cuda", "bfloat16")
    others = {
        revision_of(card, ModelSetup(), "cuda", "float32"),
        revision_of(card, ModelSetup(), "cpu", "bfloat16"),
        revision_of(card, ModelSetup(variant="fp16"), "cuda", "bfloat16"),
    }
    assert len(others - {same}) == 3
