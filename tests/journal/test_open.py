"""Which files are opened, which are refused and in what words, and who may hold them."""

from __future__ import annotations

import sqlite3
import stat

import pytest

from broker.runtime.errors import HomeInUse, JournalBroken, JournalRefused
from broker.shell.journal import schema
from broker.shell.journal.lock import Lock
from broker.shell.journal.sqlite_store import sqlite_journal
from tests.journal.jobs import new_job, put


def change(path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_only_its_owner_may_read_it(tmp_path, journal):
    put(journal, new_job("job-1"))
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_commits_are_synced_and_the_file_is_exclusive(journal, tmp_path):
    connection = journal.store.connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    other = sqlite3.connect(tmp_path / "jobs.sqlite", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT count(*) FROM job")
    other.close()


def test_a_second_connection_is_refused(journal, open_journal):
    with pytest.raises(JournalRefused, match="open in another program"):
        open_journal()


@pytest.mark.parametrize("damage", [b"this is no database" * 500, b"SQLite format 3\0" + bytes(range(256)) * 40])
def test_what_is_no_database_is_refused(tmp_path, damage, open_journal):
    (tmp_path / "jobs.sqlite").write_bytes(damage)
    with pytest.raises(JournalRefused, match=r"is damaged .*move it and jobs.sqlite-wal away"):
        open_journal()
    assert (tmp_path / "jobs.sqlite").read_bytes() == damage


def test_a_damaged_page_is_refused(tmp_path, journal, open_journal):
    put(journal, *[new_job(f"job-{n}") for n in range(300)])
    journal.close()
    path = tmp_path / "jobs.sqlite"
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 6] = b"\xff" * (4096 * 3)
    path.write_bytes(data)
    with pytest.raises(JournalRefused, match="is damaged"):
        open_journal()


def test_an_empty_file_becomes_a_journal(tmp_path, open_journal):
    (tmp_path / "jobs.sqlite").touch()
    assert open_journal().epoch == 1


def test_another_programs_database_is_refused(tmp_path, open_journal):
    change(tmp_path / "jobs.sqlite", "CREATE TABLE customer (name)")
    with pytest.raises(JournalRefused, match="not a journal of this program"):
        open_journal()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path, journal, open_journal):
    journal.close()
    change(tmp_path / "jobs.sqlite", f"PRAGMA user_version = {schema.SCHEMA + 1}")
    with pytest.raises(JournalRefused, match=f"schema {schema.SCHEMA + 1}, this version reads up to {schema.SCHEMA}"):
        open_journal()


def test_a_schema_too_old_to_upgrade_is_refused(tmp_path, journal, open_journal):
    journal.close()
    change(tmp_path / "jobs.sqlite", "PRAGMA user_version = -3")
    with pytest.raises(JournalRefused, match="no longer upgrade"):
        open_journal()


def test_an_older_schema_is_upgraded_step_by_step(tmp_path, journal, open_journal, monkeypatch):
    put(journal, new_job("job-1"))
    journal.close()
    monkeypatch.setattr(schema, "SCHEMA", schema.SCHEMA + 2)
    steps = {
        schema.SCHEMA - 2: lambda connection: connection.execute("ALTER TABLE meta ADD COLUMN first INTEGER DEFAULT 1"),
        schema.SCHEMA - 1: lambda connection: connection.execute(
            "ALTER TABLE meta ADD COLUMN second INTEGER DEFAULT 2"
        ),
    }
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    upgraded = open_journal()
    assert [job.id for job in upgraded.live()] == ["job-1"]
    assert upgraded.store.connection.execute("SELECT first, second FROM meta").fetchone() == (1, 2)
    upgraded.close()
    monkeypatch.setattr(schema, "MIGRATIONS", {})
    assert open_journal().epoch == 3


def test_a_failing_upgrade_leaves_the_old_schema(tmp_path, journal, open_journal, monkeypatch):
    journal.close()

    def half(connection):
        connection.execute("ALTER TABLE meta ADD COLUMN first INTEGER")
        connection.execute("SELECT * FROM nothing")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA", schema.SCHEMA + 1)
        patch.setattr(schema, "MIGRATIONS", {schema.SCHEMA - 1: half})
        with pytest.raises(JournalBroken):
            open_journal()
    assert "first" not in str(open_journal().store.connection.execute("PRAGMA table_info(meta)").fetchall())


def test_a_row_of_a_live_job_that_cannot_be_read_is_set_aside(tmp_path, journal, open_journal):
    put(journal, new_job("job-1"), new_job("job-2"))
    journal.close()
    change(tmp_path / "jobs.sqlite", "UPDATE job SET tail = x'c1' WHERE id = 'job-1'")
    journal = open_journal()
    assert [job.id for job in journal.live()] == ["job-2"]
    (aside,) = journal.asides.jobs()
    assert (aside.id, aside.submission.model, aside.set_aside.readable) == ("job-1", "demo", False)
    assert journal.find("job-1").body == b"spec of job-1"


def test_a_path_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(JournalBroken, match="cannot be opened"):
        sqlite_journal(tmp_path / "absent" / "jobs.sqlite")


def test_one_lock_a_home(tmp_path):
    first = Lock(tmp_path / "broker.lock")
    with pytest.raises(HomeInUse, match=r"another broker \(process \d+\) uses "):
        Lock(tmp_path / "broker.lock")
    first.release()
    Lock(tmp_path / "broker.lock").release()
