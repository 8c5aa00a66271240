"""Indexes whose entries a disk has changed: no job that is there is answered as one that is not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from broker.core.deliveries import Delivery
from broker.shell.journal import indexes
from broker.shell.journal.journal import Journal
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.wire import messages as m
from tests.journal.jobs import fail, finish, give, new_job, put

JOBS = 40


@pytest.fixture
def path(tmp_path) -> Path:
    """A journal of waiting, finished and failed jobs, one of them with a webhook that is owed."""
    path = tmp_path / "jobs.sqlite"
    journal = sqlite_journal(path)
    jobs = [
        new_job(f"job-{n:03}", tenant=("default", "red")[n % 2], origin="native", alias=f"name-{n}")
        for n in range(JOBS)
    ]
    for n, job in enumerate(jobs):
        if n % 3 == 0:
            finish(give(job, (6 << 32) + n))
    put(journal, *jobs)
    put(journal, *[fail(give(job, (6 << 32) + n)) for n, job in enumerate(jobs) if n % 3 == 1])
    journal.deliveries.stage(Delivery(number=7, job_id="job-000", event="completed", created_at=1.0, due_at=77.0))
    journal.commit()
    journal.close()
    return path


def change(path: Path, index: str, old: bytes, new: bytes) -> None:
    """Change an entry of the index, and nothing else."""
    connection = sqlite3.connect(path)
    root, size = connection.execute(
        "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_master WHERE name = ?", (index,)
    ).fetchone()
    connection.close()
    data = bytearray(path.read_bytes())
    page = bytes(data[(root - 1) * size : root * size])
    assert page.count(old) == 1
    data[(root - 1) * size : root * size] = page.replace(old, new)
    path.write_bytes(data)


def walk(journal: Journal) -> None:
    """Idle moments, until every row was looked at."""
    for _ in range(2 * JOBS):
        journal.checkpoint()


def test_a_job_that_the_index_of_ids_misses_is_found_again_at_the_next_start(path, open_journal, caplog):
    change(path, "sqlite_autoindex_job_1", b"job-017", b"job-0q7")
    journal = open_journal()
    assert journal.find("job-017").body == b"spec of job-017"
    assert journal.counts().rebuilt_indexes == 1
    (record,) = [record for record in caplog.records if record.message.startswith("an index of the journal")]
    assert (record.index, record.table) == ("sqlite_autoindex_job_1", "job")
    journal.close()
    assert open_journal().counts().rebuilt_indexes == 0


def test_where_the_start_has_no_time_idle_moments_find_it(path, open_journal, monkeypatch):
    change(path, "sqlite_autoindex_job_1", b"job-017", b"job-0q7")
    monkeypatch.setattr(indexes.IndexCheck.start, "__defaults__", (0.0,))
    monkeypatch.setattr(indexes, "LOOK_ROWS", 5)
    journal = open_journal()
    assert journal.find("job-017") is None
    walk(journal)
    assert journal.find("job-017").body == b"spec of job-017"
    assert journal.counts().rebuilt_indexes == 1


def test_a_failed_job_that_the_index_of_states_misses_is_listed_all_the_same(path, open_journal):
    entry = b"failed\x26"  # the last one of its state: row 38
    change(path, "outcome_state", entry, b"failed\x7f")
    journal = open_journal()
    live = journal.live()
    assert [job.id for job in live] == [f"job-{n:03}" for n in range(2, JOBS, 3)]
    failed, *_ = journal.page(m.ListJobs(req=1, states=("failed",), limit=100))
    assert [job.id for job in failed] == [f"job-{n:03}" for n in reversed(range(1, JOBS, 3))]
    assert journal.counts().rebuilt_indexes == 1


@pytest.mark.parametrize(
    ("index", "old", "new"),
    [("job_alias", b"nativename-21red", b"nativename-2qred"), ("job_tenant", b"red\x0a", b"red\x0b")],
)
def test_every_index_is_looked_at(path, open_journal, index, old, new):
    change(path, index, old, new)
    journal = open_journal()
    assert journal.find_alias("native", "name-21", "red").id == "job-021"
    assert len(journal.page(m.ListJobs(req=1, tenant="red", limit=100))[0]) == JOBS // 2
    assert journal.counts().rebuilt_indexes == 1


def test_a_delivery_that_is_owed_is_found_by_its_time_again(path, open_journal):
    change(path, "hook_due", bytes([77]), bytes([78]))
    journal = open_journal()
    assert [delivery.number for delivery in journal.deliveries.due(100.0, 9)[0]] == [7]
    assert journal.counts().rebuilt_indexes == 1


def test_no_index_is_made_to_follow_a_damaged_row(path, open_journal):
    data = path.read_bytes()
    start = data.index(b"job-017queued")  # as the table has it
    path.write_bytes(data[:start] + b"job-0q7" + data[start + 7 :])
    journal = open_journal()
    assert journal.find("job-017").damaged
    assert (journal.counts().damaged_records, journal.counts().rebuilt_indexes) == (1, 0)
