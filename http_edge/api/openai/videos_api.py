"""OpenAI's Videos API (`/v1/videos`), with the fields and routes that vLLM-Omni and SGLang added to it.

A video is a job of origin `openai-videos`. Creation answers 200 at once, whatever the model is doing. Remixing draws the same video (seed,
size, length) with another prompt; editing draws over one, with a model that can. Keeping a character is refused with the reason.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.jobspec import JobSpec
from http_edge.api.common.job_files import job_file, with_warnings
from http_edge.api.common.job_json import encoded
from http_edge.api.common.operations import AFTER, FILE_ANSWERS, FOLLOW, FOLLOWED, FORMAT, INDEX, ORDER, RANGES
from http_edge.api.common.sse import StreamEvent, event_stream
from http_edge.api.common.waiting import awaited, is_fresh, with_prefer
from http_edge.api.openai import schema_openai as openai
from http_edge.api.openai import views as shapes
from http_edge.api.openai.fields import VIDEO_IMAGES, as_object, flattened, images_in
from http_edge.api.openai.submissions import ID_PREFIXES, MediaRequest, read_media_request, submit
from http_edge.api.openai.waiting_images import drawn
from http_edge.base.errors import EdgeError, invalid, not_found
from http_edge.body.fields import Reader
from http_edge.body.forms import Fields, read_fields
from http_edge.body.json_body import json_response, read_object
from http_edge.http.disconnect import ClientGone
from http_edge.http.file_response import download, whole_file
from http_edge.http.operation import (
    BROKER,
    DOWNLOAD,
    FILES,
    FORM,
    JSON,
    LOOKUP,
    MAKE,
    WAIT,
    Answer,
    Body,
    Param,
    Tag,
    operation,
)
from http_edge.http.prefer import StatusResponse, read_prefer
from http_edge.http.routing import EdgeRoute, base_url, route
from http_edge.jobs.delete_job import delete_job
from http_edge.jobs.generation import Generation
from http_edge.jobs.job import Job
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService
from http_edge.jobs.slices import in_slices
from http_edge.jobs.submission import Submission
from http_edge.jobs.webhook_fields import WEBHOOK_FIELDS, read_webhook
from http_edge.media.artefacts import find_artefact
from http_edge.media.image_inputs import Picture
from http_edge.media.thumbnails import FORMATS, Thumbnails, Variant, as_format

_MAX_LISTED = 100
_DEFAULT_LISTED = 20

_MAX_PROMPT_CHARS = 20_000

_TAG = Tag("Videos", "OpenAI's Videos API, with the fields of vLLM-Omni and SGLang.")

_VIDEO = Param(name="id", place="path", required=True, about="The video's id.")
_NEXT = ("showVideo", "downloadVideo", "remixVideo", "deleteVideo")
_TAKEN = {
    200: Answer(about="The video, queued.", types=(openai.Video,), links=_NEXT),
    202: Answer(about="The same, with `Prefer: respond-async`.", types=(openai.Video,), links=_NEXT),
}
_VIDEO_FILES = {"input_reference": True, "image_reference": True}


class VideosApi:
    """Handlers of the Videos API."""

    def __init__(self, calls: JobService, progress: Progress) -> None:
        self._calls = calls
        self._progress = progress
        self._derived = Thumbnails(calls.settings.artefacts_path)

    def routes(self) -> list[EdgeRoute]:
        """The routes; words come before ids."""
        return [
            route("/v1/videos", expensive_get=True, GET=self.list, POST=self.create),
            # Ids of videos are the service's own, and none of them is one of these words.
            route("/v1/videos/sync", alone=True, POST=self.sync),
            route("/v1/videos/edits", alone=True, POST=self.edit),
            route("/v1/videos/extensions", alone=True, POST=self.extend),
            route("/v1/videos/characters", alone=True, POST=self.create_character),
            route("/v1/videos/characters/{id}", GET=self.show_character),
            route("/v1/videos/{id}", GET=self.retrieve, DELETE=self.delete),
            route("/v1/videos/{id}/content", expensive_get=True, GET=self.content),
            route("/v1/videos/{id}/events", GET=self.events),
            route("/v1/videos/{id}/remix", POST=self.remix),
        ]

    @operation(
        "createVideo",
        _TAG,
        body=Body(type=openai.VideoRequest, files=_VIDEO_FILES),
        answers=_TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def create(self, request: Request) -> Response:
        """Draw a video.

        Answers at once; the video is drawn in the background.
        """
        return await self._created(request, await self._submit(request))

    @operation(
        "drawVideo",
        _TAG,
        body=Body(type=openai.VideoRequest, files=_VIDEO_FILES),
        answers={
            200: Answer(about="The file; with `respond-async` the video.", types=(openai.Video,), media=(*FILES, JSON)),
            202: _TAKEN[202],
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
            return await self._created(request, job)
        try:
            job = await drawn(self._calls, request, job, self._calls.settings.sync_timeout_s)
        except ClientGone:
            return Response(status_code=499)
        index, artefact = find_artefact(job.view)
        return await whole_file(job_file(self._calls, job, index, artefact), shapes.measured_headers(job))

    @operation(
        "showVideo",
        _TAG,
        params=(_VIDEO,),
        answers={200: Answer(about="The video.", types=(openai.Video,))},
        errors=LOOKUP,
        prefer=True,
    )
    async def retrieve(self, request: Request) -> Response:
        """One video.

        `openai-poll-after-ms` says when to ask again. A failed one is 200 too.
        """
        prefer = read_prefer(request)
        job = await awaited(self._calls, prefer, await self._video(request.path_params["id"]))
        base = self._base_url(request)
        body = self._json(job, base)
        if job.is_final:
            return StatusResponse(body, prefer)
        return StatusResponse(body, prefer, (b"openai-poll-after-ms", shapes.poll_after_ms(job.view).encode()))

    @operation(
        "listVideos",
        _TAG,
        params=(
            Param(name="limit", type=Annotated[int, Meta(ge=0, le=100)], about="At most so many; default 20."),
            AFTER,
            ORDER,
        ),
        answers={200: Answer(about="The page.", types=(openai.VideoPage,))},
        errors=(*BROKER, "invalid_value"),
    )
    async def list(self, request: Request) -> Response:
        """A page of videos."""
        reader = Reader(request.query_params, place="query")
        order = reader.choice("order", ("asc", "desc")) or "desc"
        limit = reader.integer("limit", 0, _MAX_LISTED)
        jobs, more = await self._calls.jobs(
            limit=_DEFAULT_LISTED if limit is None else limit,
            after=reader.text("after", max_chars=64) or "",
            newest_first=order == "desc",
            origin=shapes.VIDEO_ORIGIN,
        )
        base = self._base_url(request)
        return json_response(
            openai.VideoPage(
                object="list",
                data=await in_slices(jobs, lambda job: encoded(self._json(job, base))),
                has_more=more,
                first_id=jobs[0].id if jobs else None,
                last_id=jobs[-1].id if jobs else None,
            )
        )

    def _json(self, job: Job, base: str | None) -> bytes:
        return job.json(f"video {base}", lambda job: shapes.video_json(job, self._progress, base))

    @operation(
        "deleteVideo",
        _TAG,
        params=(_VIDEO,),
        answers={200: Answer(about="It is gone.", types=(openai.VideoDeleted,))},
        errors=(*LOOKUP, "still_stopping"),
    )
    async def delete(self, request: Request) -> Response:
        """Delete a video and its files, stopping what draws it first."""
        job = await self._video(request.path_params["id"])
        await delete_job(self._calls, job, "video")
        return json_response(openai.VideoDeleted(id=job.id, object="video.deleted", deleted=True))

    @operation(
        "followVideo",
        _TAG,
        params=(_VIDEO, *FOLLOW),
        answers=FOLLOWED,
        errors=LOOKUP,
    )
    async def events(self, request: Request) -> Response:
        """A video's changes as server-sent events.

        Events are named `video.queued`, `video.in_progress`, `video.completed` and `video.failed`; their data is the `Video`.
        """
        job = await self._video(request.path_params["id"])
        base = self._base_url(request)

        def make_event(job: Job, last: Job | None) -> StreamEvent:
            moved = last is None or job.view.revision > last.view.revision
            name = f"video.{shapes.status_of(job.view)}"
            return StreamEvent(name, job.view.revision if moved else 0, as_video, f"{base} ")

        def as_video(job: Job) -> openai.Video:
            return shapes.video_json(job, self._progress, base)

        return await event_stream(self._calls, job, request, make_event)

    @operation(
        "downloadVideo",
        _TAG,
        params=(
            _VIDEO,
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
        job = await self._video(request.path_params["id"])
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
            raise reader.fault("format", f"must be of {', '.join(FORMATS)}")
        file = await self._derived.file(job.view, index, artefact, Variant(kind=kind, format=to))
        return await download(request, with_warnings(file, job))

    @operation(
        "remixVideo",
        _TAG,
        params=(_VIDEO,),
        body=Body(type=openai.VideoRemixRequest, forms=False),
        answers=_TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def remix(self, request: Request) -> Response:
        """Draw a finished video anew with another prompt."""
        source = await self._finished(request.path_params["id"], "id")
        reader = Reader(await read_object(request))
        prompt = reader.required_text("prompt", max_chars=_MAX_PROMPT_CHARS, min_chars=1)
        spec = self._spec(source)
        echo = shapes.echo_of(
            model=shapes.model_of(source),
            seconds=str(spec.echo.get("seconds", "")),
            remixed_from=source.id,
        )
        order = Submission(
            wanted=_same(spec, prompt),
            warnings=tuple(
                f"{name[:80]}: not supported by this route, ignored"
                for name in reader.unknown(("prompt", *WEBHOOK_FIELDS))[:50]
            ),
            lenient=True,
            image=Picture(spec.image, spec.width, spec.height) if spec.image else None,
            inputs={
                role: tuple(Picture(path, spec.width, spec.height) for path in paths)
                for role, paths in spec.inputs.items()
            },
            id_prefix=ID_PREFIXES["video"],
            priority=source.view.submission.priority,
            origin=shapes.VIDEO_ORIGIN,
            prefers="video",
            echo=echo,
            webhook=read_webhook(reader.fields),
        )
        job, _ = await self._calls.submit(order)
        return await self._created(request, job)

    @operation(
        "extendVideo",
        _TAG,
        body=Body(type=openai.VideoExtendRequest),
        answers=_TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def extend(self, request: Request) -> Response:
        """Go on from a finished video's last frame."""
        async with await read_fields(request) as fields:
            values = flattened(fields)
            source = await self._source(values.get("video"), bool(fields.uploads.get("video")), "extended")
            spec = self._spec(source)
            wish = read_media_request(
                {"size": f"{spec.width}x{spec.height}", **values}, "video", [], ("video",), files=fields.uploads
            )
        asked = wish.asked
        cards = await self._calls.catalogue.cards()
        own = next((card for card in cards if card.name == spec.model), None)
        able = [card for card in (own, *cards) if card and card.takes_image and card.makes("video")]
        if not able:
            raise EdgeError(
                "unsupported",
                "video: no model of this service draws from an image, which going on from a video's last frame needs",
                param="video",
            )
        last = await self._derived.last_frame(source.view, find_artefact(source.view)[1])
        warning = "video: the new clip begins with the last frame of the video; it holds the continuation alone"
        asked = msgspec.structs.replace(asked, model=asked.model or able[0].name, warnings=(*asked.warnings, warning))
        image = [("video", base64.b64encode(last).decode())]
        wish = msgspec.structs.replace(wish, asked=asked, images=image, remixed_from=source.id)
        return await self._created(request, await submit(self._calls, wish))

    @operation(
        "editVideo",
        _TAG,
        body=Body(type=openai.VideoEditRequest, files={"video": False}),
        answers=_TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def edit(self, request: Request) -> Response:
        """Draw over a video, with a model that takes one: a finished video of this service, or a file."""
        async with await read_fields(request) as fields:
            values = flattened(fields)
            Reader(values).required_text("prompt", max_chars=_MAX_PROMPT_CHARS, min_chars=1)
            is_file = bool(fields.uploads.get("video"))
            source = None if is_file else await self._source(values.get("video"), False, "edited")
            if not any(card.takes("video", "video") for card in await self._calls.catalogue.cards()):
                raise EdgeError(
                    "unsupported",
                    "video: no model of this service takes a video to edit; POST /v1/videos/{id}/remix draws one anew with another prompt",
                    param="video",
                )
            if source is None:
                wish = read_media_request(values, "video", [], (), files=fields.uploads)
            else:
                wish = await self._edit_of(source, values, fields)
            return await self._created(request, await submit(self._calls, wish))

    @operation(
        "createCharacter",
        _TAG,
        body=Body(type=openai.CharacterRequest, required=False),
        answers={},
        errors=(*FORM, "unsupported"),
        deprecated=True,
    )
    async def create_character(self, request: Request) -> Response:
        """Refused: no model here can keep a character."""
        raise EdgeError(
            "unsupported",
            "video: no model of this service can keep a character; describe it in the prompt, or give an image as input_reference",
            param="video",
        )

    @operation(
        "showCharacter",
        _TAG,
        params=(Param(name="id", place="path", required=True, about="The character's id."),),
        answers={},
        errors=("not_found",),
        deprecated=True,
    )
    async def show_character(self, request: Request) -> Response:
        """There are no characters."""
        raise not_found("character", request.path_params["id"])

    # ------------------------------------------------------------ parts

    async def _submit(self, request: Request) -> Job:
        async with await read_fields(request) as fields:
            values = flattened(fields)
            images = images_in(fields, values, VIDEO_IMAGES)
            wish = read_media_request(values, "video", images, VIDEO_IMAGES, files=fields.uploads)
            return await submit(self._calls, wish)

    async def _edit_of(self, source: Job, values: dict[str, Any], fields: Fields) -> MediaRequest:
        """A request to draw over a finished video of this service, in its size and rate. Raises `EdgeError`."""
        spec = self._spec(source)
        own = {"size": f"{spec.width}x{spec.height}", "fps": spec.fps}
        wish = read_media_request({**own, **values}, "video", [], ("video",), files=fields.uploads)
        kept = await self._calls.kept_result("video", source, find_artefact(source.view)[1], "clip")
        brought: dict[str, Any] = {"video": (source.id,)}
        asked = msgspec.structs.replace(wish.asked, wanted=msgspec.structs.replace(wish.asked.wanted, **brought))
        return msgspec.structs.replace(wish, asked=asked, kept={"video": (kept,)}, remixed_from=source.id)

    async def _created(self, request: Request, job: Job) -> Response:
        prefer = read_prefer(request)
        job = await awaited(self._calls, prefer, job)
        body = shapes.video_json(job, self._progress, self._base_url(request), fresh=is_fresh(prefer, job))
        headers = {"openai-poll-after-ms": shapes.poll_after_ms(job.view)}
        return with_prefer(json_response(body, headers=headers), prefer, job, f"/v1/videos/{job.id}")

    def _base_url(self, request: Request) -> str | None:
        return None if self._calls.settings.keys_path else base_url(request, self._calls.settings.public_url)

    async def _video(self, video_id: str) -> Job:
        """The video of this id: a job of this API. Raises `EdgeError`."""
        try:
            job = await self._calls.job(video_id)
        except EdgeError as error:
            raise not_found("video", video_id) if error.kind == "not_found" else error from None
        if job.view.submission.origin != shapes.VIDEO_ORIGIN:
            raise not_found("video", video_id)
        return job

    async def _finished(self, video_id: str, field: str) -> Job:
        job = await self._video(video_id)
        if job.view.state != "succeeded":
            raise invalid(field, video_id, f"is {shapes.status_of(job.view)}; the video must be completed")
        return job

    async def _source(self, video: Any, is_file: bool, verb: str) -> Job:
        """The finished video that a request names. Raises `EdgeError`."""
        if is_file:
            raise EdgeError(
                "unsupported", f"video: an uploaded file cannot be {verb}; name a video of this service", param="video"
            )
        if isinstance(video, str) and video.lstrip().startswith("{"):
            video = as_object("video", video)
        video_id = video.get("id") if isinstance(video, dict) else video
        if not isinstance(video_id, str) or not video_id:
            raise EdgeError("missing_field", "video: it is required: the id of a video, as in video[id]", param="video")
        return await self._finished(video_id, "video")

    @staticmethod
    def _spec(job: Job) -> JobSpec:
        if job.spec is None:
            raise EdgeError("unsupported", f"video {job.id} was made by a newer version and cannot be read by this one")
        return job.spec


def _same(spec: JobSpec, prompt: str) -> Generation:
    """Build the request for the same video with another prompt."""
    inputs: dict[str, Any] = {role: tuple(Path(path).name for path in paths) for role, paths in spec.inputs.items()}
    return Generation(
        prompt=prompt,
        negative_prompt=spec.negative_prompt,
        model=spec.model,
        output=spec.output,
        width=spec.width,
        height=spec.height,
        num_frames=spec.num_frames,
        fps=spec.fps,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        guidance_scale_2=spec.guidance_scale_2,
        max_sequence_length=spec.max_sequence_length,
        seed=spec.seed,
        num_outputs=spec.num_outputs,
        extra=spec.extra,
        **inputs,
    )
