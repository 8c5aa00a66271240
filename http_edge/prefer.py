"""The `Prefer` header (RFC 7240): `respond-async` makes a creation 202, `wait=n` makes an answer wait for its job. Others are ignored."""

from __future__ import annotations

import math
import re

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from http_edge.calls import Calls
from http_edge.hub import Job
from http_edge.scope import current

#: Longest wait that is granted: beyond it proxies take a connection for dead.
MAX_WAIT_S = 60

#: Longest time after which to ask again about a job.
_MAX_POLL_S = 60
#: When nothing is known of how long it takes.
_POLL_S = 2

_WAIT = re.compile(r"[0-9]{1,9}")

_NO_STORE = (b"cache-control", b"no-store")
_JSON = (b"content-type", b"application/json")
_VARY = (b"vary", b"Prefer")


class Prefer(Struct, frozen=True, kw_only=True):
    """What a client prefers, as far as it is honoured."""

    respond_async: bool = False
    #: Seconds; None when nothing was said.
    wait_s: int | None = None

    def applied(self) -> str:
        """The value of `Preference-Applied`; "" when nothing was."""
        parts = ["respond-async"] if self.respond_async else []
        if self.wait_s is not None:
            parts.append(f"wait={self.wait_s}")
        return ", ".join(parts)


NOTHING = Prefer()


class StatusResponse(Response):
    """The answer to the commonest request, a read of a job's status: JSON that no cache keeps. `more` are headers of its own."""

    def __init__(self, body: bytes, prefer: Prefer, *more: tuple[bytes, bytes]) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [_NO_STORE, *more, (b"content-length", b"%d" % len(body)), _JSON, _VARY]
        if prefer.wait_s is not None:
            self.raw_headers.append((b"preference-applied", b"wait=%d" % prefer.wait_s))


def read_prefer(request: Request) -> Prefer:
    """The preferences in a request. What cannot be read was not said (RFC 7240, section 2); of a repeated one the first counts."""
    lines = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"prefer"]
    if not lines:
        return NOTHING
    found: dict[str, str] = {}
    for line in lines:
        for item in line.split(","):
            name, _, value = item.partition(";")[0].partition("=")
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    return Prefer(
        respond_async="respond-async" in found,
        wait_s=min(MAX_WAIT_S, int(wait)) if _WAIT.fullmatch(wait) else None,
    )


async def awaited(calls: Calls, prefer: Prefer, job: Job) -> Job:
    """The job as it is when it is final, or when the client's time is over. Raises `EdgeError`."""
    if not prefer.wait_s or job.is_final:
        return job
    await calls.wait_final([job.id], prefer.wait_s)
    return await calls.job(job.id)


def is_fresh(prefer: Prefer, job: Job) -> bool:
    """Whether an answer to a creation shows the job as it was accepted, rather than as it is."""
    return not (job.is_final or prefer.wait_s or current().replayed)


def with_prefer(response: Response, prefer: Prefer, job: Job, location: str = "") -> Response:
    """The answer about a job, with the status and headers that were preferred; with a `location`, to its creation."""
    response.headers.add_vary_header("Prefer")
    if location:
        response.headers["Location"] = location
    if location and prefer.respond_async and not job.is_final:
        response.status_code = 202
    if location and not job.is_final:
        response.headers["Retry-After"] = str(retry_after_s(job))
    applied = prefer if location else msgspec.structs.replace(prefer, respond_async=False)
    if text := applied.applied():
        response.headers["Preference-Applied"] = text
    return response


def retry_after_s(job: Job) -> int:
    """When it is worth asking about a job again, seconds: what the broker predicts from its queue."""
    eta_s = job.view.eta_s
    return _POLL_S if eta_s < 0 else min(_MAX_POLL_S, max(1, math.ceil(eta_s)))
