"""What the core needs of a journal when there is none: nothing is remembered that the core has let go of."""

from __future__ import annotations

from broker.core.deliveries import Delivery
from broker.core.jobs import Job
from broker.wire import messages as m


class NoOutbox:
    """No webhook was ever asked for."""

    def of_job(self, job_id: str) -> list[Delivery]:
        return []

    def find(self, number: int) -> Delivery | None:
        return None

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        return [], None


class NoArchive:
    """Implements the core's `Archive`."""

    def __init__(self) -> None:
        self.deliveries = NoOutbox()

    def find(self, job_id: str) -> Job | None:
        return None

    def set_asides(self) -> list[Job]:
        return []

    @property
    def set_aside_count(self) -> int:
        return 0

    @property
    def damaged(self) -> int:
        return 0

    def body(self, job_id: str) -> bytes:
        return b"spec"

    def find_alias(self, origin: str, alias: str, tenant: str) -> Job | None:
        return None

    def page(self, query: m.ListJobs) -> tuple[list[Job], bool, int]:
        return [], False, 0
