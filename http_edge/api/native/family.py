"""The native API and the service itself, as a family: it owns all paths that no other does."""

from __future__ import annotations

from http_edge.api.common.error_bodies import problem
from http_edge.api.common.family import Family, Parts
from http_edge.api.common.schema_common import Problem
from http_edge.api.native.depot_api import DepotApi
from http_edge.api.native.estimate_api import EstimateApi
from http_edge.api.native.job_pictures_api import JobPicturesApi
from http_edge.api.native.jobs_api import JobsApi
from http_edge.api.native.parking_api import ParkingApi
from http_edge.api.native.recipes_api import RecipesApi
from http_edge.api.native.service_api import ServiceApi
from http_edge.api.native.usage_api import UsageApi
from http_edge.http.routing import EdgeRoute


def _routes(parts: Parts) -> list[EdgeRoute]:
    strict = [
        *JobsApi(parts.calls, parts.progress).routes(),
        *ParkingApi(parts.calls, parts.progress).routes(),
        *RecipesApi(parts.calls, parts.spool).routes(),
        *JobPicturesApi(parts.calls).routes(),
        *UsageApi(parts.calls).routes(),
    ]
    service = ServiceApi(parts.calls, parts.metrics, parts.version)
    strict += service.pool_routes()
    for one in strict:
        one.refuse_unknown_query()
    return [
        *strict,
        # Its parameters are a request's fields, which it checks itself.
        *EstimateApi(parts.calls).routes(),
        *DepotApi(parts.calls, parts.depot).routes(),
        *service.routes(),
    ]


FAMILY = Family(
    name="native",
    prefixes=("",),
    render=problem,
    body=Problem,
    media_type="application/problem+json",
    routes=_routes,
)
