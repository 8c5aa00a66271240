"""OpenAI's APIs as a family."""

from __future__ import annotations

from http_edge.api.common.error_bodies import problem
from http_edge.api.common.family import Family, Parts
from http_edge.api.common.schema_common import Problem
from http_edge.api.openai.files_api import FilesApi
from http_edge.api.openai.images_api import ImagesApi
from http_edge.api.openai.models_api import ModelsApi
from http_edge.api.openai.video_edits_api import VideoEditsApi
from http_edge.api.openai.videos import Videos
from http_edge.api.openai.videos_api import VideosApi
from http_edge.http.routing import EdgeRoute, route
from http_edge.media.thumbnails import Thumbnails


def _routes(parts: Parts) -> list[EdgeRoute]:
    return [
        *FilesApi(parts.files, parts.spool).routes(),
        *_video_routes(parts),
        *ImagesApi(parts.calls).routes(),
        *ModelsApi(parts.calls).routes(),
    ]


def _video_routes(parts: Parts) -> list[EdgeRoute]:
    """Routes of videos; words come before ids."""
    videos = Videos(parts.calls, parts.progress)
    thumbnails = Thumbnails(parts.calls.results, parts.calls.credentials)
    api, edits = VideosApi(parts.calls, videos, thumbnails), VideoEditsApi(parts.calls, videos, thumbnails)
    return [
        route("/v1/videos", expensive_get=True, GET=api.list, POST=api.create),
        # Ids of videos are the service's own, and none of them is one of these words.
        route("/v1/videos/sync", alone=True, POST=api.sync),
        route("/v1/videos/edits", alone=True, POST=edits.edit),
        route("/v1/videos/extensions", alone=True, POST=edits.extend),
        route("/v1/videos/characters", alone=True, POST=edits.create_character),
        route("/v1/videos/characters/{id}", GET=edits.show_character),
        route("/v1/videos/{id}", GET=api.retrieve, DELETE=api.delete),
        route("/v1/videos/{id}/content", expensive_get=True, GET=api.content),
        route("/v1/videos/{id}/events", GET=api.events),
        route("/v1/videos/{id}/remix", POST=edits.remix),
    ]


FAMILY = Family(
    name="openai",
    prefixes=("/v1/videos", "/v1/images", "/v1/models"),
    # The native body, which has `error` and `detail` both; as plain JSON, which every client of this family reads.
    render=problem,
    body=Problem,
    # Its bad values are 400.
    statuses={"missing_field": 400, "invalid_value": 400},
    routes=_routes,
)
