"""Commits that were acknowledged and are gone: the next start says so, and says nothing when they are there."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from broker.core.jobs import Cause
from broker.runtime.errors import JournalBroken, JournalRefused, JournalShort
from broker.shell.journal.disk import Disk
from broker.shell.journal.journal import Journal
from broker.shell.journal.sqlite_store import sqlite_journal
from tests.journal.jobs import fail, finish, give, new_job, put

FILES = ("jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-mark")


class Machine:
    """A journal that is killed: its files as they are then, in a new directory each time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.deaths = 0
        self.open: list[Journal] = []
        self.journal = self.start()

    @property
    def home(self) -> Path:
        return self.directory / f"life-{self.deaths}"

    def start(self, **options: bool) -> Journal:
        self.home.mkdir(exist_ok=True)
        self.journal = sqlite_journal(self.home / "jobs.sqlite", **options)
        self.open.append(self.journal)
        return self.journal

    def kill(self) -> Path:
        """What is on disk now is what the next life finds; where."""
        old = self.home
        self.deaths += 1
        self.home.mkdir()
        for name in FILES:
            shutil.copyfile(old / name, self.home / name)
        return self.home


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    for journal in machine.open:
        journal.close()


def test_a_killed_journal_is_opened_as_ever(machine):
    put(machine.journal, new_job("a"))
    machine.kill()
    assert [job.id for job in machine.start().live()] == ["a"]


def test_a_log_that_was_removed_after_a_kill_is_told(machine):
    put(machine.journal, new_job("a"))
    home = machine.kill()
    (home / "jobs.sqlite-wal").unlink()
    with pytest.raises(JournalShort, match="shorter than it was: the job that was written last, number 1, is gone"):
        machine.start()
    with pytest.raises(JournalShort):  # as often as it is started
        machine.start()
    assert machine.start(accept_loss=True).live() == []
    put(machine.journal, new_job("b"))
    machine.kill()
    assert [job.id for job in machine.start().live()] == ["b"]


def test_a_lost_update_is_told(machine):
    job = give(new_job("a"), 5)
    job.revision = 7
    put(machine.journal, job)
    machine.journal.checkpoint()
    machine.journal.checkpoint()
    finish(job)
    job.revision = 8
    put(machine.journal, job)
    home = machine.kill()
    (home / "jobs.sqlite-wal").unlink()
    with pytest.raises(JournalShort, match="job a is not as it was written last"):
        machine.start()


def test_an_idle_moment_leaves_nothing_in_the_log_alone(machine):
    put(machine.journal, new_job("a"))
    machine.journal.checkpoint()
    machine.journal.checkpoint()
    home = machine.kill()
    (home / "jobs.sqlite-wal").unlink()
    assert [job.id for job in machine.start().live()] == ["a"]


def test_without_an_idle_moment_the_log_is_moved_now_and_then(machine):
    for n in range(60):
        put(machine.journal, new_job(f"job-{n}"))
        machine.journal.checkpoint()
    home = machine.kill()
    (home / "jobs.sqlite-wal").unlink()
    assert len(machine.start(accept_loss=True).live()) >= 30


def test_a_new_journals_log_is_missed_too(machine):
    home = machine.kill()
    (home / "jobs.sqlite-wal").unlink()
    assert machine.start().epoch == 2


def test_no_fence_is_given_twice_after_a_loss(machine):
    for _ in range(3):
        machine.kill()
        machine.start()
    put(machine.journal, new_job("a"))
    home = machine.kill()
    first = home.parent / "life-0" / "jobs.sqlite"
    shutil.copyfile(first, home / "jobs.sqlite")
    (home / "jobs.sqlite-wal").unlink()
    with pytest.raises(JournalShort, match="it was opened 4 times, and knows of 1"):
        machine.start()
    assert machine.start(accept_loss=True).epoch == 5


@pytest.mark.parametrize("seed", range(60))
def test_a_bit_turned_in_the_log_after_a_kill_loses_nothing_in_silence(machine, seed):
    """Wherever it is turned, every acknowledged job is there, or the start refuses to go on without."""
    ids = [f"job-{n}" for n in range(20)]
    for n, job_id in enumerate(ids):
        job = new_job(job_id)
        job.revision = n + 1
        put(machine.journal, job)
    home = machine.kill()
    log = home / "jobs.sqlite-wal"
    data = bytearray(log.read_bytes())
    draw = random.Random(seed)
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    log.write_bytes(data)
    try:
        journal = machine.start()
    except JournalRefused:
        return
    assert [job.id for job in journal.live()] == ids


def test_rows_that_were_deleted_since_are_not_missed(machine):
    done = fail(give(new_job("a"), 5))
    done.revision = 7
    put(machine.journal, done)
    mark = (machine.home / "jobs.sqlite-mark").read_bytes()
    machine.journal.forget("a")
    machine.journal.commit()
    home = machine.kill()
    assert machine.start().find("a") is None
    # The mark may be older than the journal: it is never flushed.
    machine.kill()
    home = machine.home
    (home / "jobs.sqlite-mark").write_bytes(mark)
    assert machine.start().find("a") is None


def test_a_job_that_ended_and_was_deleted_in_one_commit_is_not_missed(machine):
    job = give(new_job("a"), 5)
    job.revision = (machine.journal.epoch << 32) + 7
    put(machine.journal, job)
    done = fail(job)
    done.revision = job.revision + 2
    machine.journal.stage(done)
    machine.journal.forget("a")
    machine.journal.commit()
    machine.kill()
    assert machine.start().find("a") is None


def test_deletions_that_were_lost_are_told(machine):
    """Whether the log that held them is gone, or the file is an older copy."""
    put(machine.journal, *(fail(give(new_job(job_id), 5)) for job_id in ("a", "b")))
    machine.journal.checkpoint()
    machine.journal.checkpoint()
    machine.journal.forget("a")
    machine.journal.commit()
    home = machine.kill()
    (home / "jobs.sqlite-wal").unlink()
    with pytest.raises(JournalShort, match="jobs that were deleted last are in it again"):
        machine.start()
    journal = machine.start(accept_loss=True)
    journal.forget("b")
    journal.commit()
    machine.kill()
    assert machine.start().find("b") is None


def test_a_deletion_that_was_not_committed_is_not_missed(machine):
    put(machine.journal, *(fail(give(new_job(job_id), 5)) for job_id in ("a", "b")))
    machine.journal.forget("a")
    machine.journal.discard()
    put(machine.journal, new_job("c"))
    machine.kill()
    assert machine.start().find("a").id == "a"


def test_a_mark_that_is_older_missing_or_damaged_stops_nobody(machine):
    job = new_job("a")
    job.revision = 1
    put(machine.journal, job)
    old = (machine.home / "jobs.sqlite-mark").read_bytes()
    job = give(job, 5)
    job.move(Cause.LOST, 103.0)
    job.revision = 9
    put(machine.journal, job)
    for mark in (old, old[:7], b"", b"x" * 500):
        home = machine.kill()
        (home / "jobs.sqlite-mark").write_bytes(mark)
        assert [job.id for job in machine.start().live()] == ["a"]


def test_another_journal_beside_an_old_mark_is_not_compared_with_it(machine, caplog):
    put(machine.journal, new_job("a"))
    home = machine.kill()
    for name in ("jobs.sqlite", "jobs.sqlite-wal"):
        (home / name).unlink()
    assert machine.start().live() == []
    assert "this is another journal than the last" in caplog.messages


@pytest.mark.parametrize("left", [b"", None], ids=["empty", "removed"])
def test_a_journal_that_is_gone_from_beside_its_log_is_told_and_the_log_left_alone(machine, left):
    put(machine.journal, new_job("a"))
    home = machine.kill()
    journal, log = home / "jobs.sqlite", home / "jobs.sqlite-wal"
    whole, logged = journal.read_bytes(), log.read_bytes()
    journal.unlink()
    if left is not None:
        journal.write_bytes(left)
    for _ in range(2):  # as often as it is started
        with pytest.raises(JournalShort, match=r"is (empty|missing), but its log jobs\.sqlite-wal is there"):
            machine.start()
    assert log.read_bytes() == logged
    journal.write_bytes(whole)
    assert [job.id for job in machine.start().live()] == ["a"]


def test_a_journal_that_was_emptied_after_an_ordinary_end_is_told(machine):
    put(machine.journal, new_job("a"))
    machine.journal.close()
    journal = machine.home / "jobs.sqlite"
    assert not (machine.home / "jobs.sqlite-wal").exists()
    journal.write_bytes(b"")
    with pytest.raises(JournalShort, match="is empty, but has held jobs"):
        machine.start()
    journal.unlink()
    assert machine.start().live() == []


@pytest.mark.parametrize("emptied", [True, False])
def test_a_journal_that_is_gone_may_be_given_up(machine, emptied):
    put(machine.journal, new_job("a"))
    home = machine.kill()
    (home / "jobs.sqlite").unlink()
    if emptied:
        (home / "jobs.sqlite").write_bytes(b"")
    assert machine.start(accept_loss=True).live() == []


def test_a_first_start_that_was_killed_at_once_is_no_loss(machine):
    home = machine.directory / "first"
    home.mkdir()
    (home / "jobs.sqlite").write_bytes(b"")
    (home / "jobs.sqlite-mark").write_bytes(b"")
    journal = sqlite_journal(home / "jobs.sqlite")
    machine.open.append(journal)
    assert journal.live() == []


@pytest.mark.parametrize("name", ["jobs.sqlite", "jobs.sqlite-wal"])
@pytest.mark.parametrize("what", ["removed", "replaced", "cut"])
def test_a_file_that_somebody_else_was_at_is_told_before_the_next_acknowledgement(journal, tmp_path, name, what):
    disk = Disk(tmp_path, journal.store.path, min_free=0, reserve=0)
    disk.watch_journal()
    put(journal, new_job("a"))
    disk.check_journal()
    path = tmp_path / name
    data = path.read_bytes()
    if what == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
        if what == "replaced":
            path.write_bytes(data)
    with pytest.raises(JournalBroken, match=f"{name}, of the journal, was (removed or replaced|cut)"):
        disk.check_journal()
