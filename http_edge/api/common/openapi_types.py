"""What is said of the API in values: an operation, its parameters, its body, its answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from http_edge.base.error_table import Kind

Method = Literal["GET", "POST", "PUT", "DELETE"]

JSON = "application/json"
EVENTS = "text/event-stream"
#: Media whose type the file's own bytes decide.
PICTURES = ("image/png", "image/jpeg", "image/webp")
FILES = ("video/mp4", *PICTURES)


def like(pattern: str) -> Meta:
    """A text's pattern for the document alone: msgspec 0.22 frees what it must not when a union has a text with `pattern` and a list."""
    return Meta(extra_json_schema={"pattern": pattern})


#: A number may be its text: a form has everything as text. Blank text is an absent value.
WholeText = Annotated[str, like(r"^\s*([+-]?[0-9]{1,20}(\.0*)?)?\s*$")]
NumberText = Annotated[str, like(r"^\s*([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)?\s*$")]
FlagText = Literal["", "true", "false", "True", "False", "1", "0", "yes", "no", "on", "off"]


class Param(Struct, frozen=True, kw_only=True):
    """A parameter of the path, the query or the head of a request."""

    name: str
    place: Literal["path", "query", "header"] = "query"
    #: A type that msgspec can make a schema of.
    type: Any = str
    about: str = ""
    required: bool = False


class Answer(Struct, frozen=True, kw_only=True):
    """One good answer: bodies by media type. `types`: any of these structs, None for no body, bytes for a file."""

    about: str
    types: tuple[Any, ...] = ()
    media: tuple[str, ...] = (JSON,)
    #: Operations that go on with what was made here, named by `id` or `task_id` in the answer.
    links: tuple[str, ...] = ()


class Body(Struct, frozen=True, kw_only=True):
    """What a request brings."""

    type: type[Struct]
    #: Whether forms are read as well as JSON.
    forms: bool = True
    #: Whether JSON is.
    json: bool = True
    #: Fields that may be files in multipart/form-data, and whether several may come.
    files: dict[str, bool] = {}
    #: Fields of which one must be there.
    one_of: tuple[str, ...] = ()
    required: bool = True


class Operation(Struct, frozen=True, kw_only=True):
    """One method of one path. `errors` are the kinds besides those that every request can meet."""

    method: Method
    path: str
    id: str
    tag: str
    summary: str
    answers: dict[int, Answer]
    about: str = ""
    params: tuple[Param, ...] = ()
    body: Body | None = None
    errors: tuple[Kind, ...] = ()
    #: Whether `Prefer` is honoured, and `Idempotency-Key`.
    prefer: bool = False
    keyed: bool = False
    deprecated: bool = False


# ---------------------------------------------------------------- kinds of errors that go together

#: Of whoever asks the broker.
BROKER: tuple[Kind, ...] = ("unavailable", "shutting_down")
#: Of whoever names something.
LOOKUP: tuple[Kind, ...] = (*BROKER, "not_found")
QUERY: tuple[Kind, ...] = ("invalid_value", "missing_field")
#: Of a small JSON body.
BODY: tuple[Kind, ...] = ("bad_json", "bad_form", "missing_field", "invalid_value", "request_timeout")
#: Of a body that may hold files.
FORM: tuple[Kind, ...] = (*BODY, "busy", "disk_full", "unavailable")
#: Of files that are sent.
DOWNLOAD: tuple[Kind, ...] = (
    *LOOKUP,
    "invalid_value",
    "not_ready",
    "gone",
    "precondition_failed",
    "range_not_satisfiable",
)
#: Of whatever makes a job.
MAKE: tuple[Kind, ...] = (
    *FORM,
    *LOOKUP,
    "model_not_found",
    "no_workers",
    "queue_full",
    "forbidden",
    "unsupported",
    "gone",
    "id_conflict",
    "alias_taken",
    "key_reused",
    "damaged",
)
#: Of whoever waits until a job is over.
WAIT: tuple[Kind, ...] = ("job_failed", "job_cancelled", "wait_timeout", "not_ready", "gone")
