"""Documents of the native API about jobs: requests as their readers take them, answers as `job_json` makes them."""

from __future__ import annotations

from typing import Annotated, Literal, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.wire.jobspec import Artefact, JobSpec, MediaKind, Scalar
from broker.wire.messages import JobStateName
from http_edge.api.common.schema_common import Hooked, NumberText, Priority, request_type
from http_edge.base.limits import LEAST_TIME_S, MOST_TIME_S
from http_edge.jobs.service import Cancelled

Seconds = Annotated[float, Meta(description="seconds")]
UnixTime = Annotated[float, Meta(description="Unix seconds")]


class _JobFields(Hooked, kw_only=True):
    """A job to submit. Only `prompt` is required; what is left out comes from the model's defaults. Unknown fields are refused."""

    id: (
        Annotated[
            str,
            Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Your own id: the same request again is the same job."),
        ]
        | None
    ) = None
    priority: Priority = None
    deadline_s: Annotated[
        Annotated[float, Meta(ge=LEAST_TIME_S, le=MOST_TIME_S)] | NumberText | None,
        Meta(description="The job must be final within so many seconds."),
    ] = None


JobRequest = request_type("JobRequest", _JobFields, closed=True)


class JobTimings(Struct, kw_only=True):
    """Seconds: waiting, running, from submission to the end, and by stage of the engine."""

    queued_s: float | None
    run_s: float | None
    total_s: float | None
    stages: dict[str, float]


class JobError(Struct, kw_only=True):
    """Failure of a job: its class, and a sentence."""

    code: str
    message: str


class JobFile(Artefact, frozen=True, kw_only=True):
    """A file of a job that succeeded."""

    url: str


class JobUrls(Struct, kw_only=True):
    """Addresses of a job; paths on this server."""

    self: str
    events: str
    cancel: str
    result: str


class JobMove(Struct, kw_only=True, rename={"source": "from"}):
    """A move of a job from one state to another."""

    at: UnixTime
    source: Annotated[str | None, Meta(description="null: it was submitted")]
    to: str
    cause: str
    attempt: int
    worker: str | None
    note: str | None


class JobLora(Struct, kw_only=True):
    """A LoRA that a job is drawn with; `components` are those with a scale of their own."""

    name: str
    scale: float
    components: dict[str, float]


#: Fields of a job's spec that its answer has in another form, or not at all; all others it has as they are.
_NOT_AS_THEY_ARE = frozenset(
    (
        "original_prompt", "echo", "image", "inputs", "loras", "parent_span", "previews", "prompt", "recipe", "request_digest", "save_to",
        "traceparent", "warnings",
    )
)  # fmt: skip

_AsTheyAre: type[Struct] = msgspec.defstruct(
    "_AsTheyAre",
    [(name, kind) for name, kind in get_type_hints(JobSpec).items() if name not in _NOT_AS_THEY_ARE],
    kw_only=True,
    module=__name__,
)


class JobSpecView(_AsTheyAre, kw_only=True):  # type: ignore[call-arg, misc, valid-type]  # made of the spec's own fields
    """Specification of a job, every default filled in."""

    prompt: Annotated[str, Meta(description="As it was asked for.")]
    #: What it is drawn with instead, where a prompt enhancer wrote that; absent where none did.
    enhanced_prompt: str | UnsetType = UNSET
    loras: list[JobLora]
    image: Scalar | UnsetType = UNSET
    save_to: Scalar | UnsetType = UNSET
    inputs: Annotated[
        dict[str, int] | UnsetType, Meta(description="How many further media of each kind it is drawn from.")
    ] = UNSET


class HookDelivery(Struct, kw_only=True):
    """One event of a webhook, and what became of it."""

    type: str
    state: Literal["pending", "sending", "delivered", "failed", "disabled"]
    attempts: int
    last_status: int | None
    last_error: str | None
    next_at: UnixTime | None


class JobSetAside(Struct, kw_only=True):
    """Reason why the service took a job that is not over out of its work, and since when: it waits for the operator."""

    reason: str
    at: UnixTime


class JobParking(Struct, kw_only=True):
    """Of a job that is, was, or is to be out of its engine though nothing is wrong with it."""

    reason: Annotated[
        Literal["paused", "draft", "preempted"] | None,
        Meta(
            description="Why it is parked: by its client, as a draft, or to make room for a shorter job; null: it is not."
        ),
    ]
    at: UnixTime | None
    requested: Annotated[bool, Meta(description="Whether its worker is to hand it back.")]
    committed: Annotated[bool, Meta(description="Whether its draft was committed.")]
    draft_expires_at: Annotated[UnixTime | None, Meta(description="When it fails, if its draft is not committed.")]
    preemptions: Annotated[int, Meta(description="How often it made room for a shorter job.")]


class JobWebhook(Struct, kw_only=True):
    """A job's webhook and its deliveries."""

    url: str
    wanted: list[str]
    events: list[HookDelivery]


class JobPromise(Struct, kw_only=True):
    """The time by which a job is promised to be done. One that cannot be kept is broken at once, and another takes its place."""

    ready_by: UnixTime
    ready_confidence: float
    first_ready_by: Annotated[float | None, Meta(description="What was promised at first, once that was broken.")]
    broken_at: UnixTime | None


class JobEstimate(Struct, kw_only=True):
    """Forecast of a job that came now; null means not known, and `unknown` is the reason."""

    object: Literal["estimate"]
    model: str
    position: Annotated[int, Meta(description="Jobs that would be given out before it.")]
    workers: Annotated[int, Meta(description="Workers that could run it.")]
    starts_at: UnixTime | None
    done_at: UnixTime | None
    ready_by: Annotated[float | None, Meta(description="The earliest end that could be promised.")]
    ready_within_s: Annotated[float | None, Meta(description="The same in seconds: the least that a job can ask for.")]
    ready_confidence: float
    takes_s: Annotated[float | None, Meta(description="Predicted run time, without loading the model.")]
    unknown: str | None


class Job(Struct, kw_only=True):
    """A job. `_at` are Unix seconds, `_s` durations; null means not known, or not yet."""

    id: str
    object: Literal["job"]
    state: JobStateName
    model: str
    output: MediaKind | None
    progress: Annotated[int, Meta(ge=0, le=100)]
    phase: str | None
    step: int
    total: int
    position: Annotated[int | None, Meta(description="Place in the queue, from 0.")]
    eta_s: float | None
    worker: str | None
    priority: int
    gpus: Annotated[int, Meta(description="GPUs that the worker must have that draws it.")]
    attempts: int
    crashes: int
    losses: int
    cancel_requested: bool
    kept: Annotated[int, Meta(description="Denoising steps in a checkpoint, from which its next attempt goes on.")]
    draft_steps: Annotated[
        int | None, Meta(description="Denoising steps of each output after which it waits as a draft.")
    ]
    parking: JobParking | None
    submitted_at: UnixTime
    started_at: UnixTime | None
    finished_at: UnixTime | None
    deadline_at: UnixTime | None
    ready_by: Annotated[
        float | None,
        Meta(description="When it is done, as promised; without a promise as predicted, with a confidence of 0.95."),
    ]
    promise: JobPromise | None
    expires_at: UnixTime | None
    timings: JobTimings
    set_aside: JobSetAside | None
    error: JobError | None
    spec: JobSpecView | None
    artefacts: list[JobFile]
    save_error: str | None
    warnings: Annotated[list[str], Meta(description="What of the request was changed or is ignored.")]
    used: Annotated[
        dict[str, str],
        Meta(
            description="What it was drawn with beside the model as it is stored: name -> words, as "
            '`"quantize": "transformer fp8"`. Empty until it is done.'
        ),
    ]
    webhook: JobWebhook | None
    preview: Annotated[
        str | None,
        Meta(description="Path of the newest picture of what is being drawn, where `previews` were asked for."),
    ]
    urls: JobUrls
    history: list[JobMove] | UnsetType = UNSET
    story: Annotated[
        list[JobMove] | UnsetType,
        Meta(description="The same as `history`, under its name of 0.1.0; it goes with the next version."),
    ] = UNSET


class JobStep(Struct, kw_only=True):
    """Progress of a job: what changes while it waits or runs."""

    id: str
    state: JobStateName
    progress: int
    phase: str | None
    step: int
    total: int
    position: int | None
    eta_s: float | None
    worker: str | None
    preview: str | None


class JobTaken(Job, kw_only=True):
    """A job that was submitted."""

    duplicate: Annotated[bool, Meta(description="Whether this very job was there before.")]


class JobPage(Struct, kw_only=True):
    """A page of jobs. `last_id` is the next page's `after`: the id of the last job, or where the search broke off."""

    object: Literal["list"]
    data: list[Job]
    has_more: bool
    first_id: str | None
    last_id: str | None
    searched_to: Annotated[
        float | None,
        Meta(
            description="The page is short: so far was searched, Unix time, and `after=last_id` goes on from there. null: it is whole."
        ),
    ]


class JobCancel(Struct, kw_only=True):
    """Outcome of a cancel. `requested`: its worker is being stopped."""

    id: str
    outcome: Cancelled
    job: Job


class JobControl(Struct, kw_only=True):
    """Outcome of a pause, a resume or a commit. `requested`: its worker is to hand the job back."""

    id: str
    outcome: Literal["done", "requested"]
    job: Job


class JobDeleted(Struct, kw_only=True):
    """A job that is no more."""

    id: str
    object: Literal["job.deleted"]
    deleted: Literal[True]


class JobPin(Struct, kw_only=True):
    """Whether a job is kept beyond its time and the disk quota."""

    id: str
    object: Literal["job.pin"]
    pinned: bool
