"""Pages and names in the file: how much one answer reads, and what it then says. What a page holds: `test_archive_conformance`."""

from __future__ import annotations

import msgspec
import pytest

from broker.shell.journal import queries
from broker.shell.journal.queries import MAX_PAGE_BYTES
from broker.wire import messages as m
from tests.journal.jobs import new_job, put
from tests.journal.mixed_jobs import mixed_jobs, page, walk


def test_a_page_of_large_specs_is_cut_short_and_says_more(journal):
    size = 512 * 1024
    put(journal, *[new_job(f"job-{n:02d}", body=bytes(size)) for n in range(20)])
    jobs, more = page(journal, m.ListJobs(req=1, limit=20))
    assert more
    assert len(jobs) == MAX_PAGE_BYTES // size
    assert walk(journal, limit=20, newest_first=False) == [f"job-{n:02d}" for n in range(20)]


@pytest.mark.parametrize(
    "filters",
    [
        {"worker": "nosuch"},
        {"origin": "nosuch"},
        {"model": "nosuch", "tenant": "red"},
        {"tenant": "nosuch"},
        {"text": "nosuch"},
        {"states": ("failed",), "worker": "nosuch"},
        {"states": ("failed", "cancelled", "queued"), "model": "nosuch"},
        {"states": ("succeeded", "failed"), "model": "nosuch"},
    ],
)
@pytest.mark.parametrize("newest_first", [True, False])
def test_however_few_match_one_answer_looks_at_a_bounded_number_of_rows(journal, monkeypatch, filters, newest_first):
    journal.live()
    mixed_jobs(journal)
    monkeypatch.setattr(queries, "MAX_LOOKED", 10)
    seen: list[str] = []
    journal.store.connection.create_function("looked", 1, lambda n: seen.append(n) or 1)
    condition = queries._condition

    def counting(query, states):
        text, parameters = condition(query, states)
        return f"looked(job.n) AND {text}", parameters

    monkeypatch.setattr(queries, "_condition", counting)
    query = m.ListJobs(req=1, newest_first=newest_first, **filters)
    answers = 0
    while True:
        seen.clear()
        found, more, behind, _ = journal.page(query)
        assert (found, more) == ([], False)
        # Of each of several states some rows are read ahead, to merge them.
        assert len(seen) <= 10 + 10
        answers += 1
        if not behind:
            break
        query = msgspec.structs.replace(query, behind=behind)
    assert answers <= 300 / 10 + 1


def test_the_newest_of_a_name_is_found_among_many_of_it(journal):
    for n in range(30):
        put(journal, new_job(f"job-{n}", origin="native", alias="same", tenant=("red", "default", "blue")[n % 3]))
    steps: list[str] = []
    journal.store.connection.set_trace_callback(steps.append)
    assert journal.find_alias("native", "same").id == "job-29"
    assert journal.find_alias("native", "same", "red").id == "job-27"
    assert journal.find_alias("native", "same", "green") is None
    assert len(steps) < 20
