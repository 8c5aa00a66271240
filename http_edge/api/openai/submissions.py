"""Taking a job for the OpenAI family: the request's fields and files, the model, the fit, the submission. Videos and images alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from broker.wire.jobspec import MediaKind
from http_edge.api.openai.fields import GenerationRequest, read_request
from http_edge.api.openai.fit import choose_card, fit
from http_edge.api.openai.views import IMAGE_ORIGIN, VIDEO_ORIGIN, echo_of
from http_edge.base.errors import EdgeError
from http_edge.body.forms import Upload
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService
from http_edge.jobs.submission import Submission
from http_edge.jobs.webhook_fields import WEBHOOK_FIELDS, Webhook, read_webhook

_ORIGINS: dict[MediaKind, str] = {"video": VIDEO_ORIGIN, "image": IMAGE_ORIGIN}
ID_PREFIXES: dict[MediaKind, str] = {"video": "video_", "image": "img_"}


class MediaRequest(Struct, frozen=True, kw_only=True):
    """One request, read and not yet taken."""

    asked: GenerationRequest
    output: MediaKind
    #: The images that came, with the fields they came in; the first is drawn from.
    images: list[tuple[str, str | Upload]] = []
    previews: int = 0
    remixed_from: str = ""
    webhook: Webhook | None = None


def read_media_request(
    values: Mapping[str, Any],
    output: MediaKind,
    images: list[tuple[str, str | Upload]],
    own: tuple[str, ...],
    *,
    files: Collection[str] = (),
    warnings: list[str] | None = None,
    previews: int = 0,
) -> MediaRequest:
    """What a request asks for; `own` are the fields that its API reads itself, `files` the names of those that came. Raises `EdgeError`."""
    webhook = read_webhook(values)
    asked = read_request(values, output, (*own, *WEBHOOK_FIELDS), files)
    if warnings:
        asked = msgspec.structs.replace(asked, warnings=(*warnings, *asked.warnings))
    return MediaRequest(asked=asked, output=output, images=images, previews=previews, webhook=webhook)


async def submit(calls: JobService, wish: MediaRequest) -> Job:
    """The accepted job. Call it while the request's files are still there. Raises `EdgeError`; nothing was taken then."""
    asked, output = wish.asked, wish.output
    warnings = list(asked.warnings)
    if len(wish.images) > 1:
        warnings.append(f"{wish.images[0][0]}: {len(wish.images)} images came, the first was used")
    card, about_model = await choose_card(calls, asked.model, output, with_image=bool(wish.images))
    if wish.images and not card.draws_from_image(output):
        field, model = wish.images[0][0], f"model {card.name} ({card.pipeline or card.engine})"
        reason = (
            "makes videos from an image, not images" if card.takes_image else "draws from text alone and takes no image"
        )
        raise EdgeError("unsupported", f"{field}: {model} {reason}", param=field)
    wanted, about_fit = fit(asked, card, output)
    image = None
    if wish.images:
        field, source = wish.images[0]
        wanted = msgspec.structs.replace(wanted, labels={**wanted.labels, "image": field})
        image = await calls.image(field, source, allow_paths=True)
    shortened = any(line.startswith(f"{wanted.label('seconds')}:") for line in about_fit)
    echo = echo_of(
        model=asked.model or card.name,
        seconds="" if shortened else asked.seconds,
        remixed_from=wish.remixed_from,
    )
    order = Submission(
        wanted=msgspec.structs.replace(wanted, previews=wish.previews),
        warnings=(*about_model, *about_fit, *warnings),
        lenient=True,
        image=image,
        id_prefix=ID_PREFIXES[output],
        priority=asked.priority,
        origin=_ORIGINS[output],
        prefers=output,
        echo=echo,
        webhook=wish.webhook,
    )
    job, _ = await calls.submit(order)
    return job
