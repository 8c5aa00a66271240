"""Deletion of a job with its files; a job that has not ended is cancelled first."""

from __future__ import annotations

from http_edge.base.errors import EdgeError
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService

#: Longest wait for a cancelled job, seconds: a deletion must answer within 30 s, and the client can repeat it.
STOP_WAIT_S = 20.0


async def delete_job(calls: JobService, job: Job, what: str) -> None:
    """Delete a job and its files. Raises `EdgeError` `still_stopping` when it does not stop in time; `what` is the family's name of it."""
    if not job.is_final:
        outcome, job = await calls.cancel(job.id)
        if outcome == "requested" and not await calls.follower.wait_final([job.id], STOP_WAIT_S):
            message = f"{what} {job.id} is being stopped, which takes longer than {STOP_WAIT_S:g} s; delete it again"
            raise EdgeError("still_stopping", message, retry_after_s=5.0)
    await calls.deletion.delete(job.id)
