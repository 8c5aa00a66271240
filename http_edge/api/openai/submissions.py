"""Submission of jobs of the OpenAI family, videos and images alike: fields and files, the model, the fit, the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.jobspec import MediaKind
from http_edge.api.openai.fields import GenerationRequest, read_request
from http_edge.api.openai.fit import choose_card, fit
from http_edge.api.openai.views import IMAGE_ORIGIN, VIDEO_ORIGIN, echo_of
from http_edge.base.errors import EdgeError, invalid
from http_edge.body.forms import Upload
from http_edge.jobs.input_files import fields_of, input_files, with_files
from http_edge.jobs.job import Job
from http_edge.jobs.media_checks import check_roles
from http_edge.jobs.service import JobService
from http_edge.jobs.specs import echoed_image
from http_edge.jobs.submission import Submission
from http_edge.jobs.webhook_fields import WEBHOOK_FIELDS, Webhook, read_webhook
from http_edge.media.input_store import Picture

_ORIGINS: dict[MediaKind, str] = {"video": VIDEO_ORIGIN, "image": IMAGE_ORIGIN}
_NO_FILES: Mapping[str, Sequence[Upload]] = MappingProxyType({})
ID_PREFIXES: dict[MediaKind, str] = {"video": "video_", "image": "img_"}


class MediaRequest(Struct, frozen=True, kw_only=True):
    """Request that was read and not yet submitted."""

    parsed: GenerationRequest
    output: MediaKind
    #: The images that came, with the fields they came in: the first is the image, the others are drawn from beside it.
    images: list[tuple[str, str | Upload]] = []
    #: Files that came as further inputs, by role.
    files: dict[str, list[Upload]] = {}
    #: Further inputs that are kept already, by role.
    kept: dict[str, tuple[Picture, ...]] = {}
    previews: int = 0
    remixed_from: str = ""
    webhook: Webhook | None = None


def read_media_request(
    values: Mapping[str, Any],
    output: MediaKind,
    images: list[tuple[str, str | Upload]],
    own: tuple[str, ...],
    *,
    files: Mapping[str, Sequence[Upload]] = _NO_FILES,
    warnings: list[str] | None = None,
    previews: int = 0,
) -> MediaRequest:
    """Read a request; `own` are the fields that its API reads itself, `files` those that came. Raises `EdgeError`."""
    webhook = read_webhook(values)
    inputs = {role: uploads for role, uploads in input_files(files).items() if uploads[0].field not in own}
    parsed = read_request(values, output, (*own, *fields_of(inputs), *WEBHOOK_FIELDS), files)
    parsed = msgspec.structs.replace(parsed, generation=with_files(parsed.generation, values, inputs))
    if warnings:
        parsed = msgspec.structs.replace(parsed, warnings=(*warnings, *parsed.warnings))
    return MediaRequest(parsed=parsed, output=output, images=images, files=inputs, previews=previews, webhook=webhook)


async def submit(calls: JobService, media_request: MediaRequest) -> Job:
    """The accepted job. Call it while the request's files are still there. Raises `EdgeError`; nothing was taken then."""
    parsed, output = media_request.parsed, media_request.output
    warnings = list(parsed.warnings)
    generation = parsed.generation
    if len(media_request.images) > 1:
        if generation.reference_images:
            raise invalid(
                media_request.images[1][0],
                generation.reference_images,
                "came beside several images: they are in one field",
            )
        names = tuple(_name_of(source) for _, source in media_request.images[1:])
        labels = {**generation.labels, "reference_images": media_request.images[1][0]}
        parsed = msgspec.structs.replace(
            parsed, generation=msgspec.structs.replace(generation, reference_images=names, labels=labels)
        )
    roles = {*parsed.generation.roles(), *(("image",) if media_request.images else ())}
    card, about_model = await choose_card(calls, parsed.model, output, inputs=roles)
    if media_request.images and not card.draws_from_image(output):
        field, model = media_request.images[0][0], f"model {card.name} ({card.pipeline or card.engine})"
        reason = (
            "makes videos from an image, not images" if card.takes_image else "draws from text alone and takes no image"
        )
        raise EdgeError("unsupported", f"{field}: {model} {reason}", param=field)
    generation, about_fit = fit(parsed, card, output)
    if media_request.images:
        field, source = media_request.images[0]
        generation = msgspec.structs.replace(
            generation, image=_name_of(source), labels={**generation.labels, "image": field}
        )
    check_roles(generation, card, output)
    kept = [await calls.inputs.image(field, source, allow_paths=True) for field, source in media_request.images]
    inputs = {**media_request.kept, **await calls.inputs.uploaded(media_request.files)}
    if kept[1:]:
        inputs["reference_images"] = tuple(kept[1:])
    shortened = any(line.startswith(f"{generation.label('seconds')}:") for line in about_fit)
    echo = echo_of(
        model=parsed.model or card.name,
        seconds="" if shortened else parsed.seconds,
        remixed_from=media_request.remixed_from,
    )
    submission = Submission(
        generation=msgspec.structs.replace(generation, previews=media_request.previews or generation.previews),
        warnings=(*about_model, *about_fit, *warnings),
        lenient=True,
        image=kept[0] if kept else None,
        inputs=inputs,
        id_prefix=ID_PREFIXES[output],
        priority=parsed.priority,
        origin=_ORIGINS[output],
        prefers=output,
        echo=echo,
        webhook=media_request.webhook,
    )
    job, _ = await calls.submit(submission)
    return job


def _name_of(source: str | Upload) -> str:
    """An image as errors show it."""
    return echoed_image(source) if isinstance(source, str) else source.file_name or "a file"
