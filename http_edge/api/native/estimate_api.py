"""Estimate of a job's end before it is submitted."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.promises import Forecast
from broker.wire.submission import DEFAULT_PRIORITY
from http_edge.api.common import schema_jobs as schema
from http_edge.api.native.jobs_api import POLICY, TAG
from http_edge.body.fields import Reader
from http_edge.body.json_body import json_response
from http_edge.http.operation import BROKER, QUERY, Answer, Param, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.fields import FIELDS, Field
from http_edge.jobs.generation_reader import read_generation
from http_edge.jobs.service import JobService

#: Prompt of a request that has none: it has no effect on the time.
_ANY_PROMPT = "-"

#: Fields that are one number or string in a query, and have an effect on the time.
_KINDS = ("text", "choice", "integer", "number", "size", "aspect")
_QUERY_FIELDS = tuple(
    field for field in FIELDS.values() if field.kind in _KINDS and field.name not in ("prompt", "save_to")
)


def _param(field: Field) -> Param:
    # In a query every value is text, which the reader of requests reads.
    return Param(name=field.name, type=str, about=field.about)


class EstimateApi:
    """Handler of estimates."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls

    def routes(self) -> list[EdgeRoute]:
        return [route("/v1/queue/estimate", expensive_get=True, GET=self.estimate)]

    @operation(
        "estimateJob",
        TAG,
        params=(
            *(_param(field) for field in _QUERY_FIELDS),
            Param(name="prompt", type=str, about="Has no effect on the estimate, and may be left out."),
            Param(name="priority", type=Annotated[int, Meta(ge=0, le=9)], about="9 first; default 5."),
        ),
        answers={200: Answer(about="What would become of it.", types=(schema.JobEstimate,))},
        errors=(*BROKER, *QUERY, "missing_field", "model_not_found", "unsupported", "forbidden", "no_workers"),
    )
    async def estimate(self, request: Request) -> Response:
        """Estimate when a job would start and be done, without submitting it.

        The parameters are the fields of `POST /v1/jobs`. `ready_within_s` of the answer is the least that such a job can request.
        """
        values: dict[str, Any] = {"prompt": _ANY_PROMPT, **request.query_params}
        reading = read_generation(values, POLICY, own=("priority",), place="query")
        priority = Reader(values, place="query").integer("priority", 0, 9)
        model, found, now = await self._calls.estimate(
            reading.generation, DEFAULT_PRIORITY if priority is None else priority
        )
        return json_response(_estimate_json(model, found, now))


def _estimate_json(model: str, found: Forecast, now: float) -> schema.JobEstimate:
    def at(seconds: float) -> float | None:
        return round(now + seconds, 3) if seconds >= 0 else None

    return schema.JobEstimate(
        object="estimate",
        model=model,
        position=found.position,
        workers=found.workers,
        starts_at=at(found.starts_s),
        done_at=at(found.done_s),
        ready_by=at(found.ready_s),
        ready_within_s=round(found.ready_s, 3) if found.ready_s >= 0 else None,
        ready_confidence=found.confidence,
        takes_s=round(found.takes_s, 3) if found.takes_s >= 0 else None,
        unknown=found.unknown or None,
    )
