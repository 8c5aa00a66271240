"""An archive in memory that keeps what a journal would: durable rows at once, lazy ones until they are flushed or lost."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from broker.core.deliveries import Delivery
from broker.core.effects import DeliveryChanged, Effect, RecordDeleted, Transition
from broker.core.jobs import Job
from broker.core.machine import Core
from broker.wire import messages as m


class MemoryOutbox:
    """Webhook deliveries; every change of one is durable."""

    def __init__(self) -> None:
        self.rows: dict[int, Delivery] = {}

    def of_job(self, job_id: str) -> list[Delivery]:
        return sorted(
            (delivery for delivery in self.rows.values() if delivery.job_id == job_id),
            key=lambda delivery: delivery.number,
        )

    def find(self, number: int) -> Delivery | None:
        return self.rows.get(number)

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        pending = [delivery for delivery in self.rows.values() if delivery.state == "pending"]
        pending.sort(key=lambda delivery: (delivery.due_at, delivery.number))
        due = [delivery for delivery in pending[:limit] if delivery.due_at <= now]
        return due, pending[len(due)].due_at if len(pending) > len(due) else None


class MemoryArchive:
    """Implements the core's `Archive`."""

    def __init__(self) -> None:
        self.rows: dict[str, Job] = {}
        self.lazy: dict[str, Job] = {}
        #: Specs, which rows that are written again do not repeat.
        self.spec_cache: dict[str, bytes] = {}
        self.deliveries = MemoryOutbox()

    def record(self, core: Core, effects: Iterable[Effect]) -> None:
        """Write the current row of every job that moved; a durable move takes all lazy rows along (one commit)."""
        moved = [effect for effect in effects if isinstance(effect, Transition)]
        for effect in moved:
            job = core.job(effect.job_id)
            assert job is not None, f"{effect.job_id} moved and is not in memory"
            if not job.evicted:
                self.spec_cache[job.id] = job.body
            row = copy.deepcopy(job)
            row.body, row.evicted = self.spec_cache[job.id], False
            self.lazy[effect.job_id] = row
        forgotten = [effect.job_id for effect in effects if isinstance(effect, RecordDeleted)]
        hooked = [effect.delivery for effect in effects if isinstance(effect, DeliveryChanged)]
        if any(effect.durable for effect in moved) or forgotten or hooked:
            self.flush()
        for delivery in hooked:
            assert delivery.job_id in self.rows, f"a delivery of {delivery.job_id}, which is not on disk"
            self.deliveries.rows[delivery.number] = delivery
        for job_id in forgotten:
            assert self.rows.pop(job_id).final, f"{job_id} was forgotten alive"
            for delivery in self.deliveries.of_job(job_id):
                del self.deliveries.rows[delivery.number]

    def flush(self) -> None:
        for job_id, job in self.lazy.items():
            old = self.rows.get(job_id)
            assert old is None or not old.final or job.state == old.state, f"{job_id}: {old} overwritten by {job}"
            assert old is None or job.fence >= old.fence, f"{job_id}: fence falls from {old.fence:#x} to {job.fence:#x}"
        self.rows.update(self.lazy)
        self.lazy.clear()

    def crash(self) -> None:
        """The process died: rows not yet committed are gone."""
        self.lazy.clear()

    def live(self) -> list[Job]:
        """What a new broker loads: copies of all rows that are not final, as if decoded from disk."""
        jobs = [copy.deepcopy(job) for job in self.rows.values() if not job.final]
        for job in jobs:
            job.body, job.evicted = b"", True
            job.phase, job.step, job.total, job.cost, job.skipped_s, job.begun = "", 0, 0, 0.0, 0.0, 0
        return jobs

    def _all(self) -> dict[str, Job]:
        return {**self.rows, **self.lazy}

    def find(self, job_id: str) -> Job | None:
        return copy.deepcopy(self._all().get(job_id))

    def set_asides(self) -> list[Job]:
        return [copy.deepcopy(job) for job in self._all().values() if job.set_aside]

    @property
    def set_aside_count(self) -> int:
        return len(self.set_asides())

    @property
    def damaged(self) -> int:
        return 0

    def body(self, job_id: str) -> bytes:
        return self._all()[job_id].body

    def find_alias(self, origin: str, alias: str, tenant: str) -> Job | None:
        named = [
            job
            for job in self._all().values()
            if (job.origin, job.alias) == (origin, alias) and tenant in ("", job.tenant)
        ]
        return max(named, key=lambda job: (job.submitted_at, job.id), default=None)

    def page(self, query: m.ListJobs) -> tuple[list[Job], bool, int]:
        jobs = sorted(self._all().values(), key=lambda job: (job.submitted_at, job.id), reverse=query.newest_first)
        if query.after:
            ids = [job.id for job in jobs]
            if query.after in ids:
                jobs = jobs[ids.index(query.after) + 1 :]
            elif query.after_at:
                jobs = [job for job in jobs if (job.submitted_at < query.after_at) == query.newest_first]
            else:
                jobs = []
        if query.states:
            jobs = [job for job in jobs if job.state.value in query.states]
        if query.tenant:
            jobs = [job for job in jobs if job.tenant == query.tenant]
        return jobs[: query.limit], len(jobs) > query.limit, 0
