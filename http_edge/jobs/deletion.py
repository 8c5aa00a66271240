"""Deletion of jobs that are over, the record before its files; and the pins of those that are kept beyond their time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread

from broker.client.client import BrokerClient
from broker.depot.object_store import StoreError
from broker.wire.jobspec import is_job_id
from http_edge.base.broker_errors import translated
from http_edge.base.context import current
from http_edge.base.errors import EdgeError, not_found
from http_edge.base.job_names import journal_ids, shown_id
from http_edge.jobs.hub import Hub
from http_edge.jobs.lookup import JobLookup
from http_edge.media.artefact_store import ArtefactStore
from http_edge.media.result_files import store_unavailable

T = TypeVar("T")


class JobDeletion:
    """Deletes records and files of jobs that are over."""

    def __init__(
        self,
        broker: BrokerClient,
        jobs: JobLookup,
        hub: Hub,
        artefacts: ArtefactStore,
        threads: anyio.CapacityLimiter,
    ) -> None:
        self.artefacts = artefacts
        self._broker = broker
        self._jobs = jobs
        self._hub = hub
        self._threads = threads

    async def delete(self, job_id: str) -> None:
        """Delete a finished job: its record, then its files. Raises `EdgeError`."""
        job = await self._jobs.get(job_id)
        if not job.is_final:
            raise EdgeError("still_stopping", f"job {job.id} is {job.view.state}; only what is over can be deleted")
        await self.delete_records([job.view.id])
        await self._in_thread(lambda: self.artefacts.remove(job.view.id, job.view.fence))
        with contextlib.suppress(StoreError):  # swept as a pin of no job
            await self._in_thread(lambda: self.artefacts.unpin(job.view.id))

    async def delete_damaged(self, job_id: str) -> str:
        """Delete a record that cannot be read, and return its id; its files are swept as strays. Raises `EdgeError`."""
        for name in journal_ids(current().caller, job_id):
            view = await self._jobs.view(name) if is_job_id(name) else None
            if view is not None and view.damaged and await self.delete_records([name]):
                return shown_id(name)
        raise not_found("job", job_id)

    async def pin(self, job_id: str, pinned: bool | None) -> bool:
        """Keep this job beyond its time (True), no longer (False), or as it is (None); return whether it is kept."""
        try:
            if pinned is not None:
                await self._in_thread(lambda: self.artefacts.pin(job_id) if pinned else self.artefacts.unpin(job_id))
            return await self._in_thread(lambda: self.artefacts.is_pinned(job_id))
        except StoreError as error:
            raise store_unavailable(error) from None

    async def delete_records(self, job_ids: Sequence[str], finished_s: float = 0.0) -> tuple[str, ...]:
        """Delete the records (at most 50) of those of these jobs that have been over for so long; their ids. Raises `EdgeError`."""
        with translated():
            gone = await self._broker.forget(job_ids, finished_s=finished_s)
        self._hub.on_gone(gone)
        return gone

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)
