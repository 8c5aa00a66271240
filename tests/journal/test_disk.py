"""A full disk costs new jobs first, results last, and nothing that was promised."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from broker.runtime.errors import HomeInUse, JournalBroken, JournalFull
from broker.shell.journal.disk import Disk
from broker.shell.journal.lock import Lock
from tests.journal.full_disk import Reserve, large
from tests.journal.jobs import finish, give, new_job, put

RESERVE = 1024 * 1024
ROOT = Path(__file__).resolve().parents[2]


def test_a_full_disk_uses_the_reserve_and_loses_nothing(open_journal):
    reserve = Reserve(more_pages=1000)
    journal = open_journal(release_reserve=reserve.release)
    running = give(new_job("job-1"), 5)
    put(journal, running)
    reserve.fill(journal)
    journal.stage(large(1))
    journal.stage(finish(running))
    journal.stage(large(2))
    journal.commit()
    assert reserve.released == 1
    journal.close()
    after = open_journal()
    assert after.find("job-1").state == "succeeded"
    assert [job.id for job in after.live()] == ["large-1", "large-2"]


def test_rows_flushed_before_the_disk_was_full_are_written_again(open_journal):
    reserve = Reserve(more_pages=1000)
    journal = open_journal(release_reserve=reserve.release)
    first = new_job("job-1")
    journal.stage(first)
    journal.flush()
    reserve.fill(journal)
    journal.stage(give(first, 5))
    journal.stage(large(1))
    journal.commit()
    journal.stage(finish(first))
    journal.commit()
    journal.close()
    after = open_journal()
    assert after.find("job-1").state == "succeeded"
    assert [job.id for job in after.live()] == ["large-1"]


def test_without_a_reserve_the_broker_ends_and_what_was_committed_stays(open_journal):
    reserve = Reserve(more_pages=0)
    journal = open_journal(release_reserve=reserve.release)
    put(journal, new_job("job-1"))
    reserve.fill(journal)
    journal.stage(large(1))
    with pytest.raises(JournalFull, match="and so is the reserve"):
        journal.commit()
    journal.close()
    assert [job.id for job in open_journal().live()] == ["job-1"]


def test_an_error_that_is_not_want_of_room_is_never_tried_again(journal):
    attempts = []

    class Failing:
        in_transaction = False

        def execute(self, *_):
            attempts.append(1)
            raise sqlite3.OperationalError("disk I/O error")

        def close(self):
            pass

    journal.close()
    journal.store._transaction._connection = journal.store._transaction.cursor = Failing()
    journal.stage(new_job("job-1"))
    with pytest.raises(JournalBroken, match="disk I/O error"):
        journal.commit()
    assert len(attempts) == 1


# ---------------------------------------------------------------- the guard


def test_with_room_a_ballast_of_real_blocks_is_kept(tmp_path):
    disk = Disk(tmp_path, tmp_path / "jobs.sqlite", min_free=0, reserve=RESERVE)
    disk.check()
    assert not disk.low
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= RESERVE


def test_releasing_frees_it_once_and_refuses_jobs_until_there_is_room(tmp_path):
    disk = Disk(tmp_path, tmp_path / "jobs.sqlite", min_free=0, reserve=RESERVE)
    disk.check()
    assert disk.release()
    assert disk.low
    assert not (tmp_path / "ballast").exists()
    assert not disk.release()
    disk.check()
    assert not disk.low
    assert (tmp_path / "ballast").exists()


def test_a_reserve_of_none_is_no_file(tmp_path):
    disk = Disk(tmp_path, tmp_path / "jobs.sqlite", min_free=0, reserve=0)
    disk.check()
    assert list(tmp_path.iterdir()) == []
    assert not disk.release()


def test_a_ballast_that_was_never_finished_is_made_again(tmp_path):
    (tmp_path / "ballast").write_bytes(b"")  # its broker was killed between making and filling it
    Disk(tmp_path, tmp_path / "jobs.sqlite", min_free=0, reserve=RESERVE).check()
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= RESERVE


def test_below_the_limit_jobs_are_refused_and_no_ballast_is_made(tmp_path):
    disk = Disk(tmp_path, tmp_path / "jobs.sqlite", min_free=2**60, reserve=RESERVE)
    disk.check()
    assert disk.low
    assert not (tmp_path / "ballast").exists()


@pytest.mark.parametrize(
    ("inodes", "free", "low"), [(10**6, 999, True), (10**6, 1000, False), (0, 0, False), (10**6, 0, True)]
)
def test_below_a_number_of_free_inodes_jobs_are_refused(tmp_path, monkeypatch, inodes, free, low):
    real = os.statvfs(tmp_path)
    fields = list(real[:10])
    fields[5], fields[7] = inodes, free  # f_files, f_favail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    disk = Disk(tmp_path, tmp_path / "jobs.sqlite", min_free=0, reserve=0)
    disk.check()
    assert disk.low == low
    assert ("inodes are free" in disk.shortage) == low


def test_a_journal_that_was_removed_or_replaced_ends_the_broker(tmp_path, journal):
    disk = Disk(tmp_path, journal.store.path, min_free=0, reserve=RESERVE)
    disk.watch_journal()
    disk.check()
    journal.store.path.rename(tmp_path / "away.sqlite")
    with pytest.raises(JournalBroken, match="removed or replaced"):
        disk.check()
    journal.store.path.touch()
    with pytest.raises(JournalBroken, match="removed or replaced"):
        disk.check()


def test_the_lock_is_held_although_the_disk_has_no_room_for_its_holders_number(tmp_path):
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from broker.shell.journal.lock import Lock\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"  # no file may have a byte
        "lock = Lock(Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    path = tmp_path / "broker.lock"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HomeInUse, match="process unknown"):
            Lock(path)
        holder.stdin.close()
    Lock(path).release()
