"""Videos made from videos, in OpenAI's API: remixed (the same seed, size and length with another prompt), gone on from, edited with a model
that draws over one. Keeping a character is refused with the reason.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.jobspec import MAX_PROMPT_CHARS, JobSpec, ModelCard
from http_edge.api.openai import schema_openai as openai
from http_edge.api.openai import views as shapes
from http_edge.api.openai.fields import as_object, flattened
from http_edge.api.openai.submissions import ID_PREFIXES, MediaRequest, read_media_request, submit
from http_edge.api.openai.videos import TAG, TAKEN, VIDEO, Videos
from http_edge.base.errors import EdgeError, invalid, not_found
from http_edge.body.fields import Reader
from http_edge.body.forms import Fields, read_fields
from http_edge.body.json_body import read_object
from http_edge.http.operation import FORM, MAKE, Body, Param, operation
from http_edge.jobs.generation import Generation
from http_edge.jobs.job import Job
from http_edge.jobs.loras import LoraWish
from http_edge.jobs.service import JobService
from http_edge.jobs.submission import Submission
from http_edge.jobs.webhook_fields import WEBHOOK_FIELDS, read_webhook
from http_edge.media.artefacts import find_artefact
from http_edge.media.input_store import Picture
from http_edge.media.thumbnails import Thumbnails

#: Fields of a request that a spec answers as they were requested, but those that a remix brings or that were for the first client.
_CARRIED = tuple(
    name
    for name in Generation.__struct_fields__
    if hasattr(JobSpec, name) and name not in ("prompt", "image", "save_to", "previews")
)


class VideoEditsApi:
    """Handlers that make videos from videos."""

    def __init__(self, calls: JobService, videos: Videos, thumbnails: Thumbnails) -> None:
        self._calls = calls
        self._videos = videos
        self._thumbnails = thumbnails

    @operation(
        "remixVideo",
        TAG,
        params=(VIDEO,),
        body=Body(type=openai.VideoRemixRequest, forms=False),
        answers=TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def remix(self, request: Request) -> Response:
        """Draw a finished video anew with another prompt."""
        source = await self._finished(request.path_params["id"], "id")
        reader = Reader(await read_object(request))
        prompt = reader.required_text("prompt", max_chars=MAX_PROMPT_CHARS, min_chars=1)
        spec = self._spec(source)
        echo = shapes.echo_of(
            model=shapes.model_of(source),
            seconds=str(spec.echo.get("seconds", "")),
            remixed_from=source.id,
        )
        submission = Submission(
            generation=_same(spec, prompt),
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
        job, _ = await self._calls.submit(submission)
        return await self._videos.created(request, job)

    @operation(
        "extendVideo",
        TAG,
        body=Body(type=openai.VideoExtendRequest),
        answers=TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def extend(self, request: Request) -> Response:
        """Go on from a finished video.

        A model that takes a `start_video` continues its motion; any other that draws from an image begins with its last frame.
        """
        async with await read_fields(request) as fields:
            values = flattened(fields)
            source = await self._source(values.get("video"), bool(fields.uploads.get("video")), "extended")
            spec = self._spec(source)
            media_request = read_media_request(
                {"size": f"{spec.width}x{spec.height}", **values}, "video", [], ("video",), files=fields.uploads
            )
            card = await self._continuing(media_request.parsed.model or "", spec.model)
            if "start_video" in card.takes_inputs:
                media_request = await self._going_on(media_request, source, card)
            else:
                media_request = await self._from_last_frame(media_request, source, card)
            return await self._videos.created(request, await submit(self._calls, media_request))

    @operation(
        "editVideo",
        TAG,
        body=Body(type=openai.VideoEditRequest, files={"video": False}),
        answers=TAKEN,
        errors=MAKE,
        prefer=True,
        keyed=True,
    )
    async def edit(self, request: Request) -> Response:
        """Draw over a video, with a model that takes one: a finished video of this service, or a file."""
        async with await read_fields(request) as fields:
            values = flattened(fields)
            Reader(values).required_text("prompt", max_chars=MAX_PROMPT_CHARS, min_chars=1)
            is_file = bool(fields.uploads.get("video")) or _is_medium(values.get("video"))
            source = None if is_file else await self._source(values.get("video"), False, "edited")
            if not any(card.takes("video", "video") for card in await self._calls.catalogue.cards()):
                raise EdgeError(
                    "unsupported",
                    "video: no model of this service takes a video to edit; POST /v1/videos/{id}/remix draws one anew with another prompt",
                    param="video",
                )
            if source is None:
                media_request = read_media_request(values, "video", [], (), files=fields.uploads)
            else:
                media_request = await self._edit_of(source, values, fields)
            return await self._videos.created(request, await submit(self._calls, media_request))

    @operation(
        "createCharacter",
        TAG,
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
        TAG,
        params=(Param(name="id", place="path", required=True, about="The character's id."),),
        answers={},
        errors=("not_found",),
        deprecated=True,
    )
    async def show_character(self, request: Request) -> Response:
        """There are no characters."""
        raise not_found("character", request.path_params["id"])

    # ------------------------------------------------------------ parts

    async def _continuing(self, requested: str, own: str) -> ModelCard:
        """The model that goes on from a video: the requested one, its own, else one that takes a clip. Raises `EdgeError`."""
        calls = self._calls.catalogue
        cards = await calls.cards()
        name = calls.aliases.get(requested, requested)
        # Their order is kept where they are alike.
        ranked = sorted(cards, key=lambda card: (card.name != name, card.name != own, not _takes_clip(card)))
        # A requested model that cannot is refused where its inputs are checked.
        able = [
            card
            for card in ranked
            if card.name == name or (card.makes("video") and (_takes_clip(card) or card.takes_image))
        ]
        if not able:
            raise EdgeError(
                "unsupported",
                "video: no model of this service takes a video to go on from, and none draws from an image, as its last frame would be",
                param="video",
            )
        return able[0]

    async def _going_on(self, media_request: MediaRequest, source: Job, card: ModelCard) -> MediaRequest:
        """A request to go on from a whole clip, in its rate. Raises `EdgeError`."""
        kept = await self._calls.inputs.of_result("video", source, find_artefact(source.view)[1], "clip")
        seen = card.start_frames
        begins = "begins with the last frames of the video" if seen is None or seen.drawn else "begins after the video"
        brought: dict[str, Any] = {
            "start_video": (source.id,),
            "fps": media_request.parsed.generation.fps or self._spec(source).fps,
        }
        labels = {**media_request.parsed.generation.labels, "start_video": "video"}
        generation = msgspec.structs.replace(media_request.parsed.generation, **brought, labels=labels)
        return _continued(media_request, generation, source, card, begins, kept={"start_video": (kept,)})

    async def _from_last_frame(self, media_request: MediaRequest, source: Job, card: ModelCard) -> MediaRequest:
        last = await self._thumbnails.last_frame(source.view, find_artefact(source.view)[1])
        image = [("video", base64.b64encode(last).decode())]
        begins = "begins with the last frame of the video"
        return _continued(media_request, media_request.parsed.generation, source, card, begins, images=image)

    async def _edit_of(self, source: Job, values: dict[str, Any], fields: Fields) -> MediaRequest:
        """A request to draw over a finished video of this service, in its size and rate. Raises `EdgeError`."""
        spec = self._spec(source)
        own = {"size": f"{spec.width}x{spec.height}", "fps": spec.fps}
        media_request = read_media_request({**own, **values}, "video", [], ("video",), files=fields.uploads)
        kept = await self._calls.inputs.of_result("video", source, find_artefact(source.view)[1], "clip")
        brought: dict[str, Any] = {"video": (source.id,)}
        parsed = msgspec.structs.replace(
            media_request.parsed, generation=msgspec.structs.replace(media_request.parsed.generation, **brought)
        )
        return msgspec.structs.replace(media_request, parsed=parsed, kept={"video": (kept,)}, remixed_from=source.id)

    async def _finished(self, video_id: str, field: str) -> Job:
        job = await self._videos.find(video_id)
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


def _takes_clip(card: ModelCard) -> bool:
    return card.takes("start_video", "video")


def _continued(
    media_request: MediaRequest, generation: Generation, source: Job, card: ModelCard, begins: str, **media: Any
) -> MediaRequest:
    """The request with what it goes on from, and the model that draws it."""
    warning = f"video: the new clip {begins}; it holds the continuation alone"
    parsed = msgspec.structs.replace(
        media_request.parsed,
        generation=generation,
        model=media_request.parsed.model or card.name,
        warnings=(*media_request.parsed.warnings, warning),
    )
    return msgspec.structs.replace(media_request, parsed=parsed, remixed_from=source.id, **media)


def _same(spec: JobSpec, prompt: str) -> Generation:
    """Build the request for the same video with another prompt: all that is requested of its spec, and its media by name."""
    kept = {name: _requested_loras(value) for name in _CARRIED if (value := getattr(spec, name)) not in (None, "")}
    inputs: dict[str, Any] = {role: tuple(Path(path).name for path in paths) for role, paths in spec.inputs.items()}
    return Generation(prompt=prompt, **kept, **inputs)


def _is_medium(video: Any) -> bool:
    """Whether a field holds a clip itself or where it lies, and not the id of a video of this service."""
    if isinstance(video, str) and video.lstrip().startswith("{"):
        video = as_object("video", video)
    if isinstance(video, dict):
        return not video.get("id")
    return isinstance(video, str) and video.lstrip()[:8].lower().startswith(("data:", "http://", "https://", "file-"))


def _requested_loras(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return tuple(LoraWish(name=use.name, scale=use.scale, components=use.components) for use in value)
