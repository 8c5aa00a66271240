"""Webhook deliveries in the core: which move of a job causes one, and what becomes of it.

A delivery is one event of one job for the job's webhook. It is created in the commit of the move that causes it, claimed by an
edge for `LEASE_S`, and settled by what that edge reports. Deliveries are kept on disk: a receiver that is down for days costs disk. A
job in memory has its own at hand (`Job.deliveries`), as its moves depend on them. A claim that was not reported in time may be given to
another edge, so a delivery can happen twice, but never by two edges that are both within their time.
"""

from __future__ import annotations

from msgspec import Struct

from broker.core.calendar import Calendar
from broker.wire import messages as m

#: How long an edge has for one delivery, its report included. Edges stop trying well before.
LEASE_S = 60.0


class Delivery(Struct, frozen=True, kw_only=True):
    """One event of one job for its webhook."""

    #: Never given twice, over restarts too.
    number: int
    job_id: str
    event: m.WebhookEvent
    created_at: float
    #: While pending: when it is to be tried, or when its claim runs out.
    due_at: float
    state: m.DeliveryState = "pending"
    #: The claim that holds; 0: none does.
    claim: int = 0
    #: Claims given.
    attempts: int = 0
    #: HTTP status of the last answer; 0 when there was none.
    status: int = 0
    #: The last error.
    note: str = ""


def view(delivery: Delivery, calendar: Calendar) -> m.DeliveryView:
    """The view of a delivery for an edge."""
    pending = delivery.state == "pending"
    return m.DeliveryView(
        event=delivery.event,
        state=delivery.state,
        attempts=delivery.attempts,
        status=delivery.status,
        note=delivery.note,
        sending=pending and delivery.claim != 0,
        next_at=calendar.shown(delivery.due_at) if pending and not delivery.claim else 0.0,
    )
