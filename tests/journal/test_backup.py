"""A copy of the journal is whole and of one moment, and becomes a journal again; what cannot be copied or restored leaves all as it was."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from broker.runtime.errors import HomeInUse
from broker.shell.journal import backup
from broker.shell.journal.backup import BackupFailed, LogHold, back_up, inspect, restore
from broker.shell.journal.journal import Journal
from broker.shell.journal.lock import Lock
from broker.shell.journal.schema import SCHEMA
from broker.shell.journal.sqlite_store import sqlite_journal
from tests.journal.jobs import finish, give, new_job, put


def ids(journal: Journal) -> list[str]:
    return [job.id for job in journal.live()]


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def opened():
    journals = []

    def open_one(home: Path) -> Journal:
        journals.append(sqlite_journal(home / "jobs.sqlite"))
        return journals[-1]

    yield open_one
    for journal in journals:
        journal.close()


def stopped_with_a_log(home: Path, opened) -> None:
    """A home as a kill leaves it: the last commit is in the log alone."""
    journal = opened(home)
    put(journal, finish(give(new_job("a"), journal.epoch << 32 | 1)), new_job("b"))
    kept = home.with_name("killed")
    kept.mkdir()
    for path in home.iterdir():
        shutil.copyfile(path, kept / path.name)
    journal.close()
    shutil.rmtree(home)
    kept.rename(home)


def hold(home: Path, broker: LogHold, now: float = 100.0):
    """What a process that copies sees of a broker that looks at once."""
    Lock(home / "broker.lock")  # of this process, for as long as the test
    held = backup._held_file(home)
    waited = backup._wait_until_held

    def answered(fd: int, token: str) -> str:
        broker.look(now)
        return waited(fd, token)

    return held, answered


def test_a_copy_at_rest_has_what_is_in_the_log_and_is_restored_elsewhere(tmp_path, home, opened):
    stopped_with_a_log(home, opened)

    copy = back_up(home, home / "jobs.sqlite", tmp_path / "copy.sqlite")

    assert (copy.jobs, copy.schema, copy.epoch) == (2, SCHEMA, 1)
    assert (tmp_path / "copy.sqlite").stat().st_mode & 0o777 == 0o600
    elsewhere = tmp_path / "elsewhere"
    assert restore(elsewhere, elsewhere / "jobs.sqlite", tmp_path / "copy.sqlite", "replaced") == (copy, None)
    journal = opened(elsewhere)
    assert (journal.find("a").state, ids(journal)) == ("succeeded", ["b"])
    assert ids(opened(home)) == ["b"]


def test_the_file_stays_as_it_is_while_it_is_copied_and_the_copy_ends_at_that_moment(
    tmp_path, home, opened, monkeypatch
):
    journal = opened(home)
    put(journal, new_job("before"))
    broker = LogHold(home, journal.store)
    _, answered = hold(home, broker)
    monkeypatch.setattr(backup, "_wait_until_held", answered)
    copy, seen = backup._copy, []

    def busy_copy(source, target, progress):
        before = source.read_bytes()
        put(journal, *(new_job(f"meanwhile-{number}", body=bytes(5000)) for number in range(5000)))
        for _ in range(100):
            journal.checkpoint()
        seen.append(source.read_bytes() == before)
        copy(source, target, progress)

    monkeypatch.setattr(backup, "_copy", busy_copy)

    assert back_up(home, home / "jobs.sqlite", tmp_path / "copy.sqlite").jobs == 1

    assert seen == [True]
    size = (home / "jobs.sqlite").stat().st_size
    broker.look(200.0)
    for _ in range(3):
        journal.checkpoint()
    assert (home / "jobs.sqlite").stat().st_size > size
    elsewhere = tmp_path / "elsewhere"
    restore(elsewhere, elsewhere / "jobs.sqlite", tmp_path / "copy.sqlite", "replaced")
    assert ids(opened(elsewhere)) == ["before"]


@pytest.mark.parametrize("how", ["stop", "too long", "another broker"])
def test_no_copy_is_made_when_the_file_may_have_changed_meanwhile(tmp_path, home, opened, monkeypatch, how):
    journal = opened(home)
    put(journal, new_job("a"))
    broker = LogHold(home, journal.store)
    _, answered = hold(home, broker)
    monkeypatch.setattr(backup, "_wait_until_held", answered)
    copy = backup._copy

    def interrupted(source, target, progress):
        copy(source, target, progress)
        if how == "stop":
            broker.close()
        elif how == "too long":
            broker.look(100.0 + backup.LONGEST_HOLD_S + 1)
        else:
            (home / "broker.lock").write_text("1\n")

    monkeypatch.setattr(backup, "_copy", interrupted)

    with pytest.raises(BackupFailed, match=r"stops|longer than|ended while"):
        back_up(home, home / "jobs.sqlite", tmp_path / "copy.sqlite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_one_backup_at_a_time(tmp_path, home, opened, monkeypatch):
    broker = LogHold(home, opened(home).store)
    held, answered = hold(home, broker)
    monkeypatch.setattr(backup, "_wait_until_held", answered)
    with held, pytest.raises(BackupFailed, match="another backup"):
        back_up(home, home / "jobs.sqlite", tmp_path / "copy.sqlite")


def test_a_restored_journal_replaces_one_that_is_kept_and_gives_no_fence_again(tmp_path, home, opened):
    journal = opened(home)
    put(journal, new_job("a"))
    journal.close()
    back_up(home, home / "jobs.sqlite", tmp_path / "copy.sqlite")
    for number in range(4):
        journal = opened(home)
        put(journal, new_job(f"later-{number}"))
        last = journal.epoch
        journal.close()

    _, kept = restore(home, home / "jobs.sqlite", tmp_path / "copy.sqlite", "replaced")

    assert kept == home / "replaced"
    restored = opened(home)
    assert ids(restored) == ["a"]
    assert restored.epoch > last + 1
    (kept / "jobs.sqlite").rename(tmp_path / "jobs.sqlite")
    assert ids(opened(tmp_path)) == ["a", "later-0", "later-1", "later-2", "later-3"]


@pytest.mark.parametrize("step", ["_copy", "_make_another", "_put_away", "os.replace"])
def test_a_restore_that_fails_leaves_the_journal_whole(tmp_path, home, opened, monkeypatch, step):
    stopped_with_a_log(home, opened)
    back_up(home, home / "jobs.sqlite", tmp_path / "copy.sqlite")
    journal = opened(home)
    put(journal, new_job("later"))
    journal.close()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"broker.shell.journal.backup.{step}", fails)
    with pytest.raises(BackupFailed, match="No space left"):
        restore(home, home / "jobs.sqlite", tmp_path / "copy.sqlite", "replaced")
    monkeypatch.undo()

    assert not (home / "jobs.sqlite-restored").exists()
    assert ids(opened(home)) == ["b", "later"]


def test_what_is_no_sound_copy_is_not_restored(tmp_path, home, opened):
    journal = opened(home)
    put(journal, *(new_job(f"job-{number}", body=bytes(900)) for number in range(50)))
    journal.close()
    good = tmp_path / "good"
    back_up(home, home / "jobs.sqlite", good)

    other = tmp_path / "other"
    sqlite3.connect(other).execute("CREATE TABLE t (a)").connection.close()
    newer = tmp_path / "newer"
    shutil.copyfile(good, newer)
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    cut = tmp_path / "cut"
    cut.write_bytes(good.read_bytes()[:-8192])
    empty = tmp_path / "empty"
    empty.touch()

    for path, rule in (
        (other, "no journal"),
        (newer, "reads up to"),
        (cut, r"damaged|malformed"),
        (empty, "no journal"),
    ):
        with pytest.raises(BackupFailed, match=rule):
            restore(home, home / "jobs.sqlite", path, "replaced")
    with pytest.raises(BackupFailed, match="cannot be read"):
        inspect(tmp_path / "absent")
    assert len(ids(opened(home))) == 50
    assert not (home / "replaced").exists()


def test_nothing_is_overwritten_and_a_running_broker_is_not_restored_under(tmp_path, home, opened):
    opened(home).close()
    target = tmp_path / "copy.sqlite"
    back_up(home, home / "jobs.sqlite", target)
    with pytest.raises(BackupFailed, match="exists already"):
        back_up(home, home / "jobs.sqlite", target)
    with pytest.raises(BackupFailed, match="cannot be copied"):
        back_up(home, home / "jobs.sqlite", tmp_path / "absent" / "copy.sqlite")
    with pytest.raises(BackupFailed, match="there is no journal"):
        back_up(tmp_path, tmp_path / "jobs.sqlite", tmp_path / "other.sqlite")
    lock = Lock(home / "broker.lock")
    with pytest.raises(HomeInUse):
        restore(home, home / "jobs.sqlite", target, "replaced")
    lock.release()
