"""LightX2V's first HTTP API (`/v1/local/video/generate`), as its guide describes it and its scripts call it.

With the setting `worker` these routes are one worker's view, so that one edge a GPU looks like one LightX2V server a GPU.
"""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.terms import FINAL_NAMES, HELD_NAMES, LIVE_NAMES
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v import views as shapes
from http_edge.api.lightx2v.operations import GEN1, GEN1_TAKEN, STOPPED, TASK_ID
from http_edge.api.lightx2v.task_fields import MAX_TASK_ID_CHARS
from http_edge.api.lightx2v.video_tasks import BASE, ORIGIN, Gen1
from http_edge.base.errors import EdgeError
from http_edge.body.fields import Reader
from http_edge.body.forms import read_fields
from http_edge.body.json_body import json_response, read_object
from http_edge.http.operation import BODY, BROKER, MAKE, Answer, Body, Param, again, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.service import JobService

_STOP_WAIT_S = shapes.STOP_WAIT_S
#: After a stop: how long to wait for the worker to report that it is free.
_FREE_WAIT_S = 3.0
_FREE_POLL_S = 0.02


class LightX2VApi:
    """Handlers of the first LightX2V API."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls
        self._gen1 = Gen1(calls)
        self._tasks = self._gen1.tasks
        self._later = shapes.Tasks(calls, shapes.origin_of(shapes.TASKS_ORIGIN, self._gen1.worker), unique=False)

    def routes(self) -> list[EdgeRoute]:
        """The routes of the guide."""
        return [
            route(BASE, POST=self.generate),
            route(f"{BASE}/service_status", GET=self.service_status),
            route(
                f"{BASE}/task_status",
                POST=self.task_status,
                GET=again(self.task_status, "gen1TaskStatusByQuery", params=(TASK_ID,), body=None),
            ),
            route(f"{BASE}/get_all_tasks", expensive_get=True, GET=self.get_all_tasks),
            route(f"{BASE}/stop_running_task", get_changes=True, GET=self.stop_running_task),
        ]

    @operation(
        "gen1Generate",
        GEN1,
        body=Body(type=lx.Gen1Request),
        answers=GEN1_TAKEN,
        errors=MAKE,
        keyed=True,
    )
    async def generate(self, request: Request) -> Response:
        """Take a task, while a worker is free."""
        async with await read_fields(request) as fields:
            return await self._gen1.generate(fields.values, fields)

    @operation(
        "gen1ServiceStatus",
        GEN1,
        answers={200: Answer(about="Idle or busy.", types=(lx.ServiceStatus,))},
        errors=BROKER,
    )
    async def service_status(self, request: Request) -> Response:
        """Idle while a task would be taken at once."""
        if shapes.is_idle(await self._calls.catalogue.pool(), self._gen1.worker):
            return json_response(lx.ServiceStatus(service_status="idle"))
        oldest = await self._tasks.first(LIVE_NAMES)
        return json_response(
            lx.ServiceStatus(service_status="busy", task_id=oldest.view.submission.alias if oldest else "")
        )

    @operation(
        "gen1Tasks",
        GEN1,
        answers={200: Answer(about="The records.", types=(dict[str, lx.Gen1Record],))},
        errors=BROKER,
    )
    async def get_all_tasks(self, request: Request) -> Response:
        """The finished tasks by id."""
        records: dict[str, lx.Gen1Record] = {}
        tasks = self._tasks.listed(FINAL_NAMES)
        async for job in tasks:
            records.setdefault(job.view.submission.alias, shapes.record(job))
        return json_response(dict(reversed(records.items())), headers=tasks.headers())

    @operation(
        "gen1TaskStatus",
        GEN1,
        body=Body(type=lx.TaskIdRequest, forms=False),
        answers={200: Answer(about="How it is.", types=(lx.Gen1Status,))},
        errors=(*BROKER, *BODY),
    )
    async def task_status(self, request: Request) -> Response:
        """State of a task, with its record when it is over."""
        # Failed and stopped tasks are completed, too.
        if request.method == "POST":
            reader = Reader(await read_object(request))
        else:
            reader = Reader(request.query_params, place="query")
        job = await self._tasks.find(reader.required_text("task_id", max_chars=MAX_TASK_ID_CHARS))
        if job is None:
            return json_response(lx.Gen1Status(task_status="not_found"))
        if not job.is_final:
            return json_response(lx.Gen1Status(task_status="processing"))
        kept = shapes.record(job)
        return json_response(
            lx.Gen1Status(
                task_status="completed",
                success=kept.success,
                message=kept.message,
                start_time=kept.start_time,
                completion_time=kept.completion_time,
                error=kept.error,
                warnings=kept.warnings,
            )
        )

    @operation(
        "gen1Stop",
        GEN1,
        params=(Param(name="task_id", about="Only this task."),),
        answers=STOPPED,
        errors=("forbidden",),
    )
    async def stop_running_task(self, request: Request) -> Response:
        """Stop what runs, and answer when it has really stopped."""
        try:
            outcome = await self._stop(request.query_params.get("task_id", ""))
            if outcome == "nothing":
                return await shapes.nothing_runs(self._calls)
            if outcome == "late":
                return shapes.late_answer(_STOP_WAIT_S)
            await self._until_idle()
        except EdgeError as error:
            return shapes.stop_answer("error", error.message)
        return shapes.stop_answer("success", "Task stopped successfully.")

    # ------------------------------------------------------------ parts

    async def _stop(self, task_id: str) -> shapes.StopOutcome:
        if task_id:
            # LightX2V's third generation has a script that stops its tasks by this route.
            for tasks in (self._tasks, self._later):
                job = await tasks.find(task_id)
                if job is not None and not job.is_final:
                    return await tasks.stop(job, _STOP_WAIT_S)
            return "nothing"
        # Without a queue every live task counts as running to the client, a retried one too.
        own = await self._tasks.stop_all(LIVE_NAMES if self._gen1.refuses else HELD_NAMES, _STOP_WAIT_S)
        if own != "nothing":
            return own
        return await self._later.stop_all(HELD_NAMES, _STOP_WAIT_S)

    async def _until_idle(self) -> None:
        """Wait until a worker reports that it is free: clients that stop a task send the next one at once."""
        deadline = time.monotonic() + _FREE_WAIT_S
        while time.monotonic() < deadline and not self._calls.hub.closed:
            pool = await self._calls.catalogue.pool()
            if shapes.is_idle(pool, self._gen1.worker) or pool.counts.get("queued", 0):
                return
            await asyncio.sleep(_FREE_POLL_S)


def origin_of(worker: str) -> str:
    """The origin of the first API's jobs in a worker's view, or in the pool's ("")."""
    return shapes.origin_of(ORIGIN, worker)
