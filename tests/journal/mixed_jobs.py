"""A mix of jobs of every state, and the pages of a list of them."""

from __future__ import annotations

import msgspec

from broker.core.jobs import Cause, Job
from broker.wire import messages as m
from tests.journal.jobs import fail, finish, give, new_job, put

STATES = ("queued", "running", "succeeded", "failed", "cancelled")


def accepted(n: int) -> Job:
    """Job n of the mix; groups of seven share their time of submission."""
    return new_job(
        f"job-{n * 7919 % 1000:03d}",
        at=float(n // 7),
        origin=("native", "lightx2v")[n % 2],
        model=("wan", "flux")[n % 3 == 0],
        tenant=("default", "red", "blue")[n % 3],
    )


def go_on(job: Job, n: int) -> None:
    """To the state that job n has in the mix."""
    state = STATES[n % 5]
    if state != "queued":
        give(job, n + 1, worker=f"gpu-{n % 4}")
    if state == "succeeded":
        finish(job)
    elif state == "failed":
        fail(job)
    elif state == "cancelled":
        job.move(Cause.CANCELLED, 3.0)


def mixed_jobs(archive) -> list[Job]:
    """300 jobs, in the archive; of every second of them it gets what becomes of it later than the job."""
    jobs = [accepted(n) for n in range(300)]
    for n in range(0, 300, 2):
        go_on(jobs[n], n)
    put(archive, *jobs)
    for n in range(1, 300, 2):
        go_on(jobs[n], n)
    put(archive, *[job for job in jobs[1::2] if job.state != "queued"])
    return jobs


def page(archive, query: m.ListJobs) -> tuple[list[Job], bool]:
    """One page, asked for as a client does: again from where the broker stopped looking."""
    found: list[Job] = []
    while True:
        jobs, more, behind, _ = archive.page(query)
        found += jobs
        if not behind:
            return found, more
        query = msgspec.structs.replace(query, limit=query.limit - len(jobs), behind=behind)


def walk(archive, **filters) -> list[str]:
    """All pages, by the last id of each."""
    ids: list[str] = []
    while True:
        jobs, more = page(archive, m.ListJobs(req=1, after=ids[-1] if ids else "", **filters))
        ids += [job.id for job in jobs]
        if not more:
            return ids


def all_ids(archive) -> list[str]:
    """All jobs, oldest first."""
    return walk(archive, limit=100, newest_first=False)
