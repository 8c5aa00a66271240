"""OpenAI's Videos API (`/v1/videos`), with the fields and routes that vLLM-Omni and SGLang added to it.

Creation answers 200 at once, whatever the model is doing. Videos made from videos are in `video_edits_api`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta
from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common.job_files import job_file, with_warnings
from http_edge.api.common.job_json import encoded
from http_edge.api.common.operations import AFTER, FILE_ANSWERS, FOLLOW, FOLLOWED, FORMAT, INDEX, ORDER, RANGES
from http_edge.api.common.sse import StreamEvent, event_stream
from http_edge.api.common.waiting import awaited
from http_edge.api.openai import schema_openai as openai
from http_edge.api.openai import views as shapes
from http_edge.api.openai.fields import VIDEO_IMAGES, flattened, images_in
from http_edge.api.openai.submissions import read_media_request, submit
from http_edge.api.openai.videos import TAG, TAKEN, VIDEO, Videos
from http_edge.api.openai.waiting_results import drawn
from http_edge.body.fields import Reader
from http_edge.body.forms import read_fields
from http_edge.body.json_body import json_response
from http_edge.http.disconnect import ClientGone
from http_edge.http.file_response import download, whole_file
from http_edge.http.operation import (
    BROKER,
    DOWNLOAD,
    FILES,
    JSON,
    LOOKUP,
    MAKE,
    WAIT,
    Answer,
    Body,
    Param,
    operation,
)
from http_edge.http.prefer import StatusResponse, read_prefer
from http_edge.jobs.delete_job import delete_job
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.jobs.slices import in_slices
from http_edge.media.artefacts import find_artefact
from http_edge.media.thumbnails import FORMATS, Thumbnails, Variant, as_format

_MAX_LISTED = 100
_DEFAULT_LISTED = 20

_VIDEO_FILES = {"input_reference": True, "image_reference": True}


class VideosApi:
    """Handlers of the Videos API."""

    def __init__(self, calls: JobService, videos: Videos, thumbnails: Thumbnails) -> None:
        self._calls = calls
        self._videos = videos
        self._thumbnails = thumbnails

    @operation(
        "createVideo",
        TAG,
        body=Body(type=openai.VideoRequest, files=_VIDEO_FILES),
        answers=TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def create(self, request: Request) -> Response:
        """Draw a video.

        Answers at once; the video is drawn in the background.
        """
        return await self._videos.created(request, await self._submit(request))

    @operation(
        "drawVideo",
        TAG,
        body=Body(type=openai.VideoRequest, files=_VIDEO_FILES),
        answers={
            200: Answer(about="The file; with `respond-async` the video.", types=(openai.Video,), media=(*FILES, JSON)),
            202: TAKEN[202],
        },
        errors=(*MAKE, *WAIT),
        prefer=True,
        keyed=True,
    )
    async def sync(self, request: Request) -> Response:
        """Draw a video, and wait for it.

        It is cancelled when its client leaves.
        """
        job = await self._submit(request)
        if read_prefer(request).respond_async:
            return await self._videos.created(request, job)
        try:
            job = await drawn(self._calls, request, job, self._calls.settings.sync_timeout_s)
        except ClientGone:
            return Response(status_code=499)
        index, artefact = find_artefact(job.view)
        return await whole_file(job_file(self._calls, job, index, artefact), shapes.measured_headers(job))

    @operation(
        "showVideo",
        TAG,
        params=(VIDEO,),
        answers={200: Answer(about="The video.", types=(openai.Video,))},
        errors=LOOKUP,
        prefer=True,
    )
    async def retrieve(self, request: Request) -> Response:
        """One video.

        `openai-poll-after-ms` is the time until the next poll. A failed one is 200 too.
        """
        prefer = read_prefer(request)
        job = await awaited(self._calls, request, prefer, await self._videos.find(request.path_params["id"]))
        base = self._videos.base_url(request)
        body = self._videos.json(job, base)
        if job.is_final:
            return StatusResponse(body, prefer)
        return StatusResponse(body, prefer, (b"openai-poll-after-ms", shapes.poll_after_ms(job.view).encode()))

    @operation(
        "listVideos",
        TAG,
        params=(
            Param(name="limit", type=Annotated[int, Meta(ge=0, le=100)], about="At most so many; default 20."),
            AFTER,
            ORDER,
        ),
        answers={200: Answer(about="The page.", types=(openai.VideoPage,))},
        errors=(*BROKER, "invalid_value"),
    )
    async def list(self, request: Request) -> Response:
        """A page of videos.

        Where few of many jobs are videos, a page can be short while `has_more` is true, and empty after 200,000 others: then `searched_to`
        is when the last job that was looked at was submitted, and `after=last_id` goes on from there.
        """
        reader = Reader(request.query_params, place="query")
        order = reader.choice("order", ("asc", "desc")) or "desc"
        limit = reader.integer("limit", 0, _MAX_LISTED)
        # The SDKs' iterators end at an empty page, whatever `has_more` is.
        found = await self._calls.jobs.search(
            limit=_DEFAULT_LISTED if limit is None else limit,
            after=reader.text("after", max_chars=64) or "",
            newest_first=order == "desc",
            until_found=True,
            origin=shapes.VIDEO_ORIGIN,
        )
        base = self._videos.base_url(request)
        return json_response(
            openai.VideoPage(
                object="list",
                data=await in_slices(found.jobs, lambda job: encoded(self._videos.json(job, base))),
                has_more=found.more,
                first_id=found.jobs[0].id if found.jobs else None,
                last_id=found.last,
                searched_to=UNSET if found.searched_to is None else found.searched_to,
            )
        )

    @operation(
        "deleteVideo",
        TAG,
        params=(VIDEO,),
        answers={200: Answer(about="It is gone.", types=(openai.VideoDeleted,))},
        errors=(*LOOKUP, "still_stopping"),
    )
    async def delete(self, request: Request) -> Response:
        """Delete a video and its files, stopping what draws it first."""
        job = await self._videos.find(request.path_params["id"])
        await delete_job(self._calls, job, "video")
        return json_response(openai.VideoDeleted(id=job.id, object="video.deleted", deleted=True))

    @operation(
        "followVideo",
        TAG,
        params=(VIDEO, *FOLLOW),
        answers=FOLLOWED,
        errors=LOOKUP,
    )
    async def events(self, request: Request) -> Response:
        """A video's changes as server-sent events.

        Events are named `video.queued`, `video.in_progress`, `video.completed` and `video.failed`; their data is the `Video`.
        """
        job = await self._videos.find(request.path_params["id"])
        base = self._videos.base_url(request)

        def make_event(job: Job, last: Job | None) -> StreamEvent:
            moved = last is None or job.view.revision > last.view.revision
            name = f"video.{shapes.status_of(job.view)}"
            return StreamEvent(name, job.view.revision if moved else 0, as_video, f"{base} ")

        def as_video(job: Job) -> openai.Video:
            return self._videos.view(job, base)

        return await event_stream(self._calls, job, request, make_event)

    @operation(
        "downloadVideo",
        TAG,
        params=(
            VIDEO,
            Param(name="variant", about="video, thumbnail, spritesheet, or an output's number from 0."),
            INDEX,
            FORMAT,
            *RANGES,
        ),
        answers={200: Answer(about="The file.", types=(bytes,), media=FILES), **FILE_ANSWERS},
        errors=(*DOWNLOAD, "disk_full"),
    )
    async def content(self, request: Request) -> Response:
        """A file of a finished video."""
        job = await self._videos.find(request.path_params["id"])
        reader = Reader(request.query_params, place="query")
        variant = (reader.text("variant", max_chars=32) or "video").strip().lower()
        index = reader.integer("index", 0, 1000) or 0
        if variant.isascii() and variant.isdecimal():
            index, variant = int(variant), "video"
        if variant not in ("video", "thumbnail", "spritesheet"):
            raise reader.fault("variant", "must be video, thumbnail, spritesheet or the number of an output from 0")
        index, artefact = find_artefact(job.view, index=index)
        if variant == "video":
            return await download(request, job_file(self._calls, job, index, artefact))
        kind: Literal["thumbnail", "spritesheet"] = "thumbnail" if variant == "thumbnail" else "spritesheet"
        to = as_format(reader.text("format", max_chars=16) or ("webp" if kind == "thumbnail" else "jpeg"))
        if to is None:
            raise reader.fault("format", f"must be one of {', '.join(FORMATS)}")
        file = await self._thumbnails.file(job.view, index, artefact, Variant(kind=kind, format=to))
        return await download(request, with_warnings(file, job))

    async def _submit(self, request: Request) -> Job:
        async with await read_fields(request) as fields:
            values = flattened(fields)
            images = images_in(fields, values, VIDEO_IMAGES)
            media_request = read_media_request(values, "video", images, VIDEO_IMAGES, files=fields.uploads)
            return await submit(self._calls, media_request)
