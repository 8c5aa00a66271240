"""Immutable attributes of a job, in one struct that every message, record and view of the job carries whole."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from broker.wire.jobspec import MAX_UNITS
from broker.wire.loras import LoraNames
from broker.wire.terms import Count, Short, WebhookEvent, WebhookUrl

#: The most GPUs that a job may request.
MAX_GPUS = 64

#: Priority of a job whose client names none.
DEFAULT_PRIORITY = 5


class Submission(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Attributes that are fixed when a job is submitted, but its id and its spec."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    #: Cost feature: steps x latent tokens (`jobspec.cost_units`).
    units: Annotated[float, Meta(ge=0, le=MAX_UNITS)] = 0.0
    tenant: Annotated[str, Meta(min_length=1, max_length=64)] = "default"
    #: 0 (last) to 9 (first); strict between priorities.
    priority: Annotated[int, Meta(ge=0, le=9)] = DEFAULT_PRIORITY
    #: GPUs that the worker must have that draws it.
    gpus: Annotated[int, Meta(ge=1, le=MAX_GPUS)] = 1
    #: Which API the job came through; lets that API list and stop its own.
    origin: Annotated[str, Meta(max_length=32)] = ""
    #: The client's own name for the job, looked up by (origin, alias); the newest job of that name answers.
    alias: Short = ""
    #: Name of the only worker that may run it; "" for any.
    pinned: Annotated[str, Meta(max_length=128)] = ""
    #: Jobs of its tenant that workers may hold at once, by the newest job's limit. 0: no limit.
    max_running: Count = 0
    #: URL to which the job's events are delivered, and which events; none named: all of them.
    webhook: WebhookUrl = ""
    webhook_events: Annotated[tuple[WebhookEvent, ...], Meta(max_length=8)] = ()
    #: LoRAs of the job: a worker that has them in memory is preferred.
    lora_names: LoraNames = ()
    #: Denoising steps of the job, of all its outputs; 0: not known.
    steps: Count = 0
    #: It is parked as a draft after so many steps of all its outputs, until its client commits it. 0: it is no draft.
    draft_steps: Count = 0
    #: Name of the API key that it came with; "" without one.
    submitted_by: Annotated[str, Meta(max_length=64)] = ""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a webhook that cannot stand in a request: as its field's pattern that would cost every job a regular
        expression."""
        url = self.webhook
        if url and not (url.isascii() and url.isprintable() and " " not in url):
            raise ValueError("webhook must be printable ASCII without spaces")
