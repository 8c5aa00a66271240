"""Journals of earlier schemas, as the program that wrote them left them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from broker.core.jobs import JobRecord
from broker.runtime.errors import JournalConflict, JournalRefused
from broker.shell.journal import schema
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.wire import messages as m
from tests.journal.first_schema import SCHEMA_1
from tests.journal.jobs import fail, finish, new_job, put

DATA = Path(__file__).with_name("data")


def test_a_journal_without_tenants_is_read_and_its_jobs_are_the_default_tenants(tmp_path, open_journal):
    connection = sqlite3.connect(tmp_path / "jobs.sqlite")
    connection.executescript(SCHEMA_1)
    job = new_job("job-1", origin="native", alias="mine")
    connection.execute(
        "INSERT INTO job VALUES (1, ?, 'queued', 0, '', 'native', 'mine', 'demo', '', 100.0, ?)",
        (job.id, msgspec.msgpack.encode([getattr(job, name) for name in JobRecord.__struct_fields__])),
    )
    head = msgspec.msgpack.encode(["default", 5, 1, 0.0, 0.0])
    connection.execute("INSERT INTO spec VALUES (1, ?, ?)", (head, job.body))
    connection.commit()
    connection.close()
    journal = open_journal()
    assert journal.epoch == 5
    (found,) = journal.live()
    assert (found.id, found.submission.tenant, found.submission.max_running, found.evicted) == (
        "job-1",
        "default",
        0,
        True,
    )
    assert journal.body("job-1") == job.body
    assert [one.id for one in journal.page(m.ListJobs(req=1, tenant="default"))[0]] == ["job-1"]
    assert journal.find_alias("native", "mine", "default").id == "job-1"
    assert journal.find_alias("native", "mine", "red") is None
    journal.stage(new_job("job-2", tenant="red"))
    journal.commit()
    assert [one.id for one in journal.page(m.ListJobs(req=1, tenant="red"))[0]] == ["job-2"]


def tables(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
    connection.close()
    return found


def test_an_upgrade_that_is_killed_leaves_the_old_journal_and_is_done_at_the_next_start(
    tmp_path, open_journal, monkeypatch
):
    path = tmp_path / "jobs.sqlite"
    path.write_bytes((DATA / "jobs-0.1.0.sqlite").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", {n: schema.MIGRATIONS[n] for n in range(3, 5)})
        with pytest.raises(JournalRefused, match="schema 5"):
            open_journal()
    before = tables(path)
    killed = multiprocessing.get_context("spawn").Process(target=killed_while_upgrading, args=(path,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert tables(path) == before
    journal = open_journal()
    reported = json.loads((DATA / "jobs-0.1.0.json").read_text(encoding="utf-8"))
    states = {job["id"]: job["state"] for tenant in ("red", "blue") for job in reported[tenant]}
    assert {job.id: str(job.state) for job in journal.page(m.ListJobs(req=1, limit=100))[0]} == states
    journal.close()
    assert tables(path).keys() == tables(fresh(tmp_path)).keys()


def killed_while_upgrading(path: Path) -> None:
    """Open the journal, and kill this process when all of the step that writes every row anew is done but its commit."""
    last = schema.MIGRATIONS[5]

    def step(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA cache_spill = 1")
        last(connection)
        os.kill(os.getpid(), signal.SIGKILL)

    schema.MIGRATIONS[5] = step
    sqlite_journal(path)


def fresh(tmp_path: Path) -> Path:
    """A journal that never had another schema."""
    path = tmp_path / "fresh.sqlite"
    sqlite_journal(path).close()
    return path


def test_jobs_of_an_upgraded_journal_go_on_and_their_fences_and_ends_hold(tmp_path, open_journal):
    (tmp_path / "jobs.sqlite").write_bytes((DATA / "jobs-0.1.0.sqlite").read_bytes())
    journal = open_journal()
    live = journal.live()
    running = next(job for job in live if job.state == "running")
    stale = replace(running, fence=running.fence - 1)
    journal.stage(stale)
    with pytest.raises(JournalConflict):
        journal.commit()
    journal.discard()
    for job in journal.live():
        put(journal, finish(job) if job.state == "running" else fail(job))
    ended = journal.page(m.ListJobs(req=1, limit=100))[0]
    failed = [job.id for job in ended if job.state == "failed"]
    assert [job.id for job in journal.page(m.ListJobs(req=1, states=("failed",), limit=100))[0]] == failed
    assert {job.id for job in live if job.state == "queued"} <= set(failed)
    journal.close()
    again = open_journal()
    assert again.live() == []
    assert again.page(m.ListJobs(req=1, limit=100))[0] == ended


def test_the_journal_of_0_1_0_has_its_jobs_where_that_version_left_them(tmp_path, open_journal):
    (tmp_path / "jobs.sqlite").write_bytes((DATA / "jobs-0.1.0.sqlite").read_bytes())
    reported = json.loads((DATA / "jobs-0.1.0.json").read_text(encoding="utf-8"))
    states = {job["id"]: job["state"] for tenant in ("red", "blue") for job in reported[tenant]}
    for start in range(2):
        journal = open_journal()
        found = {job.id: str(job.state) for job in journal.page(m.ListJobs(req=1, limit=100))[0]}
        live = {job.id for job in journal.live()}
        assert (journal.epoch, journal.counts().damaged_records, len(journal.asides)) == (2 + start, 0, 0)
        assert live == {job_id for job_id, state in found.items() if state in ("queued", "running")}
        assert found == states
        (owed,), _ = journal.deliveries.due(2e9, 9)
        assert (owed.job_id, owed.event, owed.attempts) == ("stopped", "cancelled", 1)
        journal.close()
