"""Webhook deliveries are on disk with the moves that cause them, and go with their jobs."""

from __future__ import annotations

import sqlite3

import msgspec
import pytest

from broker.core.deliveries import Delivery
from broker.runtime.errors import JournalConflict
from tests.journal.first_schema import SCHEMA_1
from tests.journal.full_disk import Reserve, large
from tests.journal.jobs import finish, give, new_job, put


def delivery(number: int, job_id: str = "a", event: str = "completed", **fields) -> Delivery:
    fields = {"created_at": 102.0, "due_at": 102.0, **fields}
    return Delivery(number=number, job_id=job_id, event=event, **fields)


def with_job(journal, job_id: str = "a") -> None:
    put(journal, finish(give(new_job(job_id, webhook="https://c.example/"), 5)))


def test_it_is_seen_at_once_and_on_disk_after_the_commit(journal, open_journal):
    job = new_job("a", webhook="https://c.example/", webhook_events=("completed", "failed"))
    put(journal, job)
    journal.stage(finish(give(job, 5)))
    full = delivery(
        7, state="failed", claim=(3 << 32) + 1, attempts=10, status=503, note="busy", created_at=1.5, due_at=2.5
    )
    journal.deliveries.stage(full)
    assert journal.dirty
    assert journal.deliveries.find(7) == full
    assert journal.deliveries.of_job("a") == [full]
    assert journal.commit() == 2
    assert not journal.dirty
    journal.close()
    after = open_journal()
    assert after.deliveries.of_job("a") == [full]
    assert after.find("a").submission.webhook_events == ("completed", "failed")


def test_a_commit_of_hooks_leaves_lazy_rows_for_later(journal):
    job = new_job("b")
    put(journal, job)
    with_job(journal)
    journal.stage(give(job, 6), lazy=True)
    journal.deliveries.stage(delivery(7))
    assert len(journal.deliveries.due(200.0, 5)[0]) == 1
    assert journal.commit(lazy=False) == 1
    assert journal.dirty


def test_a_jobs_own_can_be_read_while_it_moves(journal, open_journal):
    job = new_job("a")
    put(journal, job)
    journal.stage(give(job, 5))
    journal.deliveries.stage(delivery(7, event="started"))
    finish(job)
    assert [one.number for one in journal.deliveries.of_job("a")] == [7]
    assert journal.deliveries.find(7) is not None
    journal.stage(job)
    journal.deliveries.stage(delivery(8))
    journal.commit()
    journal.close()
    after = open_journal()
    assert after.find("a").state == "succeeded"
    assert [one.event for one in after.deliveries.of_job("a")] == ["started", "completed"]


def test_without_a_commit_it_is_gone(journal, open_journal):
    with_job(journal)
    journal.deliveries.stage(delivery(7))
    journal.flush()
    journal.close()
    assert open_journal().deliveries.find(7) is None


def test_due_ones_come_in_order_and_the_next_is_named(journal):
    with_job(journal)
    with_job(journal, "b")
    journal.deliveries.stage(delivery(1, due_at=30.0))
    journal.deliveries.stage(delivery(2, "b", due_at=10.0))
    journal.deliveries.stage(delivery(3, "b", "started", due_at=20.0))
    journal.deliveries.stage(delivery(4, "a", "started", due_at=5.0, state="delivered"))
    assert [
        [one.number for one in found]
        for found, _ in (journal.deliveries.due(25.0, 10), journal.deliveries.due(25.0, 1))
    ] == [
        [2, 3],
        [2],
    ]
    assert [journal.deliveries.due(*query)[1] for query in ((25.0, 10), (25.0, 1), (30.0, 10))] == [30.0, 20.0, None]


def test_only_pending_ones_are_looked_through(journal):
    plan = " ".join(
        str(row[3])
        for row in journal.store.connection.execute(
            "EXPLAIN QUERY PLAN SELECT number FROM hook WHERE hook.state = 'pending' ORDER BY hook.due_at, hook.number LIMIT 9"
        )
    )
    assert "hook_due" in plan
    assert "TEMP B-TREE" not in plan


def test_a_change_takes_the_place_of_what_was(journal, open_journal):
    with_job(journal)
    first = delivery(7)
    journal.deliveries.stage(first)
    journal.commit()
    changed = msgspec.structs.replace(first, state="delivered", attempts=2, status=204)
    journal.deliveries.stage(changed)
    journal.commit()
    journal.close()
    assert open_journal().deliveries.of_job("a") == [changed]


def test_it_goes_with_its_job(journal, open_journal):
    with_job(journal)
    with_job(journal, "b")
    journal.deliveries.stage(delivery(7))
    journal.deliveries.stage(delivery(8, "b"))
    journal.forget("a")
    assert journal.deliveries.find(7) is None
    journal.commit()
    journal.close()
    after = open_journal()
    assert [after.deliveries.find(number) is None for number in (7, 8)] == [True, False]
    assert after.store.connection.execute("SELECT count(*) FROM hook").fetchone() == (1,)


@pytest.mark.parametrize("wrong", [delivery(7, "nobody"), delivery(8)])
def test_one_that_fits_no_job_or_tells_the_same_again_is_a_bug(journal, wrong):
    with_job(journal)
    journal.deliveries.stage(delivery(7 if wrong.number == 8 else 9))
    journal.commit()
    journal.deliveries.stage(wrong)
    with pytest.raises(JournalConflict, match="webhook delivery"):
        journal.commit()


def test_a_full_disk_loses_none_and_brings_none_back(open_journal):
    reserve = Reserve(more_pages=1000)
    journal = open_journal(release_reserve=reserve.release)
    with_job(journal)
    with_job(journal, "b")
    journal.deliveries.stage(delivery(7))
    journal.deliveries.stage(delivery(8, "b"))
    journal.forget("a")
    reserve.fill(journal)
    for n in range(5):
        journal.stage(large(n))
    journal.commit()
    assert reserve.released == 1
    journal.close()
    after = open_journal()
    assert [after.deliveries.find(number) is None for number in (7, 8)] == [True, False]


def test_a_file_of_the_first_schema_is_upgraded(tmp_path, open_journal):
    connection = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    connection.executescript(SCHEMA_1)
    head = msgspec.msgpack.encode(["default", 5, 1, 1.0, 0.0])
    tail = msgspec.msgpack.encode([1, 0, 0, 0, 0, "", "normal", [], 0.0, 0.0, 0.0, 0.0, None, None, []])
    connection.execute(
        "INSERT INTO job VALUES (1, 'a', 'queued', 0, '', 'native', 'mine', 'demo', '', 100.0, ?)", (tail,)
    )
    connection.execute("INSERT INTO spec VALUES (1, ?, x'00')", (head,))
    connection.close()
    journal = open_journal()
    assert journal.epoch == 5
    (job,) = journal.live()
    assert (job.id, job.submission.webhook, job.submission.tenant) == ("a", "", "default")
    assert journal.deliveries.due(1e9, 5) == ([], None)
    journal.stage(finish(give(job, 6)))
    journal.deliveries.stage(delivery(7))
    journal.commit()
    journal.close()
    after = open_journal()
    assert after.find_alias("native", "mine").state == "succeeded"
    assert after.deliveries.find(7) is not None
