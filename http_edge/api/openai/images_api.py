"""OpenAI's Images API (`/v1/images`), with the fields that vLLM-Omni and SGLang added to it. Requests wait for their pictures.

An image is a job of origin `openai-images`, drawn by an image model, or by a video model that also makes images (one frame). The job is
cancelled when its client leaves. With `stream` the answer is a stream of events, with real previews where the model can give them.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from http_edge.api.common import schema_jobs as jobs
from http_edge.api.common.job_files import job_file, with_warnings
from http_edge.api.common.job_json import job_json
from http_edge.api.common.operations import FILE_ANSWERS, FORMAT, INDEX, RANGES
from http_edge.api.common.waiting import awaited, with_prefer
from http_edge.api.openai import schema_openai as openai
from http_edge.api.openai import views as shapes
from http_edge.api.openai.fields import EDIT_IMAGES, GENERATION_IMAGES, flattened, images_in
from http_edge.api.openai.image_stream import DrawingStream
from http_edge.api.openai.pictures import Pictures, Presentation, read_presentation
from http_edge.api.openai.submissions import read_media_request, submit
from http_edge.api.openai.waiting_results import drawn
from http_edge.base.errors import EdgeError, not_found
from http_edge.body.fields import Reader, missing
from http_edge.body.forms import Fields, read_fields
from http_edge.body.json_body import json_response
from http_edge.http.disconnect import ClientGone
from http_edge.http.file_response import download
from http_edge.http.operation import DOWNLOAD, EVENTS, JSON, MAKE, PICTURES, WAIT, Answer, Body, Param, Tag, operation
from http_edge.http.prefer import read_prefer
from http_edge.http.routing import EdgeRoute, route
from http_edge.jobs.job import Job
from http_edge.jobs.progress import Progress
from http_edge.jobs.service import JobService
from http_edge.jobs.urls import urls
from http_edge.media.artefacts import find_artefact
from http_edge.media.thumbnails import FORMATS, Thumbnails, Variant, as_format

#: Fields that are read here or in `pictures`.
_OWN = ("background",)

_TAG = Tag("Images", "OpenAI's Images API, with the fields of vLLM-Omni and SGLang.")

_DRAWN = {
    200: Answer(
        about="The pictures: as base64, links, a file, or a stream of events that ends with them.",
        types=(openai.ImageAnswer,),
        media=(JSON, EVENTS, *PICTURES, "application/zip"),
        links=("downloadImage",),
    ),
    202: Answer(about="The job, with `Prefer: respond-async`.", types=(jobs.Job,)),
}


class ImagesApi:
    """Handlers of the Images API."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls
        self._progress = Progress()
        self._derived = Thumbnails(calls.results, calls.credentials)
        self._pictures = Pictures(calls, self._derived)

    def routes(self) -> list[EdgeRoute]:
        return [
            route("/v1/images/generations", POST=self.generate),
            route("/v1/images/edits", POST=self.edit),
            route("/v1/images/variations", POST=self.variations),
            route("/v1/images/{id}/content", expensive_get=True, GET=self.content),
        ]

    @operation(
        "createImage",
        _TAG,
        body=Body(type=openai.ImageRequest, files={"image": False}),
        answers=_DRAWN,
        errors=(*MAKE, *WAIT),
        prefer=True,
        keyed=True,
    )
    async def generate(self, request: Request) -> Response:
        """Draw pictures from text, or from a picture and text, and wait for them."""
        async with await read_fields(request) as fields:
            job, how = await self._submit(fields, GENERATION_IMAGES, needed=False)
        return await self._answer(request, job, how, "image_generation")

    @operation(
        "editImage",
        _TAG,
        body=Body(type=openai.ImageEditRequest, files={"image": True, "mask": False}, one_of=EDIT_IMAGES),
        answers=_DRAWN,
        errors=(*MAKE, *WAIT),
        prefer=True,
        keyed=True,
    )
    async def edit(self, request: Request) -> Response:
        """Draw pictures from a picture and text, and wait for them."""
        async with await read_fields(request) as fields:
            job, how = await self._submit(fields, EDIT_IMAGES, needed=True)
        return await self._answer(request, job, how, "image_edit")

    @operation(
        "varyImage",
        _TAG,
        answers={},
        errors=("gone",),
        deprecated=True,
    )
    async def variations(self, request: Request) -> Response:
        """Retired: edits do more."""
        raise EdgeError("gone", "image variations were retired; POST /v1/images/edits with a prompt instead")

    @operation(
        "downloadImage",
        _TAG,
        params=(
            Param(name="id", place="path", required=True, about="The id of an answer with pictures."),
            INDEX,
            Param(name="variant", about="image, thumbnail, or a picture's number from 0."),
            FORMAT,
            Param(name="quality", type=Annotated[int, Meta(ge=0, le=100)], about="Of JPEG and WebP."),
            *RANGES,
        ),
        answers={200: Answer(about="The picture.", types=(bytes,), media=PICTURES), **FILE_ANSWERS},
        errors=DOWNLOAD,
    )
    async def content(self, request: Request) -> Response:
        """A picture of a finished job."""
        job = await self._image(request.path_params["id"])
        reader = Reader(request.query_params, place="query")
        index = reader.integer("index", 0, 1000) or 0
        variant = (reader.text("variant", max_chars=32) or "image").strip().lower()
        if variant.isascii() and variant.isdecimal():
            index, variant = int(variant), "image"
        if variant not in ("image", "thumbnail"):
            raise reader.fault("variant", "must be image, thumbnail or the number of a picture from 0")
        to = as_format(reader.text("format", max_chars=16) or "png")
        if to is None:
            raise reader.fault("format", f"must be one of {', '.join(FORMATS)}")
        quality = reader.integer("quality", 0, 100)
        index, artefact = find_artefact(job.view, index=index)
        if variant == "image" and to == "png":
            return await download(request, job_file(self._calls, job, index, artefact))
        kind = Variant(kind="thumbnail" if variant == "thumbnail" else "image", format=to, quality=quality)
        file = await self._derived.file(job.view, index, artefact, kind)
        return await download(request, with_warnings(file, job))

    # ------------------------------------------------------------ parts

    async def _submit(self, fields: Fields, image_names: tuple[str, ...], *, needed: bool) -> tuple[Job, Presentation]:
        values = flattened(fields)
        how, warnings = read_presentation(values)
        images = images_in(fields, values, image_names)
        if needed and not images:
            raise missing(["image"])
        media_request = read_media_request(
            values,
            "image",
            images,
            (*image_names, *_OWN),
            files=fields.uploads,
            warnings=warnings,
            previews=how.previews,
        )
        return await submit(self._calls, media_request), how

    async def _answer(self, request: Request, job: Job, how: Presentation, prefix: str) -> Response:
        if how.stream:
            return DrawingStream(self._calls, self._pictures, job, how, prefix)
        prefer = read_prefer(request)
        if prefer.respond_async:
            job = await awaited(self._calls, request, prefer, job)
            if not job.is_final:
                # There is no object of this API for a picture that is not drawn yet: the native one, and its address.
                return with_prefer(
                    json_response(job_json(job, self._progress.of(job.view))), prefer, job, urls(job.id)["self"]
                )
        try:
            job = await drawn(self._calls, request, job, self._calls.settings.sync_timeout_s)
        except ClientGone:
            return Response(status_code=499)
        return await self._pictures.response(request, job, how)

    async def _image(self, image_id: str) -> Job:
        """The job of this id, if it is one of this API. Raises `EdgeError`."""
        try:
            job = await self._calls.jobs.get(image_id)
        except EdgeError as error:
            raise not_found("image", image_id) if error.kind == "not_found" else error from None
        if job.view.submission.origin != shapes.IMAGE_ORIGIN:
            raise not_found("image", image_id)
        return job
