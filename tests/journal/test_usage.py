"""The table of what was used: over restarts, upgrades and days."""

from __future__ import annotations

from broker.core.calendar import Calendar
from broker.shell.journal.clock_record import Record
from broker.wire import messages as m
from tests.journal.jobs import finish, give, new_job, put

DAY = 86_400.0


def used(journal) -> list[tuple[int, int]]:
    rows = journal.usage(m.GetUsage(req=1, first_day=0, last_day=1000, by=("day",)))
    return [(row.day, row.succeeded) for row in rows]


def drawn(job_id: str, at: float):
    return finish(give(new_job(job_id, at=at), 5, at=at), at=at)


def test_usage_outlives_a_restart(journal, open_journal):
    put(journal, drawn("a", 10.0))
    journal.close()
    journal = open_journal()
    assert used(journal) == [(0, 1)]
    put(journal, drawn("b", 20.0))
    assert used(journal) == [(0, 2)]


def test_days_are_those_of_the_wall_clock(journal):
    journal.clock.stage(Record("", 0.0, 0.0, Calendar(ahead_s=3 * DAY)))
    put(journal, drawn("a", 10.0))
    assert used(journal) == [(3, 1)]


def test_usage_of_days_too_long_ago_is_deleted(open_journal):
    journal = open_journal(usage_keep_days=2)
    for day in range(5):
        put(journal, drawn(f"j{day}", day * DAY))
    journal.clock.stage(Record("", 0.0, 4 * DAY + 5, Calendar(settled_at=4 * DAY + 10)))
    journal.commit()
    assert len(used(journal)) == 5, "the clock is not believed yet"
    journal.clock.stage(Record("", 0.0, 4 * DAY + 10, Calendar(settled_at=4 * DAY + 10)))
    journal.commit()
    assert used(journal) == [(2, 1), (3, 1), (4, 1)]


def test_gpus_of_an_attempt_are_counted_also_when_the_broker_starts_again_meanwhile(journal, open_journal):
    job = new_job("a")
    job.held_gpus = 4
    put(journal, give(job, 5, at=101.0))
    journal.close()
    journal = open_journal()
    (job,) = journal.live()
    put(journal, finish(job, at=104.0))
    (row,) = journal.usage(m.GetUsage(req=1, first_day=0, last_day=1000, by=("day",)))
    assert row.gpu_s == 12.0
