"""Usage of the pool: jobs, GPU-seconds and bytes, by day, key and model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.messages import UsageGroup, UsageRow
from broker.wire.usage import USAGE_GROUPS, day_of, day_text
from http_edge.base.errors import invalid
from http_edge.body.json_body import json_response
from http_edge.http.operation import BROKER, QUERY, Answer, Param, Tag, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.service import JobService

_TAG = Tag("Usage", "What was used of the pool.")

#: Days of an answer whose request names none, today's included.
_DAYS = 30
_LAST = day_of("9999-12-31")

#: An empty one is read as an absent one.
_Day = Annotated[str, Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")]


class UsageNumbers(Struct, kw_only=True):
    """Sums over jobs that are over. What they are not grouped by is absent."""

    day: str | UnsetType = UNSET
    tenant: str | UnsetType = UNSET
    #: Null: without a key.
    key: str | UnsetType | None = UNSET
    model: str | UnsetType = UNSET
    succeeded: int
    failed: int
    cancelled: int
    gpu_s: Annotated[float, Meta(description="Seconds on GPUs in attempts whose work a result holds.")]
    lost_gpu_s: Annotated[
        float, Meta(description="The same of all other attempts: failed, cancelled, lost, drawn again.")
    ]
    bytes: Annotated[int, Meta(description="Size of the results.")]


class Usage(Struct, kw_only=True):
    """Usage of some days."""

    object: Literal["usage"] = "usage"
    first_day: str
    last_day: str
    data: list[UsageNumbers]
    has_more: Annotated[bool, Meta(description="There are more rows: ask for fewer days, or by less.")]


class UsageApi:
    """Handler of usage."""

    def __init__(self, calls: JobService, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._calls = calls
        self._wall_clock = wall_clock

    def routes(self) -> list[EdgeRoute]:
        return [route("/v1/usage", expensive_get=True, GET=self.usage)]

    @operation(
        "showUsage",
        _TAG,
        params=(
            Param(name="from", type=_Day, about="The first day, in UTC; default 29 days before the last."),
            Param(name="to", type=_Day, about="The last day, in UTC; default today."),
            Param(
                name="by",
                type=Annotated[str, Meta(pattern=r"^\s*((day|tenant|key|model)\s*(,\s*(day|tenant|key|model)\s*)*)?$")],
                about="What to group by: `day`, `tenant`, `key`, `model`, several with commas; default day.",
            ),
        ),
        answers={200: Answer(about="The sums.", types=(Usage,))},
        errors=(*BROKER, *QUERY),
    )
    async def usage(self, request: Request) -> Response:
        """Usage of the pool.

        Jobs count on the day on which they end, once, and stay counted when they are deleted. Waiting and being parked cost nothing.
        """
        query = request.query_params
        last = _day("to", query["to"]) if query.get("to") else int(self._wall_clock() // 86_400)
        first = _day("from", query["from"]) if query.get("from") else max(0, last - _DAYS + 1)
        if first > last:
            raise invalid("from", query.get("from"), f"is after `to`, {day_text(last)}", place="query")
        by = _groups(query.get("by", "day"))
        rows, more = await self._calls.usage(first, last, by)
        data = [_numbers(row, by) for row in rows]
        return json_response(Usage(first_day=day_text(first), last_day=day_text(last), data=data, has_more=more))


def _day(name: str, text: str) -> int:
    try:
        day = day_of(text) if len(text) == len("2026-11-28") else -1
    except ValueError:
        day = -1
    if not 0 <= day <= _LAST:
        raise invalid(name, text, "is no day since 1970-01-01, written as 2026-11-28", place="query")
    return day


def _groups(text: str) -> tuple[UsageGroup, ...]:
    requested = {name.strip() for name in text.split(",")} - {""}
    if unknown := sorted(requested - set(USAGE_GROUPS)):
        raise invalid("by", unknown[0], f"is none of {', '.join(get_args(UsageGroup))}", place="query")
    return tuple(name for name in USAGE_GROUPS if name in requested)


def _numbers(row: UsageRow, by: tuple[UsageGroup, ...]) -> UsageNumbers:
    return UsageNumbers(
        day=day_text(row.day) if "day" in by else UNSET,
        tenant=row.tenant if "tenant" in by else UNSET,
        key=(row.key or None) if "key" in by else UNSET,
        model=row.model if "model" in by else UNSET,
        succeeded=row.succeeded,
        failed=row.failed,
        cancelled=row.cancelled,
        gpu_s=round(row.gpu_s, 3),
        lost_gpu_s=round(row.lost_gpu_s, 3),
        bytes=row.bytes,
    )
