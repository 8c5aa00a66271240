"""Handlers of the edges' messages about webhooks, one a message."""

from __future__ import annotations

import msgspec

from broker.core.deliveries import LEASE_S, Delivery
from broker.core.lookups import Found
from broker.core.state import State
from broker.wire import codec
from broker.wire import messages as m


def claim_deliveries(state: State, peer: bytes, message: m.ClaimDeliveries, found: Found, now: float) -> None:
    """Give due deliveries to this edge, the longest due first; no other edge gets them before the lease has run out."""
    claims = []
    for delivery in found.webhook_deliveries:
        claimed = msgspec.structs.replace(
            delivery, claim=state.next_revision(), attempts=delivery.attempts + 1, due_at=now + LEASE_S
        )
        state.put_delivery(claimed)
        claims.append(
            m.ClaimedDelivery(
                number=claimed.number,
                claim=claimed.claim,
                job_id=claimed.job_id,
                event=claimed.event,
                created_at=state.calendar.shown(claimed.created_at),
                attempts=claimed.attempts,
            )
        )
    wait_s = -1.0 if found.next_due_at is None else max(0.0, found.next_due_at - now)
    state.send(peer, m.Deliveries(req=message.req, wait_s=wait_s, body=codec.encode_body(claims)))


def delivery_done(state: State, peer: bytes, message: m.DeliveryDone, found: Found, now: float) -> None:
    """Settle a delivery. A success counts from any edge; a failure only from the claim that holds. Repeats change nothing."""
    if found.webhook_deliveries:
        delivery, *siblings = found.webhook_deliveries
        _record_outcome(state, delivery, siblings, message, now)
    state.send(peer, m.DeliveryNoted(req=message.req))


def _record_outcome(
    state: State, delivery: Delivery, siblings: list[Delivery], message: m.DeliveryDone, now: float
) -> None:
    if delivery.state == "delivered":
        return
    if message.outcome == "delivered":
        _put(state, delivery, message, "delivered", now)
    elif delivery.state == "pending" and delivery.claim == message.claim:
        if message.outcome == "released":
            due_at = now + message.retry_s
            state.put_delivery(
                msgspec.structs.replace(delivery, claim=0, attempts=delivery.attempts - 1, due_at=due_at)
            )
            return
        if message.outcome == "retry":
            _put(state, delivery, message, "pending", now + message.retry_s)
            return
        _put(state, delivery, message, message.outcome, now)
        if message.outcome == "disabled":
            for other in siblings:
                if other.number != delivery.number and other.state == "pending":
                    state.put_delivery(msgspec.structs.replace(other, state="disabled", claim=0))


def _put(state: State, delivery: Delivery, message: m.DeliveryDone, target: m.DeliveryState, due_at: float) -> None:
    settled = msgspec.structs.replace(
        delivery, state=target, claim=0, due_at=due_at, status=message.status, note=message.note
    )
    state.put_delivery(settled)
