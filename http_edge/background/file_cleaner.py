"""Removal of files that no job's record needs: unused inputs, files of deleted jobs, attempts that came to nothing.

`Retention` calls it, under its lock and while the clocks agree.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

from anyio.to_thread import run_sync

from broker.depot.object_store import StoreError
from broker.runtime.log_actions import Action
from broker.wire.jobspec import decode_spec
from broker.wire.messages import JobView
from broker.wire.terms import FINAL_NAMES, LIVE_NAMES
from http_edge.jobs.service import JobService
from http_edge.media.artefact_store import ArtefactStore
from http_edge.media.input_store import InputStore

log = logging.getLogger(__name__)

#: Jobs in one page, which carries their specs.
_PAGE = 50

#: Files without a record are left alone for so long, seconds, and so many jobs' directories are looked at in one sweep.
STRAY_S = 86_400.0
_STRAYS = 500


class FileCleaner:
    """Cleaner of inputs and artefacts. All methods raise `EdgeError` when the broker does not answer; `OSError`."""

    def __init__(self, calls: JobService, inputs: InputStore, store: ArtefactStore) -> None:
        self._calls = calls
        self._inputs = inputs
        self._store = store
        #: The jobs at which the last sweeps ended; "" for the beginning.
        self._next_stray = self._next_checkpointed = ""

    async def sweep_inputs(self, unused_since: float) -> None:
        """Remove inputs that no job used since this Unix time, and no live one needs."""
        old = await run_sync(self._inputs.unused_since, unused_since)
        if not old:
            return
        needed: set[str] = set()
        after, more = "", True
        while more:
            views, more = await self._calls.jobs.views(limit=_PAGE, after=after, newest_first=False, states=LIVE_NAMES)
            needed |= {Path(path).name for view in views for path in _inputs_of(view)}
            after = views[-1].id if views else ""
            more = more and bool(views)
        await run_sync(self._inputs.remove_unused, [name for name in old if name not in needed], unused_since)

    async def sweep_checkpoints(self, now: float) -> None:
        """Remove the checkpoints of jobs that have ended, which their workers do unless they died first or have sent them away, and what is
        of no use to those that go on: of some jobs with every sweep, in turn."""
        found = await run_sync(self._store.checkpointed, self._next_checkpointed, _STRAYS)
        self._next_checkpointed = list(found)[-1] if len(found) == _STRAYS else ""
        for job_id, there in found.items():
            view = await self._calls.jobs.view(job_id)
            if view.state in FINAL_NAMES if view is not None else now - there.at > STRAY_S:
                await run_sync(self._store.remove_checkpoints, job_id)
            elif there.old:
                await run_sync(self._store.remove_old_checkpoints, there.old)

    async def sweep_strays(self, now: float) -> None:
        """Remove old files of jobs that have no record, and of attempts that came to nothing: some jobs with every sweep, in turn."""
        found = await run_sync(self._store.attempts, self._next_stray, _STRAYS)
        self._next_stray = list(found)[-1] if len(found) == _STRAYS else ""
        for job_id, times in found.items():
            await self._sweep_stray(job_id, times, now)
        for job_id in await run_sync(self._store.pins):
            if await self._calls.jobs.view(job_id) is None:
                with contextlib.suppress(StoreError):  # the next sweep does
                    await run_sync(self._store.unpin, job_id)

    async def _sweep_stray(self, job_id: str, times: Mapping[int, float], now: float) -> None:
        old = [fence for fence, at in times.items() if now - at > STRAY_S]
        if times and not old:
            return
        view = await self._calls.jobs.view(job_id)
        if view is not None and (view.state not in FINAL_NAMES or view.damaged):
            return
        needed = view.fence if view is not None and view.state == "succeeded" else -1
        for fence in old:
            if fence != needed:
                log.info("stray files removed", extra={"action": Action.RETENTION, "job_id": job_id, "fence": fence})
                await run_sync(self._store.remove_attempt, job_id, fence)
        if view is None:
            await run_sync(self._store.remove_empty, job_id)


def _inputs_of(view: JobView) -> tuple[str, ...]:
    with contextlib.suppress(ValueError):
        return decode_spec(view.body).input_paths()
    return ()
