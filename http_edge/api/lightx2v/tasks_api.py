"""LightX2V's second and third HTTP API (`/v1/tasks`): tasks taken from JSON or forms, queued, read, downloaded and stopped.

Both generations share these paths, so answers hold the fields of both. Where they disagree the third decides: a task id that exists, or a
full queue, is 503. With the setting `worker` these routes are one worker's view, as the first generation's are.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.messages import JobStateName
from broker.wire.terms import LIVE_NAMES
from http_edge.api.common.operations import FILE_ANSWERS, RANGES
from http_edge.api.common.waiting import awaited, is_fresh, with_prefer
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v import views as shapes
from http_edge.api.lightx2v.downloads import result_response
from http_edge.api.lightx2v.operations import ID, IMAGE, STOPPED, TASKS
from http_edge.api.lightx2v.submissions import TaskSubmitter
from http_edge.api.lightx2v.sync_tasks import SyncTasks
from http_edge.base.errors import EdgeError
from http_edge.body.json_body import json_response
from http_edge.http.operation import BROKER, DOWNLOAD, FILES, LOOKUP, MAKE, Answer, Body, Handler, operation
from http_edge.http.prefer import StatusResponse, read_prefer
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.job import Job
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService

_KINDS = {"": "a task", "video": "a video task", "image": "an image task"}


class LightX2VTasksApi:
    """Handlers of `/v1/tasks`."""

    def __init__(self, submitter: TaskSubmitter, progress: Progress, sync: SyncTasks, calls: JobService) -> None:
        self._calls = calls
        self._submitter = submitter
        self._sync = sync
        self._tasks = submitter.tasks
        self._first = shapes.Tasks(calls, shapes.origin_of(shapes.GEN1_ORIGIN, calls.settings.worker), unique=False)
        self._progress = progress

    def routes(self) -> list[EdgeRoute]:
        """The routes; those with fixed words stand before those with an id."""
        return [
            route("/v1/tasks", expensive_get=True, GET=self.list, POST=self._create("createTask", "")),
            route("/v1/tasks/form", POST=self._create("createTaskForm", "")),
            route("/v1/tasks/video", POST=self._create("createVideoTask", "video")),
            route("/v1/tasks/video/form", POST=self._create("createVideoTaskForm", "video")),
            route("/v1/tasks/image", POST=self._create("createImageTask", "image")),
            route("/v1/tasks/image/form", POST=self._create("createImageTaskForm", "image")),
            route("/v1/tasks/image/sync", POST=self._sync.draw),
            route("/v1/tasks/all/running", DELETE=self.stop_all),
            route("/v1/tasks/running", DELETE=self.stop_running),
            route("/v1/tasks/{id}/status", GET=self.status),
            route("/v1/tasks/{id}/result", GET=self.result),
            route("/v1/tasks/{id}", DELETE=self.stop),
        ]

    def _create(self, name: str, output: str) -> Handler:
        """A handler that takes tasks, the operation `name`; `output` is what its route makes, "" where the request has it."""
        taken = Answer(about="The task.", types=(lx.TaskTaken,), links=("showTask", "downloadTask", "stopTask"))

        @operation(
            name,
            TASKS,
            summary=f"Take {_KINDS[output]}",
            body=Body(type=lx.TaskRequest, files=IMAGE),
            answers={200: taken, 202: Answer(about="The same, with `Prefer: respond-async`.", types=(lx.TaskTaken,))},
            errors=MAKE,
            prefer=True,
            keyed=True,
        )
        async def create(request: Request) -> Response:
            accepted = await self._submitter.submit(request, output)
            prefer = read_prefer(request)
            job = await awaited(self._calls, request, prefer, accepted.job)
            status = "pending" if is_fresh(prefer, job) else shapes.STATUS[job.view.state]
            paths = shapes.save_paths(job)
            answer = lx.TaskTaken(
                task_id=job.view.submission.alias,
                task_status=status,
                save_result_path=paths.result,
                save_video_path=paths.video,
                warnings=shapes.warnings_member(job),
            )
            return with_prefer(
                json_response(answer), prefer, job, f"/v1/tasks/{quote(job.view.submission.alias)}/status"
            )

        return create

    @operation(
        "listTasks",
        TASKS,
        answers={200: Answer(about="The tasks.", types=(dict[str, lx.TaskStatus],))},
        errors=BROKER,
    )
    async def list(self, request: Request) -> Response:
        """Tasks by id, the newest last."""
        tasks = self._tasks.listed()
        found = [(job.view.submission.alias, self._status(job)) async for job in tasks]
        return json_response(dict(reversed(found)), headers=tasks.headers())

    @operation(
        "showTask",
        TASKS,
        params=(ID,),
        answers={200: Answer(about="The task.", types=(lx.TaskStatus,))},
        errors=LOOKUP,
        prefer=True,
    )
    async def status(self, request: Request) -> Response:
        """One task."""
        task_id = request.path_params["id"]
        job = await self._tasks.find(task_id)
        if job is None:
            return shapes.task_not_found(task_id)
        prefer = read_prefer(request)
        job = await awaited(self._calls, request, prefer, job)
        return StatusResponse(job.json("task", self._status), prefer)

    @operation(
        "downloadTask",
        TASKS,
        params=(ID, *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=DOWNLOAD,
    )
    async def result(self, request: Request) -> Response:
        """A finished task's file."""
        task_id = request.path_params["id"]
        job = await self._tasks.find(task_id)
        if job is None:
            return shapes.task_not_found(task_id)
        if job.view.state != "succeeded":
            raise EdgeError("not_ready", "Task not completed")
        return await result_response(self._calls, request, job)

    @operation("stopTask", TASKS, params=(ID,), answers=STOPPED)
    async def stop(self, request: Request) -> Response:
        """Stop one task."""
        # The answer comes when it has really stopped.
        try:
            job = await self._tasks.find(request.path_params["id"])
            outcome = "nothing" if job is None else await self._tasks.stop(job, shapes.STOP_WAIT_S)
        except EdgeError as error:
            return shapes.stop_answer("error", error.message)
        if outcome == "nothing":
            return shapes.stop_answer("do_nothing", "Task not found or already completed.")
        return _stopped(outcome, "Task stopped successfully.")

    @operation("stopAllTasks", TASKS, answers=STOPPED)
    async def stop_all(self, request: Request) -> Response:
        """Stop every task, waiting or running."""
        try:
            outcome = await self._stop_all(LIVE_NAMES)
        except EdgeError as error:
            return shapes.stop_answer("error", error.message)
        return _stopped(outcome, "All tasks stopped successfully.")

    @operation("stopRunningTasks", TASKS, answers=STOPPED)
    async def stop_running(self, request: Request) -> Response:
        """Stop what runs; what waits goes on waiting."""
        try:
            outcome = await self._stop_all(shapes.STARTED)
            if outcome == "nothing":
                return await shapes.nothing_runs(self._calls)
        except EdgeError as error:
            return shapes.stop_answer("error", error.message)
        return _stopped(outcome, "Task stopped successfully.")

    async def _stop_all(self, states: tuple[JobStateName, ...]) -> shapes.StopOutcome:
        """Stop the tasks in these states; those of the first generation, too, which shares the port. Raises `EdgeError`."""
        outcome = await self._tasks.stop_all(states, shapes.STOP_WAIT_S)
        first = await self._first.stop_all(states, shapes.STOP_WAIT_S)
        return first if outcome == "nothing" or first == "late" else outcome

    def _status(self, job: Job) -> lx.TaskStatus:
        return shapes.task_status(job, self._progress.of(job.view))


def _stopped(outcome: str, reason: str) -> Response:
    return shapes.late_answer(shapes.STOP_WAIT_S) if outcome == "late" else shapes.stop_answer("success", reason)
