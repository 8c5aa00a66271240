"""Bodies of webhook events."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from broker.wire.messages import ClaimedDelivery, JobStateName, WebhookEvent
from http_edge.api.common.job_json import artefacts_json
from http_edge.api.common.schema_common import Event, EventData, EventError, EventFile, EventUrls
from http_edge.api.common.schema_jobs import JobFile
from http_edge.jobs.job import Job
from http_edge.jobs.urls import urls

#: Where the event is a move: to which state.
_STATES: dict[WebhookEvent, JobStateName] = {
    "started": "running",
    "completed": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "draft_ready": "parked",
    "parked": "parked",
    "resumed": "queued",
}


def event_id(claim: ClaimedDelivery) -> str:
    """Names the event, the same for all attempts. The time distinguishes it from one of a journal that was deleted."""
    return f"evt_{claim.number:x}_{int(claim.created_at * 1000):x}"


def event_body(job: Job, claim: ClaimedDelivery, base_url: str) -> bytes:
    """Build the body, below 20 kB: the same bytes in every attempt, and one body for OpenAI's form of events and the standard's."""
    event = Event(
        id=event_id(claim),
        object="event",
        created_at=int(claim.created_at),
        type=job.event_type(claim.event),
        timestamp=datetime.fromtimestamp(claim.created_at, UTC).isoformat(timespec="milliseconds"),
        data=_data(job, claim, base_url),
    )
    return msgspec.json.encode(event)


def _data(job: Job, claim: ClaimedDelivery, base_url: str) -> EventData:
    """The job as it was when the event happened, whatever it is now."""
    view = job.view
    data = EventData(
        id=job.id,
        object="job",
        state=_STATES.get(claim.event, view.state),
        model=view.submission.model,
        output=job.spec.output if job.spec else None,
        name=view.submission.alias or None,
        submitted_at=view.submitted_at,
        urls=EventUrls(**{name: base_url + path for name, path in urls(job.id).items()}),
    )
    if claim.event == "promise_broken":
        data.attempts = view.attempts
        if view.promise is not None:
            data.promised_by, data.ready_by = view.promise.first_ready_by, view.promise.ready_by
        return data
    if claim.event in ("draft_ready", "parked", "resumed"):
        data.attempts, data.kept = view.attempts, view.kept
        if claim.event == "draft_ready" and view.parking is not None and view.parking.draft_expires_at:
            data.draft_expires_at = view.parking.draft_expires_at
        return data
    if claim.event == "started":
        data.started_at = claim.created_at
        return data
    data.started_at, data.finished_at, data.attempts = view.started_at or None, view.finished_at, view.attempts
    if claim.event == "failed" and view.failure is not None:
        data.error = EventError(code=view.failure.kind, message=view.failure.message)
    if claim.event == "completed":
        data.run_s = view.run_s
        data.seed = job.spec.seed if job.spec else None
        data.artefacts = [_file(file, base_url) for file in artefacts_json(view)]
    return data


def _file(file: JobFile, base_url: str) -> EventFile:
    return EventFile(**{**msgspec.structs.asdict(file), "url": base_url + file.url})
