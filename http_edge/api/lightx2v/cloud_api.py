"""LightX2V's cloud API (`/api/v1/task/*`), as its command-line clients call it: one pool, tasks of four kinds, results by URL.

Its accounts, billing and sharing are not here: a bearer token is the business of whatever stands before all APIs. Its server answered 500
to most that went wrong; here a wrong request is 400, an unknown task 404.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.jobspec import Scalar
from http_edge.api.common.job_files import job_file
from http_edge.api.common.operations import FILE_ANSWERS, RANGES
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.cloud_json import STATUSES, cloud_models, cloud_task, output_name, params_of, worker_of
from http_edge.api.lightx2v.operations import BY_TASK_ID, CLOUD, TASK_ID
from http_edge.api.lightx2v.task_fields import MAX_TASK_ID_CHARS, TASKS, read_cloud
from http_edge.api.lightx2v.views import Tasks, warnings_member
from http_edge.base.error_table import Kind
from http_edge.base.errors import EdgeError, invalid
from http_edge.body.fields import Reader, missing
from http_edge.body.forms import read_fields
from http_edge.body.json_body import json_response, read_object
from http_edge.http.file_response import download
from http_edge.http.operation import (
    BODY,
    BROKER,
    DOWNLOAD,
    FILES,
    LOOKUP,
    MAKE,
    QUERY,
    Answer,
    Body,
    Handler,
    Param,
    again,
    operation,
)
from http_edge.http.routing import EdgeRoute, base_url, route
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.jobs.submission import Submission
from http_edge.jobs.webhook_fields import read_webhook
from http_edge.media.artefacts import find_artefact

ORIGIN = "lightx2v-cloud"

_RESULT = "/assets/task/result"
_DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE = 10, 100
_MAX_IDS = 100

_Status = Literal["ALL", "CREATED", "PENDING", "RUNNING", "SUCCEED", "FAILED", "CANCEL"]
_NEXT = ("cloudQuery", "cloudResultUrl", "cloudResult", "cloudCancelByGet", "cloudResumeByGet", "cloudDelete")
_DONE = {200: Answer(about="It is done.", types=(lx.CloudDone,))}
_NAMED: tuple[Kind, ...] = (*LOOKUP, *BODY, "unsupported", "forbidden")


class LightX2VCloudApi:
    """Handlers of the cloud API."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls
        self._tasks = Tasks(calls, ORIGIN, unique=False)

    def routes(self) -> list[EdgeRoute]:
        """Routes of this API. Cancelling and resuming were GET in the server and are POST in its newer clients."""
        return [
            route("/api/v1/model/list", GET=self.models),
            route("/api/v1/task/submit", POST=self.submit),
            route("/api/v1/task/query", GET=self.query),
            route("/api/v1/task/result_url", GET=self.result_url),
            route("/api/v1/task/list", expensive_get=True, GET=self.list),
            route("/api/v1/task/cancel", get_changes=True, GET=self.cancel, POST=_by_body(self.cancel, "cloudCancel")),
            route("/api/v1/task/resume", get_changes=True, GET=self.resume, POST=_by_body(self.resume, "cloudResume")),
            route("/api/v1/task/delete", DELETE=self.delete),
            route(_RESULT, GET=self.result),
        ]

    @operation(
        "cloudModels",
        CLOUD,
        answers={200: Answer(about="The models.", types=(lx.CloudModels,))},
        errors=BROKER,
    )
    async def models(self, request: Request) -> Response:
        """Which kind of task each model can do."""
        return json_response(lx.CloudModels(models=cloud_models(await self._calls.catalogue.cards())))

    @operation(
        "cloudSubmit",
        CLOUD,
        body=Body(type=lx.CloudRequest),
        answers={200: Answer(about="It was taken.", types=(lx.CloudTaken,), links=_NEXT)},
        errors=MAKE,
        keyed=True,
    )
    async def submit(self, request: Request) -> Response:
        """Take a task."""
        async with await read_fields(request) as fields:
            submission = await self._read(fields.values, fields.uploads)
        job, _ = await self._calls.submit(submission)
        pool = await self._calls.catalogue.pool()
        return json_response(
            lx.CloudTaken(
                task_id=job.view.submission.alias,
                workers={"pipeline": worker_of(job)},
                params=params_of(job),
                wait_time=round(pool.wait_s, 3),
                warnings=warnings_member(job),
            )
        )

    @operation(
        "cloudQuery",
        CLOUD,
        params=(BY_TASK_ID, Param(name="task_ids", about="Several ids, with commas, at most 100.")),
        answers={200: Answer(about="The task, or the tasks that exist.", types=(lx.CloudTask, lx.CloudTasks))},
        errors=(*LOOKUP, *QUERY),
    )
    async def query(self, request: Request) -> Response:
        """One task, or several."""
        names = request.query_params.get("task_ids")
        if names is None:
            return json_response(cloud_task(await self._find(request.query_params.get("task_id"))))
        ids = [name.strip() for name in names.split(",") if name.strip()]
        if len(ids) > _MAX_IDS:
            raise invalid("task_ids", names, f"names {len(ids)} tasks, at most {_MAX_IDS}", place="query")
        found = [await self._tasks.find(task_id) for task_id in ids]
        return json_response(lx.CloudTasks(tasks=[cloud_task(job) for job in found if job is not None]))

    @operation(
        "cloudResultUrl",
        CLOUD,
        params=(TASK_ID, Param(name="name", about="output_video or output_image.")),
        answers={200: Answer(about="The address.", types=(lx.CloudUrl,))},
        errors=(*LOOKUP, *QUERY, "not_ready"),
    )
    async def result_url(self, request: Request) -> Response:
        """Address of a finished task's file."""
        job, name = await self._finished(request)
        query = urlencode({"task_id": job.view.submission.alias, "name": name})
        return json_response(lx.CloudUrl(url=f"{base_url(request, self._calls.settings.public_url)}{_RESULT}?{query}"))

    @operation(
        "cloudResult",
        CLOUD,
        params=(TASK_ID, Param(name="name", about="output_video or output_image."), *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, *QUERY),
    )
    async def result(self, request: Request) -> Response:
        """A finished task's file."""
        job, _ = await self._finished(request)
        index, artefact = find_artefact(job.view)
        name = f"{job.view.submission.alias}.{artefact.name.rpartition('.')[2]}"
        return await download(request, job_file(self._calls, job, index, artefact, name=name, inline=False))

    @operation(
        "cloudList",
        CLOUD,
        params=(
            Param(name="page", type=Annotated[int, Meta(ge=1, le=1_000_000)], about="From 1."),
            Param(name="page_size", type=Annotated[int, Meta(ge=1, le=100)], about="Default 10."),
            Param(name="status", type=_Status, about="Default ALL."),
        ),
        answers={200: Answer(about="The page.", types=(lx.CloudPage,))},
        errors=(*BROKER, *QUERY),
    )
    async def list(self, request: Request) -> Response:
        """A page of tasks, newest first."""
        reader = Reader(request.query_params, place="query")
        page = reader.integer("page", 1, 1_000_000) or 1
        size = reader.integer("page_size", 1, _MAX_PAGE_SIZE) or _DEFAULT_PAGE_SIZE
        status = (reader.text("status", max_chars=16, min_chars=1) or "ALL").upper()
        if status not in ("ALL", *STATUSES):
            raise reader.fault("status", f"must be ALL or one of {', '.join(STATUSES)}")
        newest: dict[str, Job] = {}
        listed = self._tasks.listed()
        async for job in listed:
            # A task that was resumed has several jobs; the newest is what it is now.
            newest.setdefault(job.view.submission.alias, job)
        tasks = [job for job in newest.values() if status == "ALL" or job.view.state in STATUSES[status]]
        shown = tasks[(page - 1) * size : page * size]
        pagination = lx.CloudPagination(page=page, page_size=size, total=len(tasks), total_pages=-(-len(tasks) // size))
        body = lx.CloudPage(tasks=[cloud_task(job) for job in shown], pagination=pagination)
        return json_response(body, headers=listed.headers())

    @operation("cloudCancelByGet", CLOUD, params=(TASK_ID,), answers=_DONE, errors=_NAMED)
    async def cancel(self, request: Request) -> Response:
        """Stop a task."""
        # The answer does not wait for its worker.
        job = await self._find(await _task_id(request))
        outcome, job = await self._calls.cancel(job.id)
        if outcome == "already_final":
            state = cloud_task(job).status
            raise EdgeError(
                "unsupported", f"Task {job.view.submission.alias} cancel failed: it is {state}", code="already_final"
            )
        return json_response(lx.CloudDone(msg="Task cancelled successfully"))

    @operation("cloudResumeByGet", CLOUD, params=(TASK_ID,), answers=_DONE, errors=(*_NAMED, *MAKE))
    async def resume(self, request: Request) -> Response:
        """Draw a failed or cancelled task once more."""
        job = await self._find(await _task_id(request))
        if job.view.state not in ("failed", "cancelled"):
            state = cloud_task(job).status
            raise EdgeError(
                "unsupported", f"Task {job.view.submission.alias} resume failed: it is {state}", code="not_resumable"
            )
        await self._calls.repeat(job)
        return json_response(lx.CloudDone(msg="ok"))

    @operation(
        "cloudDelete",
        CLOUD,
        params=(BY_TASK_ID,),
        answers={200: Answer(about="It is done.", types=(lx.CloudDeleted,))},
        errors=_NAMED,
    )
    async def delete(self, request: Request) -> Response:
        """Delete a task that is over.

        The id may come in the query or in a JSON body.
        """
        # What the task was before it was resumed goes, too.
        task_id = await _task_id(request)
        job: Job | None = await self._find(task_id)
        while job is not None:
            if not job.is_final:
                raise EdgeError("unsupported", "Only finished tasks can be deleted", code="not_finished")
            await self._calls.deletion.delete(job.id)
            job = await self._tasks.find(job.view.submission.alias)
        return json_response(lx.CloudDeleted(message="Task deleted successfully"))

    # ------------------------------------------------------------ parts

    async def _read(self, values: Mapping[str, Any], files: Mapping[str, Any]) -> Submission:
        own = Reader(values)
        task = own.required_text("task", max_chars=64)
        if task not in TASKS:
            raise own.fault("task", f"is not supported; supported: {', '.join(TASKS)}")
        source = _image_source(values.get("input_image"))
        reading = read_cloud(values, task, source, files)
        generation = reading.generation
        if TASKS[task][1] and not source:
            raise missing(["input_image"])
        image = await self._calls.inputs.image("input_image", source, allow_paths=False) if source else None
        echo: dict[str, Scalar] = {"task": task, "model_cls": generation.model or ""}
        echo |= {name: values[name] for name in ("stage", "aspect_ratio") if isinstance(values.get(name), str)}
        return Submission(
            # Errors of the model's choice show the name only: base64 is no reading.
            generation=msgspec.structs.replace(generation, image=source[:64]),
            warnings=reading.warnings,
            image=image,
            origin=ORIGIN,
            alias=str(uuid.uuid4()),
            echo=echo,
            webhook=read_webhook(values),
        )

    async def _find(self, task_id: str | None) -> Job:
        if not task_id:
            raise missing(["task_id"], place="query")
        job = await self._tasks.find(task_id)
        if job is None:
            raise EdgeError("not_found", f"Task {task_id[:MAX_TASK_ID_CHARS]} not found", param="task_id")
        return job

    async def _finished(self, request: Request) -> tuple[Job, str]:
        """The task in the query, and the name of its output, which the query may give. Raises `EdgeError`."""
        job = await self._find(request.query_params.get("task_id"))
        name = output_name(job)
        given_name = request.query_params.get("name") or name
        if job.view.state != "succeeded":
            raise EdgeError("not_ready", f"Task {job.view.submission.alias} not succeed", param="task_id")
        if given_name != name:
            message = f"Output {given_name[:64]} not found in task {job.view.submission.alias}; there is {name}"
            raise EdgeError("not_found", message, param="name")
        return job, name


def _by_body(handler: Handler, name: str) -> Handler:
    """The handler for POST, where the id may come in a body."""
    return again(
        handler,
        name,
        params=(),
        body=Body(type=lx.TaskIdRequest, forms=False),
        about="The id may come in the query or in a JSON body.",
    )


async def _task_id(request: Request) -> str | None:
    task_id = request.query_params.get("task_id")
    if task_id is None and request.method != "GET":
        task_id = Reader(await read_object(request)).text("task_id", max_chars=MAX_TASK_ID_CHARS)
    return task_id


def _image_source(value: Any) -> str:
    """The picture in `{"type": "url" or "base64", "data": ...}`, or as text; "" when there is none. Raises `EdgeError`."""
    if value is None:
        return ""
    if isinstance(value, dict):
        kind = value.get("type", "url")
        if kind not in ("url", "base64"):
            raise invalid("input_image.type", kind, 'must be "url" or "base64"')
        value = value.get("data")
    if not isinstance(value, str):
        raise invalid("input_image", value, 'is not {"type": "url" or "base64", "data": text}')
    return value.strip()
