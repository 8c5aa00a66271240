"""Bodies of errors that several API families share, from the error that they report."""

from __future__ import annotations

from http import HTTPStatus

from http_edge.api.common.schema_common import ErrorMember, FaultItem, Problem
from http_edge.base.errors import TABLE, EdgeError, shown


def problem(error: EdgeError, status: int, path: str) -> Problem:
    """An error after RFC 9457, with the member that OpenAI's clients read."""
    return Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.message,
        instance=path,
        error=error_member(error),
    )


def error_member(error: EdgeError) -> ErrorMember:
    """The member that OpenAI's clients read, whatever else a body holds."""
    return ErrorMember(message=error.message, type=TABLE[error.kind].type, param=error.param, code=error.code)


def fault_items(error: EdgeError) -> list[FaultItem]:
    """FastAPI's list of faults."""
    kind = {"bad_json": "json_invalid", "missing_field": "missing"}.get(error.kind, "value_error")
    sent = shown(error.value) if error.value is not None else None
    places = [[error.place, param] for param in error.params] or [[error.place]]
    return [FaultItem(type=kind, loc=place, msg=error.message, input=sent) for place in places]
