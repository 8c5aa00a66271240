"""Table of errors by kind: the status, the type of error, and whether to try again."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal[
    "bad_json",
    "bad_form",
    "missing_field",
    "invalid_value",
    "not_found",
    "model_not_found",
    "not_ready",
    "method_not_allowed",
    "request_timeout",
    "id_conflict",
    "alias_taken",
    "gone",
    "precondition_failed",
    "too_large",
    "range_not_satisfiable",
    "queue_full",
    "too_many_requests",
    "busy",
    "no_workers",
    "shutting_down",
    "unavailable",
    "disk_full",
    "forbidden",
    "unsupported",
    "still_stopping",
    "wrong_state",
    "job_failed",
    "job_cancelled",
    "wait_timeout",
    "upload_failed",
    "bad_header",
    "headers_too_large",
    "misdirected",
    "unauthorized",
    "in_flight",
    "key_reused",
    "damaged",
    "internal",
]


class Row(Struct, frozen=True):
    """Line of the table."""

    status: int
    #: OpenAI's type of error.
    type: str
    #: Value of `x-should-retry`; None leaves it to the status.
    retry: bool | None = None


TABLE: dict[Kind, Row] = {
    "bad_json": Row(400, "invalid_request_error"),
    "bad_form": Row(400, "invalid_request_error"),
    "missing_field": Row(422, "invalid_request_error"),
    "invalid_value": Row(422, "invalid_request_error"),
    "not_found": Row(404, "not_found_error"),
    "model_not_found": Row(404, "not_found_error"),
    "not_ready": Row(404, "not_found_error"),
    "method_not_allowed": Row(405, "invalid_request_error"),
    "request_timeout": Row(408, "timeout_error"),
    "id_conflict": Row(409, "conflict_error", retry=False),
    "alias_taken": Row(409, "conflict_error", retry=False),
    "gone": Row(410, "not_found_error"),
    "precondition_failed": Row(412, "invalid_request_error"),
    "too_large": Row(413, "invalid_request_error"),
    "range_not_satisfiable": Row(416, "invalid_request_error"),
    "queue_full": Row(429, "rate_limit_error"),
    "too_many_requests": Row(429, "rate_limit_error"),
    "busy": Row(503, "overloaded_error"),
    "no_workers": Row(503, "overloaded_error"),
    "shutting_down": Row(503, "overloaded_error"),
    "unavailable": Row(503, "server_error"),
    "disk_full": Row(507, "server_error"),
    # No model here can do it: a retry does not help, and the openai SDKs would retry 501.
    "unsupported": Row(400, "invalid_request_error"),
    "still_stopping": Row(409, "conflict_error", retry=True),
    # The request does not fit the job's state, or no job at all.
    "wrong_state": Row(409, "conflict_error", retry=False),
    "forbidden": Row(403, "permission_error"),
    # Of requests that wait for their job: it failed or was cancelled, or the wait ended.
    "job_failed": Row(500, "server_error", retry=False),
    "job_cancelled": Row(409, "conflict_error", retry=False),
    "wait_timeout": Row(504, "timeout_error", retry=False),
    "upload_failed": Row(502, "server_error", retry=False),
    "bad_header": Row(400, "invalid_request_error"),
    "headers_too_large": Row(431, "invalid_request_error"),
    "misdirected": Row(421, "invalid_request_error", retry=False),
    "unauthorized": Row(401, "authentication_error"),
    # Of requests with an idempotency key.
    "in_flight": Row(409, "conflict_error", retry=True),
    "key_reused": Row(422, "invalid_request_error", retry=False),
    # The record of the job cannot be read; a retry does not help.
    "damaged": Row(500, "server_error", retry=False),
    "internal": Row(500, "server_error"),
}

#: Kinds that starlette's own exceptions (routing, mostly) become; other statuses keep their number.
BY_STATUS: dict[int, Kind] = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
