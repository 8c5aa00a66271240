"""Event streams after the HTML standard's server-sent events: one stream a job, resumable, closed after the final event.

`id:` is the job's revision, which grows over broker restarts too. `event:` is `state` when state, attempt or a cancel request
changed (its data is the whole job), else `progress` (only what moves). A gap is invisible: the next event is simply the newest state.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from http_edge.calls import Calls
from http_edge.errors import EdgeError
from http_edge.hub import Job
from http_edge.job_json import job_json, step_json
from http_edge.progress import Progress

#: How long an EventSource waits before it comes back.
_RETRY_MS = 1000

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def last_event_id(request: Request) -> int:
    """The revision a client saw last: from the header, or from the query (EventSource cannot set headers on its first connect). 0: none."""
    text = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


async def event_stream(calls: Calls, progress: Progress, job_id: str, request: Request) -> Response:
    """The response to a request for a job's events. Raises `EdgeError` if there is no such job."""
    job = await calls.job(job_id)
    seen = last_event_id(request)
    if job.is_final and seen >= job.view.revision:
        # Nothing will ever come: 204 is what stops an EventSource.
        return Response(status_code=204, headers=_HEADERS)
    if seen > job.view.revision:
        seen = 0
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers=_HEADERS)
    stream = _events(calls, progress, job_id, seen)
    return StreamingResponse(stream, media_type="text/event-stream", headers=_HEADERS)


async def _events(calls: Calls, progress: Progress, job_id: str, seen: int) -> AsyncIterator[bytes]:
    yield f"retry: {_RETRY_MS}\n\n".encode()
    last: Job | None = None
    with contextlib.suppress(EdgeError):
        async with contextlib.aclosing(calls.follow(job_id, calls.settings.keep_alive_s)) as versions:
            async for job in versions:
                if job is None:
                    yield b": keep-alive\n\n"
                    continue
                if job.view.revision > seen or last is not None:
                    yield _event(job, last, progress.of(job.view))
                last = job


def _event(job: Job, last: Job | None, progress: int) -> bytes:
    view = job.view
    if last is None or _standing(job) != _standing(last):
        return _block("state", view.revision, job_json(job, progress))
    # Without an id where only the queue moved: the job's revision is what it was.
    return _block("progress", view.revision if view.revision > last.view.revision else 0, step_json(view, progress))


def _standing(job: Job) -> tuple[Any, ...]:
    return job.view.state, job.view.attempts, job.view.cancel_requested


def _block(event: str, revision: int, data: Any) -> bytes:
    # JSON escapes line ends inside strings, so the data is one line.
    head = f"id: {revision}\nevent: {event}\n" if revision else f"event: {event}\n"
    return head.encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"
