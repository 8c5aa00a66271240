"""The service itself: health, workers, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.load import LOAD_PERIOD_S
from broker.wire.messages import ClassBacklog, PoolView, WorkerView
from http_edge.api.common import schema_service as schema
from http_edge.api.common.job_json import worker_json
from http_edge.api.common.metrics import Metrics
from http_edge.base.context import current
from http_edge.base.errors import EdgeError
from http_edge.body.fields import Reader
from http_edge.body.json_body import json_response
from http_edge.http.operation import BROKER, QUERY, Answer, Param, Tag, again, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs import clock_agreement
from http_edge.jobs.service import JobService

#: A health probe must fail before its prober's own timeout.
_PROBE_TIMEOUT_S = 2.0
#: Probes come often and from several places; the pool does not change faster than workers beat.
_PROBE_FRESH_S = 0.25

#: A job given to a worker in one of these starts, now or after the one before it.
READY_STATES = ("idle", "busy")

SERVICE = Tag("Service", "Health, workers, metrics, this document.")

_WORKER = Param(name="name", place="path", required=True, about="The worker's name.")


class ServiceApi:
    """Handlers about the service."""

    def __init__(
        self, calls: JobService, metrics: Metrics, version: str, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._calls = calls
        self._metrics = metrics
        self._version = version
        self._wall_clock = wall_clock

    def routes(self) -> list[EdgeRoute]:
        """The routes; aliases are those that other servers' clients request."""
        return [
            route("/health", GET=self.readiness),
            route("/readyz", GET=again(self.readiness, "showReadiness")),
            route("/healthz", GET=again(self.readiness, "showHealthz")),
            route("/health_generate", GET=again(self.readiness, "showHealthGenerate")),
            route("/livez", GET=self.liveness),
            route("/liveness", GET=again(self.liveness, "showLivenessAlias")),
            route("/metrics", expensive_get=True, GET=self.metrics),
        ]

    def pool_routes(self) -> list[EdgeRoute]:
        """The routes about the workers and what waits for them."""
        return [
            route("/v1/workers", expensive_get=True, GET=self.workers),
            route("/v1/workers/{name}/drain", POST=self.drain),
            route("/v1/workers/{name}/undrain", POST=self.undrain),
            route("/v1/stats/history", expensive_get=True, GET=self.history),
        ]

    @operation("showLiveness", SERVICE, answers={200: Answer(about="It answers.", types=(schema.Alive,))})
    async def liveness(self, request: Request) -> Response:
        """Whether the process answers."""
        return json_response(schema.Alive(status="alive"))

    @operation(
        "showHealth",
        SERVICE,
        answers={
            200: Answer(about="A job sent now could run.", types=(schema.Ready,)),
            503: Answer(about="It could not run; `reasons` says why.", types=(schema.NotReady,)),
        },
    )
    async def readiness(self, request: Request) -> Response:
        """Whether a job sent now could run."""
        try:
            pool = await self._probe()
        except EdgeError as error:
            return _not_ready([error.message])
        if pool.refusing:
            return _not_ready([f"no job is taken: {pool.refusing}"])
        ready = [worker.name for worker in pool.workers if worker.state in READY_STATES]
        # An edge that is one worker's view serves LightX2V's clients, whose jobs no other worker takes.
        own = self._calls.settings.worker
        if (own and own not in ready) or (not ready and not pool.on_demand):
            shown = [worker for worker in pool.workers if own in ("", worker.name)][:20]
            states = ", ".join(f"{worker.name} is {_state(worker)}" for worker in shown)
            absent = f"{own} has not registered" if own else "none has registered"
            return _not_ready([f"no worker is ready: {states or absent}"])
        doubt = clock_agreement.doubt(pool, self._wall_clock())
        damaged = f"{pool.damaged} records of jobs are damaged on the broker's disk: its log names them"
        rebuilt = f"{pool.rebuilt_indexes} indexes of the broker's journal were damaged and were built anew: its log names them"
        asleep = "no worker is ready: jobs wait until one is started for them"
        conditions = (
            (not ready, asleep),
            (doubt, doubt),
            (pool.damaged, damaged),
            (pool.rebuilt_indexes, rebuilt),
            *((True, text) for text in _full_depots(pool.workers)),
            *((True, f"{worker.name} is {_state(worker)}") for worker in pool.workers[:20] if _waits_for(worker)),
        )
        warnings = [text for holds, text in conditions if holds]
        return json_response(
            schema.Ready(
                status="healthy",
                workers_ready=len(ready),
                workers=len(pool.workers),
                warnings=warnings or UNSET,
            )
        )

    @operation(
        "listWorkers",
        SERVICE,
        answers={200: Answer(about="The workers.", types=(schema.WorkerList,))},
        errors=BROKER,
    )
    async def workers(self, request: Request) -> Response:
        """Every worker, and the queue in numbers."""
        pool = await self._calls.catalogue.pool(_PROBE_FRESH_S)
        workers = await self._own(pool.workers) if current().caller.key_name else pool.workers
        models = [card.name for worker in pool.workers for card in worker.models]
        models += [model.card.name for model in pool.on_demand]
        return json_response(
            schema.WorkerList(
                object="list",
                data=[worker_json(worker) for worker in workers],
                queue=schema.QueueNumbers(
                    counts=pool.counts,
                    # A model for which nothing waits has a number, too: autoscalers read it, to scale its workers down, and up from none.
                    by_model=dict.fromkeys(models, 0) | pool.waiting,
                    backlog_by_model=dict.fromkeys(models, 0.0) | pool.backlog_by_model,
                    backlog_by_class=_by_class(pool.backlog_by_class),
                    backlog_s=pool.backlog_s,
                    wait_s=pool.wait_s,
                ),
                epoch=pool.epoch,
            )
        )

    @operation(
        "drainWorker",
        SERVICE,
        params=(
            _WORKER,
            Param(name="hand_back", type=bool, about="Hand back at once what can go on elsewhere; default false."),
            Param(name="even_last", type=bool, about="Let it leave if it is the last one, too; default false."),
        ),
        answers={202: Answer(about="The worker, `draining`.", types=(schema.Worker,))},
        errors=(*BROKER, *QUERY, "forbidden", "not_found"),
    )
    async def drain(self, request: Request) -> Response:
        """Let a worker finish what it holds and leave.

        It takes no more jobs. `GET /v1/workers` shows it until it has left. With `hand_back` it does not finish the jobs of models that
        resume, but writes a checkpoint of each after its next step; they go on elsewhere.
        """
        reader = Reader(request.query_params, place="query")
        hand_back = bool(reader.flag("hand_back"))
        even_last = bool(reader.flag("even_last"))
        worker = await self._calls.workers.drain(request.path_params["name"], hand_back=hand_back, even_last=even_last)
        return json_response(worker_json(worker), status=202)

    @operation(
        "undrainWorker",
        SERVICE,
        params=(_WORKER,),
        answers={
            202: Answer(about="The worker; `draining` until it says that it takes jobs again.", types=(schema.Worker,))
        },
        errors=(*BROKER, "forbidden", "not_found"),
    )
    async def undrain(self, request: Request) -> Response:
        """Give a worker that drains work again.

        It goes on as before the request. One that has left is not there any more: 404. One that is being stopped leaves all
        the same.
        """
        worker = await self._calls.workers.undrain(request.path_params["name"])
        return json_response(worker_json(worker), status=202)

    @operation(
        "showLoadHistory",
        SERVICE,
        answers={200: Answer(about="The samples.", types=(schema.LoadSamples,))},
        errors=BROKER,
    )
    async def history(self, request: Request) -> Response:
        """Load of the pool over the last hour.

        Samples every `period_s`, the oldest first, and one of now, of all tenants together; from the start of the broker on.
        """
        samples = list(await self._calls.workers.load_history())
        return json_response(schema.LoadSamples(object="list", data=samples, period_s=LOAD_PERIOD_S))

    async def _own(self, workers: tuple[WorkerView, ...]) -> list[WorkerView]:
        """Workers without the jobs of other tenants."""
        held = [held.job_id for worker in workers for held in worker.jobs]
        own = set(await self._calls.jobs.visible(held))
        return [
            msgspec.structs.replace(worker, jobs=tuple(held for held in worker.jobs if held.job_id in own))
            for worker in workers
        ]

    @operation(
        "showMetrics",
        SERVICE,
        answers={200: Answer(about="The metrics.", types=(str,), media=("text/plain", "application/openmetrics-text"))},
    )
    async def metrics(self, request: Request) -> Response:
        """Metrics for Prometheus."""
        try:
            pool = await self._probe(max_age_s=0.0)
        except EdgeError:
            pool = None
        page, content_type = self._metrics.exposition(request.headers.get("accept", ""), pool)
        return Response(page, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def _probe(self, max_age_s: float = _PROBE_FRESH_S) -> PoolView:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                return await self._calls.catalogue.pool(max_age_s)
        except TimeoutError:
            raise EdgeError("unavailable", f"the broker did not answer within {_PROBE_TIMEOUT_S:.0f} s") from None


def _by_class(entries: Sequence[ClassBacklog]) -> dict[str, dict[str, schema.ClassBacklog]]:
    """Model -> class of workers -> what waits."""
    found: dict[str, dict[str, schema.ClassBacklog]] = {}
    for entry in entries:
        found.setdefault(entry.model, {})[entry.label] = schema.ClassBacklog(
            device=entry.device or None,
            size=entry.size,
            waiting=entry.jobs,
            backlog_s=entry.backlog_s,
            workers=entry.workers,
            busy=entry.busy,
        )
    return found


def _state(worker: WorkerView) -> str:
    waits_for = _waits_for(worker)
    return f"{worker.state}, {waits_for}" if waits_for else worker.state


def _waits_for(worker: WorkerView) -> str:
    """Machines of its group that are not there, in words. Not why a model cannot be loaded: that names files, and probes need no key."""
    return worker.loading.error if worker.loading is not None and not worker.loading.phase else ""


def _full_depots(workers: Sequence[WorkerView]) -> Iterator[str]:
    """One sentence on the workers whose results wait for the depot, if they take no jobs because of that."""
    full = [worker.name for worker in workers if worker.depot is not None and worker.depot.full]
    if full:
        # Not why: that names addresses, and probes of the service need no key.
        names = ", ".join(full[:5]) + (" and others" if len(full) > 5 else "")
        yield f"results wait to be put into the depot, and so no new job is taken by {names}; GET /v1/workers says why"


def _not_ready(reasons: list[str]) -> Response:
    return json_response(schema.NotReady(status="unhealthy", reasons=reasons), status=503, headers={"Retry-After": "2"})
