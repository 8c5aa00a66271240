"""Copying of a finished job's result to its client-chosen path, before the job is reported as finished."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable

import anyio
import anyio.to_thread

from broker.runtime.log_actions import Action
from http_edge.base.errors import EdgeError
from http_edge.jobs.job import Job
from http_edge.media.exports import Exports, Source
from http_edge.media.result_files import ResultFiles

log = logging.getLogger(__name__)

#: Most jobs that are remembered to have their path filled; and seconds until a path that could not be filled is tried again.
_MAX_KEPT = 10_000
_RETRY_S = 5.0


class ExportOnRead:
    """Fills paths in worker threads."""

    def __init__(self, results: ResultFiles, exports: Exports, threads: anyio.CapacityLimiter) -> None:
        self._results = results
        self._exports = exports
        self._threads = threads
        #: Job -> ("" or the reason why its path could not be filled, when that was found).
        self._settled: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def fill_save_path(self, job: Job) -> Job:
        """The job, with its client-chosen path filled if it succeeded."""
        if job.view.state != "succeeded" or job.spec is None or not job.spec.save_to or job.view.result is None:
            return job
        known = self._settled.get(job.view.id)
        if known is None or (known[0] and time.monotonic() - known[1] > _RETRY_S):
            reason = await self._fill(job)
            if reason and (known is None or known[0] != reason):
                log.warning(
                    "result could not be saved", extra={"action": Action.SAVE, "job_id": job.view.id, "reason": reason}
                )
            known = self._settled[job.view.id] = (reason, time.monotonic())
            if len(self._settled) > _MAX_KEPT:
                self._settled.popitem(last=False)
        return job.unsaved(known[0]) if known[0] else job

    async def job_at(self, path: str) -> str | None:
        """The id of the job whose result lies at a client's path, or None. Raises `EdgeError` when clients may not look there."""
        return await anyio.to_thread.run_sync(self._exports.written, path, limiter=self._threads)

    def forget(self, job_ids: Iterable[str]) -> None:
        """Drop deleted jobs; later ones of these ids are others."""
        for job_id in job_ids:
            self._settled.pop(job_id, None)

    async def _fill(self, job: Job) -> str:
        """Copy the first artefact to the client's path. "" or the reason why not."""
        assert job.spec is not None
        assert job.view.result is not None
        if not job.view.result.artefacts:
            return "the job made no file"
        artefact = job.view.result.artefacts[0]
        try:
            path = await self._results.fetched(job.view, artefact)
        except EdgeError as error:
            return error.message
        source = Source(
            job=job.view.id,
            finished_at=job.view.finished_at,
            path=path,
            size=artefact.size,
            tenant=job.view.submission.tenant,
        )
        return await anyio.to_thread.run_sync(self._exports.fill, job.spec.save_to, source, limiter=self._threads)
