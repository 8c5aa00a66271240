"""Export of results to client-chosen paths in the background: when a job succeeds, at start, and after events were lost.

Reading a job fills its path as well (`JobLookup`), but most clients that choose a path look for the file and never read the job. Every
edge does this for every job, whichever took it; the ledger's lock lets one of them do the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from broker.runtime.log_actions import Action
from http_edge.base.errors import EdgeError
from http_edge.jobs.service import JobService

log = logging.getLogger(__name__)

_CONSUMERS = 2

#: Most jobs that are noted; further ones are found by the next sweep, or when they are read.
_NOTED = 10_000

#: A sweep reads this many of the newest successes.
_SWEPT = 200
_PAGE = 50

_RETRY_S = 2.0


class ExportWorker:
    """Tasks that read jobs that succeeded, which fills their paths."""

    def __init__(self, calls: JobService) -> None:
        self._calls = calls
        self._noted: asyncio.Queue[str] = asyncio.Queue(_NOTED)
        self._sweep_requested = asyncio.Event()

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the caller cancels the tasks."""
        self._calls.hub.when_succeeded(self._note)
        self._calls.hub.when_gap(self._sweep_requested.set)
        self._sweep_requested.set()
        consumers = [asyncio.create_task(self._consume()) for _ in range(_CONSUMERS)]
        return [*consumers, asyncio.create_task(self._sweep_on_request())]

    def _note(self, job_id: str) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._noted.put_nowait(job_id)

    async def _consume(self) -> None:
        while True:
            job_id = await self._noted.get()
            try:
                # Looking at a job is what fills its path.
                await self._calls.jobs.get(job_id)
            except EdgeError as error:
                log.info("job not looked at", extra={"action": Action.SAVE, "job_id": job_id, "reason": error.message})

    async def _sweep_on_request(self) -> None:
        while True:
            await self._sweep_requested.wait()
            self._sweep_requested.clear()
            try:
                await self._sweep()
            except EdgeError:
                await asyncio.sleep(_RETRY_S)
                self._sweep_requested.set()

    async def _sweep(self) -> None:
        after, seen, more = "", 0, True
        while more and seen < _SWEPT:
            jobs, more = await self._calls.jobs.page(limit=_PAGE, after=after, states=("succeeded",))
            if not jobs:
                return
            after, seen = jobs[-1].view.id, seen + len(jobs)
