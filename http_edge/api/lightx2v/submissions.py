"""Submission of tasks of LightX2V's second and third generation: from a request to a job in the queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct
from starlette.requests import Request

from http_edge.api.lightx2v.task_fields import TaskRequest, read_task
from http_edge.api.lightx2v.views import TASKS_ORIGIN, Tasks, origin_of
from http_edge.base.errors import EdgeError, invalid
from http_edge.body.forms import read_fields
from http_edge.jobs.fields import FIELDS
from http_edge.jobs.input_files import input_files
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.jobs.submission import Submission
from http_edge.jobs.webhook_fields import read_webhook

ORIGIN = TASKS_ORIGIN

#: How old a view of the pool may be for naming the queue's limit in an error.
_LIMIT_FRESH_S = 60.0


class AcceptedTask(Struct, frozen=True):
    """A task that is in the queue, and the request that it came with."""

    job: Job
    request: TaskRequest


class TaskSubmitter:
    """Takes tasks; `tasks` are those that it took, ever."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls
        self._worker = calls.settings.worker
        self.tasks = Tasks(calls, origin_of(ORIGIN, self._worker), unique=True)

    async def submit(
        self, request: Request, output: str, *, check_url: Callable[[str], Awaitable[None]] | None = None
    ) -> AcceptedTask:
        """Take the task in a request. Raises `EdgeError`; `ClientDisconnect`.

        `check_url` checks a URL to which the result is to be put; without it there can be none.
        """
        async with await read_fields(request) as fields:
            upload = fields.upload(*FIELDS["image"].names)
            task = read_task(fields, upload, output=output)
            webhook = read_webhook(fields.values)
            if task.presigned_url and check_url is None:
                raise invalid("presigned_url", task.presigned_url, "is taken by /v1/tasks/image/sync only")
            if task.presigned_url and check_url is not None:
                await check_url(task.presigned_url)
            image = None if upload is None else await self._calls.inputs.image(upload.field, upload, allow_paths=False)
            inputs = await self._calls.inputs.uploaded(input_files(fields.uploads))
        submission = Submission(
            generation=task.generation,
            warnings=task.warnings,
            image=image,
            inputs=inputs,
            origin=self.tasks.origin,
            alias=task.task_id,
            alias_unique=True,
            worker=self._worker,
            echo=task.echo,
            webhook=webhook,
        )
        try:
            job, _ = await self._calls.submit(submission)
        except EdgeError as error:
            raise await self._as_lightx2v_error(error, task.task_id) from None
        self.tasks.remember(job)
        return AcceptedTask(job, task)

    async def _as_lightx2v_error(self, error: EdgeError, task_id: str) -> EdgeError:
        if error.kind == "alias_taken":
            return EdgeError("alias_taken", f"Task ID {task_id} already exists", param="task_id")
        if error.kind == "queue_full":
            limit = await self._queue_limit()
            most = f" (max {limit} tasks)" if limit else ""
            message = f"Task queue is full{most}: {error.message}"
            return EdgeError("queue_full", message, retry_after_s=error.retry_after_s)
        return error

    async def _queue_limit(self) -> int:
        try:
            return (await self._calls.catalogue.pool(_LIMIT_FRESH_S)).queue_limit
        except EdgeError:
            return 0
