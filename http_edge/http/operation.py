"""A route's operation: its names, parameters, body, answers and errors, declared on its handler; the OpenAPI document is made of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from http_edge.base.error_table import Kind

Handler = Callable[[Request], Awaitable[Response]]
_H = TypeVar("_H", bound=Callable[..., Awaitable[Response]])

JSON = "application/json"
EVENTS = "text/event-stream"
#: Media types of pictures, and of all files of results.
PICTURES = ("image/png", "image/jpeg", "image/webp")
FILES = ("video/mp4", *PICTURES)


class Param(Struct, frozen=True, kw_only=True):
    """A parameter of the path, the query or the head of a request."""

    name: str
    place: Literal["path", "query", "header"] = "query"
    #: A type that msgspec can make a schema of.
    type: Any = str
    about: str = ""
    required: bool = False


class Answer(Struct, frozen=True, kw_only=True):
    """Successful answer: bodies by media type. `types`: any of these structs, None for no body, bytes for a file."""

    about: str
    types: tuple[Any, ...] = ()
    media: tuple[str, ...] = (JSON,)
    #: Operations on the object that was made, which the answer names in `id` or `task_id`.
    links: tuple[str, ...] = ()


class Body(Struct, frozen=True, kw_only=True):
    """Body of a request."""

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


class Tag(Struct, frozen=True):
    """A group of operations in the document."""

    name: str
    about: str


class Operation(Struct, frozen=True, kw_only=True):
    """Operation of a handler. `errors` are the kinds besides those that any request can be answered with."""

    id: str
    tag: Tag
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
    #: Of the route; `EdgeRoute` fills them in.
    method: str = ""
    path: str = ""


def operation(
    name: str,
    tag: Tag,
    *,
    answers: dict[int, Answer],
    summary: str = "",
    params: tuple[Param, ...] = (),
    body: Body | None = None,
    errors: tuple[Kind, ...] = (),
    prefer: bool = False,
    keyed: bool = False,
    deprecated: bool = False,
) -> Callable[[_H], _H]:
    """Declare the operation that a handler answers, by the fields of `Operation`; `name` is its id.

    The summary, unless it is given, is the first paragraph of the handler's docstring without its full stop; what follows is `about`.
    """

    def declare(handler: _H) -> _H:
        first, _, rest = (handler.__doc__ or "").partition("\n\n")
        handler.operation = Operation(  # type: ignore[attr-defined]
            id=name,
            tag=tag,
            summary=summary or _text(first).removesuffix("."),
            about=_text(rest),
            answers=answers,
            params=params,
            body=body,
            errors=errors,
            prefer=prefer,
            keyed=keyed,
            deprecated=deprecated,
        )
        return handler

    return declare


def again(handler: Handler, name: str, **changes: Any) -> Handler:
    """The handler for one more route or method: its operation has this id, and differs in `changes`."""
    same = partial(handler)
    same.operation = msgspec.structs.replace(operation_of(handler), id=name, **changes)  # type: ignore[attr-defined]
    return same


def operation_of(handler: Handler) -> Operation:
    """The operation declared on a handler. Raises `TypeError` when there is none."""
    found = getattr(handler, "operation", None)
    if not isinstance(found, Operation):
        raise TypeError(f"{handler!r} declares no operation")
    return found


def _text(paragraph: str) -> str:
    return " ".join(paragraph.split())


# ---------------------------------------------------------------- kinds of errors that go together

#: Errors of operations that send requests to the broker.
BROKER: tuple[Kind, ...] = ("unavailable", "shutting_down")
#: Errors of operations that name an object.
LOOKUP: tuple[Kind, ...] = (*BROKER, "not_found")
QUERY: tuple[Kind, ...] = ("invalid_value", "missing_field")
#: Errors of operations that read a small JSON body.
BODY: tuple[Kind, ...] = ("bad_json", "bad_form", "missing_field", "invalid_value", "request_timeout", "busy")
#: Errors of operations whose body may hold files.
FORM: tuple[Kind, ...] = (*BODY, "disk_full", "unavailable")
#: Errors of operations that send files.
DOWNLOAD: tuple[Kind, ...] = (
    *LOOKUP,
    "invalid_value",
    "not_ready",
    "gone",
    "precondition_failed",
    "range_not_satisfiable",
)
#: Errors of operations that make a job.
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
#: Errors of operations that wait until a job is over.
WAIT: tuple[Kind, ...] = ("job_failed", "job_cancelled", "wait_timeout", "not_ready", "gone")
