"""What an answer says about the webhook of a job."""

from __future__ import annotations

from typing import Any

from broker.wire.messages import DeliveryView, WebhookEvent
from http_edge.jobs.job import Job
from http_edge.jobs.webhook_fields import EVENTS


def webhook_json(job: Job) -> dict[str, Any] | None:
    """A job's webhook and what became of its deliveries; None when it has none."""
    view = job.view
    if not view.webhook:
        return None
    return {
        "url": view.webhook,
        "wanted": [f"job.{event}" for event in view.webhook_events or EVENTS],
        "events": [_hook_json(job, hook) for hook in view.deliveries],
    }


def _hook_json(job: Job, hook: DeliveryView) -> dict[str, Any]:
    return {
        "type": event_type(job, hook.event),
        "state": "sending" if hook.sending else hook.state,
        "attempts": hook.attempts,
        "last_status": hook.status or None,
        "last_error": hook.note or None,
        "next_at": hook.next_at or None,
    }


def event_type(job: Job, event: WebhookEvent) -> str:
    """As receivers are told: `video.completed`."""
    return f"{job.spec.output if job.spec else 'job'}.{event}"
