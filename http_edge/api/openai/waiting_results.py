"""Requests answered with the result: wait for the job while the client is connected, and cancel it when the client leaves."""

from __future__ import annotations

import logging

from starlette.requests import Request

from broker.runtime.log_actions import Action
from broker.wire.failures import FailureKind, Fault
from http_edge.api.common.waiting import cancel_quietly
from http_edge.base.context import current
from http_edge.base.error_table import Kind
from http_edge.base.errors import EdgeError
from http_edge.http.disconnect import ClientGone, while_present
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService

log = logging.getLogger(__name__)

#: What is to mend in a failed job -> error of the request that waited for it.
_ERRORS: dict[Fault, Kind] = {"input": "unsupported", "time": "wait_timeout", "service": "job_failed"}


async def drawn(calls: JobService, request: Request, job: Job, timeout_s: float) -> Job:
    """The job, succeeded. Raises `EdgeError` with how else it ended, and `ClientGone` when the client left: it is cancelled then."""
    is_over = False
    try:
        is_over = await while_present(request, calls.follower.wait_final([job.id], timeout_s))
    except ClientGone:
        fate = "goes on" if current().job_key else "is cancelled"
        log.info(
            "client left before its job was over", extra={"action": Action.CLIENT_GONE, "job_id": job.id, "job": fate}
        )
        raise
    finally:
        # Also when the broker is away, or this server is being stopped: the result would not be fetched.
        if not is_over:
            await cancel_quietly(calls, job.id)
    if not is_over:
        raise unfinished(calls, job.id, timeout_s)
    return succeeded(await calls.jobs.get(job.id))


def unfinished(calls: JobService, job_id: str, timeout_s: float) -> EdgeError:
    """Build the error for a wait that ended before its job."""
    fate = "goes on" if current().job_key else "was cancelled"
    if calls.hub.closed:
        return EdgeError("shutting_down", f"the service is stopping; job {job_id} {fate}", retry_after_s=5.0)
    return EdgeError("wait_timeout", f"job {job_id} did not end within {timeout_s:g} s and {fate}")


def succeeded(job: Job) -> Job:
    """The job, if it succeeded and made a file. Raises `EdgeError`."""
    view = job.view
    if view.state == "cancelled":
        raise EdgeError("job_cancelled", f"job {job.id} was cancelled", code="cancelled")
    if view.state == "failed":
        kind, message = (view.failure.kind, view.failure.message) if view.failure else (FailureKind.ENGINE_ERROR, "")
        message = message or f"job {job.id} failed: {kind}"
        raise EdgeError(_ERRORS[kind.rules.fault], message, code=kind)
    if view.result is None or not view.result.artefacts:
        raise EdgeError("job_failed", f"job {job.id} made no file", code=FailureKind.ENGINE_ERROR)
    return job
