"""Client-chosen paths: where they may lead, what they never overwrite, and that several edges fill them once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from http_edge.base.errors import EdgeError
from http_edge.media.exports import Entry, Exports, Source
from tests.edge.conftest import World
from tests.support.exchange import exchanging


class Place:
    """An `Exports` in a start directory, and artefacts to copy."""

    def __init__(self, start: Path) -> None:
        self.start = start
        self.home = start / ".zoetrope"
        self.exports = Exports(self.home, start, (start, self.home / "artefacts"))

    def check(self, text: str, output: str = "video") -> str:
        return self.exports.check("save_to", text, output)

    def source(self, job: str, data: bytes = b"film", finished_at: float = 100.0) -> Source:
        path = self.home / "artefacts" / job / "1" / "video.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return Source(job=job, finished_at=finished_at, path=path, size=len(data))


@pytest.fixture
def place(start: Path) -> Place:
    return Place(Path(os.path.realpath(start)))


def test_relative_paths_start_at_the_start_directory(place: Place) -> None:
    assert place.check("out.mp4") == str(place.start / "out.mp4")
    assert place.check("./a/../b/out.MP4") == str(place.start / "b" / "out.MP4")
    assert place.check(str(place.start / "out.mp4")) == str(place.start / "out.mp4")
    assert place.check("输出.mp4") == str(place.start / "输出.mp4")
    assert place.check(".zoetrope/artefacts/mine.mp4") == str(place.home / "artefacts" / "mine.mp4")


#: (path, output, words of the rule)
REFUSED = [
    ("../out.mp4", "video", "output_roots"),
    ("a/../../out.mp4", "video", "output_roots"),
    ("/tmp/out.mp4", "video", "output_roots"),
    ("/etc/passwd", "video", ".mp4"),
    ("out", "video", ".mp4"),
    ("out.mp4/", "video", ".mp4"),
    ("out.png", "video", "a video"),
    ("out.mp4", "image", ".png, as this job makes an image"),
    (".mp4", "video", ".mp4"),
    ("out.mp4.sh", "video", ".mp4"),
    (".zoetrope/exports/x.mp4", "video", "service's own"),
    (".zoetrope/run/x.mp4", "video", "service's own"),
    (".zoetrope/uploads/x.mp4", "video", "service's own"),
    (".zoetrope/artefacts/job-1/1/video.mp4", "video", "service's own"),
    ("dir.mp4", "video", "not a file that this service wrote"),
    ("foreign.mp4", "video", "not a file that this service wrote"),
    ("link_out.mp4", "video", "output_roots"),
    ("dir_out/x.mp4", "video", "output_roots"),
    ("link_text.mp4", "video", "does not end in .mp4"),
    ("foreign.mp4/x.mp4", "video", "cannot be used"),
    ("x" * 300 + ".mp4", "video", "cannot be used"),
    ("loop.mp4", "video", "not a file that this service wrote"),
]


@pytest.mark.parametrize(("path", "output", "words"), REFUSED, ids=[row[0][:30] for row in REFUSED])
def test_a_path_that_is_refused(place: Place, path: str, output: str, words: str) -> None:
    (place.start / "dir.mp4").mkdir()
    (place.start / "foreign.mp4").write_bytes(b"somebody else's")
    (place.start / "text").write_bytes(b"somebody else's")
    (place.start / "link_out.mp4").symlink_to("/etc/out.mp4")
    (place.start / "dir_out").symlink_to("/etc")
    (place.start / "link_text.mp4").symlink_to("text")
    (place.start / "loop.mp4").symlink_to("loop.mp4")
    with pytest.raises(EdgeError) as caught:
        place.check(path, output)
    assert caught.value.message.startswith('save_to: "')
    assert words in caught.value.message


def test_the_start_directory_may_be_the_home(place: Place) -> None:
    exports = Exports(place.start, place.start, (place.start,))
    assert exports.check("save_to", "out.mp4", "video") == str(place.start / "out.mp4")
    with pytest.raises(EdgeError, match="service's own"):
        exports.check("save_to", "artefacts/job-1/out.mp4", "video")


def test_a_result_is_copied_and_recorded(place: Place) -> None:
    target = place.check("deep/er/out.mp4")
    source = place.source("a")
    assert place.exports.fill(target, source) == ""
    copy = Path(target)
    assert copy.read_bytes() == b"film"
    assert copy.stat().st_ino != source.path.stat().st_ino
    (ledger,) = (place.home / "exports").glob("*.json")
    entry = msgspec.json.decode(ledger.read_bytes(), type=Entry)
    assert (entry.path, entry.job, entry.done) == (target, "a", True)
    assert [path.name for path in copy.parent.iterdir()] == ["out.mp4"]


def test_our_own_file_is_replaced_by_a_later_job_and_not_by_an_earlier_one(place: Place) -> None:
    target = place.check("out.mp4")
    assert place.exports.fill(target, place.source("b", b"second", 200.0)) == ""
    assert place.exports.fill(target, place.source("a", b"first", 100.0)) == ""
    assert Path(target).read_bytes() == b"second"
    assert place.check("out.mp4") == target
    assert place.exports.fill(target, place.source("c", b"third", 300.0)) == ""
    assert Path(target).read_bytes() == b"third"


def test_a_file_that_its_owner_changed_is_never_overwritten(place: Place) -> None:
    target = Path(place.check("out.mp4"))
    place.exports.fill(str(target), place.source("a"))
    target.write_bytes(b"cut by hand")
    with pytest.raises(EdgeError, match="not a file that this service wrote"):
        place.check("out.mp4")
    refused = place.exports.fill(str(target), place.source("b", finished_at=200.0))
    assert refused == "exists already, and is not a file that this service wrote"
    assert target.read_bytes() == b"cut by hand"


def test_a_file_that_was_taken_away_is_not_put_back(place: Place) -> None:
    target = Path(place.check("out.mp4"))
    source = place.source("a")
    place.exports.fill(str(target), source)
    target.unlink()
    assert place.exports.fill(str(target), source) == ""
    assert not target.exists()


def test_a_directory_that_became_a_link_is_not_followed(place: Place, tmp_path: Path) -> None:
    target = place.check("sub/out.mp4")
    outside = tmp_path / "outside"
    outside.mkdir()
    (place.start / "sub").symlink_to(outside)
    assert place.exports.fill(target, place.source("a")) == "leads out of the directories that clients may write to"
    assert list(outside.iterdir()) == []


def test_no_directory_that_is_exchanged_for_a_link_leads_a_result_out(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (place.start / "sub").mkdir()
    (place.start / "other").symlink_to(outside)
    reasons = set()
    with exchanging(place.start / "sub", place.start / "other"):
        for number in range(150):
            target = place.start / "sub" / f"{number}.mp4"
            reasons.add(place.exports.fill(str(target), place.source(f"job-{number}")))
            reasons.add(place.exports.fill(str(target), place.source(f"next-{number}", finished_at=200.0)))
    assert [path.name for path in outside.iterdir()] == []
    assert reasons <= {"", "leads out of the directories that clients may write to"}
    filled = [
        path for path in place.start.rglob("*.mp4") if path.is_relative_to(place.start) and path.parent != place.home
    ]
    assert all(path.read_bytes() == b"film" for path in filled)


def test_a_file_of_somebody_else_is_overwritten_only_where_that_is_set(place: Place) -> None:
    foreign = place.start / "out.mp4"
    foreign.write_bytes(b"somebody else's")
    (place.start / "dir.mp4").mkdir()
    (place.start / "link.mp4").symlink_to("out.mp4")
    with pytest.raises(EdgeError, match="setting save_overwrites"):
        place.check("out.mp4")
    overwriting = Exports(place.home, place.start, (place.start,), overwrite=True)
    target = overwriting.check("save_to", "link.mp4", "video")
    assert target == str(foreign)
    assert overwriting.fill(target, place.source("a")) == ""
    assert foreign.read_bytes() == b"film"
    with pytest.raises(EdgeError, match="not a file that this service wrote"):
        overwriting.check("save_to", "dir.mp4", "video")
    # What is another tenant's stays its own.
    with pytest.raises(EdgeError, match="not a file that this service wrote"):
        overwriting.check("save_to", "out.mp4", "video", "red")


def test_a_path_out_of_the_roots_is_told_them_and_the_setting(place: Place) -> None:
    with pytest.raises(EdgeError) as caught:
        place.check("/data/videos/out.mp4")
    assert f"{place.start}, {place.home / 'artefacts'} (setting output_roots)" in caught.value.message


def test_an_artefact_that_is_missing_or_cut_is_a_reason(place: Place) -> None:
    target = place.check("out.mp4")
    source = place.source("a")
    source.path.write_bytes(b"fil")
    assert place.exports.fill(target, source) == "cannot be written: the published file is not whole"
    source.path.unlink()
    assert place.exports.fill(target, source) == "cannot be written: No such file or directory"
    assert [path.name for path in place.start.iterdir()] == [".zoetrope"]


def crash(place: Place, target: Path, *, renamed: bool) -> None:
    """Leave what a process that died inside `fill` leaves, job "a" being put there."""
    place.exports.fill(str(target), place.source("a"))
    (ledger,) = (place.home / "exports").glob("*.json")
    entry = msgspec.json.decode(ledger.read_bytes(), type=Entry)
    half = target.with_name(".half.part")
    half.write_bytes(b"film")
    if not renamed:
        target.unlink()
    pending = entry.file if renamed else None
    entry = msgspec.structs.replace(entry, file=None, pending=pending, temporary=half.name, done=False)
    ledger.write_bytes(msgspec.json.encode(entry))


@pytest.mark.parametrize("renamed", [True, False])
def test_a_crash_while_filling_is_made_good(place: Place, renamed: bool) -> None:
    target = Path(place.check("out.mp4"))
    crash(place, target, renamed=renamed)
    assert place.check("out.mp4") == str(target)
    assert place.exports.fill(str(target), place.source("a")) == ""
    assert sorted(path.name for path in place.start.iterdir()) == [".zoetrope", "out.mp4"]
    assert place.exports.fill(str(target), place.source("b", b"next", 200.0)) == ""
    assert target.read_bytes() == b"next"


def test_a_torn_ledger_makes_the_file_somebody_elses(place: Place) -> None:
    target = Path(place.check("out.mp4"))
    place.exports.fill(str(target), place.source("a"))
    (ledger,) = (place.home / "exports").glob("*.json")
    ledger.write_bytes(b'{"path"')
    refused = place.exports.fill(str(target), place.source("b", finished_at=200.0))
    assert refused == "exists already, and is not a file that this service wrote"


def test_many_at_once_fill_a_path_once_with_the_last_finisher(place: Place) -> None:
    target = place.check("out.mp4")
    sources = [place.source(f"job-{n}", f"film {n}".encode(), 100.0 + n) for n in range(6)]
    reasons: list[str] = []

    def fill(source: Source) -> None:
        other_process = Exports(place.home, place.start, (place.start,))
        reasons.append(other_process.fill(target, source))

    threads = [threading.Thread(target=fill, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reasons == [""] * 6
    assert Path(target).read_bytes() == b"film 5"


def test_without_hard_links_the_name_is_claimed_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object, **more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    target = place.check("out.mp4")
    assert place.exports.fill(target, place.source("a")) == ""
    assert Path(target).read_bytes() == b"film"


# ---------------------------------------------------------------- over HTTP


def test_a_job_is_finished_only_when_its_path_is_filled(world: World) -> None:
    job = world.submit(save_to="clips/out.mp4")
    assert job["spec"]["save_to"] == "clips/out.mp4"
    target = world.start / "clips" / "out.mp4"
    world.do(world.fake.run, job["id"])
    assert not target.exists()
    world.do(world.fake.succeed, job["id"])
    seen = world.http.get(job["urls"]["self"]).json()
    assert (seen["state"], seen["save_error"]) == ("succeeded", None)
    assert target.read_bytes()[4:8] == b"ftyp"


def test_a_path_that_cannot_be_filled_is_told_and_the_result_is_there(world: World) -> None:
    job = world.submit(save_to="out.mp4")
    (world.start / "out.mp4").write_bytes(b"came meanwhile")
    world.do(world.fake.run, job["id"])
    world.do(world.fake.succeed, job["id"])
    (listed,) = world.http.get("/v1/jobs").json()["data"]
    assert listed["state"] == "succeeded"
    assert listed["save_error"] == "exists already, and is not a file that this service wrote"
    assert world.http.get(job["urls"]["result"]).status_code == 200


def test_output_roots_are_a_setting(open_edge: Callable[..., World], tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    world = open_edge(output_roots=(str(films), "sub"))
    world.submit(save_to=str(films / "a.mp4"))
    world.submit(save_to="sub/a.mp4")
    refused = world.http.post("/v1/jobs", json={"prompt": "x", "save_to": "a.mp4"})
    assert refused.status_code == 422
