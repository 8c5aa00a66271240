"""What a webhook's receiver is told of an event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from broker.wire.messages import ClaimedDelivery, JobView
from http_edge.api.common.job_json import artefacts_json
from http_edge.base.job_names import shown_id
from http_edge.jobs.job import Job
from http_edge.jobs.urls import urls
from http_edge.jobs.webhook_view import event_type

_STATES = {"started": "running", "completed": "succeeded", "failed": "failed", "cancelled": "cancelled"}


def event_id(claim: ClaimedDelivery) -> str:
    """Names the event, the same for all attempts. The time tells it from one of a journal that was deleted."""
    return f"evt_{claim.number:x}_{int(claim.created_at * 1000):x}"


def event_body(job: Job, claim: ClaimedDelivery, base_url: str) -> bytes:
    """What the receiver gets, below 20 kB: the same bytes in every attempt. One body for OpenAI's form of events and the standard's."""
    created_at = claim.created_at
    return msgspec.json.encode(
        {
            "id": event_id(claim),
            "object": "event",
            "created_at": int(created_at),
            "type": event_type(job, claim.event),
            "timestamp": datetime.fromtimestamp(created_at, UTC).isoformat(timespec="milliseconds"),
            "data": _data(job, claim, base_url),
        }
    )


def _data(job: Job, claim: ClaimedDelivery, base_url: str) -> dict[str, Any]:
    """The job as it was when the event happened, whatever it is now."""
    view = job.view
    data: dict[str, Any] = {
        "id": shown_id(view.id),
        "object": "job",
        "state": _STATES[claim.event],
        "model": view.model,
        "output": job.spec.output if job.spec else None,
        "name": view.alias or None,
        "submitted_at": view.submitted_at,
        "urls": {name: base_url + path for name, path in urls(shown_id(view.id)).items()},
    }
    if claim.event == "started":
        return {**data, "started_at": claim.created_at}
    data |= {"started_at": view.started_at or None, "finished_at": view.finished_at, "attempts": view.attempts}
    if claim.event == "failed" and view.failure is not None:
        data["error"] = {"code": view.failure.kind, "message": view.failure.message}
    if claim.event == "completed":
        data |= {"run_s": view.run_s, "seed": job.spec.seed if job.spec else None, "artefacts": _files(view, base_url)}
    return data


def _files(view: JobView, base_url: str) -> list[dict[str, Any]]:
    return [{**artefact, "url": base_url + artefact["url"]} for artefact in artefacts_json(view)]
