"""Webhook deliveries as the broker keeps them: claimed by an edge, made by it, reported."""

from __future__ import annotations

from collections.abc import Sequence

from broker.client.client import BrokerClient
from broker.wire import messages as m
from http_edge.base.broker_errors import translated


class Deliveries:
    """Claims and reports of webhook deliveries."""

    def __init__(self, broker: BrokerClient) -> None:
        self._broker = broker

    async def claim(self, limit: int) -> tuple[Sequence[m.ClaimedDelivery], float]:
        """Webhook deliveries that are now this edge's to make, and the seconds until another is due, -1: none. Raises `EdgeError`."""
        with translated():
            return await self._broker.delivery_requests.claim(limit)

    async def report(self, done: m.DeliveryDone) -> None:
        """Report a delivery; on disk when this returns. Raises `EdgeError`."""
        with translated():
            await self._broker.delivery_requests.report(done)
