"""Routes of LightX2V's servers about themselves: queue, service, model; and downloads of files by path."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from broker.wire.jobspec import ModelCard
from broker.wire.messages import PoolView
from broker.wire.terms import UNSTARTED_NAMES
from http_edge.api.common.operations import FILE_ANSWERS, RANGES
from http_edge.api.lightx2v import schema_lightx2v as lx
from http_edge.api.lightx2v.downloads import find_by_path, result_response
from http_edge.api.lightx2v.operations import PATH, TASKS
from http_edge.api.lightx2v.submissions import TaskSubmitter
from http_edge.api.lightx2v.views import is_idle, local_time
from http_edge.body.json_body import json_response
from http_edge.http.operation import BROKER, DOWNLOAD, FILES, Answer, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService

#: Running tasks named at most.
_MAX_ACTIVE = 100


class LightX2VServiceApi:
    """Handlers of `/v1/service`, `/v1/tasks/queue` and `/v1/files/download`.

    Counts are the whole pool's: tasks of other APIs take the same workers and the same queue. Names are our own tasks' only.
    """

    def __init__(self, calls: JobService, submitter: TaskSubmitter) -> None:
        self._calls = calls
        self._tasks = submitter.tasks
        self._worker = calls.settings.worker

    def routes(self) -> list[EdgeRoute]:
        return [
            route("/v1/tasks/queue/status", GET=self.queue),
            route("/v1/service/status", GET=self.service),
            route("/v1/service/metadata", GET=self.metadata),
            route("/v1/files/download/{path:path}", GET=self.download),
        ]

    @operation(
        "showTaskQueue",
        TASKS,
        answers={200: Answer(about="The queue.", types=(lx.TaskQueue,))},
        errors=BROKER,
    )
    async def queue(self, request: Request) -> Response:
        """The queue in numbers."""
        pool = await self._calls.catalogue.pool()
        running = await self._running()
        pending, processing = _pending(pool), pool.counts.get("running", 0)
        waiting = sum(pool.counts.get(state, 0) for state in ("queued", "delayed", "parked"))
        return json_response(
            lx.TaskQueue(
                is_processing=processing > 0,
                current_task=running[0].view.submission.alias if running else None,
                pending_count=pending,
                active_count=pending + processing,
                queue_size=pool.queue_limit,
                queue_available=max(0, pool.queue_limit - waiting),
            )
        )

    @operation(
        "showTaskService",
        TASKS,
        answers={200: Answer(about="The service.", types=(lx.TaskService,))},
        errors=BROKER,
    )
    async def service(self, request: Request) -> Response:
        """Idle or busy, and the service in numbers."""
        pool = await self._calls.catalogue.pool()
        running = await self._running()
        current = running[0].view if running else None
        return json_response(
            lx.TaskService(
                service_status="idle" if is_idle(pool, self._worker) else "busy",
                task_id=current.submission.alias if current else None,
                start_time=local_time(current.started_at or current.submitted_at) if current else None,
                current_task=current.submission.alias if current else None,
                active_tasks=[job.view.submission.alias for job in running],
                pending_tasks=_pending(pool),
                queue_size=pool.queue_limit,
                total_tasks=sum(pool.counts.values()),
                completed_tasks=pool.counts.get("succeeded", 0),
                failed_tasks=pool.counts.get("failed", 0),
            )
        )

    @operation(
        "showTaskMetadata",
        TASKS,
        answers={200: Answer(about="The model.", types=(lx.ServiceMetadata,))},
        errors=BROKER,
    )
    async def metadata(self, request: Request) -> Response:
        """The model that tasks get."""
        pool = await self._calls.catalogue.pool()
        cards = await self._calls.catalogue.cards(self._worker)
        card = self._first(cards)
        return json_response(
            lx.ServiceMetadata(
                nproc_per_node=sum(view.gpus for view in pool.workers if self._worker in ("", view.name)),
                model_cls=card.name if card else None,
                model_path=card.name if card else None,
                models=[card.name for card in cards],
            )
        )

    @operation(
        "downloadByPath",
        TASKS,
        params=(PATH, *RANGES),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, "forbidden"),
    )
    async def download(self, request: Request) -> Response:
        """A result by its path."""
        job = await find_by_path(self._calls, request.path_params["path"], self._tasks)
        return await result_response(self._calls, request, job)

    async def _running(self) -> list[Job]:
        """Our running tasks, the longest-running first."""
        jobs, _ = await self._calls.jobs.page(
            limit=_MAX_ACTIVE, newest_first=False, states=("running",), origin=self._tasks.origin
        )
        return jobs

    def _first(self, cards: list[ModelCard]) -> ModelCard | None:
        default = self._calls.settings.default_model
        return next((card for card in cards if card.name == default), cards[0] if cards else None)


def _pending(pool: PoolView) -> int:
    return sum(pool.counts.get(state, 0) for state in UNSTARTED_NAMES)
