"""Documents that several APIs share: errors in each family's shape, and the fields that any request may have."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from broker.wire.jobspec import MAX_PROMPT_CHARS
from http_edge.error_table import Family
from http_edge.openapi_types import NumberText, WholeText
from http_edge.webhook_fields import MAX_URL_CHARS

Scalar = str | int | float | bool | None

Prompt = Annotated[
    str, Meta(min_length=1, max_length=MAX_PROMPT_CHARS, pattern=r"\S", description="What to draw.", examples=["a cat"])
]
NegativePrompt = Annotated[str, Meta(max_length=MAX_PROMPT_CHARS, description="What not to draw.")] | None
ModelName = Annotated[str, Meta(max_length=256, description="A name of GET /v1/models.")] | None
Size = (
    Annotated[
        str,
        Meta(
            pattern=r"^\s*([aA][uU][tT][oO]|[0-9]{1,6}[xX*][0-9]{1,6})?\s*$",
            description='"WIDTHxHEIGHT" in pixels; wins over width and height.',
            examples=["832x480"],
        ),
    ]
    | None
)

#: Numbers where their text is as good: forms, and the JSON of families that read leniently.
Side = Annotated[Annotated[int, Meta(ge=1, le=1_000_000)] | WholeText | None, Meta(description="Pixels.")]
Frames = Annotated[Annotated[int, Meta(ge=1, le=100_000)] | WholeText | None, Meta(description="Frames of a clip.")]
Fps = Annotated[
    Annotated[float, Meta(ge=1, le=240)] | NumberText | None, Meta(description="Frames per second of the file.")
]
Steps = Annotated[Annotated[int, Meta(ge=1, le=10_000)] | WholeText | None, Meta(description="Denoising steps.")]
Scale = Annotated[
    Annotated[float, Meta(ge=0, le=100)] | NumberText | None, Meta(description="Strength of the prompt's guidance.")
]
Seed = Annotated[
    Annotated[int, Meta(ge=0, le=2**63 - 1)] | WholeText | None,
    Meta(description="The same seed gives the same result; an absent one is drawn and returned."),
]
Count = Annotated[Annotated[int, Meta(ge=1, le=10)] | WholeText | None, Meta(description="How many to make.")]
Priority = Annotated[Annotated[int, Meta(ge=0, le=9)] | WholeText | None, Meta(description="9 goes first; default 5.")]
WebhookUrl = (
    Annotated[str, Meta(max_length=MAX_URL_CHARS, description="Where the job's events are told: see `webhooks`.")]
    | None
)
WebhookEvents = Annotated[
    list[str] | str | None,
    Meta(description="Which events, as a list or text with commas; none: all.", examples=[["job.completed"]]),
]


class Hooked(Struct, kw_only=True):
    """Fields of every request that makes something."""

    webhook: WebhookUrl = None
    webhook_events: WebhookEvents = None


# ---------------------------------------------------------------- errors


class ErrorMember(Struct, kw_only=True):
    """What clients of OpenAI's API read of an error."""

    message: Annotated[str, Meta(description="Names field, value and rule.")]
    type: Annotated[str, Meta(description="The class of the error, in OpenAI's words.")]
    param: Annotated[str | None, Meta(description="The field at fault, as the client wrote it.")]
    code: Annotated[str, Meta(description="The kind of the error: see the response's description.")]


class Problem(Struct, kw_only=True):
    """An error after RFC 9457, with the member that clients of OpenAI's API read."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    instance: str
    error: ErrorMember


class FaultItem(Struct, kw_only=True):
    """One fault of a request, in FastAPI's form."""

    type: str
    loc: list[str]
    msg: str
    input: str | None


class LightX2VError(Struct, kw_only=True):
    """An error of the first generation."""

    error: str | UnsetType = UNSET
    detail: str | list[FaultItem] | UnsetType = UNSET


class TasksError(Struct, kw_only=True):
    """An error of the second and third generation."""

    detail: str | list[FaultItem]
    error: ErrorMember


class CloudError(Struct, kw_only=True):
    """An error of the cloud API."""

    message: str
    detail: str
    error: ErrorMember


#: Family -> the body of its errors.
ERROR_BODY: dict[Family, type[Struct]] = {
    "native": Problem,
    "lightx2v": LightX2VError,
    "lightx2v_tasks": TasksError,
    "lightx2v_cloud": CloudError,
    "openai": Problem,
}


# ---------------------------------------------------------------- webhooks


class EventUrls(Struct, kw_only=True):
    """Where to go on with a job."""

    self: str
    events: str
    cancel: str
    result: str


class EventFile(Struct, kw_only=True):
    """A file of a job that is done."""

    name: str
    media_type: str
    size: int
    sha256: str
    url: str


class EventError(Struct, kw_only=True):
    """Why a job failed."""

    code: str
    message: str


class EventData(Struct, kw_only=True):
    """The job as it was when the event happened."""

    id: str
    object: Literal["job"]
    state: Literal["running", "succeeded", "failed", "cancelled"]
    model: str
    output: Literal["video", "image"] | None
    name: str | None
    submitted_at: float
    urls: EventUrls
    started_at: float | UnsetType | None = UNSET
    finished_at: float | UnsetType = UNSET
    attempts: int | UnsetType = UNSET
    error: EventError | UnsetType = UNSET
    run_s: float | UnsetType = UNSET
    seed: int | UnsetType | None = UNSET
    artefacts: list[EventFile] | UnsetType = UNSET


class Event(Struct, kw_only=True):
    """What a webhook's receiver gets: one body for OpenAI's form of events and that of Standard Webhooks."""

    id: str
    object: Literal["event"]
    created_at: int
    type: Annotated[str, Meta(pattern=r"^(video|image|job)\.(started|completed|failed|cancelled)$")]
    timestamp: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    data: EventData
