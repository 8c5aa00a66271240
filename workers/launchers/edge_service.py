"""The service for a launcher: what waits, what the workers do, and drains of workers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from workers.launchers.order import Order
from workers.launchers.plan import Demand
from zoetrope.client.client import Client
from zoetrope.client.errors import NotThisService, ZoetropeError
from zoetrope.client.results import Worker, convert
from zoetrope.client.retries import RetryPolicy


class Waiting(Struct, frozen=True):
    """Jobs waiting for one model and one class of workers, of so many GPUs each, and their predicted GPU-seconds.

    `device`: card of the class; None: no worker could run them.
    """

    size: int = msgspec.field(name="gpus", default=1)
    device: str | None = None
    waiting: int = 0
    backlog_s: float = 0.0


class Sight(Struct, frozen=True):
    """Workers, and what waits by model and class of workers."""

    workers: tuple[Worker, ...] = ()
    waiting: dict[str, dict[str, Waiting]] = {}

    def demand(self, models: Collection[str], gpu_class: str, gpus: int) -> Demand:
        """Jobs waiting for workers of these models and of this class ("": of any), which have so many GPUs each.

        What no worker that is there could run is for every class that has enough GPUs.
        """
        found = [
            one
            for model in models
            for label, one in self.waiting.get(model, {}).items()
            if one.size <= max(gpus, 1) and (gpu_class in ("", label) or one.device is None)
        ]
        return Demand(sum(one.backlog_s for one in found), sum(one.waiting for one in found))


class EdgeService:
    """Requests to an edge. Every method raises `ZoetropeError` when it cannot be reached, or refuses."""

    def __init__(self, order: Order) -> None:
        self._url = order.url
        self._key_file = order.api_key_file
        self._client: Client | None = None

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def look(self) -> Sight:
        """Read all that a plan needs."""
        answer = self._request("GET", "/v1/workers")
        queue = answer.get("queue", {})
        workers = tuple(convert(Worker, one) for one in answer.get("data", ()))
        try:
            waiting = msgspec.convert(queue.get("backlog_by_class", {}), dict[str, dict[str, Waiting]])
        except msgspec.ValidationError as error:
            raise NotThisService(f"what waits is not answered as by Zoetrope: {error}") from None
        return Sight(workers, waiting)

    def drain(self, worker: str, *, hand_back: bool = False) -> None:
        """Let it leave, after its jobs or with them handed back; the last one, too: another comes when something waits."""
        self._opened().drain(worker, hand_back=hand_back, even_last=True)

    def undrain(self, worker: str) -> None:
        """Let it stay."""
        self._opened().undrain(worker)

    def _request(self, method: str, path: str) -> dict[str, Any]:
        return self._opened().request(method, path)

    def _opened(self) -> Client:
        if self._client is None:
            # Tried again in the next pass, not within one.
            self._client = Client(self._url, self._key(), retries=RetryPolicy(most=0))
        return self._client

    def _key(self) -> str:
        if not self._key_file:
            return ""
        try:
            return Path(self._key_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ZoetropeError(f"api_key_file: {self._key_file!r} cannot be read: {error}") from None
