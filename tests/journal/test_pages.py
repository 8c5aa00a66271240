"""Pages: every job once, in order, whatever the cursor, the filters and the ties."""

from __future__ import annotations

import msgspec
import pytest

from broker.core.jobs import Cause, Job
from broker.shell.journal import queries
from broker.shell.journal.queries import MAX_PAGE_BYTES
from broker.wire import messages as m
from tests.journal.jobs import fail, finish, give, new_job, put

STATES = ("queued", "running", "succeeded", "failed", "cancelled")


def make(n: int) -> Job:
    """Job n of a mixed crowd; groups of seven share their time of submission."""
    job = new_job(
        f"job-{n * 7919 % 1000:03d}",
        at=float(n // 7),
        origin=("native", "lightx2v")[n % 2],
        model=("wan", "flux")[n % 3 == 0],
        tenant=("default", "red", "blue")[n % 3],
    )
    state = STATES[n % 5]
    if state != "queued":
        give(job, n + 1, worker=f"gpu-{n % 4}")
    if state == "succeeded":
        finish(job)
    elif state == "failed":
        fail(job)
    elif state == "cancelled":
        job.move(Cause.CANCELLED, 3.0)
    return job


@pytest.fixture
def crowd(journal):
    jobs = [make(n) for n in range(300)]
    put(journal, *jobs)
    return jobs


def page(journal, query: m.ListJobs) -> tuple[list[Job], bool]:
    """One page, asked for as a client does: again from where the broker stopped looking."""
    found: list[Job] = []
    while True:
        jobs, more, behind = journal.page(query)
        found += jobs
        if not behind:
            return found, more
        query = msgspec.structs.replace(query, limit=query.limit - len(jobs), behind=behind)


@pytest.fixture(params=[(200, 2000), (3, 5), (1, 1)], ids=["as it is", "few looked at", "one looked at"])
def bounds(request, monkeypatch) -> None:
    """Bounds of one answer, which must not show in what a client gets."""
    monkeypatch.setattr(queries, "MAX_ROWS", request.param[0])
    monkeypatch.setattr(queries, "MAX_LOOKED", request.param[1])


def walk(journal, **filters) -> list[str]:
    """All pages, by the last id of each."""
    ids: list[str] = []
    while True:
        jobs, more = page(journal, m.ListJobs(req=1, after=ids[-1] if ids else "", **filters))
        ids += [job.id for job in jobs]
        if not more:
            return ids


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 64, 300, 1000])
def test_pages_join_to_all_jobs_in_order(journal, crowd, bounds, limit, newest_first):
    expected = [job.id for job in crowd]
    if newest_first:
        expected.reverse()
    assert walk(journal, limit=limit, newest_first=newest_first) == expected


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    "filters",
    [
        {"states": ("queued",)},
        {"states": ("running", "failed", "cancelled")},
        {"states": ("succeeded",)},
        {"states": ("succeeded", "queued")},
        {"states": STATES},
        {"states": ("delayed", "assigned")},
        {"origin": "native"},
        {"model": "flux", "origin": "lightx2v"},
        {"worker": "gpu-2", "states": ("failed", "queued")},
        {"worker": "gpu-9"},
        {"tenant": "default"},
        {"tenant": "red", "states": ("failed", "queued")},
        {"tenant": "nobody"},
    ],
)
def test_filters_keep_what_matches_in_order(journal, crowd, bounds, filters, newest_first):
    def matches(job: Job) -> bool:
        return (
            (not filters.get("states") or job.state in filters["states"])
            and job.origin == filters.get("origin", job.origin)
            and job.model == filters.get("model", job.model)
            and job.worker == filters.get("worker", job.worker)
            and job.tenant == filters.get("tenant", job.tenant)
        )

    expected = [job.id for job in crowd if matches(job)]
    if newest_first:
        expected.reverse()
    assert walk(journal, limit=9, newest_first=newest_first, **filters) == expected


def test_a_job_that_waits_for_one_worker_is_listed_with_it(journal):
    put(journal, new_job("for-1", pinned="gpu-1"), new_job("for-any"), give(new_job("on-1"), 5, worker="gpu-1"))
    assert walk(journal, worker="gpu-1", newest_first=False) == ["for-1", "on-1"]


def test_a_page_that_ends_with_the_last_job_says_so(journal, crowd, bounds):
    jobs, more = page(journal, m.ListJobs(req=1, limit=300))
    assert (len(jobs), more) == (300, False)
    jobs, more = page(journal, m.ListJobs(req=1, limit=299))
    assert (len(jobs), more) == (299, True)


def test_a_page_of_none_says_whether_there_are_any(journal, bounds):
    assert page(journal, m.ListJobs(req=1, limit=0)) == ([], False)
    put(journal, new_job("job-1"))
    assert page(journal, m.ListJobs(req=1, limit=0)) == ([], True)


def test_behind_an_unknown_job_there_is_nothing(journal, crowd):
    assert page(journal, m.ListJobs(req=1, after="nobody")) == ([], False)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("deleted", [0, 10, 150, 299])
def test_behind_a_deleted_job_it_goes_on_where_that_was(journal, newest_first, deleted):
    """Who deletes what it lists must reach the end."""
    jobs = [new_job(f"job-{n:03d}", at=1000.0 + n) for n in range(300)]
    for job in jobs:
        give(job, 1)
        finish(job)
    put(journal, *jobs)
    victim = jobs[deleted]
    journal.forget(victim.id)
    journal.commit()
    found, more = page(
        journal, m.ListJobs(req=1, limit=1000, after=victim.id, after_at=victim.submitted_at, newest_first=newest_first)
    )
    rest = jobs[:deleted][::-1] if newest_first else jobs[deleted + 1 :]
    assert ([job.id for job in found], more) == ([job.id for job in rest], False)


def test_a_time_before_or_after_all_jobs_is_an_end(journal, crowd):
    def count(at: float, newest_first: bool) -> int:
        query = m.ListJobs(req=1, limit=1000, after="nobody", after_at=at, newest_first=newest_first)
        return len(page(journal, query)[0])

    assert (count(1e9, True), count(1e9, False)) == (300, 0)
    assert (count(0.001, True), count(0.001, False)) == (7, 293)


def test_a_cursor_stays_good_when_its_job_moves_or_others_come(journal, crowd):
    first, _ = page(journal, m.ListJobs(req=1, limit=10))
    put(journal, new_job("late"))
    rest = walk_after(journal, first[-1].id)
    assert rest == [job.id for job in reversed(crowd)][10:]


def walk_after(journal, after: str) -> list[str]:
    jobs, more = page(journal, m.ListJobs(req=1, after=after, limit=1000))
    assert not more
    return [job.id for job in jobs]


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
        {"states": ("failed",), "worker": "nosuch"},
        {"states": ("failed", "cancelled", "queued"), "model": "nosuch"},
        {"states": ("succeeded", "failed"), "model": "nosuch"},
    ],
)
@pytest.mark.parametrize("newest_first", [True, False])
def test_however_few_match_one_answer_looks_at_a_bounded_number_of_rows(
    journal, crowd, monkeypatch, filters, newest_first
):
    monkeypatch.setattr(queries, "MAX_LOOKED", 10)
    seen: list[str] = []
    journal._connection.create_function("looked", 1, lambda n: seen.append(n) or 1)
    condition = queries._condition

    def counting(query, states):
        text, parameters = condition(query, states)
        return f"looked(n) AND {text}", parameters

    monkeypatch.setattr(queries, "_condition", counting)
    query = m.ListJobs(req=1, newest_first=newest_first, **filters)
    answers = 0
    while True:
        seen.clear()
        found, more, behind = journal.page(query)
        assert (found, more) == ([], False)
        # Of each of several states some rows are read ahead, to merge them.
        assert len(seen) <= 10 + 6
        answers += 1
        if not behind:
            break
        query = msgspec.structs.replace(query, behind=behind)
    assert answers <= 300 / 10 + 1


def test_the_newest_of_a_name_is_found_among_many_of_it(journal):
    for n in range(30):
        put(journal, new_job(f"job-{n}", origin="native", alias="same", tenant=("red", "default", "blue")[n % 3]))
    steps: list[str] = []
    journal._connection.set_trace_callback(steps.append)
    assert journal.find_alias("native", "same").id == "job-29"
    assert journal.find_alias("native", "same", "red").id == "job-27"
    assert journal.find_alias("native", "same", "green") is None
    assert len(steps) < 20
