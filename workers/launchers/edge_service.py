"""The service as a launcher sees it: what waits, what the workers do; and the wish that one leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from workers.launchers.settings import Order
from zoetrope.client.client import Client
from zoetrope.client.errors import ZoetropeError
from zoetrope.client.results import Worker, convert
from zoetrope.client.retries import RetryPolicy


class Sight(Struct, frozen=True):
    """Workers, and what waits by model: predicted GPU-seconds and jobs."""

    workers: tuple[Worker, ...] = ()
    backlog_s: dict[str, float] = {}
    waiting: dict[str, int] = {}


class EdgeService:
    """Asks an edge. Every method raises `ZoetropeError` when it cannot be asked, or refuses."""

    def __init__(self, order: Order) -> None:
        self._url = order.url
        self._key_file = order.api_key_file
        self._client: Client | None = None

    def look(self) -> Sight:
        """Read all that a plan needs."""
        answer = self._asked("GET", "/v1/workers")
        queue = answer.get("queue", {})
        workers = tuple(convert(Worker, one) for one in answer.get("data", ()))
        return Sight(workers, queue.get("backlog_by_model", {}), queue.get("by_model", {}))

    def drain(self, worker: str, *, hand_back: bool = False) -> None:
        """Let it leave, after its jobs or with them handed back; the last one, too: another comes when something waits."""
        self._opened().drain(worker, hand_back=hand_back, even_last=True)

    def undrain(self, worker: str) -> None:
        """Let it stay."""
        self._opened().undrain(worker)

    def _asked(self, method: str, path: str) -> dict[str, Any]:
        return self._opened().request(method, path)

    def _opened(self) -> Client:
        if self._client is None:
            # Asked again in the next pass, not within one.
            self._client = Client(self._url, self._key(), retries=RetryPolicy(most=0))
        return self._client

    def _key(self) -> str:
        if not self._key_file:
            return ""
        try:
            return Path(self._key_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ZoetropeError(f"api_key_file: {self._key_file!r} cannot be read: {error}") from None
