"""The native API: `/v1/jobs`. Field names are the job spec's, or others that mean the same; an unknown name is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, cast, get_args

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.jobspec import JOB_ID_RULE, Scalar, is_client_id
from broker.wire.messages import JobStateName
from broker.wire.submission import DEFAULT_PRIORITY
from http_edge.api.common import schema_jobs as schema
from http_edge.api.common.job_files import job_file
from http_edge.api.common.job_json import encoded, job_json, step_json, taken_json
from http_edge.api.common.operations import AFTER, FILE_ANSWERS, FOLLOW, FOLLOWED, ORDER, RANGES
from http_edge.api.common.sse import StreamEvent, event_stream
from http_edge.api.common.waiting import awaited, with_prefer
from http_edge.base.errors import EdgeError, invalid
from http_edge.base.limits import LEAST_TIME_S, MOST_TIME_S
from http_edge.body.fields import Reader
from http_edge.body.forms import Fields, Upload, read_fields
from http_edge.body.json_body import json_response
from http_edge.http.file_response import download
from http_edge.http.operation import (
    BROKER,
    DOWNLOAD,
    FILES,
    LOOKUP,
    MAKE,
    QUERY,
    Answer,
    Body,
    Param,
    Tag,
    operation,
)
from http_edge.http.prefer import StatusResponse, read_prefer
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.delete_job import delete_job
from http_edge.jobs.fields import FIELDS
from http_edge.jobs.generation_reader import Policy, read_generation
from http_edge.jobs.input_files import INPUT_FILES, Files, fields_of, input_files, with_files
from http_edge.jobs.job import Job, major_state
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService, Submission
from http_edge.jobs.slices import in_slices
from http_edge.jobs.specs import echoed_image
from http_edge.jobs.webhook_fields import WEBHOOK_FIELDS, read_webhook
from http_edge.media.artefacts import find_artefact
from http_edge.media.previews import newest_preview

_OWN_FIELDS = ("id", "priority", "deadline_s", *WEBHOOK_FIELDS)
POLICY = Policy(refuses_unknown=True, refuses_unsupported=True)

_DEFAULT_LIMIT = 20
_MAX_LIMIT = 200


#: Far beyond every job, and yet a number that clocks have.
_MAX_TIME = 1e11

STATES: tuple[str, ...] = get_args(JobStateName)

TAG = Tag("Jobs", "The native API: every job, whichever API it came by.")

JOB = Param(name="id", place="path", required=True, about="The job's id.")
_NEXT = (
    "showJob",
    "followJob",
    "downloadJobResult",
    "showJobThumbnail",
    "showJobPreview",
    "pinJob",
    "showJobPin",
    "unpinJob",
    "pauseJob",
    "resumeJob",
    "commitJob",
    "cancelJob",
    "deleteJob",
)
_KEPT = {200: Answer(about="Whether it is kept.", types=(schema.JobPin,))}


class JobsApi:
    """Handlers of the native API."""

    def __init__(self, calls: JobService, progress: Progress) -> None:
        self._calls = calls
        self._progress = progress

    def routes(self) -> list[EdgeRoute]:
        """The routes, the most used first."""
        return [
            route("/v1/jobs/{id}", GET=self.show, DELETE=self.delete),
            route("/v1/jobs", expensive_get=True, GET=self.list, POST=self.create),
            route("/v1/jobs/{id}/events", GET=self.events),
            route("/v1/jobs/{id}/result", GET=self.result),
            route("/v1/jobs/{id}/cancel", POST=self.cancel),
            route("/v1/jobs/{id}/pin", GET=self.pinned, PUT=self.pin, DELETE=self.unpin),
        ]

    @operation(
        "createJob",
        TAG,
        body=Body(type=schema.JobRequest, files={"image": False, **INPUT_FILES}),
        answers={
            200: Answer(about="The job.", types=(schema.JobTaken,), links=_NEXT),
            202: Answer(about="The job, with `Prefer: respond-async`.", types=(schema.JobTaken,), links=_NEXT),
        },
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def create(self, request: Request) -> Response:
        """Submit a job.

        200 with the job, also when this very job was there before.
        """
        async with await read_fields(request) as fields:
            submission = await self._read(fields)
            job, duplicate = await self._calls.submit(submission)
        prefer = read_prefer(request)
        job = await awaited(self._calls, request, prefer, job)
        body = taken_json(self._json(job), duplicate=duplicate)
        return with_prefer(json_response(body), prefer, job, body.urls.self)

    @operation(
        "showJob",
        TAG,
        params=(JOB,),
        answers={200: Answer(about="The job.", types=(schema.Job,))},
        errors=LOOKUP,
        prefer=True,
    )
    async def show(self, request: Request) -> Response:
        """One job, with its history."""
        prefer = read_prefer(request)
        job = await self._calls.jobs.get(request.path_params["id"])
        if prefer.wait_s:
            job = await awaited(self._calls, request, prefer, job)
        return StatusResponse(job.json("job", self._whole), prefer)

    @operation(
        "listJobs",
        TAG,
        params=(
            Param(name="limit", type=Annotated[int, Meta(ge=0, le=200)], about="At most so many; default 20."),
            AFTER,
            ORDER,
            Param(name="state", type=list[JobStateName], about="Of these states; commas may stand between them."),
            Param(name="model", type=Annotated[str, Meta(max_length=256)], about="Of this model."),
            Param(name="worker", type=Annotated[str, Meta(max_length=128)], about="Of this worker."),
            Param(
                name="prompt",
                type=Annotated[str, Meta(max_length=256)],
                about="Whose prompt has this text in it, in upper or lower case.",
            ),
            Param(
                name="since",
                type=Annotated[float, Meta(ge=0, le=_MAX_TIME)],
                about="Submitted at this Unix time or later.",
            ),
            Param(
                name="until", type=Annotated[float, Meta(ge=1, le=_MAX_TIME)], about="Submitted before this Unix time."
            ),
        ),
        answers={200: Answer(about="The page.", types=(schema.JobPage,))},
        errors=(*BROKER, *QUERY),
    )
    async def list(self, request: Request) -> Response:
        """A page of jobs.

        Where few of many jobs match, a page can be short, or empty, while `has_more` is true: then `searched_to` is when the last job that
        was looked at was submitted, and the next page goes on from there.
        """
        reader = Reader(request.query_params, place="query")
        order = reader.choice("order", ("asc", "desc")) or "desc"
        limit = reader.integer("limit", 0, _MAX_LIMIT)
        found = await self._calls.jobs.search(
            limit=_DEFAULT_LIMIT if limit is None else limit,
            after=reader.text("after", max_chars=64) or "",
            newest_first=order == "desc",
            states=_read_states(request),
            model=reader.text("model", max_chars=256) or "",
            worker=reader.text("worker", max_chars=128) or "",
            **_read_bounds(reader),
        )
        return json_response(
            schema.JobPage(
                object="list",
                data=await in_slices(found.jobs, lambda job: encoded(job.json("listed", self._json))),
                has_more=found.more,
                first_id=found.jobs[0].id if found.jobs else None,
                last_id=found.last,
                searched_to=found.searched_to,
            )
        )

    @operation(
        "cancelJob",
        TAG,
        params=(JOB,),
        answers={200: Answer(about="What became of it.", types=(schema.JobCancel,))},
        errors=LOOKUP,
    )
    async def cancel(self, request: Request) -> Response:
        """Cancel a job."""
        outcome, job = await self._calls.cancel(request.path_params["id"])
        return json_response(schema.JobCancel(id=job.id, outcome=outcome, job=self._json(job)))

    @operation(
        "deleteJob",
        TAG,
        params=(JOB, Param(name="purge", type=bool, about="Delete it; default false: only cancel it.")),
        answers={200: Answer(about="What became of it.", types=(schema.JobCancel, schema.JobDeleted))},
        errors=(*LOOKUP, *QUERY, "still_stopping"),
    )
    async def delete(self, request: Request) -> Response:
        """Cancel a job, or delete it.

        With `purge` record and files go, a job that is not over being cancelled first; it is 404 from then on.
        """
        if not Reader(request.query_params, place="query").flag("purge"):
            return await self.cancel(request)
        name = request.path_params["id"]
        try:
            job = await self._calls.jobs.get(name)
        except EdgeError as error:
            if error.kind != "damaged":
                raise
            deleted = await self._calls.deletion.delete_damaged(name)
        else:
            await delete_job(self._calls, job, "job")
            deleted = job.id
        return json_response(schema.JobDeleted(id=deleted, object="job.deleted", deleted=True))

    @operation(
        "followJob",
        TAG,
        params=(JOB, *FOLLOW),
        answers=FOLLOWED,
        errors=LOOKUP,
    )
    async def events(self, request: Request) -> Response:
        """A job's changes as server-sent events.

        `state` events hold the whole job, `progress` events what moves. The stream ends after the final event.
        """
        job = await self._calls.jobs.get(request.path_params["id"])
        return await event_stream(self._calls, job, request, self._event)

    @operation(
        "downloadJobResult",
        TAG,
        params=(
            JOB,
            Param(name="name", type=Annotated[str, Meta(max_length=128)], about="The file's name."),
            Param(name="index", type=Annotated[int, Meta(ge=0, le=1000)], about="Its number, from 0."),
            *RANGES,
        ),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=DOWNLOAD,
    )
    async def result(self, request: Request) -> Response:
        """A file of a finished job."""
        job = await self._calls.jobs.get(request.path_params["id"])
        reader = Reader(request.query_params, place="query")
        index, artefact = find_artefact(
            job.view, name=reader.text("name", max_chars=128) or None, index=reader.integer("index", 0, 1000) or 0
        )
        return await download(request, job_file(self._calls, job, index, artefact))

    @operation("showJobPin", TAG, params=(JOB,), answers=_KEPT, errors=(*LOOKUP, "unsupported"))
    async def pinned(self, request: Request) -> Response:
        """Whether a job is kept beyond its time."""
        return await self._pin(request, None)

    @operation("pinJob", TAG, params=(JOB,), answers=_KEPT, errors=(*LOOKUP, "unsupported", "disk_full"))
    async def pin(self, request: Request) -> Response:
        """Keep a job beyond its time and the disk quota."""
        return await self._pin(request, True)

    @operation("unpinJob", TAG, params=(JOB,), answers=_KEPT, errors=(*LOOKUP, "unsupported", "disk_full"))
    async def unpin(self, request: Request) -> Response:
        """Let a job go when its time comes."""
        return await self._pin(request, False)

    async def _pin(self, request: Request, wish: bool | None) -> Response:
        job = await self._calls.jobs.get(request.path_params["id"])
        pinned = await self._calls.deletion.pin(job.view.id, wish)
        return json_response(schema.JobPin(id=job.id, object="job.pin", pinned=pinned))

    async def _read(self, fields: Fields) -> Submission:
        """Read a request and keep its image file. Raises `EdgeError`."""
        upload, inputs = fields.upload(*FIELDS["image"].names), input_files(fields.uploads)
        submission = read_submission(fields.values, upload, inputs, files=fields.uploads)
        submission = msgspec.structs.replace(submission, inputs=await self._calls.inputs.uploaded(inputs))
        if upload is None:
            return submission
        image = await self._calls.inputs.image(upload.field, upload, allow_paths=False)
        return msgspec.structs.replace(
            submission, image=image, echo={**submission.echo, "image": upload.file_name or "upload"}
        )

    def _event(self, job: Job, last: Job | None) -> StreamEvent:
        """`state` when state, attempt or a wish of its client changed: the whole job; else `progress`: only what moves."""
        revision = job.view.revision
        if last is None or major_state(job.view) != major_state(last.view):
            return StreamEvent("state", revision, self._json)
        # Without an id where only the queue moved: the job's revision is what it was.
        return StreamEvent("progress", revision if revision > last.view.revision else 0, self._step)

    def _json(self, job: Job) -> schema.Job:
        return job_json(job, self._progress.of(job.view), preview=self._preview_of(job))

    def _whole(self, job: Job) -> schema.Job:
        return job_json(job, self._progress.of(job.view), preview=self._preview_of(job), with_moves=True)

    def _step(self, job: Job) -> schema.JobStep:
        return step_json(job.view, self._progress.of(job.view), self._preview_of(job))

    def _preview_of(self, job: Job) -> int:
        """Number of the newest preview of a job that is drawn, or half drawn; 0: there is none. Others cost no look at the disk."""
        if job.view.state not in ("running", "parked") or job.spec is None or not job.spec.previews:
            return 0
        return newest_preview(self._calls.settings.artefacts_path, job.view)


def read_submission(
    values: Mapping[str, Any], upload: Upload | None, inputs: Files, *, files: Collection[str]
) -> Submission:
    """Read a native request, with the picture and the further inputs that it brought as files. Raises `EdgeError`."""
    own = (*_OWN_FIELDS, *(() if upload is None else (upload.field,)), *fields_of(inputs))
    reading = read_generation(values, POLICY, own=own, files=files)
    generation = with_files(reading.generation, values, inputs)
    if upload is not None and (generation.image or values.get(upload.field)):
        raise invalid(upload.field, generation.image or values[upload.field], "came as a file, too")
    reader = Reader(values)
    job_id = reader.text("id", max_chars=4096)
    if job_id is not None and not is_client_id(job_id):
        raise reader.fault("id", f"must be {JOB_ID_RULE}")
    priority = reader.integer("priority", 0, 9)
    echo: dict[str, Scalar] = {}
    if generation.image:
        echo["image"] = echoed_image(generation.image)
    if generation.save_to:
        echo["save_to"] = generation.save_to
    return Submission(
        generation=generation,
        warnings=reading.warnings,
        job_id=job_id or "",
        priority=DEFAULT_PRIORITY if priority is None else priority,
        deadline_s=reader.number("deadline_s", LEAST_TIME_S, MOST_TIME_S) or 0.0,
        echo=echo,
        webhook=read_webhook(values),
    )


def _read_bounds(reader: Reader) -> dict[str, Any]:
    """Those of `?prompt=`, `?since=` and `?until=` that are given, as fields of `ListJobs`."""
    found: dict[str, Any] = {
        "text": reader.text("prompt", max_chars=256),
        "since": reader.number("since", 0.0, _MAX_TIME),
        "until": reader.number("until", 1.0, _MAX_TIME),
    }
    return {name: value for name, value in found.items() if value}


def _read_states(request: Request) -> tuple[JobStateName, ...]:
    """States of `?state=queued,running` or of the parameter repeated."""
    names = [name.strip() for text in request.query_params.getlist("state") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STATES:
            raise invalid("state", name, f"must be one of {', '.join(STATES)}", place="query")
    return cast(tuple[JobStateName, ...], tuple(dict.fromkeys(names)))
