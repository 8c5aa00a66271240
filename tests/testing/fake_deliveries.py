"""The webhook deliveries of a `FakeBroker`, with a clock of their own that tests move."""

from __future__ import annotations

import queue
from collections.abc import Sequence

import msgspec

from broker.wire import messages as m

LEASE_S = 60.0

_EVENTS: dict[str, m.WebhookEvent] = {"succeeded": "completed", "failed": "failed", "cancelled": "cancelled"}


class FakeDeliveries:
    """Hooks by number."""

    def __init__(self) -> None:
        self.now = 0.0
        #: What edges reported, in order; read by the test's own thread.
        self.reports: queue.Queue[m.DeliveryDone] = queue.Queue()
        self.rows: dict[int, tuple[m.ClaimedDelivery, m.DeliveryView]] = {}
        self._claims = 0

    def moved(self, old: m.JobView, view: m.JobView, at: float) -> None:
        """A job of a webhook changed."""
        started = view.state == "running" and old.state != "running" and view.attempts == 1
        event = "started" if started else _EVENTS.get(view.state)
        if view.state == "parked" and view.parking is not None:
            event = "draft_ready" if view.parking.reason == "draft" else "parked"
        if event is None or (view.submission.webhook_events and event not in view.submission.webhook_events):
            return
        number = len(self.rows) + 1
        claim = m.ClaimedDelivery(number=number, claim=0, job_id=view.id, event=event, created_at=at, attempts=0)
        self.rows[number] = claim, m.DeliveryView(event=event, state="pending", next_at=self.now)

    def of_job(self, job_id: str) -> tuple[m.DeliveryView, ...]:
        return tuple(view for claim, view in self.rows.values() if claim.job_id == job_id)

    def forget(self, job_id: str) -> None:
        self.rows = {number: row for number, row in self.rows.items() if row[0].job_id != job_id}

    def claim(self, limit: int) -> tuple[Sequence[m.ClaimedDelivery], float]:
        pending = sorted((view.next_at, number) for number, (_, view) in self.rows.items() if view.state == "pending")
        due = [number for at, number in pending if at <= self.now][:limit]
        claims = []
        for number in due:
            self._claims += 1
            claim, view = self.rows[number]
            claim = msgspec.structs.replace(claim, claim=self._claims, attempts=claim.attempts + 1)
            view = msgspec.structs.replace(view, sending=True, attempts=claim.attempts, next_at=self.now + LEASE_S)
            self.rows[number] = claim, view
            claims.append(claim)
        later = pending[len(due) :]
        return claims, max(0.0, later[0][0] - self.now) if later else -1.0

    def done(self, done: m.DeliveryDone) -> None:
        row = self.rows.get(done.number)
        if row is not None and row[0].claim == done.claim:
            state: m.DeliveryState = "pending" if done.outcome in ("retry", "released") else done.outcome
            next_at = self.now + done.retry_s if state == "pending" else 0.0
            if done.outcome == "released":
                claim, view = row
                row = msgspec.structs.replace(claim, attempts=claim.attempts - 1), view
            view = msgspec.structs.replace(
                row[1], state=state, status=done.status, note=done.note, sending=False, next_at=next_at
            )
            self.rows[done.number] = row[0], view
        self.reports.put(done)
