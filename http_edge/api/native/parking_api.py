"""Pause, resume and commit: jobs that leave their engine with a checkpoint, and go on."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.messages import JobAction
from http_edge.api.common import schema_jobs as schema
from http_edge.api.common.job_json import job_json
from http_edge.api.native.jobs_api import JOB, TAG
from http_edge.base.errors import Kind
from http_edge.body.json_body import json_response
from http_edge.http.operation import LOOKUP, Answer, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService

_CONTROLLED = {200: Answer(about="What became of it.", types=(schema.JobControl,))}
_CONTROL_ERRORS: tuple[Kind, ...] = (*LOOKUP, "wrong_state")


class ParkingApi:
    """Handlers of parking."""

    def __init__(self, calls: JobService, progress: Progress) -> None:
        self._calls = calls
        self._progress = progress

    def routes(self) -> list[EdgeRoute]:
        return [
            route("/v1/jobs/{id}/pause", POST=self.pause),
            route("/v1/jobs/{id}/resume", POST=self.resume),
            route("/v1/jobs/{id}/commit", POST=self.commit),
        ]

    @operation("pauseJob", TAG, params=(JOB,), answers=_CONTROLLED, errors=_CONTROL_ERRORS)
    async def pause(self, request: Request) -> Response:
        """Pause a job.

        It keeps its place in the queue. One that is drawn, by a model that resumes, is taken out of its engine after its next step, with a
        checkpoint. Its deadline counts on.
        """
        return await self._control(request, "pause")

    @operation("resumeJob", TAG, params=(JOB,), answers=_CONTROLLED, errors=_CONTROL_ERRORS)
    async def resume(self, request: Request) -> Response:
        """Let a paused job go on from where it was."""
        return await self._control(request, "resume")

    @operation("commitJob", TAG, params=(JOB,), answers=_CONTROLLED, errors=_CONTROL_ERRORS)
    async def commit(self, request: Request) -> Response:
        """Let a draft be drawn to its end: a job that was submitted with `draft_steps` and waits there."""
        return await self._control(request, "commit")

    async def _control(self, request: Request, action: JobAction) -> Response:
        outcome, job = await self._calls.control(request.path_params["id"], action)
        return json_response(
            schema.JobControl(id=job.id, outcome=outcome, job=job_json(job, self._progress.of(job.view)))
        )
