"""An image task whose client waits for the image: drawn while the client is there, cancelled when it leaves or its patience ends."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import anyio.to_thread
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from broker.runtime.log_actions import Action
from broker.wire.jobspec import Artefact
from http_edge.api.common.job_files import job_file
from http_edge.api.common.waiting import cancel_quietly
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.operations import IMAGE, TASKS
from http_edge.api.lightx2v.submissions import AcceptedTask, TaskSubmitter
from http_edge.api.lightx2v.views import failure_text, warnings_member
from http_edge.base.errors import EdgeError
from http_edge.body.fields import Reader
from http_edge.body.json_body import json_response
from http_edge.http.disconnect import ClientGone, while_present
from http_edge.http.file_response import whole_file
from http_edge.http.operation import JSON, MAKE, WAIT, Answer, Body, Param, operation
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.media.artefacts import find_artefact
from http_edge.media.fetch import Fetcher

log = logging.getLogger(__name__)

_DEFAULT_TIMEOUT_S = 600
_MAX_TIMEOUT_S = 86_400

_URL_FIELD = "presigned_url"


class SyncTasks:
    """Handler of `POST /v1/tasks/image/sync`."""

    def __init__(self, calls: JobService, submitter: TaskSubmitter, fetcher: Fetcher) -> None:
        self._calls = calls
        self._submitter = submitter
        self._fetcher = fetcher

    @operation(
        "drawImageTask",
        TASKS,
        params=(
            Param(name="timeout_seconds", type=Annotated[int, Meta(ge=1, le=86_400)], about="Default 600."),
            Param(name="poll_interval_seconds", type=Annotated[float, Meta(gt=0)], about="Without effect."),
        ),
        body=Body(type=lx.SyncTaskRequest, files=IMAGE),
        answers={
            200: Answer(about="The image, or where it was put.", types=(lx.UploadedTask,), media=("image/png", JSON))
        },
        errors=(*MAKE, *WAIT, "upload_failed", "too_large"),
        keyed=True,
    )
    async def draw(self, request: Request) -> Response:
        """Draw an image, and wait for it."""
        timeout_s = _read_timeout(request)
        taken = await self._submitter.submit(request, "image", check_url=self._check_url)
        try:
            job = await self._wait(request, taken, timeout_s)
            index, artefact = find_artefact(job.view)
            if not taken.request.presigned_url:
                return await whole_file(job_file(self._calls, job, index, artefact, name="result.png"))
            return await while_present(request, self._upload(taken, job, artefact))
        except ClientGone:
            log.info(
                "client left before its image was drawn", extra={"action": Action.CLIENT_GONE, "job_id": taken.job.id}
            )
            return Response(status_code=499)

    async def _wait(self, request: Request, taken: AcceptedTask, timeout_s: int) -> Job:
        """The task, completed. Raises `EdgeError` for any other end; `ClientGone`."""
        job_id = taken.job.id
        is_over = False
        try:
            is_over = await while_present(request, self._calls.follower.wait_final([job_id], timeout_s))
        finally:
            # Also when the broker is away, or the server itself is being stopped: the result would not be fetched.
            if not is_over:
                await cancel_quietly(self._calls, job_id)
        if not is_over:
            if self._calls.hub.closed:
                raise EdgeError("shutting_down", "the service is stopping", retry_after_s=5.0)
            raise EdgeError("wait_timeout", f"Task {taken.request.task_id} timed out after {timeout_s} seconds")
        job = await self._calls.jobs.get(job_id)
        if job.view.state == "cancelled":
            raise EdgeError("job_cancelled", "Task cancelled by user")
        if job.view.state == "failed":
            bad = job.view.failure is not None and job.view.failure.kind.rules.fault == "input"
            # 413 is what LightX2V's server answers to what its pipeline would not take.
            raise EdgeError("too_large" if bad else "job_failed", failure_text(job.view))
        return job

    async def _upload(self, taken: AcceptedTask, job: Job, artefact: Artefact) -> Response:
        path = await self._calls.results.fetched(job.view, artefact)
        data = await anyio.to_thread.run_sync(_read, path)
        url = taken.request.presigned_url
        await self._fetcher.put(_URL_FIELD, url, data, artefact.media_type)
        return json_response(
            lx.UploadedTask(
                task_id=taken.request.task_id,
                task_status="completed",
                uploaded_to_presigned_url=True,
                presigned_url=url,
                warnings=warnings_member(job),
            )
        )

    async def _check_url(self, url: str) -> None:
        """Raise `EdgeError` for a URL that could not be put to; LightX2V's server answers 400 to these."""
        try:
            await self._fetcher.check(_URL_FIELD, url)
        except EdgeError as error:
            raise EdgeError("unsupported", error.message, param=_URL_FIELD, code="invalid_value") from None


def _read_timeout(request: Request) -> int:
    """Seconds that the client is ready to wait. Raises `EdgeError`."""
    reader = Reader(request.query_params, place="query")
    # An interval is checked and not needed: nothing here polls.
    for name in ("timeout_seconds", "poll_interval_seconds"):
        value = reader.number(name, -1e300, 1e300)
        if value is not None and value <= 0:
            raise EdgeError("unsupported", f"{name} must be > 0", param=name, code="invalid_value")
    timeout_s = reader.integer("timeout_seconds", 0, _MAX_TIMEOUT_S)
    return _DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise EdgeError("gone", f"the file {path.name} is no longer kept") from None
