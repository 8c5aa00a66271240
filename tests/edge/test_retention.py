"""What is kept and what goes: records with their files, the oldest first, and never what somebody needs."""

from __future__ import annotations

import base64
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.wire import messages as m
from broker.wire.jobspec import decode_spec
from http_edge.background import retention as retention_module
from http_edge.background.retention import Retention
from http_edge.jobs import clock_agreement
from http_edge.media.input_store import InputStore
from tests.edge.conftest import World
from tests.edge.small_media import picture
from tests.support.waiting import wait_until
from tests.testing.fake_broker import T0, VIDEO, worker

WEEK = 7 * 86_400.0
MIB = 1024 * 1024


class Keeper:
    """The retention of a world, at times that the test names."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = T0
        world.fake.clock = lambda: self.now
        edge = world.edge
        inputs = InputStore(edge.settings.uploads_path, world.start, (world.start,))
        self.retention = Retention(edge.calls, inputs, edge.spool, edge.files, wall_clock=lambda: self.now)

    def sweep(self, now: float | None = None) -> None:
        self.now = self.world.fake.now if now is None else now
        assert self.world.http.portal is not None
        self.world.http.portal.call(self.retention.sweep)

    def finished(self, job_id: str, size: int = 1000) -> dict[str, Any]:
        job = self.world.submit(id=job_id)
        self.world.do(self.world.fake.run, job_id)
        self.world.do(self.world.fake.succeed, job_id, video_mp4=bytes(size))
        return self.world.http.get(job["urls"]["self"]).json()

    @property
    def jobs(self) -> list[str]:
        return sorted(self.world.fake.jobs)

    @property
    def directories(self) -> list[str]:
        artefacts = self.world.edge.settings.artefacts_path
        return sorted(os.listdir(artefacts)) if artefacts.exists() else []


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "http_edge.background.retention"]


@pytest.fixture
def keeper(world: World) -> Keeper:
    return Keeper(world)


@pytest.fixture
def tight(open_edge: Callable[..., World]) -> Keeper:
    """A home with room for 4 MiB, kept for ever."""
    return Keeper(open_edge(retention_s=0, disk_quota_mb=4))


# ---------------------------------------------------------------- clocks


@pytest.mark.parametrize("apart_s", [-61.0, 61.0, 10 * 86_400.0])
def test_nothing_goes_while_the_edges_clock_differs_from_the_brokers(
    keeper: Keeper, caplog: pytest.LogCaptureFixture, apart_s: float
) -> None:
    keeper.finished("old")
    keeper.world.fake.clock = lambda: T0 + 2 * WEEK
    keeper.sweep(T0 + 2 * WEEK + apart_s)
    keeper.sweep(T0 + 2 * WEEK + apart_s)
    assert keeper.jobs == keeper.directories == ["old"]
    assert said(caplog) == ["nothing is deleted: the clocks differ"]
    keeper.sweep(T0 + 2 * WEEK + 59.0)
    assert keeper.jobs == keeper.directories == []
    assert said(caplog)[1] == "the clocks agree"


def test_nothing_goes_until_a_clock_that_was_set_has_stood(keeper: Keeper) -> None:
    keeper.finished("old")
    keeper.world.fake.settling_s = 5.0
    keeper.sweep(T0 + 2 * WEEK)
    assert keeper.jobs == ["old"]
    keeper.world.fake.settling_s = 0.0
    keeper.sweep(T0 + 2 * WEEK)
    assert keeper.jobs == []


def test_the_broker_has_the_last_word_on_a_jobs_age(keeper: Keeper) -> None:
    """The clock was set between the list and the deletion: what is shown as old is not."""
    keeper.finished("young")
    fake = keeper.world.fake
    list_jobs = fake.list

    async def list_as_old(**query: Any) -> tuple[list[m.JobView], bool]:
        views, more = await list_jobs(**query)
        return [msgspec.structs.replace(view, finished_at=T0 - 2 * WEEK) for view in views], more

    fake.list = list_as_old  # type: ignore[method-assign]
    keeper.sweep()
    assert keeper.jobs == keeper.directories == ["young"]


def test_files_are_not_taken_for_older_than_they_are_when_the_clock_was_set_forwards(keeper: Keeper) -> None:
    artefacts = keeper.world.edge.settings.artefacts_path
    attempt = artefacts / "nobodys" / "7"
    attempt.mkdir(parents=True)
    set_at = T0 + 100.0
    os.utime(attempt, (set_at, set_at))
    day = 86_400.0

    def sweep(passed_s: float) -> list[str]:
        keeper.world.fake.clock_steps = (m.ClockStep(age_s=passed_s, by_s=10 * day),)
        keeper.sweep(set_at + 10 * day + passed_s)
        return keeper.directories

    assert sweep(3600.0) == ["nobodys"]
    assert sweep(0.9 * day) == ["nobodys"]
    assert sweep(1.1 * day) == []


@pytest.mark.parametrize(
    ("steps", "slack_s"),
    [
        ((), 0.0),
        (((50.0, 10.0),), 10.0),
        (((50.0, -10.0),), 0.0),
        (((50.0, 8.0), (40.0, -8.0)), 0.0),
        (((50.0, -8.0), (40.0, 8.0)), 8.0),
        (((50.0, 5.0), (40.0, 3.0)), 8.0),
        (((150.0, 5.0), (40.0, 3.0)), 3.0),
    ],
)
def test_slack_is_the_most_that_a_file_of_before_may_be_younger(
    steps: tuple[tuple[float, float], ...], slack_s: float
) -> None:
    pool = m.PoolView(epoch=1, clock_steps=tuple(m.ClockStep(*step) for step in steps))
    assert clock_agreement.slack_s(pool, 100.0) == slack_s


def test_health_says_that_the_clocks_differ(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    assert "warnings" not in world.http.get("/health").json()
    world.fake.clock = lambda: time.time() - 3600.0
    warned = wait_until(lambda: world.http.get("/health").json().get("warnings"))
    assert warned == ["this clock is 3600 s ahead of the broker's: nothing is deleted for its age until they agree"]


# ---------------------------------------------------------------- time


def test_record_and_files_go_together_when_their_time_has_come(keeper: Keeper) -> None:
    old = keeper.finished("old")
    between = keeper.world.fake.now + 0.5
    keeper.finished("new")
    assert old["expires_at"] == old["finished_at"] + WEEK
    keeper.sweep(between + WEEK)
    assert (keeper.jobs, keeper.directories) == (["new"], ["new"])
    for path in ("/v1/jobs/old", "/v1/jobs/old/result", "/v1/jobs/old/events"):
        assert keeper.world.http.get(path).status_code == 404
    assert keeper.world.http.get("/v1/jobs/new/result").status_code == 200
    keeper.sweep(between + 2 * WEEK)
    assert (keeper.jobs, keeper.directories) == ([], [])


def test_failed_and_cancelled_jobs_go_too_and_live_ones_never(keeper: Keeper) -> None:
    for job_id in ("failed", "cancelled", "running", "waiting"):
        keeper.world.submit(id=job_id)
    keeper.world.do(keeper.world.fake.run, "failed")
    keeper.world.do(keeper.world.fake.fail, "failed", "no")
    keeper.world.http.delete("/v1/jobs/cancelled")
    keeper.world.do(keeper.world.fake.run, "running")
    assert keeper.world.http.get("/v1/jobs/running").json()["expires_at"] is None
    keeper.sweep(T0 + 100 * WEEK)
    assert keeper.jobs == ["running", "waiting"]


def test_many_expire_in_one_sweep_around_one_that_stays(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_PAGE", 2), ("_WINDOW", 3), ("_BATCH", 2)):
        monkeypatch.setattr(retention_module, name, size)
    for n in range(10):
        keeper.world.submit(id=f"job-{n}")
        keeper.world.http.delete(f"/v1/jobs/job-{n}")
    for n in (2, 3, 4):
        keeper.world.http.put(f"/v1/jobs/job-{n}/pin")
    keeper.sweep(T0 + 10 * WEEK)
    assert keeper.jobs == ["job-2", "job-3", "job-4"]


def test_without_a_retention_everything_stays(open_edge: Callable[..., World]) -> None:
    keeper = Keeper(open_edge(retention_s=0))
    assert keeper.finished("a")["expires_at"] is None
    keeper.sweep(T0 + 1000 * WEEK)
    assert keeper.jobs == ["a"]


def test_a_pinned_job_stays_until_it_is_let_go(keeper: Keeper) -> None:
    keeper.finished("a")
    url = "/v1/jobs/a/pin"
    assert keeper.world.http.get(url).json() == {"id": "a", "object": "job.pin", "pinned": False}
    assert keeper.world.http.put(url).json()["pinned"]
    keeper.sweep(T0 + 2 * WEEK)
    assert (keeper.jobs, keeper.directories) == (["a"], ["a"])
    assert not keeper.world.http.delete(url).json()["pinned"]
    keeper.sweep(T0 + 2 * WEEK)
    assert (keeper.jobs, keeper.directories) == ([], [])
    assert keeper.world.http.put(url).status_code == 404


def test_a_job_whose_file_is_being_sent_stays(keeper: Keeper) -> None:
    keeper.finished("a")
    path = next(keeper.world.edge.settings.artefacts_path.glob("a/*/video.mp4"))
    with open(path, "rb") as sending:
        fcntl.flock(sending, fcntl.LOCK_SH)
        keeper.sweep(T0 + 2 * WEEK)
        assert (keeper.jobs, keeper.directories) == (["a"], ["a"])
    keeper.sweep(T0 + 2 * WEEK)
    assert keeper.jobs == []


def test_a_download_holds_the_lock_from_its_first_byte_to_its_last(keeper: Keeper) -> None:
    keeper.finished("a", 2 * MIB)
    path = next(keeper.world.edge.settings.artefacts_path.glob("a/*/video.mp4"))
    shelf = keeper.world.edge.calls.deletion.artefacts
    fence = int(path.parent.name)
    held: list[bool] = []

    async def watch(send: Any, message: dict[str, Any]) -> None:
        locks = shelf.lock("a", fence)
        held.append(locks is None)
        await send(message)

    app = keeper.world.http.app

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, lambda message: watch(send, message))

    keeper.world.http._transport.app = watched  # type: ignore[attr-defined]
    assert len(keeper.world.http.get("/v1/jobs/a/result").content) == 2 * MIB
    assert len(held) > 3
    assert all(held)
    assert shelf.lock("a", fence) is not None


# ---------------------------------------------------------------- space


def test_the_jobs_that_finished_first_make_room(tight: Keeper) -> None:
    # Accepted first, finished last.
    slow = tight.world.submit(id="slow")
    tight.world.do(tight.world.fake.run, slow["id"])
    for n in range(3):
        tight.finished(f"job-{n}", MIB)
    tight.world.do(tight.world.fake.succeed, "slow", video_mp4=bytes(MIB + MIB // 2))
    tight.sweep()
    assert (tight.jobs, tight.directories) == (["job-1", "job-2", "slow"], ["job-1", "job-2", "slow"])
    tight.sweep()
    assert len(tight.jobs) == 3


def test_order_holds_over_pages(tight: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_PAGE", 2), ("_WINDOW", 2), ("_BATCH", 1)):
        monkeypatch.setattr(retention_module, name, size)
    for n in range(3):
        tight.world.submit(id=f"slow-{n}")
        tight.world.do(tight.world.fake.run, f"slow-{n}")
    for n in range(4):
        tight.finished(f"fast-{n}", MIB)
    for n in range(3):
        tight.world.do(tight.world.fake.succeed, f"slow-{n}", video_mp4=bytes(MIB))
    tight.sweep()
    assert tight.jobs == ["fast-3", "slow-0", "slow-1", "slow-2"]


def test_pinned_jobs_and_jobs_without_files_do_not_make_room(tight: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    tight.world.submit(id="cancelled")
    tight.world.http.delete("/v1/jobs/cancelled")
    tight.finished("pinned", 5 * MIB)
    tight.world.http.put("/v1/jobs/pinned/pin")
    with caplog.at_level("WARNING", "http_edge.background.retention"):
        tight.sweep()
        tight.sweep()
    assert tight.jobs == ["cancelled", "pinned"]
    assert said(caplog) == ["over the disk quota, and no job can go"]


def test_uploads_count(tight: Keeper) -> None:
    tight.finished("a", 3 * MIB)
    tight.sweep()
    assert tight.jobs == ["a"]
    tight.world.http.post("/v1/files", files={"file": ("x", bytes(2 * MIB))})
    tight.sweep()
    assert tight.jobs == []


# ---------------------------------------------------------------- what a crash leaves


def age(path: Path, at: float) -> None:
    for one in (path, *path.rglob("*")):
        os.utime(one, (at, at))


def test_old_files_without_a_record_are_removed(keeper: Keeper) -> None:
    keeper.finished("known")
    artefacts = keeper.world.edge.settings.artefacts_path
    needed = next(artefacts.glob("known/*"))
    for name in ("unknown/7", "known/1", "young/8", "no job id!/9"):
        (artefacts / name).mkdir(parents=True)
        (artefacts / name / "video.mp4").write_bytes(b"x")
    (artefacts / "saved by a client.mp4").write_bytes(b"x")
    now = T0 + 3 * 86_400
    age(artefacts, T0)
    age(artefacts / "young", now - 3600)
    keeper.sweep(now)
    assert keeper.directories == ["known", "no job id!", "saved by a client.mp4", "young"]
    assert [path.name for path in (artefacts / "known").iterdir()] == [needed.name]
    assert keeper.world.http.get("/v1/jobs/known/result").status_code == 200


def test_attempts_of_a_live_job_are_left_alone(keeper: Keeper) -> None:
    keeper.world.submit(id="a")
    keeper.world.do(keeper.world.fake.run, "a")
    attempt = keeper.world.edge.settings.artefacts_path / "a" / str(keeper.world.fake.jobs["a"].fence)
    attempt.mkdir(parents=True)
    age(attempt, T0)
    keeper.sweep(T0 + 3 * 86_400)
    assert attempt.exists()


def test_files_of_a_later_job_of_the_same_id_stay(keeper: Keeper) -> None:
    keeper.finished("a")
    keeper.world.do(keeper.world.fake.forget, ["a"])
    keeper.finished("a")
    later = keeper.world.fake.jobs["a"].fence
    shelf = keeper.world.edge.calls.deletion.artefacts
    shelf.remove("a", later - 1)
    assert list(shelf.attempts("", 10)["a"]) == [later]
    assert keeper.world.http.get("/v1/jobs/a/result").status_code == 200


# ---------------------------------------------------------------- inputs


def test_images_go_when_no_job_took_them_for_long(keeper: Keeper) -> None:
    def image(job_id: str) -> Path:
        return Path(decode_spec(keeper.world.fake.jobs[job_id].body).image)

    for n, job_id in enumerate(("waiting", "done", "again")):
        data = base64.b64encode(picture(size=(16 + n, 8))).decode()
        keeper.world.submit(id=job_id, image=data)
    waiting, done, again = image("waiting"), image("done"), image("again")
    for job_id in ("done", "again"):
        keeper.world.http.delete(f"/v1/jobs/{job_id}")
    for path in (waiting, done, again):
        os.utime(path, (T0, T0))
    later = T0 + 3 * WEEK
    keeper.sweep(T0 + WEEK)
    assert done.exists()
    # Taken once more: as good as new.
    keeper.world.submit(id="more", image=base64.b64encode(picture(size=(18, 8))).decode())
    os.utime(again, (later - WEEK, later - WEEK))
    keeper.sweep(later)
    assert (waiting.exists(), done.exists(), again.exists()) == (True, False, True)
    os.utime(again, (T0, T0))
    keeper.sweep(later)
    assert again.exists()


def test_further_inputs_of_a_waiting_job_stay(keeper: Keeper) -> None:
    able = msgspec.structs.replace(VIDEO, takes_image=True, takes_inputs=("last_image",))
    keeper.world.fake.workers = {"cpu-0": worker("cpu-0", able)}
    sent = [base64.b64encode(picture(size=(16 + n, 8))).decode() for n in range(2)]
    keeper.world.submit(id="waiting", image=sent[0], last_image=sent[1])
    paths = [Path(path) for path in decode_spec(keeper.world.fake.jobs["waiting"].body).input_paths()]
    for path in paths:
        os.utime(path, (T0, T0))
    keeper.sweep(T0 + 3 * WEEK)
    assert [path.exists() for path in paths] == [True, True]
    keeper.world.http.delete("/v1/jobs/waiting")
    keeper.sweep(T0 + 3 * WEEK)
    assert [path.exists() for path in paths] == [False, False]


# ---------------------------------------------------------------- who does it


def test_one_edge_of_several_does_it(open_edge: Callable[..., World]) -> None:
    first, second = Keeper(open_edge()).retention, Keeper(open_edge()).retention
    assert first._has_lock()
    assert not second._has_lock()
    assert first._has_lock()
    assert first._lock is not None
    os.close(first._lock)
    assert second._has_lock()
    assert second._lock is not None
    os.close(second._lock)


def test_other_edges_hear_that_a_job_is_gone(open_edge: Callable[..., World]) -> None:
    world = open_edge()
    keeper = Keeper(world)
    keeper.finished("a")
    assert world.http.get("/v1/jobs/a").status_code == 200
    # The broker's word to this edge, on behalf of another.
    del world.fake.jobs["a"]
    world.do(world.fake.on_gone, ("a",))
    assert world.http.get("/v1/jobs/a").status_code == 404


def test_a_sweep_without_a_broker_or_a_disk_is_tried_again(
    keeper: Keeper, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.finished("a")
    keeper.now = T0 + 2 * WEEK
    keeper.world.fake.down = True
    assert keeper.world.http.portal is not None
    with caplog.at_level("INFO", "http_edge.background.retention"):
        keeper.world.http.portal.call(keeper.retention._try)
    keeper.world.fake.down = False
    assert said(caplog) == ["nothing was deleted"]

    def refuse(*args: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(keeper.retention._store, "remove", refuse)
    keeper.world.http.portal.call(keeper.retention._try)
    assert said(caplog)[-1] == "files cannot be removed"
    # The record went first; the files follow when they are old.
    assert (keeper.jobs, keeper.directories) == ([], ["a"])
    monkeypatch.undo()
    age(keeper.world.edge.settings.artefacts_path, T0)
    keeper.sweep(T0 + 3 * WEEK)
    assert keeper.directories == []


# ---------------------------------------------------------------- checkpoints


def test_checkpoints_go_with_the_end_of_their_job(keeper: Keeper) -> None:
    """Its worker removes them, unless it died first."""
    shelf = keeper.world.edge.settings.artefacts_path / ".checkpoints"
    keeper.finished("done")
    keeper.world.submit(id="waits")
    for job_id in ("done", "waits", "unknown"):
        (shelf / job_id).mkdir(parents=True)
        (shelf / job_id / "0-3.safetensors").write_bytes(b"x")
        os.utime(shelf / job_id, (T0, T0))
    (shelf / "not a job!").mkdir()
    keeper.finished("replaced")
    (shelf / "replaced").write_bytes(b"no directory")
    os.utime(shelf / "replaced", (T0, T0))

    keeper.sweep()
    assert sorted(os.listdir(shelf)) == ["not a job!", "unknown", "waits"]

    keeper.sweep(T0 + 2 * 86_400.0)
    assert sorted(os.listdir(shelf)) == ["not a job!", "waits"]
