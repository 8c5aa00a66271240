"""Tasks as LightX2V's APIs show them: the jobs that are tasks, their words and times, lists of them, and stopping them.

A task is a job, found by (origin, alias): its alias is the client's task id. Each generation has an origin of its own, so that it lists and
stops its own tasks only; with the setting `worker` each worker's view has one too, as each of the servers it stands for kept its own ids.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from msgspec import UNSET, UnsetType
from starlette.responses import Response

from broker.wire.messages import JobStateName, JobView, PoolView
from http_edge.api.common.job_json import warnings_of
from http_edge.api.common.schema_common import ErrorMember
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.task_fields import MAX_TASK_ID_CHARS
from http_edge.base.context import current
from http_edge.base.errors import EdgeError
from http_edge.body.json_body import json_response
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.media.exports import SUFFIXES

#: On a worker, or about to be again.
STARTED: tuple[JobStateName, ...] = ("delayed", "assigned", "running")

#: A cancel frees its worker within a step, or the engine is replaced after its grace; slower than this is news for the client.
STOP_WAIT_S = 30.0

#: Tasks listed at most, newest first, how many are requested at once (a page carries whole specs), and searches for them, each of some
#: 20,000 jobs.
MAX_LISTED = 5000
_PAGE = 100
_SEARCHES = 10

#: Header of a list that does not have all tasks: older ones than this, Unix time, are not in it. Its body has no place for that.
_SEARCHED_TO = "X-Zoetrope-Searched-To"

#: Cancels under way at once.
_AT_ONCE = 32

#: Task ids whose job is remembered.
_MAX_KEPT = 10_000

#: LightX2V's name of each state.
STATUS: dict[JobStateName, lx.TaskState] = {
    "queued": "pending",
    "delayed": "pending",
    "parked": "pending",
    "assigned": "pending",
    "running": "processing",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}

StopOutcome = Literal["stopped", "nothing", "late"]

#: Origins of the APIs whose servers had a port each: to stop what runs there is to stop what either took.
GEN1_ORIGIN, TASKS_ORIGIN = "lightx2v-1", "lightx2v"


def origin_of(base: str, worker: str) -> str:
    """The origin of an API's jobs: one for the whole pool, and one for each worker with a view of its own."""
    if not worker:
        return base
    origin = f"{base}:{worker}"
    if len(origin) <= 32:
        return origin
    return f"{base}:{hashlib.sha256(worker.encode()).hexdigest()[:20]}"


def local_time(at: float) -> str:
    """Naive local ISO-8601 with microseconds, as `datetime.now().isoformat()` gives it."""
    return datetime.fromtimestamp(at).isoformat(timespec="microseconds")


def is_idle(pool: PoolView, worker: str) -> bool:
    """Whether a task would be taken up at once by this worker ("": by any)."""
    return any(view.state == "idle" and worker in ("", view.name) for view in pool.workers)


def stop_answer(status: lx.StopStatus, reason: str) -> Response:
    """The answer to every request to stop something."""
    return json_response(lx.StopAnswer(stop_status=status, reason=reason))


async def nothing_runs(calls: JobService) -> Response:
    """The answer when nothing of LightX2V's APIs runs; it names the route that stops jobs of other APIs."""
    reason = "No running task found."
    if (await calls.catalogue.pool()).counts.get("running", 0):
        reason += " What runs came by another API: GET /v1/jobs?state=running names it, DELETE /v1/jobs/{id} stops it."
    return stop_answer("do_nothing", reason)


def late_answer(wait_s: float) -> Response:
    """The answer when a task was cancelled and has not stopped in time."""
    return stop_answer("warning", f"The task was asked to stop, but did not within {wait_s:.0f} s.")


def task_not_found(task_id: str) -> Response:
    """The answer for a task id that names nothing. Scripts print or read it whatever the status."""
    error = ErrorMember(message="Task not found", type="not_found_error", param="task_id", code="not_found")
    return json_response(lx.NoTask(detail="Task not found", status="not_found", task_id=task_id, error=error), 404)


# ---------------------------------------------------------------- records


def record(job: Job) -> lx.Gen1Record:
    """A finished task as the first server kept it: success, failed and stopped have each their shape."""
    view = job.view
    message = dict(job.spec.echo) if job.spec else {}
    start = local_time(view.started_at or view.submitted_at)
    error = ""
    if view.state == "cancelled":
        error = "Task stopped by user"
    elif view.state == "failed":
        error = failure_text(view)
    elif job.save_error:
        # To that API's clients the file is the result.
        error = f"save_video_path: {job.save_error}"
    if error:
        return lx.Gen1Record(
            success=False, message=message, start_time=start, error=error, warnings=warnings_member(job)
        )
    end = local_time(view.finished_at)
    return lx.Gen1Record(
        success=True, message=message, start_time=start, completion_time=end, warnings=warnings_member(job)
    )


def warnings_member(job: Job) -> list[str] | UnsetType:
    """Return the member `warnings`, which LightX2V's own answers do not have; unset where there are none."""
    return list(warnings_of(job)) or UNSET


def failure_text(view: JobView) -> str:
    """Return the reason why a job failed, never empty."""
    return (view.failure.message or view.failure.kind) if view.failure else "unknown"


def task_status(job: Job, progress: int) -> lx.TaskStatus:
    """A task as the second and third generation's servers show it: the fields of both. `progress` is 0 to 100."""
    view = job.view
    error, error_type = None, ""
    if view.state == "failed":
        error, error_type = failure_text(view), view.failure.kind if view.failure else ""
    elif view.state == "cancelled":
        error = "Task cancelled by user"
    elif job.save_error:
        # The task is done and its result can be downloaded; only the copy is missing.
        error = f"save_result_path: {job.save_error}"
    end = local_time(view.finished_at) if job.is_final else None
    paths = save_paths(job)
    return lx.TaskStatus(
        task_id=view.submission.alias,
        status=STATUS[view.state],
        success=view.state == "succeeded" if job.is_final else None,
        start_time=local_time(view.started_at or view.submitted_at),
        end_time=end,
        completion_time=end,
        error=error,
        error_type=error_type,
        progress=progress / 100,
        save_result_path=paths.result,
        save_video_path=paths.video,
        warnings=warnings_member(job),
    )


class SavePaths(NamedTuple):
    """Path of a result, in the form of the third and of the second generation."""

    result: str
    video: str


def save_paths(job: Job) -> SavePaths:
    """Return the client's path for a copy as it wrote it; without one the names by which the result can be downloaded."""
    path = job.spec.echo.get("save_to") if job.spec else None
    if isinstance(path, str) and path:
        return SavePaths(path, path)
    # The third generation's default was the id, the second's the id with a suffix.
    return SavePaths(job.view.submission.alias, f"{job.view.submission.alias}{_suffix(job)}")


def result_name(job: Job) -> str:
    """The file name of a task's result."""
    name = PurePosixPath(save_paths(job).video).name
    return name if PurePosixPath(name).suffix else f"{name}{_suffix(job)}"


def _suffix(job: Job) -> str:
    return SUFFIXES[job.spec.output] if job.spec else ""


# ---------------------------------------------------------------- an origin's tasks


class TaskList:
    """Tasks in these states (all), newest first: at most `MAX_LISTED`, of as many jobs as one request may look at.

    Iterating raises `EdgeError`.
    """

    def __init__(self, calls: JobService, origin: str, states: tuple[JobStateName, ...]) -> None:
        self._calls = calls
        self._origin = origin
        self._states = states
        #: Older tasks than this, Unix time, were not looked for; None: all were.
        self._searched_to: float | None = None

    async def __aiter__(self) -> AsyncIterator[Job]:
        after, left, searches = "", MAX_LISTED, _SEARCHES
        while True:
            found = await self._calls.jobs.search(
                limit=min(_PAGE, left), after=after, origin=self._origin, states=self._states
            )
            for job in found.jobs:
                yield job
            if not found.more:
                return
            left -= len(found.jobs)
            searches -= found.searched_to is not None
            if not left or not searches:
                self._searched_to = found.searched_to or found.jobs[-1].view.submitted_at
                return
            after = found.last or ""

    def headers(self) -> Mapping[str, str]:
        """The headers of an answer with these tasks, once all were taken."""
        return {} if self._searched_to is None else {_SEARCHED_TO: f"{self._searched_to:.3f}"}


class Tasks:
    """The tasks of one origin. `unique`: a task id names one job forever, so that it need be looked up once."""

    def __init__(self, calls: JobService, origin: str, *, unique: bool) -> None:
        self.origin = origin
        self._calls = calls
        self._unique = unique
        #: (tenant, task id) -> job id.
        self._jobs: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def find(self, task_id: str) -> Job | None:
        """The newest task of this id, or None. Raises `EdgeError`."""
        if not task_id or len(task_id) > MAX_TASK_ID_CHARS:
            return None
        name = (current().caller.tenant, task_id)
        job_id = self._jobs.get(name)
        if job_id is not None:
            try:
                return await self._calls.jobs.get(job_id)
            except EdgeError as error:
                if error.kind != "not_found":
                    raise
                self._jobs.pop(name, None)
        job = await self._calls.jobs.by_alias(self.origin, task_id)
        if job is not None:
            self.remember(job)
        return job

    def remember(self, job: Job) -> None:
        """Note which job a task id names."""
        if self._unique:
            name = (job.view.submission.tenant, job.view.submission.alias)
            self._jobs[name] = job.id
            self._jobs.move_to_end(name)
            if len(self._jobs) > _MAX_KEPT:
                self._jobs.popitem(last=False)

    def listed(self, states: tuple[JobStateName, ...] = ()) -> TaskList:
        """The tasks in these states (all)."""
        return TaskList(self._calls, self.origin, states)

    async def first(self, states: tuple[JobStateName, ...]) -> Job | None:
        """The oldest task in these states, or None. Raises `EdgeError`."""
        jobs, _ = await self._calls.jobs.page(limit=1, newest_first=False, states=states, origin=self.origin)
        return jobs[0] if jobs else None

    async def stop_all(self, states: tuple[JobStateName, ...], wait_s: float) -> StopOutcome:
        """Stop every task in these states, and wait until they have stopped. Raises `EdgeError`."""
        stopping: list[str] = []
        count = 0
        async for page in self._pages(states):
            for start in range(0, len(page), _AT_ONCE):
                group = page[start : start + _AT_ONCE]
                outcomes = await asyncio.gather(*(self._calls.cancel(job.id) for job in group))
                count += sum(outcome != "already_final" for outcome, _ in outcomes)
                stopping += [job.id for outcome, job in outcomes if outcome == "requested"]
        return await self._wait_stopped(count, stopping, wait_s)

    async def stop(self, job: Job, wait_s: float) -> StopOutcome:
        """Stop one task, and wait until it has stopped. Raises `EdgeError`."""
        outcome, job = await self._calls.cancel(job.id)
        return await self._wait_stopped(outcome != "already_final", [job.id] if outcome == "requested" else [], wait_s)

    async def _pages(self, states: tuple[JobStateName, ...]) -> AsyncIterator[list[Job]]:
        after, more = "", True
        while more:
            jobs, more = await self._calls.jobs.page(limit=_PAGE, after=after, states=states, origin=self.origin)
            if not jobs:
                return
            yield jobs
            after = jobs[-1].id

    async def _wait_stopped(self, count: int, stopping: list[str], wait_s: float) -> StopOutcome:
        if not count:
            return "nothing"
        return "stopped" if await self._calls.follower.wait_final(stopping, wait_s) else "late"
