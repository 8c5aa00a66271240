"""Documents that several APIs share: errors in each family's shape, and the fields that any request may have."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.wire.jobspec import Artefact, Scalar
from broker.wire.loras import MAX_NAME_CHARS, MAX_SCALE
from broker.wire.terms import JobStateName, WebhookEvent
from http_edge.jobs.fields import FIELDS, Field
from http_edge.jobs.webhook_fields import MAX_URL_CHARS


def like(pattern: str) -> Meta:
    """A text's pattern for the document alone: msgspec 0.22 frees what it must not when a union has a text with `pattern` and a list."""
    return Meta(extra_json_schema={"pattern": pattern})


#: A number may be its text: a form has everything as text. Blank text is an absent value.
WholeText = Annotated[str, like(r"^\s*([+-]?[0-9]{1,20}(\.0*)?)?\s*$")]
NumberText = Annotated[str, like(r"^\s*([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)?\s*$")]
#: Besides true and false.
FlagText = Literal["", "true", "false", "True", "False", "1", "0", "yes", "no", "on", "off", 0, 1]


Prompt = FIELDS["prompt"].type

Priority = Annotated[Annotated[int, Meta(ge=0, le=9)] | WholeText | None, Meta(description="9 goes first; default 5.")]
WebhookUrl = (
    Annotated[
        str, Meta(max_length=MAX_URL_CHARS, description="URL to which the job's events are delivered: see `webhooks`.")
    ]
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


# ---------------------------------------------------------------- the fields of a generation

_SizeText = Annotated[
    str,
    like(
        r"^\s*([aA][uU][tT][oO]|[0-9]{1,6}\s*[xX*×]\s*[0-9]{1,6}|[0-9]{1,6}\s*,\s*[0-9]{1,6}"
        r"|\[\s*[0-9]{1,6}\s*,\s*[0-9]{1,6}\s*\])?\s*$"
    ),
]
_AspectText = Annotated[
    Annotated[str, Meta(max_length=16)], like(r"^\s*(auto|[1-9][0-9]{0,3}\s*:\s*[1-9][0-9]{0,3})?\s*$")
]
_HEIGHT_FIRST = '[height, width] in pixels, or "WIDTHxHEIGHT".'


class LoraRequest(Struct, kw_only=True):
    """A LoRA of the model, by its name."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    scale: (
        Annotated[float, Meta(ge=-MAX_SCALE, le=MAX_SCALE)]
        | NumberText
        | dict[str, Annotated[float, Meta(ge=-MAX_SCALE, le=MAX_SCALE)]]
        | None
    ) = None


def _taken_as(field: Field, *, height_first: bool) -> Any:
    """Schema of what a request may give for a field: numbers may be text, and null is an absent value."""
    match field.kind:
        case "integer":
            kind: Any = field.type | WholeText
        case "number":
            kind = field.type | NumberText
        case "choice":
            kind = Literal[("", *field.choices)]
        case "size":
            kind = _SizeText | Annotated[list[int | WholeText], Meta(extra_json_schema={"minItems": 2, "maxItems": 2})]
        case "aspect":
            kind = _AspectText
        case "loras":
            kind = list[LoraRequest | str] | LoraRequest | str
        case "flag":
            kind = bool | FlagText
        case "arguments":
            kind = dict[str, Scalar] | str
        case "media":
            kind = str | dict[str, Any] | list[Any]
        case _:
            kind = field.type
    about = _HEIGHT_FIRST if height_first and field.kind == "size" else field.about
    return Annotated[kind | None, Meta(description=about, examples=list(field.examples) or None)]


def request_type(
    name: str,
    own: type[Struct],
    *,
    without: frozenset[str] = frozenset(),
    height_first: bool = False,
    closed: bool = False,
) -> type[Struct]:
    """A request of these own fields and of all fields of a generation but those `without`, under each of their names.

    `closed`: a field that is not known is an error.
    """
    fields: list[tuple[str, Any, Any]] = []
    for field in FIELDS.values():
        if field.name in without:
            continue
        if field.name == "prompt":
            fields.append(("prompt", field.type, msgspec.NODEFAULT))
            continue
        taken = _taken_as(field, height_first=height_first)
        fields.append((field.name, taken, None))
        same: Any = Annotated[taken, Meta(description=f"The same as `{field.name}`.")]
        fields += [(alias, same, None) for alias in field.aliases if alias not in own.__struct_fields__]
    fields = [row for row in fields if row[0] not in own.__struct_fields__]
    return msgspec.defstruct(
        name,
        fields,
        bases=(own,),
        namespace={"__doc__": own.__doc__},
        kw_only=True,
        forbid_unknown_fields=closed,
    )


# ---------------------------------------------------------------- errors


class ErrorMember(Struct, kw_only=True):
    """Error as clients of OpenAI's API read it."""

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


# ---------------------------------------------------------------- webhooks


class EventUrls(Struct, kw_only=True):
    """Addresses of a job."""

    self: str
    events: str
    cancel: str
    result: str


class EventFile(Artefact, frozen=True, kw_only=True):
    """A file of a job that is done."""

    url: str


class EventError(Struct, kw_only=True):
    """Failure of a job: its class, and a sentence."""

    code: str
    message: str


class EventData(Struct, kw_only=True):
    """The job as it was when the event happened."""

    id: str
    object: Literal["job"]
    state: JobStateName
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
    #: Of a promise that cannot be kept: what was promised at first, and the time promised in its place.
    promised_by: float | UnsetType = UNSET
    ready_by: float | UnsetType = UNSET
    #: Of a job that is parked, or goes on: the denoising steps that it need not take again, and when a draft fails if it is not committed.
    kept: int | UnsetType = UNSET
    draft_expires_at: float | UnsetType = UNSET


class Event(Struct, kw_only=True):
    """Body of a webhook: one for OpenAI's form of events and that of Standard Webhooks."""

    id: str
    object: Literal["event"]
    created_at: int
    type: Annotated[str, Meta(pattern=rf"^(video|image|job)\.({'|'.join(get_args(WebhookEvent))})$")]
    timestamp: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
    data: EventData
