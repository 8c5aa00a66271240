"""What must hold of every kind of depot: object before row, row before object, and downloads that tell no kind from another."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from http_edge.background.file_cleaner import STRAY_S
from tests.depot.conftest import CLIP, Place, never
from tests.support.waiting import wait_until
from workers.depot.depot import InputGone


def test_a_published_file_is_there_whole(place: Place) -> None:
    job_id, fence = place.far.running()
    file = place.drawn(job_id, fence)
    place.put(file)
    place.far.publish(job_id, file)
    got = place.far.http.get(f"/v1/jobs/{job_id}/result")
    assert (got.status_code, got.content) == (200, CLIP)
    assert got.headers["etag"] == f'"{file.sha256}"'


def test_before_the_row_there_is_nothing_to_be_had(place: Place) -> None:
    job_id, fence = place.far.running()
    place.put(place.drawn(job_id, fence))
    assert place.far.http.get(f"/v1/jobs/{job_id}/result").status_code == 404


def test_ranges_head_and_conditions_are_answered(place: Place) -> None:
    job_id, fence = place.far.running()
    file = place.drawn(job_id, fence)
    place.put(file)
    place.far.publish(job_id, file)
    path = f"/v1/jobs/{job_id}/result"
    part = place.far.http.get(path, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, CLIP[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(CLIP)}"
    head = place.far.http.head(path)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(CLIP)), b"")
    assert place.far.http.get(path, headers={"If-None-Match": head.headers["etag"]}).status_code == 304


def test_the_same_file_twice_is_one(place: Place) -> None:
    job_id, fence = place.far.running()
    file = place.drawn(job_id, fence)
    for again in (False, False, True):
        place.put(file, again=again)
    place.far.publish(job_id, file)
    assert place.far.http.get(f"/v1/jobs/{job_id}/result").content == CLIP


def test_ten_megabytes_arrive(place: Place) -> None:
    job_id, fence = place.far.running()
    data = os.urandom(1 << 20) * 10
    file = place.drawn(job_id, fence, data)
    place.put(file)
    place.far.publish(job_id, file)
    got = place.far.http.get(f"/v1/jobs/{job_id}/result").content
    assert hashlib.sha256(got).hexdigest() == file.sha256


def test_what_does_not_count_is_removed(place: Place) -> None:
    job_id, fence = place.far.running()
    file = place.drawn(job_id, fence)
    place.put(file)
    place.far.do(place.far.fake.stop, job_id)
    place.depot.discard(job_id, fence)
    place.depot.discard(job_id, fence)
    assert not place.has(file)


def test_the_row_goes_before_the_file(place: Place) -> None:
    job_id, fence = place.far.running()
    file = place.drawn(job_id, fence)
    place.put(file)
    place.far.publish(job_id, file)
    assert place.far.http.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 200
    wait_until(lambda: not place.has(file), what="a file that is gone behind its record")
    assert place.far.http.get(f"/v1/jobs/{job_id}/result").status_code == 404


def test_an_orphan_is_swept_and_what_is_published_stays(place: Place) -> None:
    orphan, fence = place.far.running()
    lost = place.drawn(orphan, fence)
    place.put(lost)
    place.far.do(place.far.fake.fail, orphan, "its worker died")
    job_id, fence = place.far.running()
    kept = place.drawn(job_id, fence)
    place.put(kept)
    place.far.publish(job_id, kept)
    cleaner = place.far.edge.retention._cleaner
    later = place.put_at(lost) + STRAY_S + 60
    place.far.do(cleaner.sweep_strays, later)
    assert not place.has(lost)
    assert place.far.http.get(f"/v1/jobs/{job_id}/result").content == CLIP


def test_checkpoints_are_had_by_the_next_attempt_and_are_gone_after_the_end(place: Place, tmp_path: Path) -> None:
    job_id, fence = place.far.running()
    written = {"0-3": b"early", "0-5": b"late" * 1000, "1-2": b"of the second output"}
    for name, data in written.items():
        place.put(place.kept(job_id, fence, f"{name}.safetensors", data))
    place.far.do(place.far.fake.lose, job_id)
    fence = place.far.do(place.far.fake.run, job_id, "cpu-1").fence

    other = place.of("cpu-1")
    keys = {key.rpartition("/")[2]: key for key in other.checkpoints(job_id, fence)}
    assert list(keys) == ["0-5.safetensors", "1-2.safetensors"], "the newest of each output"
    for name, key in keys.items():
        other.fetch_checkpoint(key, tmp_path / name, never)
        assert (tmp_path / name).read_bytes() == written[name.removesuffix(".safetensors")]

    place.far.do(place.far.fake.succeed, job_id)
    assert place.kept_names(job_id)
    place.far.do(place.far.edge.retention._cleaner.sweep_checkpoints, 0.0)
    assert place.kept_names(job_id) == []


def test_checkpoints_of_a_job_that_goes_on_stay_and_those_of_none_go_after_a_day(place: Place) -> None:
    job_id, fence = place.far.running()
    for step in (3, 5, 7, 9):
        place.put(place.kept(job_id, fence, f"0-{step}.safetensors", b"state"))
    place.put(place.kept(job_id, fence, "1-2.safetensors", b"state"))
    sweep = place.far.edge.retention._cleaner.sweep_checkpoints
    place.far.do(sweep, time.time())
    names = place.kept_names(job_id)
    assert {"0-9.safetensors", "1-2.safetensors"} <= {*names}
    if place.kind != "local":  # where the engine removes them
        assert "0-3.safetensors" not in names
    del place.far.fake.jobs[job_id]
    place.far.do(sweep, time.time())
    assert place.kept_names(job_id) == names
    place.far.do(sweep, time.time() + STRAY_S + 60)
    assert place.kept_names(job_id) == []


def test_an_input_is_fetched_by_its_content(place: Place, tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(picture, "PNG")
    place.far.http.post(
        "/v1/jobs", data={"prompt": "x", "model": "animate"}, files={"image": ("a.png", picture.getvalue())}
    ).raise_for_status()
    (name,) = [path.name for path in (place.far.home / "uploads").glob("*.png")]
    place.depot.fetch(name, tmp_path / "inputs" / name, never)
    assert hashlib.sha256((tmp_path / "inputs" / name).read_bytes()).hexdigest() == name.removesuffix(".png")


def test_an_input_that_is_gone_is_said_to_be(place: Place, tmp_path: Path) -> None:
    if place.kind == "local":
        pytest.skip("engines of this machine find out by themselves")
    with pytest.raises(InputGone, match="no longer"):
        place.depot.fetch(f"{'0' * 64}.png", tmp_path / "x.png", never)
    assert list(tmp_path.glob("*.png")) == []
