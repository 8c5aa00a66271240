"""OpenAI's APIs as a family."""

from __future__ import annotations

from http_edge.api.common.error_bodies import problem
from http_edge.api.common.family import Family, Parts
from http_edge.api.common.schema_common import Problem
from http_edge.api.openai.files_api import FilesApi
from http_edge.api.openai.images_api import ImagesApi
from http_edge.api.openai.models_api import ModelsApi
from http_edge.api.openai.videos_api import VideosApi
from http_edge.http.routing import EdgeRoute


def _routes(parts: Parts) -> list[EdgeRoute]:
    return [
        *FilesApi(parts.files, parts.spool).routes(),
        *VideosApi(parts.calls, parts.progress).routes(),
        *ImagesApi(parts.calls).routes(),
        *ModelsApi(parts.calls).routes(),
    ]


FAMILY = Family(
    name="openai",
    prefixes=("/v1/videos", "/v1/images", "/v1/models"),
    # The native body, which has `error` and `detail` both; as plain JSON, which every client of this family looks into.
    render=problem,
    body=Problem,
    # Its bad values are 400.
    statuses={"missing_field": 400, "invalid_value": 400},
    routes=_routes,
)
