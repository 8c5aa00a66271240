"""Pictures of jobs: small ones of results, and those of what is being drawn."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.jobspec import MAX_OUTPUTS, MAX_PREVIEWS
from http_edge.api.common.operations import FILE_ANSWERS, FORMAT, INDEX, RANGES
from http_edge.api.native.jobs_api import JOB, TAG
from http_edge.base.errors import EdgeError
from http_edge.body.fields import Reader
from http_edge.http.file_response import download
from http_edge.http.operation import DOWNLOAD, LOOKUP, PICTURES, QUERY, Answer, Param, operation
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.service import JobService
from http_edge.media.artefacts import find_artefact
from http_edge.media.previews import newest_preview, read_draft, read_preview
from http_edge.media.thumbnails import FORMATS, Thumbnails, Variant, as_format

#: Most previews of a job; a draft is one more of each output.
_MAX_PREVIEW = MAX_OUTPUTS * (MAX_PREVIEWS + 1)


class JobPicturesApi:
    """Handlers of pictures."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls
        self._thumbnails = Thumbnails(calls.results, calls.credentials)

    def routes(self) -> list[EdgeRoute]:
        return [
            route("/v1/jobs/{id}/thumbnail", expensive_get=True, GET=self.thumbnail),
            route("/v1/jobs/{id}/preview", GET=self.preview),
            route("/v1/jobs/{id}/draft", GET=self.draft),
        ]

    @operation(
        "showJobThumbnail",
        TAG,
        params=(JOB, INDEX, FORMAT, *RANGES),
        answers={200: Answer(about="The picture.", types=(bytes,), media=PICTURES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, "disk_full"),
    )
    async def thumbnail(self, request: Request) -> Response:
        """A small picture of a result.

        At most 640 pixels wide and high, WebP unless `format` is given; the first frame of a clip.
        """
        job = await self._calls.jobs.get(request.path_params["id"])
        reader = Reader(request.query_params, place="query")
        to = as_format(reader.text("format", max_chars=16) or "webp")
        if to is None:
            raise reader.fault("format", f"must be one of {', '.join(FORMATS)}")
        index, artefact = find_artefact(job.view, index=reader.integer("index", 0, 1000) or 0)
        variant = Variant(kind="thumbnail", format=to)
        return await download(request, await self._thumbnails.file(job.view, index, artefact, variant))

    @operation(
        "showJobPreview",
        TAG,
        params=(
            JOB,
            Param(
                name="number",
                type=Annotated[int, Meta(ge=1, le=_MAX_PREVIEW)],
                about="Its number, from 1, a further output's behind those of the one before; default: the newest.",
            ),
            Param(
                name="attempt",
                type=Annotated[int, Meta(ge=0)],
                about="The attempt, in the addresses of events, so that caches keep the pictures of attempts apart; it has no effect.",
            ),
        ),
        answers={200: Answer(about="The picture.", types=(bytes,), media=("image/png",))},
        errors=(*LOOKUP, *QUERY, "not_ready"),
    )
    async def preview(self, request: Request) -> Response:
        """A picture of what is being drawn.

        For jobs that requested `previews`, of models that can give them. Events name the newest in `preview`.
        """
        job = await self._calls.jobs.get(request.path_params["id"])
        artefacts = self._calls.settings.artefacts_path
        number = Reader(request.query_params, place="query").integer("number", 1, _MAX_PREVIEW)
        number = number or newest_preview(artefacts, job.view)
        data = await anyio.to_thread.run_sync(read_preview, artefacts, job.view, number) if number else None
        if data is None:
            which = f"has no preview {number}" if number else "has no preview"
            raise EdgeError("not_ready", f"job {job.id} {which}", param="id", value=job.id)
        return Response(data, media_type="image/png", headers={"Cache-Control": "no-store"})

    @operation(
        "showJobDraft",
        TAG,
        params=(JOB, INDEX),
        answers={200: Answer(about="The clip or picture.", types=(bytes,), media=("video/mp4", "image/png"))},
        errors=(*LOOKUP, *QUERY, "not_ready"),
    )
    async def draft(self, request: Request) -> Response:
        """Draft of an output of a job with `draft_steps` at that step: the whole clip, or its first frame where the model cannot give it.

        There until the job is over, of models that can give previews.
        """
        job = await self._calls.jobs.get(request.path_params["id"])
        index = Reader(request.query_params, place="query").integer("index", 0, 1000) or 0
        found = await anyio.to_thread.run_sync(read_draft, self._calls.settings.artefacts_path, job.view, index)
        if found is None:
            which = f"draft {index}" if index else "draft"
            raise EdgeError("not_ready", f"job {job.id} has no {which}", param="id", value=job.id)
        name, data = found
        media = "video/mp4" if name.endswith(".mp4") else "image/png"
        return Response(data, media_type=media, headers={"Cache-Control": "no-store"})
