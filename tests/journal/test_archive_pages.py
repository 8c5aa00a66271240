"""Pages of a list of jobs, alike in every archive."""

from __future__ import annotations

import pytest

from broker.core.jobs import Job
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, encode_spec
from tests.journal.jobs import finish, give, new_job, put
from tests.journal.mixed_jobs import STATES, all_ids, page, walk
from tests.journal.mixed_jobs import mixed_jobs as made_mixed_jobs


@pytest.fixture
def mixed_jobs(archive) -> list[Job]:
    return made_mixed_jobs(archive)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 64, 300, 1000])
def test_pages_join_to_all_jobs_in_order(archive, mixed_jobs, limit, newest_first):
    expected = [job.id for job in mixed_jobs]
    if newest_first:
        expected.reverse()
    assert walk(archive, limit=limit, newest_first=newest_first) == expected


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
def test_filters_keep_what_matches_in_order(archive, mixed_jobs, filters, newest_first):
    def matches(job: Job) -> bool:
        return (
            (not filters.get("states") or job.state in filters["states"])
            and job.submission.origin == filters.get("origin", job.submission.origin)
            and job.submission.model == filters.get("model", job.submission.model)
            and job.worker == filters.get("worker", job.worker)
            and job.submission.tenant == filters.get("tenant", job.submission.tenant)
        )

    expected = [job.id for job in mixed_jobs if matches(job)]
    if newest_first:
        expected.reverse()
    assert walk(archive, limit=9, newest_first=newest_first, **filters) == expected


def test_a_job_that_waits_for_one_worker_is_listed_with_it(archive):
    put(archive, new_job("for-1", pinned="gpu-1"), new_job("for-any"), give(new_job("on-1"), 5, worker="gpu-1"))
    assert walk(archive, worker="gpu-1", newest_first=False) == ["for-1", "on-1"]


def test_a_page_that_ends_with_the_last_job_says_so(archive, mixed_jobs):
    jobs, more = page(archive, m.ListJobs(req=1, limit=300))
    assert (len(jobs), more) == (300, False)
    jobs, more = page(archive, m.ListJobs(req=1, limit=299))
    assert (len(jobs), more) == (299, True)


def test_a_page_of_none_says_whether_there_are_any(archive):
    assert page(archive, m.ListJobs(req=1, limit=0)) == ([], False)
    put(archive, new_job("job-1"))
    assert page(archive, m.ListJobs(req=1, limit=0)) == ([], True)


def test_behind_an_unknown_job_there_is_nothing(archive, mixed_jobs):
    assert page(archive, m.ListJobs(req=1, after="nobody")) == ([], False)


def prompted(job_id: str, prompt: str, at: float) -> Job:
    spec = JobSpec(model="demo", output="image", prompt=prompt, width=64, height=64, num_inference_steps=1, seed=1)
    return new_job(job_id, body=encode_spec(spec), at=at)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"text": "RED"}, [0, 2]),
        ({"text": "猫"}, [1]),
        ({"text": "straße"}, [3]),
        ({"text": "STRASSE"}, [3]),
        ({"text": "demo"}, []),
        ({"since": 1001.0}, [1, 2, 3]),
        ({"until": 1001.0}, [0]),
        ({"since": 1001.0, "until": 1003.0}, [1, 2]),
        ({"since": 1003.0, "until": 1001.0}, []),
        ({"text": "red", "since": 1000.5, "states": ("queued",)}, [2]),
        ({"after": "job-1", "since": 1000.0, "until": 1003.0}, {True: [0], False: [2]}),
    ],
)
def test_jobs_are_found_by_a_text_of_their_prompt_and_by_the_time_they_came(archive, filters, found, newest_first):
    prompts = ("A red circle", "一只猫", "Two RED squares", "die Straße")
    put(archive, *[prompted(f"job-{n}", prompt, 1000.0 + n) for n, prompt in enumerate(prompts)])
    put(archive, new_job("no-spec", body=b"\xc1", at=1010.0))
    jobs, more = page(archive, m.ListJobs(req=1, limit=10, newest_first=newest_first, **filters))
    wanted = [f"job-{n}" for n in (found[newest_first] if isinstance(found, dict) else found)]
    ids = [job.id for job in jobs if job.id != "no-spec"]
    assert (ids, more) == (wanted if isinstance(found, dict) or not newest_first else wanted[::-1], False)
    assert "text" not in filters or len(ids) == len(jobs)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("deleted", [0, 10, 150, 299])
def test_behind_a_deleted_job_it_goes_on_where_that_was(archive, newest_first, deleted):
    """Who deletes what it lists must reach the end."""
    jobs = [new_job(f"job-{n:03d}", at=1000.0 + n) for n in range(300)]
    for job in jobs:
        give(job, 1)
        finish(job)
    put(archive, *jobs)
    victim = jobs[deleted]
    archive.forget(victim.id)
    archive.commit()
    found, more = page(
        archive, m.ListJobs(req=1, limit=1000, after=victim.id, after_at=victim.submitted_at, newest_first=newest_first)
    )
    rest = jobs[:deleted][::-1] if newest_first else jobs[deleted + 1 :]
    assert ([job.id for job in found], more) == ([job.id for job in rest], False)


def test_a_time_before_or_after_all_jobs_is_an_end(archive, mixed_jobs):
    def count(at: float, newest_first: bool) -> int:
        query = m.ListJobs(req=1, limit=1000, after="nobody", after_at=at, newest_first=newest_first)
        return len(page(archive, query)[0])

    assert (count(1e9, True), count(1e9, False)) == (300, 0)
    assert (count(0.001, True), count(0.001, False)) == (7, 293)


def test_a_cursor_stays_good_when_its_job_moves_or_others_come(archive, mixed_jobs):
    first, _ = page(archive, m.ListJobs(req=1, limit=10))
    put(archive, new_job("late"))
    rest = walk_after(archive, first[-1].id)
    assert rest == [job.id for job in reversed(mixed_jobs)][10:]


def walk_after(archive, after: str) -> list[str]:
    jobs, more = page(archive, m.ListJobs(req=1, after=after, limit=1000))
    assert not more
    return [job.id for job in jobs]


def test_a_page_shows_what_is_staged(archive):
    job = new_job("a")
    put(archive, job, new_job("b"))
    archive.stage(give(job, 5), lazy=True)
    archive.stage(new_job("c"))
    assert walk(archive, states=("running",)) == ["a"]
    assert all_ids(archive) == ["a", "b", "c"]
