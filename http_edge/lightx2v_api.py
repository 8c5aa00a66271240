"""LightX2V's first HTTP API (`/v1/local/video/generate`), as its guide describes it and its scripts call it.

That server ran one task at a time and answered 200 to everything but validation (422, `{"detail": [...]}`). Here a task is a job of origin
`lightx2v-1` whose alias is the task id: the newest job of a name answers for it, which is what "the newer record replaces the older"
meant. By default a task is taken only while a worker is free; setting `lightx2v_admission` = queue lets it wait instead.
With the setting `worker` these routes are one worker's view, so that one edge a GPU looks like one LightX2V server a GPU.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker.wire.jobspec import Scalar
from broker.wire.messages import JobStateName, PoolView
from http_edge.bodies import json_response, read_object
from http_edge.calls import Calls, Order
from http_edge.errors import EdgeError
from http_edge.fields import Reader, missing
from http_edge.hub import Job
from http_edge.routes import route
from http_edge.specs import MAX_PATH_CHARS, read_wanted

_BASE = "/v1/local/video/generate"

ORIGIN = "lightx2v-1"

#: Longest task id (the wire's bound on an alias).
_MAX_TASK_ID_CHARS = 256

#: Names under which these fields may come; errors repeat the client's.
_ALIASES = {
    "num_inference_steps": ("infer_steps",),
    "num_frames": ("target_video_length",),
    "image": ("image_path",),
    "save_to": ("save_video_path",),
}
_REQUIRED = ("task_id", "prompt", "save_video_path")
_TEXTS = (*_REQUIRED, "negative_prompt", "image_path")
#: Sampler fields that the first server did not have: honoured, and repeated in the record, when sent.
_OPTIONAL = (
    "num_inference_steps",
    "infer_steps",
    "num_frames",
    "target_video_length",
    "height",
    "width",
    "fps",
    "seed",
    "guidance_scale",
)

_LIVE: tuple[JobStateName, ...] = ("queued", "delayed", "assigned", "running")
_STARTED: tuple[JobStateName, ...] = ("assigned", "running")
_FINAL: tuple[JobStateName, ...] = ("succeeded", "failed", "cancelled")

#: A cancel frees its worker within a step, or the engine is replaced after its grace; slower than this is news for the client.
_STOP_WAIT_S = 30.0
#: After a stop: how long to wait for the worker to say that it is free.
_FREE_WAIT_S = 3.0
_FREE_POLL_S = 0.02

#: Finished tasks listed at most, newest first, and how many are asked for at once (a page carries whole specs).
_MAX_LISTED = 5000
_PAGE = 100


class LightX2VApi:
    """Handlers of the first LightX2V API."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._worker = calls.settings.worker
        self._refuses = calls.settings.lightx2v_admission == "refuse"
        self._origin = origin_of(self._worker)

    def routes(self) -> list[Route]:
        """The routes of the guide."""
        return [
            route(_BASE, POST=self.generate),
            route(f"{_BASE}/service_status", GET=self.service_status),
            route(f"{_BASE}/task_status", POST=self.task_status, GET=self.task_status),
            route(f"{_BASE}/get_all_tasks", GET=self.get_all_tasks),
            route(f"{_BASE}/stop_running_task", GET=self.stop_running_task),
        ]

    async def generate(self, request: Request) -> Response:
        """Take a task."""
        order = self._read(await read_object(request))
        try:
            await self._calls.submit(order)
        except EdgeError as error:
            if error.kind in ("busy", "queue_full"):
                return json_response({"error": "Service busy"})
            if error.kind == "alias_taken":
                return json_response({"error": f"Task ID {order.alias} already exists"})
            raise
        return json_response(
            {"task_id": order.alias, "task_status": "processing", "save_video_path": order.echo["save_video_path"]}
        )

    async def service_status(self, request: Request) -> Response:
        """Idle while a task would be taken at once, else busy with the oldest of our tasks that runs."""
        if self._is_idle(await self._calls.pool()):
            return json_response({"service_status": "idle"})
        running, _ = await self._calls.jobs(limit=1, newest_first=False, states=_LIVE, origin=self._origin)
        return json_response({"service_status": "busy", "task_id": running[0].view.alias if running else ""})

    async def get_all_tasks(self, request: Request) -> Response:
        """The finished tasks by id, the newest record of each."""
        records: dict[str, dict[str, Any]] = {}
        async for job in self._each(_FINAL):
            records.setdefault(job.view.alias, record(job))
        return json_response(dict(reversed(records.items())))

    async def task_status(self, request: Request) -> Response:
        """Processing, completed (with its record; failed and stopped tasks are completed too) or not_found."""
        if request.method == "POST":
            reader = Reader(await read_object(request))
        else:
            reader = Reader(request.query_params, place="query")
        task_id = reader.required_text("task_id", max_chars=_MAX_TASK_ID_CHARS)
        job = await self._calls.job_by_alias(self._origin, task_id) if task_id else None
        if job is None:
            return json_response({"task_status": "not_found"})
        if not job.is_final:
            return json_response({"task_status": "processing"})
        return json_response({"task_status": "completed", **record(job)})

    async def stop_running_task(self, request: Request) -> Response:
        """Stop what runs (only `?task_id=`, if given), and answer when it has really stopped."""
        try:
            jobs = await self._to_stop(request.query_params.get("task_id", ""))
            if not jobs:
                return json_response({"stop_status": "do_nothing", "reason": "No running task found."})
            outcomes = [await self._calls.cancel(job.id) for job in jobs]
            asked = [job.id for outcome, job in outcomes if outcome != "already_final"]
            if not asked:
                return json_response({"stop_status": "do_nothing", "reason": "No running task found."})
            stopped = await self._calls.wait_final(asked, _STOP_WAIT_S)
            if not stopped:
                reason = f"The task was told to stop, but did not within {_STOP_WAIT_S:.0f} s."
                return json_response({"stop_status": "warning", "reason": reason})
            await self._until_idle()
        except EdgeError as error:
            return json_response({"stop_status": "error", "reason": error.message})
        return json_response({"stop_status": "success", "reason": "Task stopped successfully."})

    # ------------------------------------------------------------ parts

    def _read(self, fields: dict[str, Any]) -> Order:
        """The order in a generate request. Raises `EdgeError`."""
        absent = [name for name in _REQUIRED if fields.get(name) is None]
        if absent:
            raise missing(absent)
        # What else the client sent is ignored, under our names too: the first server knew none of them.
        known = {name: fields[name] for name in (*_OPTIONAL, *_TEXTS) if name in fields}
        reader = Reader({"image_path": "", **known}, aliases=_ALIASES)
        task_id = reader.required_text("task_id", max_chars=_MAX_TASK_ID_CHARS, min_chars=1)
        save_path = reader.required_text("save_video_path", max_chars=MAX_PATH_CHARS, min_chars=1)
        wanted = read_wanted(reader)
        sampler = {reader.label(name) for name in _OPTIONAL if reader.raw(name) is not None}
        # The first server's validator took words and digits for these.
        options = Reader(fields, lenient=True)
        unique = options.flag("task_id_must_unique") or False
        fragments = options.integer("num_fragments", 1, 1_000_000)
        echo: dict[str, Scalar] = {
            "task_id": task_id,
            "task_id_must_unique": unique,
            "prompt": wanted.prompt,
            "use_prompt_enhancer": options.flag("use_prompt_enhancer") or False,
            "negative_prompt": wanted.negative_prompt or "",
            "image_path": wanted.image,
            "num_fragments": 1 if fragments is None else fragments,
            "save_video_path": save_path,
            **{name: fields[name] for name in _OPTIONAL if name in sampler},
        }
        return Order(
            # An absent negative prompt is an empty one here, not the model's own.
            wanted=msgspec.structs.replace(wanted, negative_prompt=wanted.negative_prompt or ""),
            origin=self._origin,
            alias=task_id,
            alias_unique=unique,
            only_if_idle=self._refuses,
            worker=self._worker,
            prefers="video",
            echo=echo,
        )

    def _is_idle(self, pool: PoolView) -> bool:
        return any(worker.state == "idle" and self._worker in ("", worker.name) for worker in pool.workers)

    async def _to_stop(self, task_id: str) -> list[Job]:
        if task_id:
            job = await self._calls.job_by_alias(self._origin, task_id)
            return [job] if job is not None and not job.is_final else []
        # Without a queue every live task is one that the client believes to run, a retried one too.
        states = _LIVE if self._refuses else _STARTED
        return [job async for job in self._each(states)]

    async def _each(self, states: tuple[JobStateName, ...]) -> AsyncIterator[Job]:
        """Our tasks in these states, newest first, at most `_MAX_LISTED`."""
        after, listed, more = "", 0, True
        while more and listed < _MAX_LISTED:
            jobs, more = await self._calls.jobs(limit=_PAGE, after=after, states=states, origin=self._origin)
            for job in jobs:
                yield job
            if not jobs:
                return
            after, listed = jobs[-1].id, listed + len(jobs)

    async def _until_idle(self) -> None:
        """Wait until a worker says that it is free: whoever stops a task sends the next one at once."""
        deadline = time.monotonic() + _FREE_WAIT_S
        while time.monotonic() < deadline and not self._calls.hub.closed:
            pool = await self._calls.pool()
            if self._is_idle(pool) or pool.counts.get("queued", 0):
                return
            await asyncio.sleep(_FREE_POLL_S)


def origin_of(worker: str) -> str:
    """The jobs' origin: one for the whole pool, and one for each worker with a view of its own, as its task ids are its own."""
    if not worker:
        return ORIGIN
    origin = f"{ORIGIN}:{worker}"
    if len(origin) <= 32:
        return origin
    return f"{ORIGIN}:{hashlib.sha256(worker.encode()).hexdigest()[:20]}"


def record(job: Job) -> dict[str, Any]:
    """A finished task as the first server kept it: success, failed and stopped have each their shape."""
    view = job.view
    message = dict(job.spec.echo) if job.spec else {}
    start = _local_time(view.started_at or view.submitted_at)
    error = ""
    if view.state == "cancelled":
        error = "Task stopped by user"
    elif view.state == "failed":
        error = (view.failure.message or view.failure.kind) if view.failure else "unknown"
    elif job.save_error:
        # To this API's clients the file is the result.
        error = f"save_video_path: {job.save_error}"
    if error:
        return {"success": False, "message": message, "start_time": start, "error": error}
    return {
        "success": True,
        "message": message,
        "start_time": start,
        "completion_time": _local_time(view.finished_at),
    }


def _local_time(at: float) -> str:
    """Naive local ISO-8601 with microseconds, as `datetime.now().isoformat()` gave it."""
    return datetime.fromtimestamp(at).isoformat(timespec="microseconds")
