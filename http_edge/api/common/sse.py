"""Event streams after the HTML standard's server-sent events: one stream a job, resumable, closed after the final event.

`id:` is the job's revision, which grows over broker restarts too. The API family makes the events (an `EventMaker`). A gap is
invisible: the next event is simply the newest state.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from http_edge.base.errors import EdgeError
from http_edge.jobs.job import Job
from http_edge.jobs.service import JobService

#: How long an EventSource waits before it comes back.
_RETRY_MS = 1000

#: Of every event stream: no proxy keeps it, none waits for its end.
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def last_event_id(request: Request) -> int:
    """The revision that a client got last: from the header, or from the query (EventSource cannot set headers on its first connect). 0:
    none.
    """
    text = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


class StreamEvent(NamedTuple):
    """An event to send: its name, its revision (0: none, as it is no change of the job itself), and the function that makes its data."""

    event: str
    revision: int
    data: Callable[[Job], Any]
    #: Key of the data where it differs between streams of the same event.
    view: str = ""


#: From a job, and the job of the event before (None: the first), to an event.
EventMaker = Callable[[Job, Job | None], StreamEvent]


async def event_stream(calls: JobService, job: Job, request: Request, make_event: EventMaker) -> Response:
    """The response to a request for this job's events."""
    seen = last_event_id(request)
    if job.is_final and seen >= job.view.revision:
        # Nothing will ever come: 204 is what stops an EventSource.
        return Response(status_code=204, headers=STREAM_HEADERS)
    if seen > job.view.revision:
        seen = 0
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers=STREAM_HEADERS)
    stream = _events(calls, job.id, seen, make_event)
    return StreamingResponse(stream, media_type="text/event-stream", headers=STREAM_HEADERS)


async def _events(calls: JobService, job_id: str, seen: int, make_event: EventMaker) -> AsyncIterator[bytes]:
    yield f"retry: {_RETRY_MS}\n\n".encode()
    last: Job | None = None
    with contextlib.suppress(EdgeError):
        async with contextlib.aclosing(calls.follower.follow(job_id, calls.settings.keep_alive_s)) as versions:
            async for job in versions:
                if job is None:
                    yield b": keep-alive\n\n"
                    continue
                if job.view.revision > seen or last is not None:
                    yield _block(job, make_event(job, last))
                last = job


def _block(job: Job, event: StreamEvent) -> bytes:
    """The event as it is sent, made once for all its streams."""
    head = f"id: {event.revision}\nevent: {event.event}\n" if event.revision else f"event: {event.event}\n"
    # JSON escapes line ends inside strings, so the data is one line.
    return job.encoded_once(
        f"{event.view}{head}", lambda: head.encode() + b"data: " + msgspec.json.encode(event.data(job)) + b"\n\n"
    )
