"""Waiting for a job while its client waits: `Prefer: wait` and `respond-async`, and the cancel of a job whose client left."""

from __future__ import annotations

import contextlib
import math

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from http_edge.base.context import current
from http_edge.base.errors import EdgeError
from http_edge.http.disconnect import ClientGone, while_present
from http_edge.http.prefer import Prefer
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService

#: Seconds for the cancel of a job whose request was given up: the request is over, and must not hang on a broker that does not answer.
_CANCEL_WAIT_S = 2.0

#: Longest time after which to poll a job again.
_MAX_POLL_S = 60

#: When nothing is known of how long it takes.
_POLL_S = 2


async def awaited(calls: JobService, request: Request, prefer: Prefer, job: Job) -> Job:
    """The job as it is when it is final, when the client's time is over, or when it has left. Raises `EdgeError`."""
    if not prefer.wait_s or job.is_final:
        return job
    # The answer to a client that has left is not sent; its wait would hold a place among the listeners.
    with contextlib.suppress(ClientGone):
        await while_present(request, calls.follower.wait_final([job.id], prefer.wait_s))
    return await calls.jobs.get(job.id)


async def cancel_quietly(calls: JobService, job_id: str) -> None:
    """Cancel, whatever happens to this request meanwhile; but not what its client can request again, by its idempotency key."""
    if current().job_key:
        return
    with anyio.move_on_after(_CANCEL_WAIT_S, shield=True), contextlib.suppress(EdgeError):
        await calls.cancel(job_id)


def is_fresh(prefer: Prefer, job: Job) -> bool:
    """Whether an answer to a creation shows the job as it was accepted, rather than as it is."""
    return not (job.is_final or prefer.wait_s or current().replayed)


def with_prefer(response: Response, prefer: Prefer, job: Job, location: str = "") -> Response:
    """The answer about a job, with the status and headers that were preferred; with a `location`, to its creation."""
    response.headers.add_vary_header("Prefer")
    if location:
        response.headers["Location"] = location
    if location and prefer.respond_async and not job.is_final:
        response.status_code = 202
    if location and not job.is_final:
        response.headers["Retry-After"] = str(retry_after_s(job))
    applied = prefer if location else msgspec.structs.replace(prefer, respond_async=False)
    if text := applied.applied():
        response.headers["Preference-Applied"] = text
    return response


def retry_after_s(job: Job) -> int:
    """Return the seconds until a job is worth polling again, as the broker predicts from its queue."""
    eta_s = job.view.eta_s
    return _POLL_S if eta_s < 0 else min(_MAX_POLL_S, max(1, math.ceil(eta_s)))
