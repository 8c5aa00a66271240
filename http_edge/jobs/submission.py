"""A generation request as every API family hands it to `JobService.submit`."""

from __future__ import annotations

from msgspec import Struct

from broker.wire.jobspec import Scalar
from broker.wire.submission import DEFAULT_PRIORITY
from http_edge.jobs.generation import Generation
from http_edge.jobs.webhook_fields import Webhook
from http_edge.media.input_store import Picture


class Submission(Struct, frozen=True, kw_only=True):
    """Generation request of any API family, ready to be submitted."""

    generation: Generation
    #: Changes to the request, and fields that are ignored, as its reader found.
    warnings: tuple[str, ...] = ()
    #: Whether a field that the model does not support is ignored with a warning, instead of refused.
    lenient: bool = False
    #: Result of `JobInputs.image`, where the image did not come as text; `generation.image` is then only shown in errors.
    image: Picture | None = None
    #: Further media that came as files, by role; their names are in `generation`.
    inputs: dict[str, tuple[Picture, ...]] = {}
    #: The client's own id, which makes the request idempotent; "" for a new one, which begins so.
    job_id: str = ""
    #: Whether the id was made here for this request; `Submitter` sets it.
    fresh: bool = False
    id_prefix: str = "job-"
    priority: int = DEFAULT_PRIORITY
    deadline_s: float = 0.0
    origin: str = ""
    alias: str = ""
    alias_unique: bool = False
    only_if_idle: bool = False
    #: The only worker that may run it; "" for any.
    worker: str = ""
    #: What the API makes when no model is named.
    prefers: str | None = None
    echo: dict[str, Scalar] = {}
    #: What `read_webhook` found; where it leads is checked at submission.
    webhook: Webhook | None = None
