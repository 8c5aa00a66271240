"""Answers of the Images API: pictures as base64, links or files, in PNG, JPEG or WebP."""

from __future__ import annotations

import base64
import io
import time
import zipfile
from collections.abc import Mapping
from typing import Any

import anyio.to_thread
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from broker.wire.jobspec import Artefact
from http_edge.api.common.job_files import warnings_header
from http_edge.api.common.job_json import warnings_of
from http_edge.api.openai import schema_openai as schema
from http_edge.api.openai.fields import UNSET_VALUES
from http_edge.api.openai.views import measured, measured_headers, model_of
from http_edge.body.fields import Reader
from http_edge.body.json_body import json_response
from http_edge.http.routing import base_url
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.media.thumbnails import FORMATS, Format, Thumbnails, as_format

_MEDIA: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

#: OpenAI's models that answered with links where a request did not choose.
_LINKING_MODELS = ("dall-e-2", "dall-e-3")


def usage(job: Job) -> dict[str, Any]:
    """Build the `usage` member: zeros for tokens, which clients add up, and the peak of memory, which SGLang's benchmarks read."""
    return {
        "total_tokens": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
        "peak_memory_mb": job.view.result.peak_memory_mb if job.view.result else None,
    }


class Presentation(Struct, frozen=True, kw_only=True):
    """Form in which a request gets its pictures."""

    response_format: str = "b64_json"
    format: Format = "png"
    #: 0 to 100, of JPEG and WebP; None leaves it to us.
    quality: int | None = None
    stream: bool = False
    #: Pictures to show of the drawing, per output.
    previews: int = 0
    #: OpenAI's words, repeated in answers.
    requested_quality: str = "standard"
    background: str = "opaque"


def read_presentation(values: Mapping[str, Any]) -> tuple[Presentation, list[str]]:
    """The form of answer that a request asks for, and warnings about what is ignored of it. Raises `EdgeError`."""
    reader = Reader(values)
    stream = bool(reader.flag("stream"))
    default = "url" if values.get("model") in _LINKING_MODELS and not stream else "b64_json"
    response_format = (reader.text("response_format", max_chars=16) or default).lower()
    if response_format not in ("b64_json", "url", "file"):
        raise reader.fault("response_format", "must be b64_json, url or file")
    name = reader.text("output_format", max_chars=16) or "png"
    to = as_format(name)
    if to is None:
        raise reader.fault("output_format", f"must be one of {', '.join(FORMATS)}")
    quality = reader.integer("output_compression", 0, 100)
    previews = reader.integer("partial_images", 0, 3) or 0
    warnings = []
    if reader.raw("background") not in (*UNSET_VALUES, "opaque"):
        warnings.append("background: pictures are opaque here, ignored")
    if quality is not None and to == "png":
        quality = None
        if str(values.get("output_compression")) != "100":
            warnings.append("output_compression: PNG has no levels of quality, ignored")
    if previews and not stream:
        warnings.append("partial_images: previews are sent with stream only, ignored")
    if stream and response_format != "b64_json":
        warnings.append("response_format: streams carry b64_json")
    return Presentation(
        response_format=response_format,
        format=to,
        quality=quality,
        stream=stream,
        previews=previews if stream else 0,
        requested_quality=reader.text("quality", max_chars=16) or "standard",
    ), warnings


class Pictures:
    """Presents finished jobs."""

    def __init__(self, calls: JobService, derived: Thumbnails) -> None:
        self._calls = calls
        self._derived = derived

    async def response(self, request: Request, job: Job, how: Presentation) -> Response:
        """The answer to a request that did not request a stream. Raises `EdgeError`."""
        artefacts = _artefacts(job)
        revised = job.spec.enhanced_prompt if job.spec else None
        if how.response_format == "file":
            return await self._files(job, how)
        if how.response_format == "url":
            base = self.base_url(request)
            data = [
                schema.ImageItem(url=f"{base}{content_path(job.id, index, how)}", revised_prompt=revised)
                for index in range(len(artefacts))
            ]
        else:
            data = [
                schema.ImageItem(b64_json=await self.b64(job, artefact, how), revised_prompt=revised)
                for artefact in artefacts
            ]
        look, took = appearance(job, how), measured(job)
        body = schema.ImageAnswer(
            id=job.id,
            object="image",
            created=int(job.view.finished_at or time.time()),
            data=data,
            background=look.background,
            output_format=look.output_format,
            quality=look.quality,
            size=look.size,
            usage=usage(job),
            model=model_of(job),
            inference_time_s=took.inference_time_s,
            stage_durations=took.stage_durations,
            peak_memory_mb=took.peak_memory_mb,
            num_outputs=took.num_outputs,
            seed=job.spec.seed if job.spec else None,
            warnings=list(warnings_of(job)),
        )
        return json_response(body)

    async def b64(self, job: Job, artefact: Artefact, how: Presentation) -> str:
        """A picture's file as base64. Raises `EdgeError`."""
        data = await self._derived.image_bytes(job.view, artefact, how.format, how.quality)
        return (await anyio.to_thread.run_sync(base64.b64encode, data)).decode("ascii")

    async def _files(self, job: Job, how: Presentation) -> Response:
        """The picture itself, or a zip file of several. Raises `EdgeError`."""
        artefacts = _artefacts(job)
        files = [await self._derived.image_bytes(job.view, artefact, how.format, how.quality) for artefact in artefacts]
        headers = {"Cache-Control": "no-store", **measured_headers(job), **warnings_header(job)}
        if len(files) == 1:
            return Response(files[0], media_type=_MEDIA[how.format], headers=headers)
        packed = io.BytesIO()
        # Stored: pictures are compressed already.
        with zipfile.ZipFile(packed, "w") as archive:
            for index, data in enumerate(files):
                archive.writestr(f"image_{index}.{how.format}", data)
        return Response(packed.getvalue(), media_type="application/zip", headers=headers)

    def base_url(self, request: Request) -> str:
        """The address of this service in links, without a last slash."""
        return base_url(request, self._calls.settings.public_url)


def appearance(job: Job, how: Presentation) -> schema.Appearance:
    """Build OpenAI's fields about a picture's form."""
    artefact = _artefacts(job)[0] if job.view.result and job.view.result.artefacts else None
    width, height = (artefact.width, artefact.height) if artefact else (0, 0)
    if not (width and height) and job.spec:
        width, height = job.spec.width, job.spec.height
    return schema.Appearance(
        background=how.background,
        output_format=how.format,
        quality=how.requested_quality,
        size=f"{width}x{height}",
    )


def content_path(job_id: str, index: int, how: Presentation) -> str:
    """Return the path on this server of a picture of a job."""
    wishes = [f"index={index}"] if index else []
    if how.format != "png":
        wishes.append(f"format={how.format}")
    if how.quality is not None:
        wishes.append(f"quality={how.quality}")
    return f"/v1/images/{job_id}/content" + ("?" + "&".join(wishes) if wishes else "")


def _artefacts(job: Job) -> tuple[Artefact, ...]:
    return job.view.result.artefacts if job.view.result else ()
