"""The journal: every accepted job, on disk before anybody is told, and never moved backwards.

The rules:

- Rows are staged by `stage`, written by `flush`, durable after `commit`. A job staged twice before a flush is written once, as it is then.
  A row that may be lost in a crash need not be part of every commit: most are overtaken by a durable one of the same job and
  are never written.
- A job's row is written once; what becomes of it is a compare-and-set (`_put_outcomes`): it never lowers a fence and never leaves a final
  state. One that does not match raises `JournalConflict`: memory and disk disagree, and the disk is right (see `recovery`).
- Any I/O error ends the process. A failed fsync is not retried: the kernel may have dropped the pages and report success the
  next time ("fsyncgate"). Only "disk full" found while *writing* is: the transaction is rolled back, the reserve released, and
  all of it written again.
- Reads see what is staged: jobs not yet flushed are answered from memory or flushed first, flushed rows are seen by the one connection.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

from msgspec.msgpack import decode, encode
from msgspec.structs import replace

from broker.core.jobs import Job, SetAside, Stop
from broker.runtime.errors import JournalBroken, JournalConflict, JournalFull
from broker.runtime.log_actions import Action
from broker.shell.journal import rows
from broker.shell.journal.clock_record import Record
from broker.shell.journal.deliveries import DeliveryStore
from broker.shell.journal.epochs import Epochs
from broker.shell.journal.indexes import IndexCheck
from broker.shell.journal.reading import UNREADABLE, Reader
from broker.shell.journal.schema import open_database, refusal
from broker.shell.journal.set_aside import SetAsideMarks
from broker.wire import messages as m
from broker.wire.terms import FINAL, JobState

logger = logging.getLogger(__name__)

#: Calls of `checkpoint` after which one is made although there is no idle moment.
_CHECKPOINT_CALLS = 40

_revision = attrgetter("revision")


class Journal:
    """The file, its one connection, and the rows that are not on disk yet. See `shell.lookups.Archive`."""

    def __init__(
        self, path: Path, release_reserve: Callable[[], bool] = lambda: False, *, accept_loss: bool = False
    ) -> None:
        """Open or create the file and raise the epoch, on disk. `release_reserve` frees space on a full disk; False: there is none left.

        Raises `JournalRefused`, `JournalBroken` or `JournalFull`; `JournalShort` unless `accept_loss`.
        """
        self.path = path
        self._release_reserve = release_reserve
        self._connection = open_database(path)
        #: For what is done for every job, as making a cursor costs; whatever it selects is read to the end.
        self._cursor = self._connection.cursor()
        #: Row of every live job that has been staged; since `live`: of every one that has no mark. (Number, fence that it is known to bear
        #: or to have borne): nobody else can write to the file.
        self._rows: dict[str, tuple[int, int]] = {}
        self._knows_live = False
        #: Staged and not flushed, those that may be lost apart; flushed and not committed.
        self._staged: dict[str, Job] = {}
        self._lazy: dict[str, Job] = {}
        self._flushed: dict[str, Job] = {}
        #: Jobs that the file does not have yet; jobs that it has since the open transaction began.
        self._new: set[str] = set()
        self._inserted: set[str] = set()
        #: Numbers of deleted rows: still to be deleted, and deleted in the open transaction.
        self._doomed: list[int] = []
        self._deleted: list[int] = []
        #: Webhook deliveries, staged and committed along with the jobs.
        self.deliveries = DeliveryStore(self._connection, path, lambda: self._guarded(self._write_staged))
        #: The clock's record, not written yet; written and not committed.
        self._clock: Record | None = None
        self._clock_flushed: Record | None = None
        #: Number and revision of the row written last since the last commit.
        self._written_last = (0, 0)
        self._since_checkpoint = 0
        self._since_checkpoint_seen = 0
        self._idle_calls = 0
        self._epochs = Epochs(self._connection, path)
        try:
            self.asides = SetAsideMarks(self._connection)
            self._reader = Reader(self._connection, self._cursor, path, self.asides)
            self._next = self._first_free()
            self.epoch = self._epochs.begin(accept_loss, self._guarded)
            # The epoch, and which journal this is, shall not live in the log alone.
            self._guarded(self._checkpoint)
            self._indexes = IndexCheck(self._connection, path, self._reader.is_sound, self._guarded)
            self._indexes.start()
        except sqlite3.Error as error:
            self.close()
            raise refusal(path, error) from error
        except BaseException:
            self.close()
            raise

    def _first_free(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(n), 0) + 1 FROM job").fetchone()[0])

    def close(self) -> None:
        """Close the file. What was not committed is rolled back, as if the process had been killed."""
        with suppress(sqlite3.ProgrammingError):  # closed before
            self._cursor.close()  # else it would keep the file locked
        self._connection.close()
        self._epochs.close()

    # ------------------------------------------------------------ writing

    @property
    def dirty(self) -> bool:
        """Whether anything is staged or flushed that is not committed."""
        return self._written or bool(
            self._staged or self._lazy or self._doomed or self.deliveries.staged or self.asides.dirty or self._clock
        )

    @property
    def _written(self) -> bool:
        return bool(self._flushed or self._deleted or self.deliveries.flushed or self._clock_flushed)

    def stage(self, job: Job, *, lazy: bool = False) -> None:
        """Write this job's row with the next commit; `lazy`: with the next that includes lazy rows."""
        job_id = job.id
        if job_id not in self._rows:
            self._rows[job_id] = self._next, 0
            self._next += 1
            self._new.add(job_id)
            lazy = False
        if not lazy:
            self._staged[job_id] = job
            self._lazy.pop(job_id, None)
        elif job_id not in self._staged:
            self._lazy[job_id] = job

    def forget(self, job_id: str) -> None:
        """Delete the row of a final job with the next commit; at once for whoever reads. Raises as `flush`.

        Whatever is staged is written first, so that a later job of the same id cannot meet this one's row.
        """
        self.flush()
        row = self._row(rows.SELECT_STATE, (job_id,))
        if row is None or (row[1] not in FINAL and job_id not in self.asides):
            raise JournalConflict(f"job {job_id} cannot be deleted: its row is {row and row[1]}")
        # Should this transaction have to be written again, this row need not: it is deleted before anything else is written.
        self._flushed.pop(job_id, None)
        self.deliveries.forget(job_id)
        self._inserted.discard(job_id)
        self._rows.pop(job_id, None)
        if job_id in self.asides:
            self.asides.take_away(job_id)
        self._doomed.append(row[0])
        self._guarded(self._write_staged)

    def flush(self) -> None:
        """Write all staged rows, without making them durable. Raises `JournalConflict`, `JournalBroken` or `JournalFull`."""
        self._include_lazy()
        if self._staged or self.deliveries.staged:
            self._guarded(self._write_staged)

    def _include_lazy(self) -> None:
        self._staged.update(self._lazy)
        self._lazy.clear()

    def commit(self, *, lazy: bool = True) -> int:
        """Make the staged rows durable, with or without the lazy ones; returns how many there were. Raises as `flush`."""
        if lazy:
            self._include_lazy()
        if not (
            self._staged or self._doomed or self.deliveries.staged or self.asides.dirty or self._clock or self._written
        ):
            return 0
        self._guarded(self._write_and_commit)
        if self._written_last[0] or self._deleted:
            self._epochs.committed(*self._written_last)
            self._written_last = (0, 0)
        self.asides.committed()
        count = len(self._flushed) + len(self._deleted) + self.deliveries.committed()
        for job in self._flushed.values():
            if job.state in FINAL:
                del self._rows[job.id]
        self._flushed.clear()
        self._inserted.clear()
        self._deleted.clear()
        self._clock_flushed = None
        self._since_checkpoint += count
        return count

    def discard(self) -> None:
        """Forget all that is not committed and raise the epoch, as if the process had been killed and started again. Raises as `flush`."""
        if self._connection.in_transaction:
            self._guarded(lambda: self._connection.execute("ROLLBACK"))
        for staged in (self._rows, self._staged, self._lazy, self._flushed, self._new, self._inserted):
            staged.clear()
        self._doomed.clear()
        self._deleted.clear()
        self.deliveries.discard()
        self.asides.load()
        self._clock = self._clock or self._clock_flushed
        self._clock_flushed = None
        self._knows_live = False
        self._next = self._first_free()
        self._written_last = (0, 0)
        self.epoch = self._epochs.raise_again(self._guarded)

    def set_aside(self, job_id: str, reason: str, now: float, *, readable: bool = True) -> bool:
        """Mark a live job, on disk when this returns; False when there is no such job. Nothing may be staged. Raises as `flush`."""
        row = self._row(rows.SELECT_STATE, (job_id,))
        if row is None or row[1] in FINAL:
            return False
        old = self.asides.of_job(job_id)
        stop: Stop = "" if old is None else old.stop
        mark = SetAside(reason=reason, at=now, revision=self.epoch << 32, stop=stop, readable=readable)
        self.asides.put(job_id, row[0], mark)
        self._rows.pop(job_id, None)
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
            self._guarded(lambda: self._rewrite(n, job))
        row = self._row(rows.SELECT_FENCE, (n,))
        self._rows[job.id] = n, 0 if row is None else row[2]
        self.stage(job)

    def _rewrite(self, n: int, job: Job) -> None:
        """Put what was salvaged of a job in its row, so that it can have an outcome: live, and below every fence."""
        self._begin()
        self._cursor.execute("DELETE FROM outcome WHERE n = ?", (n,))
        below = replace(job, state=JobState.QUEUED, fence=0)
        self._cursor.execute(rows.REWRITE_JOB, (*rows.job_row(n, below), n))

    def stage_clock(self, record: Record) -> None:
        """Keep this of the clock, from the next commit on."""
        self._clock = record

    def clock_record(self) -> Record | None:
        """What a broker before kept of the clock; None when none did, or it cannot be read."""
        row = self._row("SELECT record FROM clock", ())
        try:
            return None if row is None else decode(row[0], type=Record)
        except (ValueError, TypeError) as error:
            logger.error("the clock's record cannot be read", extra={"action": Action.CLOCK, "error": str(error)})
            return None

    @property
    def empty(self) -> bool:
        """Whether no job was ever accepted, or none is left."""
        return self._next == 1

    def checkpoint(self) -> None:
        """Move the log into the file, when nothing was committed since the last call, or this was called often enough: the log is what
        a careless hand removes, and a row in it alone is gone then. When nothing is under way, look at a few entries of the indexes."""
        idle = self._since_checkpoint == self._since_checkpoint_seen and not self.dirty
        self._since_checkpoint_seen = self._since_checkpoint
        self._idle_calls += 1
        if self._since_checkpoint and not self.dirty and (idle or self._idle_calls >= _CHECKPOINT_CALLS):
            if self._knows_live:
                first = min([*(n for n, _ in self._rows.values()), *self.asides.numbers()], default=self._next)
                self._epochs.note_first_live(first, self._guarded)
            self._guarded(self._checkpoint)
        if idle:
            self._look_at_indexes()

    def _look_at_indexes(self) -> None:
        try:
            self._indexes.look()
        except sqlite3.Error as error:
            raise self._reader.failure(error) from error

    def _checkpoint(self) -> None:
        self._since_checkpoint = self._since_checkpoint_seen = self._idle_calls = 0
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _write_and_commit(self) -> None:
        self._write_staged()
        self._cursor.execute("COMMIT")

    def _write_staged(self) -> None:
        self._begin()
        self._delete_doomed()
        new = self._new
        if new:
            self._insert([job for job_id, job in self._staged.items() if job_id in new])
        if len(new) < len(self._staged):
            self._put_outcomes([job for job_id, job in self._staged.items() if job_id not in new])
        if self._staged:
            last = max(self._staged.values(), key=_revision)
            self._written_last = self._rows[last.id][0], last.revision
        self._flushed.update(self._staged)
        self._staged.clear()
        self._inserted |= new
        new.clear()
        self.deliveries.write()
        self.asides.write()
        if self._clock is not None:
            self._cursor.execute("INSERT OR REPLACE INTO clock (k, record) VALUES (1, ?)", (encode(self._clock),))
            self._clock, self._clock_flushed = None, self._clock

    def _delete_doomed(self) -> None:
        if self._doomed:
            for table in ("job", "outcome"):
                self._cursor.executemany(f"DELETE FROM {table} WHERE n = ?", [(n,) for n in self._doomed])
            self.deliveries.delete(self._doomed)
            self._epochs.note_deletion(self._written_last[1])
            self._deleted += self._doomed
            self._doomed.clear()

    def _insert(self, jobs: list[Job]) -> None:
        known = self._rows
        for job in jobs:
            if job.fence:
                known[job.id] = known[job.id][0], job.fence
        try:
            self._cursor.executemany(rows.INSERT_JOB, [rows.job_row(known[job.id][0], job) for job in jobs])
        except sqlite3.IntegrityError as error:
            raise JournalConflict(f"a job is in the journal already that the core takes for new: {error}") from None

    def _put_outcomes(self, jobs: list[Job]) -> None:
        """Write what became of jobs that have rows. Raises `JournalConflict` where one would lower a fence, or follow a final state."""
        known = self._rows
        updates = [rows.outcome_row(known[job.id][0], job) for job in jobs]
        # Of a job's first outcome, SQL has nothing to compare with: it is live, as all in `_rows` are, and bears the fence there.
        falls = any(job.fence < known[job.id][1] for job in jobs)
        if falls or self._cursor.executemany(rows.PUT_OUTCOME, updates).rowcount != len(updates):
            raise self._conflict(updates)

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._cursor.execute("BEGIN IMMEDIATE")

    def _conflict(self, updates: list[rows.JobRow]) -> JournalConflict:
        """Which updates did not match, and why; the first of them is to blame."""
        found, job_ids = [], []
        for n, state, fence, _worker, _tail in updates:
            row = self._row(rows.SELECT_FENCE, (n,))
            if row is None:
                found.append(f"row {n} is gone")
            elif row[1:] != (state, fence):
                there, here = f"{row[1]} with fence {row[2]}", f"{state} with fence {fence}"
                found.append(f"job {row[0]} is {there}, the core has it {here}")
                job_ids.append(row[0])
        return JournalConflict("; ".join(found[:3]) or "a final row was written again", job_ids[0] if job_ids else "")

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except sqlite3.Error as error:
            if not _is_full(error):
                raise JournalBroken(f"the journal {self.path} cannot be written: {error}") from error
            self._write_again(write, error)

    def _write_again(self, write: Callable[[], object], error: sqlite3.Error) -> None:
        """The disk is full: roll back, free the reserve, write everything of this transaction again."""
        if not self._release_reserve():
            raise JournalFull(f"the disk of {self.path} is full: {error}") from error
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._staged = {**self._flushed, **self._staged}
        self._flushed.clear()
        self._new |= self._inserted
        self._inserted.clear()
        self._doomed = self._deleted + self._doomed
        self._deleted = []
        self.deliveries.rolled_back()
        self._clock, self._clock_flushed = self._clock or self._clock_flushed, None
        try:
            write()
        except sqlite3.Error as again:
            if _is_full(again):
                raise JournalFull(f"the disk of {self.path} is full, and so is the reserve: {again}") from again
            raise JournalBroken(f"the journal {self.path} cannot be written: {again}") from again

    # ------------------------------------------------------------ reading

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""
        staged = self._staged.get(job_id) or self._lazy.get(job_id)
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
        job = self._reader.newest(origin, alias, tenant)
        # A new job that is not flushed is newer than every row; among several the last staged is the newest.
        for job_id in self._new:
            staged = self._staged[job_id]
            if (
                (staged.submission.origin, staged.submission.alias) == (origin, alias)
                and tenant in ("", staged.submission.tenant)
                and (job is None or job.id not in self._new or self._rows[job_id] > self._rows[job.id])
            ):
                job = staged
        return job

    def page(self, query: m.ListJobs) -> tuple[list[Job], bool, int]:
        """Jobs that match, in the order of acceptance, whether more follow, and `Jobs.behind`. An unknown `after` gives an empty page."""
        self.flush()
        return self._reader.page(query, self._live_numbers() if query.states else None)

    def _live_numbers(self) -> list[int] | None:
        """The numbers of all live jobs, in order, and of some that have ended since the last commit; None before `live`."""
        return sorted([*(n for n, _ in self._rows.values()), *self.asides.numbers()]) if self._knows_live else None

    def live(self, now: float = 0.0) -> list[Job]:
        """Every job that is not final, oldest first, its spec left on disk; for the start.

        Those that are set aside are left out. A row that cannot be read is set aside. Raises as `flush`.
        """
        found: list[tuple[int, Job]] = []
        for row in self._reader.live_rows(self._epochs.first_live):
            job_id = rows.as_text(row[rows.ID])
            if job_id in self.asides:
                continue
            try:
                job = rows.decode(row)
            except UNREADABLE as error:
                self._put_unreadable(job_id, row[rows.N], error, now)
                continue
            job.evicted = True
            if job.submission.webhook and job.attempts:  # before its first attempt there is nothing to tell
                job.deliveries = {delivery.number: delivery for delivery in self.deliveries.of_job(job.id)}
            found.append((row[rows.N], job))
        self.commit()
        self._knows_live = True
        self._rows.update((job.id, (n, job.fence)) for n, job in found)
        return [job for _, job in found]

    def _put_unreadable(self, job_id: str, n: int, error: Exception, now: float) -> None:
        reason = f"its row cannot be read: {error}"[:256]
        self.asides.put(job_id, n, SetAside(reason=reason, at=now, revision=self.epoch << 32, readable=False))
        logger.error("job set aside", extra={"action": Action.SET_ASIDE, "job_id": job_id, "reason": reason})

    def rates(self) -> list[tuple[str, float, float]]:
        """(model, units, seconds without loading) of recent succeeded jobs, oldest first."""
        return self._reader.rates(self._next)

    def set_asides(self) -> list[Job]:
        """The jobs that are set aside, without their specs, as far as their rows can be read; the first 1,000."""
        return self.asides.jobs()

    @property
    def set_aside_count(self) -> int:
        return len(self.asides)

    @property
    def damaged(self) -> int:
        """Records of jobs that are over which were found damaged."""
        return self._reader.damaged

    @property
    def rebuilt_indexes(self) -> int:
        """Indexes that were damaged and built anew since the start."""
        return len(self._indexes.rebuilt)

    def _row(self, query: str, parameters: rows.JobRow) -> rows.JobRow | None:
        return self._reader.row(query, parameters)


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
