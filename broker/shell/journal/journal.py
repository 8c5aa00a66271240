"""The journal: every accepted job, on disk before anybody is told, and never moved backwards.

The rules:

- Rows are staged by `stage`, written by `flush`, durable after `commit`. A job staged twice before a flush is written once, as it is then.
  A row that may be lost in a crash need not be part of every commit: most are overtaken by a durable one of the same job and
  are never written.
- A job's row is written once; what becomes of it is a compare-and-set (`rows.PUT_OUTCOME`): it never lowers a fence and never leaves a
  final state. One that does not match raises `JournalConflict`: memory and disk disagree, and the disk is right (see `recovery`).
- What is staged (`batch.Staged`) changes until it is written; what is written (`batch.Batch`) never does: see `transaction`.
- Reads see what is staged: jobs not yet flushed are answered from memory or flushed first, flushed rows are seen by the one connection.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec.msgpack import decode
from msgspec.structs import replace

from broker.core.jobs import Job, SetAside, Stop
from broker.runtime.errors import JournalConflict
from broker.runtime.log_actions import Action
from broker.shell.journal import deliveries, rows
from broker.shell.journal.batch import Batch, Staged
from broker.shell.journal.clock_record import Record
from broker.shell.journal.deliveries import DeliveryStore
from broker.shell.journal.epochs import Epochs
from broker.shell.journal.indexes import IndexCheck
from broker.shell.journal.reading import UNREADABLE, Reader
from broker.shell.journal.schema import open_database, refusal, set_autocheckpoint
from broker.shell.journal.set_aside import SetAsideMarks
from broker.shell.journal.transaction import Transaction
from broker.shell.journal.usage import UsageTable, day_at
from broker.wire import messages as m
from broker.wire.terms import FINAL, JobState

logger = logging.getLogger(__name__)

#: Calls of `checkpoint` after which one is made although there is no idle moment.
_CHECKPOINT_CALLS = 40


class Journal:
    """The file, its one connection, and the rows that are not on disk yet. See `shell.lookups.Archive`."""

    def __init__(
        self,
        path: Path,
        release_reserve: Callable[[], bool] = lambda: False,
        *,
        accept_loss: bool = False,
        usage_keep_days: int = 0,
    ) -> None:
        """Open or create the file and raise the epoch, on disk. `release_reserve` frees space on a full disk; False: there is none left.
        `usage_keep_days`: 0 for ever.

        Raises `JournalRefused`, `JournalBroken` or `JournalFull`; `JournalShort` unless `accept_loss`.
        """
        self.path = path
        self._connection = open_database(path)
        self._transaction = Transaction(self._connection, path, release_reserve)
        #: Row of every live job that has been staged; since `live`: of every one that has no mark. (Number, fence that it is known to bear
        #: or to have borne): nobody else can write to the file.
        self._rows: dict[str, tuple[int, int]] = {}
        self._knows_live = False
        self._staged = Staged()
        self._clock: Record | None = None
        self._usage_keep_days = usage_keep_days
        #: Webhook deliveries, staged and committed along with the jobs.
        self.deliveries = DeliveryStore(self._connection, path, self._staged.deliveries, self._write)
        self._since_checkpoint = 0
        self._since_checkpoint_seen = 0
        self._idle_calls = 0
        #: Whether another process copies the file, so that nothing may be moved into it.
        self._file_held = False
        self._epochs = Epochs(self._connection, path)
        guard = self._transaction.guard
        try:
            self.asides = SetAsideMarks(self._connection, self._staged.marks)
            self._reader = Reader(self._connection, self._transaction.cursor, path, self.asides)
            self.usage = UsageTable(self._transaction.cursor, path, self.flush)
            self._next = self._first_free()
            self.epoch = self._epochs.begin(accept_loss, guard)
            # The epoch, and which journal this is, shall not live in the log alone.
            guard(self._checkpoint)
            self._indexes = IndexCheck(self._connection, path, self._reader.is_sound, guard)
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
            self._transaction.cursor.close()  # else it would keep the file locked
        self._connection.close()
        self._epochs.close()

    # ------------------------------------------------------------ writing

    @property
    def dirty(self) -> bool:
        """Whether anything is staged or flushed that is not committed."""
        return self._staged.filled or bool(self._staged.lazy) or self._transaction.open

    def stage(self, job: Job, *, lazy: bool = False) -> None:
        """Write this job's row with the next commit; `lazy`: with the next that includes lazy rows."""
        job_id, staged = job.id, self._staged
        if job_id not in self._rows:
            self._rows[job_id] = self._next, 0
            self._next += 1
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
        """Delete the row of a final job with the next commit; at once for whoever reads. Raises as `flush`.

        Whatever is staged is written first, so that a later job of the same id cannot meet this one's row.
        """
        self.flush()
        row = self._row(rows.SELECT_STATE, (job_id,))
        if row is None or (row[1] not in FINAL and job_id not in self.asides):
            raise JournalConflict(f"job {job_id} cannot be deleted: its row is {row and row[1]}")
        self._rows.pop(job_id, None)
        if job_id in self.asides:
            self.asides.take_away(job_id)
        number = [(row[0],)]
        deletion = self._epochs.deletion(self._transaction.extent()[1][1])
        self._transaction.write(
            Batch([*((statement, number) for statement in (*rows.DELETE, deliveries.DELETE)), deletion], rows=1)
        )

    def flush(self) -> None:
        """Write all staged rows, without making them durable. Raises `JournalConflict`, `JournalBroken` or `JournalFull`."""
        self._staged.include_lazy()
        self._write()

    def _write(self) -> None:
        batch = self._staged.take(self._rows)
        if batch.writes:
            self._transaction.write(batch)

    def commit(self, *, lazy: bool = True) -> int:
        """Make the staged rows durable, with or without the lazy ones; returns how many there were. Raises as `flush`."""
        if lazy:
            self._staged.include_lazy()
        batch = self._staged.take(self._rows)
        if not (batch.writes or self._transaction.open):
            return 0
        count, newest = self._transaction.commit(batch)
        self._epochs.committed(*newest)
        self._since_checkpoint += count
        return count

    def discard(self) -> None:
        """Forget all that is not committed and raise the epoch, as if the process had been killed and started again. Raises as `flush`."""
        self._transaction.roll_back()
        self._staged.clear()
        self._rows.clear()
        self.asides.load()
        self._knows_live = False
        self._next = self._first_free()
        self._staged.clock = self._clock
        self.epoch = self._epochs.raise_again(self._transaction.guard)

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
            self._transaction.write(_rewritten(n, job))
        row = self._row(rows.SELECT_FENCE, (n,))
        self._rows[job.id] = n, 0 if row is None else row[2]
        self.stage(job)

    def stage_clock(self, record: Record) -> None:
        """Keep this of the clock, from the next commit on, and by it no usage of days that are too long ago."""
        self._clock = self._staged.clock = record
        calendar, now = record.calendar, record.seen_at
        self._staged.ahead_s = calendar.ahead_s
        if self._usage_keep_days and calendar.settled_at <= now:
            self._staged.first_usage_day = max(0, day_at(calendar.shown(now)) - self._usage_keep_days)

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
        if (
            self._since_checkpoint
            and not self.dirty
            and not self._file_held
            and (idle or self._idle_calls >= _CHECKPOINT_CALLS)
        ):
            if self._knows_live:
                first = min([*(n for n, _ in self._rows.values()), *self.asides.numbers()], default=self._next)
                self._epochs.note_first_live(first, self._transaction.guard)
            self._transaction.guard(self._checkpoint)
        if idle:
            self._look_at_indexes()

    def hold_file(self) -> bool:
        """Move the log into the file, and write to the log alone from then on; False: not now. Raises as `flush`."""
        if self.dirty:
            return False
        self._transaction.guard(lambda: set_autocheckpoint(self._connection, on=False))
        self._file_held = self._transaction.guard(self._checkpoint)
        if not self._file_held:
            self.release_file()
        return self._file_held

    def release_file(self) -> None:
        """Move the log into the file again, from the next checkpoint on."""
        self._file_held = False
        self._transaction.guard(lambda: set_autocheckpoint(self._connection, on=True))

    def _look_at_indexes(self) -> None:
        try:
            self._indexes.look()
        except sqlite3.Error as error:
            raise self._reader.failure(error) from error

    def _checkpoint(self) -> bool:
        """Move the log into the file; whether all of it is there."""
        self._since_checkpoint = self._since_checkpoint_seen = self._idle_calls = 0
        _, pages, moved = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return bool(pages == moved)

    # ------------------------------------------------------------ reading

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""
        staged = self._staged.find(job_id)
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
        for staged in self._staged.new.values():
            named = (staged.submission.origin, staged.submission.alias) == (origin, alias)
            if named and tenant in ("", staged.submission.tenant):
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


def _rewritten(n: int, job: Job) -> Batch:
    """What was salvaged of a job, in its row, so that it can have an outcome: live, and below every fence."""
    below = replace(job, state=JobState.QUEUED, fence=0)
    return Batch([(rows.DELETE[1], [(n,)]), (rows.REWRITE_JOB, [(*rows.job_row(n, below), n)])])
