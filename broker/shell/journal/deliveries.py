"""Webhook deliveries, staged, written and committed with the rows of the jobs that cause them.

One may be written again and again (claimed, tried, settled), so there is no compare-and-set: the core is the only writer, and a
delivery's number is never given twice.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core.deliveries import Delivery
from broker.shell.journal.store import DeliveryRows


class DeliveryStore:
    """Reads deliveries, staged ones included."""

    def __init__(self, stored: DeliveryRows, staged: dict[int, Delivery], write_staged: Callable[[], None]) -> None:
        """`staged` by number; `write_staged` writes it, jobs first, into the open transaction."""
        self._stored = stored
        self._staged = staged
        self._write_staged = write_staged

    def stage(self, delivery: Delivery) -> None:
        """Write this delivery with the next commit. Its job is staged or on disk."""
        self._staged[delivery.number] = delivery

    def of_job(self, job_id: str) -> list[Delivery]:
        """The deliveries of a job, oldest first."""
        found = {delivery.number: delivery for delivery in self._stored.of_job(job_id)}
        found |= {number: delivery for number, delivery in self._staged.items() if delivery.job_id == job_id}
        return [found[number] for number in sorted(found)]

    def find(self, number: int) -> Delivery | None:
        """The delivery of this number."""
        return self._staged.get(number) or self._stored.find(number)

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        """Pending deliveries that are due, the longest due first, and when the next one behind them is."""
        if self._staged:
            self._write_staged()
        return self._stored.due(now, limit)
