"""Retention: finished jobs are deleted, records and files together, after `retention_s` or to stay within `disk_quota_mb`.

Rules. The record goes first, in the broker's journal, then the files: after a crash in between, files without a record are found by
`file_cleaner`. A job that is pinned, or one of whose files is being sent, stays. Several edges may run over one home; the one that holds
`<home>/retention.lock` does this work, for all of them. Inputs that were uploaded outlive the jobs that used them. The quota is of this
disk: a job whose result lies in an object store makes room by its previews alone.
One clock decides, the broker's: while this edge's differs from it, or it was set a moment ago, everything stays.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import os
import time
from collections.abc import Callable, Iterable

from anyio.to_thread import run_sync
from msgspec import Struct

from broker.depot.object_store import StoreError
from broker.runtime.log_actions import Action
from broker.wire.messages import PoolView
from broker.wire.terms import FINAL_NAMES
from http_edge.background.file_cleaner import STRAY_S, FileCleaner
from http_edge.base.errors import EdgeError
from http_edge.body.spool import STALE_S, Spool
from http_edge.jobs import clock_agreement
from http_edge.jobs.service import JobService
from http_edge.media.artefact_store import release
from http_edge.media.input_store import InputStore
from http_edge.media.uploads import LONGEST_KEPT_S, Uploads

log = logging.getLogger(__name__)

#: Bounds of the pause between two sweeps, seconds; a tenth of the retention in between.
_LEAST_PAUSE_S, _MOST_PAUSE_S = 1.0, 60.0

#: Jobs in one page (it carries their specs), looked at before any of them goes, and forgotten with one message.
_PAGE = 50
_WINDOW = 500
_BATCH = 50

#: When no job could make room, every one was looked at: not again so soon.
_NO_ROOM_S = 600.0


class _Record(Struct, frozen=True):
    """Finished job, as far as retention needs it."""

    id: str
    fence: int
    submitted_at: float
    finished_at: float


class Retention:
    """Task that deletes expired jobs, and has files removed that no job needs."""

    def __init__(
        self,
        calls: JobService,
        inputs: InputStore,
        spool: Spool,
        files: Uploads,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        settings = calls.settings
        self._calls = calls
        self._spool = spool
        self._files = files
        self._store = calls.deletion.artefacts
        self._cleaner = FileCleaner(calls, inputs, self._store)
        self._lock_path = settings.home_path / "retention.lock"
        self._lock: int | None = None
        self._retention_s = settings.retention_s
        self._quota = settings.disk_quota_mb * 1024 * 1024
        self._wall_clock = wall_clock
        self._no_room_until = 0.0
        self._doubt = ""

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the caller cancels the task."""
        return [asyncio.create_task(self._run())]

    async def _run(self) -> None:
        pause_s = _MOST_PAUSE_S
        if self._retention_s:
            pause_s = min(_MOST_PAUSE_S, max(_LEAST_PAUSE_S, self._retention_s / 10))
        try:
            while True:
                await asyncio.sleep(pause_s)
                if self._has_lock():
                    await self._try()
        finally:
            if self._lock is not None:
                os.close(self._lock)

    async def _try(self) -> None:
        try:
            await self.sweep()
        except EdgeError as error:
            log.info("nothing was deleted", extra={"action": Action.RETENTION, "reason": error.message})
        except OSError as error:
            log.error("files cannot be removed", extra={"action": Action.RETENTION, "reason": str(error)})

    def _has_lock(self) -> bool:
        """Whether this edge is the one that does it."""
        if self._lock is not None:
            return True
        try:
            self._lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.error("no lock for the retention", extra={"action": Action.RETENTION, "reason": str(error)})
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    async def sweep(self) -> None:
        """Delete everything that has expired. Raises `EdgeError` when the broker does not answer; `OSError`."""
        pool = await self._calls.catalogue.pool()
        now = self._wall_clock()
        if self._waits(clock_agreement.doubt(pool, now)):
            return
        await run_sync(self._spool.sweep, now - clock_agreement.slack_s(pool, STALE_S))
        await run_sync(self._files.sweep, now - clock_agreement.slack_s(pool, LONGEST_KEPT_S))
        await self._cleaner.sweep_checkpoints(now)
        if self._retention_s:
            await self._expire(pool)
            # Every record that names them is gone by then, or belongs to a job that still waits.
            kept_s = 2 * self._retention_s
            await self._cleaner.sweep_inputs(now - clock_agreement.slack_s(pool, kept_s) - kept_s)
        if self._quota and now >= self._no_room_until:
            await self._make_room(now)
        if self._retention_s or self._quota:
            await self._cleaner.sweep_strays(now - clock_agreement.slack_s(pool, STRAY_S))

    def _waits(self, doubt: str) -> bool:
        """Whether nothing may be deleted because the clocks differ; logged when that begins and when it ends."""
        if bool(doubt) != bool(self._doubt):
            message = "nothing is deleted: the clocks differ" if doubt else "the clocks agree"
            log.warning(message, extra={"action": Action.RETENTION, "reason": doubt})
        self._doubt = doubt
        return bool(doubt)

    # ------------------------------------------------------------ jobs

    async def _expire(self, pool: PoolView) -> None:
        """Forget what has been over for long enough, by the broker's clock. Only jobs that were accepted before then need be looked at."""
        cutoff = pool.now - self._retention_s
        after, more = "", True
        while more:
            window, more = await self._finals(after)
            old = [record for record in window if record.finished_at <= cutoff]
            gone = await self._delete(old, self._retention_s)
            if window and window[-1].submitted_at > cutoff:
                return
            # A page begins behind a job that is still there.
            after = next((record.id for record in reversed(window) if record.id not in gone), after)

    async def _make_room(self, now: float) -> None:
        """Forget the jobs that finished first, until the files fit.

        Jobs are listed in the order of acceptance. Those behind a window were accepted, and so finished, later than its last was
        accepted: whatever of the window finished before that has finished first of all.
        """
        over = await run_sync(self._store.usage) - self._quota
        waiting: list[_Record] = []
        after, more = "", True
        while over > 0 and more:
            window, more = await self._finals(after)
            waiting += window
            bound = window[-1].submitted_at if window and more else math.inf
            after = window[-1].id if window else after
            first = sorted(
                (record for record in waiting if record.finished_at < bound), key=lambda one: one.finished_at
            )
            waiting = [record for record in waiting if record.finished_at >= bound]
            over = await self._evict(first, over)
        if over > 0:
            self._no_room_until = now + _NO_ROOM_S
            log.warning(
                "over the disk quota, and no job can go", extra={"action": Action.RETENTION, "over_bytes": over}
            )

    async def _evict(self, records: list[_Record], over: int) -> int:
        """Forget of these, in order, until no bytes are over; how many still are."""
        left = iter(records)
        while over > 0:
            batch: list[_Record] = []
            sizes: dict[str, int] = {}
            for record in left:
                size = await run_sync(self._store.size, record.id)
                if size and await run_sync(self._drop_previews, record):
                    over -= size
                elif size:
                    batch.append(record)
                    sizes[record.id] = size
                if len(batch) == _BATCH or sum(sizes.values()) >= over:
                    break
            if not batch or over <= 0:
                break
            over -= sum(sizes[job_id] for job_id in await self._delete(batch))
        return over

    def _drop_previews(self, record: _Record) -> bool:
        """Whether this disk has room again without the job's end: its result takes none here. Blocks."""
        try:
            return not self._store.is_pinned(record.id) and self._store.drop_previews(record.id, record.fence)
        except StoreError:
            return False

    async def _finals(self, after: str) -> tuple[list[_Record], bool]:
        """Up to `_WINDOW` finished jobs in the order of acceptance, and whether more follow. Raises `EdgeError`."""
        found: list[_Record] = []
        more = True
        while more and len(found) < _WINDOW:
            views, more = await self._calls.jobs.views(limit=_PAGE, after=after, newest_first=False, states=FINAL_NAMES)
            if not views:
                return found, False
            found += [_Record(view.id, view.fence, view.submitted_at, view.finished_at) for view in views]
            after = found[-1].id
        return found, more

    async def _delete(self, records: Iterable[_Record], finished_s: float = 0.0) -> set[str]:
        """Forget these jobs, but those that must stay: record, then files; which are gone. Raises `EdgeError`, `OSError`."""
        gone: set[str] = set()
        batch: list[_Record] = []
        for record in [*records, None]:
            if record is not None:
                batch.append(record)
            if batch and (record is None or len(batch) == _BATCH):
                gone |= await self._delete_batch(batch, finished_s)
                batch = []
        return gone

    async def _delete_batch(self, batch: list[_Record], finished_s: float) -> set[str]:
        locks: list[int] = []
        try:
            free = await run_sync(self._free_of, batch, locks)
            gone = (
                set(await self._calls.deletion.delete_records([one.id for one in free], finished_s)) if free else set()
            )
            for record in free:
                # A request whose answer was lost is repeated, and then finds its jobs deleted.
                if record.id in gone or await self._calls.jobs.view(record.id) is None:
                    gone.add(record.id)
                    await run_sync(self._store.remove, record.id, record.fence)
        finally:
            release(locks)
        return gone

    def _free_of(self, batch: list[_Record], locks: list[int]) -> list[_Record]:
        return [record for record in batch if self._may_go(record, locks)]

    def _may_go(self, record: _Record, locks: list[int]) -> bool:
        """Whether a job is neither pinned nor being sent; it cannot be sent until `locks` are released. Blocks."""
        try:
            if self._store.is_pinned(record.id):
                return False
        except StoreError as error:
            log.info("nothing was deleted", extra={"action": Action.RETENTION, "reason": str(error)})
            return False
        own = self._store.lock(record.id, record.fence)
        locks += own or ()
        return own is not None
