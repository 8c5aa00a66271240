"""Jobs out of the journal's rows, and what is done about rows that cannot be read.

A disk can hand back what was never written, and a row of a job that is over must not stop the broker, nor be shown as what it is not. So
each row bears a checksum (`rows`), and one that does not match, or does not decode, gives a `Job` that says so (`damaged`): questions for
it are answered with that, lists leave it out, it can be deleted, and it is logged and counted once. A live one is set aside at start.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from broker.core.jobs import DamagedRecord, Job
from broker.runtime.errors import JournalBroken, JournalRefused
from broker.runtime.log_actions import Action
from broker.shell.journal import rows
from broker.shell.journal.queries import find_page
from broker.shell.journal.schema import repair_hint
from broker.shell.journal.set_aside import SetAsideMarks
from broker.wire import messages as m

logger = logging.getLogger(__name__)

#: Succeeded jobs whose run times are given back at start, and how far back they are looked for.
RECENT_RATES = 500
_RATES_WINDOW = 20_000

#: What decoding raises for bytes that nobody encoded.
UNREADABLE = (ValueError, TypeError, RecursionError)

#: Damaged rows that are told apart; more are one number that stands still.
_MOST_DAMAGED = 10_000


class Reader:
    """Reads what is in the file, flushed rows included; it knows nothing of staged ones."""

    def __init__(
        self, connection: sqlite3.Connection, cursor: sqlite3.Cursor, path: Path, asides: SetAsideMarks
    ) -> None:
        self._connection = connection
        self._cursor = cursor
        self._path = path
        self._asides = asides
        #: Numbers of rows that were found damaged.
        self._damaged: set[int] = set()

    @property
    def damaged(self) -> int:
        """How many rows of jobs that are over were found damaged since the start."""
        return len(self._damaged)

    def row(self, query: str, parameters: rows.JobRow) -> rows.JobRow | None:
        """The row that the query finds: one at most. Raises `JournalRefused` or `JournalBroken`."""
        found = self._rows(query, parameters)
        return found[0] if found else None

    def _rows(self, query: str, parameters: rows.JobRow) -> list[rows.JobRow]:
        try:
            return self._cursor.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def failure(self, error: sqlite3.Error) -> JournalRefused | JournalBroken:
        """Why the broker ends: a page that is none any more takes rows of any job with it, and reading on would hide which."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            return JournalRefused(f"the journal {self._path} is damaged ({error}); {repair_hint(self._path)}")
        return JournalBroken(f"the journal {self._path} cannot be read: {error}")

    # ------------------------------------------------------------ one job

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""
        # Asked at every submit, mostly for what is not there: the index alone says that.
        known = self.row("SELECT n FROM job WHERE id = ?", (job_id,))
        return None if known is None else self.numbered(known[0], job_id)

    def numbered(self, n: int, job_id: str = "") -> Job | None:
        """The job of this row, whose id is `job_id` where that is said: an index that leads elsewhere is damage too."""
        row = self.row(rows.SELECT + " WHERE job.n = ?", (n,))
        if row is None:
            return None
        job = self.decode(row)
        if job_id and job.id != job_id:
            job = self._note(row, f"the index has it as {job_id!r}") if not job.damaged else job
            job.id = job_id
        return job

    def is_sound(self, n: int) -> bool:
        """Whether this row is there and is what was written; one that is not is noted as damaged."""
        job = self.numbered(n)
        return job is not None and not job.damaged

    def body(self, job_id: str) -> bytes:
        """The spec of a job that was committed. Raises `DamagedRecord`."""
        row = self.row(rows.SELECT_BODY, (job_id,))
        if row is None:
            raise DamagedRecord("its row is gone")
        try:
            return rows.checked_body(*row)
        except UNREADABLE as error:
            raise DamagedRecord(str(error)) from None

    def newest(self, origin: str, alias: str, tenant: str) -> Job | None:
        """The newest job of this name, of this tenant ("": of any)."""
        numbers = (self._newest(origin, alias, one) for one in self._tenants(origin, alias, tenant))
        n = max(numbers, default=0)
        return self.numbered(n) if n else None

    def _newest(self, origin: str, alias: str, tenant: str) -> int:
        query = "SELECT max(n) FROM job WHERE origin = ? AND alias = ? AND alias <> '' AND tenant = ?"
        row = self.row(query, (origin, alias, tenant))
        return int(row[0]) if row is not None and row[0] is not None else 0

    def _tenants(self, origin: str, alias: str, tenant: str) -> Iterator[str]:
        """This tenant, else all that have a job of this name: a step in the index each, however many jobs they have."""
        if tenant:
            yield tenant
            return
        query = "SELECT min(tenant) FROM job WHERE origin = ? AND alias = ? AND alias <> '' AND tenant > ?"
        row = self.row(query, (origin, alias, ""))
        while row is not None and row[0] is not None:
            yield row[0]
            row = self.row(query, (origin, alias, row[0]))

    # ------------------------------------------------------------ many

    def page(self, query: m.ListJobs, live: Sequence[int] | None) -> tuple[list[Job], bool, int]:
        """As `Journal.page`; damaged rows are left out. `live`: the numbers of all live jobs, in order, if they are known."""
        try:
            found, more, behind = find_page(self._connection, query, live)
        except sqlite3.Error as error:
            raise self.failure(error) from error
        jobs = [self.decode(row) for row in found]
        sound = [job for job in jobs if not job.damaged]
        if len(sound) < len(jobs) and more and not behind:
            # The page is short of what was asked for: it goes on behind its last row.
            behind = found[-1][rows.N]
        return sound, more, behind

    def live_rows(self, first: int) -> list[rows.JobRow]:
        """Rows of `rows.SELECT_EVICTED` from number `first` on, in order, of jobs that are not final, also of those whose state is none."""
        where = f" WHERE job.n >= ? AND {rows.STATE} NOT IN ({rows.FINAL_LIST}) ORDER BY job.n"
        return self._rows(rows.SELECT_EVICTED + where, (first,))

    def rates(self, end: int) -> list[tuple[str, float, float]]:
        """(model, units, seconds without loading) of the last succeeded jobs before row `end`, oldest first."""
        where = f" WHERE {rows.STATE} = 'succeeded' AND job.n > ? ORDER BY job.n DESC LIMIT ?"
        found = []
        for row in self._rows(rows.SELECT_EVICTED + where, (end - _RATES_WINDOW, RECENT_RATES)):
            job = self.decode(row)
            if not job.damaged:
                load_s = 0.0 if job.result is None else job.result.ready_s
                found.append((job.submission.model, job.submission.units, job.run_s - load_s))
        found.reverse()
        return found

    # ------------------------------------------------------------ rows

    def decode(self, row: rows.JobRow) -> Job:
        """The job of a row of `rows.SELECT`, `damaged` where it cannot be read."""
        mark = self._asides.of_job(rows.as_text(row[rows.ID])) if len(self._asides) else None
        if mark is not None and not mark.readable:
            job = rows.salvage(row)
        else:
            try:
                job = rows.decode(row)
            except UNREADABLE as error:
                job = self._note(row, str(error))
        job.set_aside = mark
        return job

    def _note(self, row: rows.JobRow, reason: str) -> Job:
        job = rows.salvage(row)
        job.damaged = reason[:256] or "it cannot be read"
        n = row[rows.N]
        if n not in self._damaged and len(self._damaged) < _MOST_DAMAGED:
            self._damaged.add(n)
            extra = {"action": Action.DAMAGED, "job_id": job.id, "row": n, "reason": job.damaged}
            logger.error("the record of a job is damaged", extra=extra)
        return job
