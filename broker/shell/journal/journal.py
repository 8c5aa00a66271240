"""The journal: every accepted job, on disk before any peer is answered, and never moved backwards.

The rules:

- Rows are staged by `stage`, written by `flush`, durable after `commit`. A job staged twice before a flush is written once, as it is then.
  A row that may be lost in a crash need not be part of every commit: most are overtaken by a durable one of the same job and
  are never written.
- A job's row is written once; what becomes of it is a compare-and-set: it never lowers a fence and never leaves a final state. One that
  does not match raises `JournalConflict`: memory and disk disagree, and the disk is right (see `recovery`).
- What is staged (`staged.Staged`) changes until it is written; what is written (`store.Batch`) never does.
- Reads include what is staged: jobs not yet flushed are answered from memory or flushed first, flushed rows are in the store.

Where the rows are is the business of a `store.Store`, the file of SQLite or another database.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from broker.core.jobs import Job, SetAside, Stop
from broker.core.lookups import JobPage, RecordCounts
from broker.runtime.errors import JournalConflict
from broker.runtime.log_actions import Action
from broker.shell.journal import rows
from broker.shell.journal.clock_store import ClockStore
from broker.shell.journal.deliveries import DeliveryStore
from broker.shell.journal.reading import UNREADABLE, Reader
from broker.shell.journal.set_aside import SetAsideMarks
from broker.shell.journal.staged import Staged
from broker.shell.journal.store import Batch, JobRows, Store
from broker.wire import messages as m
from broker.wire.terms import FINAL, JobState

logger = logging.getLogger(__name__)


class Journal:
    """Rows that are not on disk yet, over the store that has the others. See `shell.lookups.Archive`."""

    def __init__(self, store: Store, *, usage_keep_days: int = 0) -> None:
        """Take the store, which it closes, and raise the epoch, on disk. `usage_keep_days`: 0 for ever. Raises as `Store.begin`."""
        self.store = store
        self.staged = Staged()
        #: Webhook deliveries and the clock, staged and committed along with the jobs.
        self.deliveries = DeliveryStore(store.deliveries, self.staged.deliveries, lambda: self.flush(lazy=False))
        self.clock = ClockStore(store.jobs, self.staged, usage_keep_days)
        try:
            self.asides = SetAsideMarks(store.jobs, self.staged.marks)
            self._reader = Reader(store.jobs, self.asides)
            self.epoch = store.begin(self._reader.is_sound)
            self.staged.next = store.jobs.next_number()
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the store. What was not committed is lost, as if the process had been killed."""
        self.store.close()

    # ------------------------------------------------------------ writing

    @property
    def dirty(self) -> bool:
        """Whether anything is staged or flushed that is not committed."""
        return self.staged.filled or bool(self.staged.lazy) or self.store.uncommitted

    def stage(self, job: Job, *, lazy: bool = False) -> None:
        """Write this job's row with the next commit; `lazy`: with the next that includes lazy rows."""
        job_id, staged = job.id, self.staged
        if job_id not in staged.known:
            staged.known[job_id] = staged.next, 0
            staged.next += 1
            staged.new[job_id] = job
        elif job_id in staged.new:
            staged.new[job_id] = job
        elif not lazy:
            staged.changed[job_id] = job
            if job_id in staged.lazy:
                del staged.lazy[job_id]
        elif job_id not in staged.changed:
            staged.lazy[job_id] = job

    def forget(self, job_id: str) -> None:
        """Delete the row of a final job with the next commit; at once for reads. Raises as `flush`.

        Whatever is staged is written first, so that a later job of the same id cannot meet this one's row.
        """
        self.flush()
        n, state = _standing(self.store.jobs, job_id)
        if not n or (state not in FINAL and job_id not in self.asides):
            raise JournalConflict(f"job {job_id} cannot be deleted: its row is {state or None}")
        self.staged.known.pop(job_id, None)
        if job_id in self.asides:
            self.asides.take_away(job_id)
        self.store.write(Batch(forgotten=[n], count=1))

    def flush(self, *, lazy: bool = True) -> None:
        """Write the staged rows, with or without the lazy ones, without making them durable. Raises `JournalConflict`, `JournalBroken` or
        `JournalFull`."""
        if lazy:
            self.staged.include_lazy()
        if self.staged.filled:
            self.store.write(self.staged.take())

    def commit(self, *, lazy: bool = True) -> int:
        """Make the staged rows durable, with or without the lazy ones; returns how many there were. Raises as `flush`."""
        staged = self.staged
        if lazy:
            staged.include_lazy()
        if not (staged.new or staged.changed or staged.filled or self.store.uncommitted):
            return 0
        return self.store.commit(staged.take())

    def discard(self) -> None:
        """Forget all that is not committed and raise the epoch, as if the process had been killed and started again. Raises as `flush`."""
        self.epoch = self.store.discard()
        self.staged.clear(self.store.jobs.next_number())
        self.asides.load()
        self.clock.stage_again()

    def set_aside(self, job_id: str, reason: str, now: float, *, readable: bool = True) -> bool:
        """Mark a live job, on disk when this returns; False when there is no such job. Nothing may be staged. Raises as `flush`."""
        n, state = _standing(self.store.jobs, job_id)
        if not n or state in FINAL:
            return False
        old = self.asides.of_job(job_id)
        stop: Stop = "" if old is None else old.stop
        mark = SetAside(reason=reason, at=now, revision=self.epoch << 32, stop=stop, readable=readable)
        self.asides.put(job_id, n, mark)
        self.staged.known.pop(job_id, None)
        self.commit()
        return True

    def mark(self, job: Job, mark: SetAside | None) -> None:
        """Change the mark of a job that has one with the next commit; None: it has none from then on, and its row is written."""
        n, old = self.asides.number(job.id), self.asides.of_job(job.id)
        if mark is not None:
            self.asides.put(job.id, n, mark)
            return
        self.asides.take_away(job.id)
        if old is not None and not old.readable:
            # What was salvaged, so that it can have an outcome: live, and below every fence.
            below = replace(job, state=JobState.QUEUED, fence=0)
            self.store.write(Batch(rewritten=[rows.job_row(n, below)]))
        row = self.store.jobs.row(n, spec=False)
        self.staged.known[job.id] = n, 0 if row is None else rows.standing(row)[1]
        self.stage(job)

    # ------------------------------------------------------------ reading

    @property
    def empty(self) -> bool:
        """Whether no job was ever accepted, or none is left."""
        return self.staged.next == 1

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""
        staged = self.staged.find(job_id)
        if staged is not None:
            return staged
        return self.asides.job(job_id) if job_id in self.asides else self._reader.find(job_id)

    def body(self, job_id: str) -> bytes:
        """The spec of a job that was committed. Raises `DamagedRecord`."""
        return self._reader.body(job_id)

    def find_alias(self, origin: str, alias: str, tenant: str = "") -> Job | None:
        """The newest job of this name, of this tenant ("": of any)."""
        if not alias:
            return None
        # A new job that is not flushed is newer than every row.
        return self.staged.named(origin, alias, tenant) or self._reader.newest(origin, alias, tenant)

    def page(self, query: m.ListJobs) -> JobPage:
        """Jobs that match, in the order of acceptance. An unknown `after` gives an empty page."""
        self.flush()
        return self._reader.page(query, self.staged.live(self.asides.numbers()) if query.states else None)

    def usage(self, query: m.GetUsage) -> list[m.UsageRow]:
        """Sums by what the query groups by, in its order; one more than its limit when there are more. Raises as `flush`."""
        self.flush()
        return self.store.jobs.usage(query)

    def live(self, now: float = 0.0) -> list[Job]:
        """Every job that is not final, oldest first, its spec left on disk; for the start.

        Those that are set aside are left out. A row that cannot be read is set aside. Raises as `flush`.
        """
        found: list[tuple[int, Job]] = []
        for row in self.store.jobs.live():
            job_id = rows.as_text(row[rows.ID])
            if job_id in self.asides:
                continue
            try:
                job = rows.decode(row)
            except UNREADABLE as error:
                reason = f"its row cannot be read: {error}"[:256]
                mark = SetAside(reason=reason, at=now, revision=self.epoch << 32, readable=False)
                self.asides.put(job_id, row[rows.N], mark)
                logger.error("job set aside", extra={"action": Action.SET_ASIDE, "job_id": job_id, "reason": reason})
                continue
            job.evicted = True
            # A job that has only been submitted has none. One that has not begun may: it was paused, or its promise was broken.
            if job.submission.webhook and len(job.history) > 1:
                job.deliveries = {delivery.number: delivery for delivery in self.deliveries.of_job(job.id)}
            found.append((row[rows.N], job))
        self.commit()
        self.staged.has_all_live = True
        self.staged.known.update((job.id, (n, job.fence)) for n, job in found)
        return [job for _, job in found]

    def rates(self) -> list[tuple[str, float, float, int]]:
        """(model, units, seconds without loading, GPUs) of recent succeeded jobs, oldest first."""
        return self._reader.rates(self.staged.next)

    def counts(self) -> RecordCounts:
        """The numbers of a pool's view that only the journal has."""
        return RecordCounts(len(self.asides), self._reader.damaged, self.store.rebuilt_indexes)

    # ------------------------------------------------------------ between passes

    def checkpoint(self) -> None:
        """Let the store do what is not urgent, when nothing is staged. Raises as `flush`."""
        if not self.dirty:
            self.store.rest(lambda: self.staged.first_live(self.asides.numbers()))


def _standing(stored: JobRows, job_id: str) -> tuple[int, str]:
    """(number, state) of what is written of a job; (0, "") when there is none."""
    n = stored.number(job_id)
    row = None if n is None else stored.row(n, spec=False)
    return (0, "") if n is None or row is None else (n, rows.standing(row)[0])
