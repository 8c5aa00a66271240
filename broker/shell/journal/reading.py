"""Jobs out of a store's rows, and what is done about rows that cannot be read.

A disk can hand back what was never written, and a row of a job that is over must not stop the broker, nor be shown as what it is not. So
each row bears a checksum (`rows`), and one that does not match, or does not decode, gives a `Job` marked `damaged`: questions for
it are answered with that, lists leave it out, it can be deleted, and it is logged and counted once. A live one is set aside at start.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from broker.core.jobs import DamagedRecord, Job
from broker.core.lookups import JobPage
from broker.core.usage import gpus_of_last
from broker.runtime.log_actions import Action
from broker.shell.journal import rows
from broker.shell.journal.set_aside import SetAsideMarks
from broker.shell.journal.store import JobRows
from broker.wire import messages as m

logger = logging.getLogger(__name__)

#: Succeeded jobs whose run times are given back at start, and how far back they are looked for.
RECENT_RATES = 500
_RATES_WINDOW = 20_000

#: Errors of decoding bytes that no encoder wrote.
UNREADABLE = (ValueError, TypeError, RecursionError)

#: Damaged rows that are counted one by one, at most.
_MOST_DAMAGED = 10_000


class Reader:
    """Reads what is written, committed or not, and nothing that is staged. Errors of the store pass through."""

    def __init__(self, stored: JobRows, asides: SetAsideMarks) -> None:
        self._stored = stored
        self._asides = asides
        #: Numbers of rows that were found damaged.
        self._damaged: set[int] = set()

    @property
    def damaged(self) -> int:
        """Number of rows of jobs that are over that were found damaged since the start."""
        return len(self._damaged)

    # ------------------------------------------------------------ one job

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""
        n = self._stored.number(job_id)
        return None if n is None else self.numbered(n, job_id)

    def numbered(self, n: int, job_id: str = "") -> Job | None:
        """The job of this row, whose id is `job_id` where that is given: an index that leads elsewhere is damage too."""
        row = self._stored.row(n)
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
        row = self._stored.spec(job_id)
        if row is None:
            raise DamagedRecord("its row is gone")
        try:
            return rows.checked_body(*row)
        except UNREADABLE as error:
            raise DamagedRecord(str(error)) from None

    def newest(self, origin: str, alias: str, tenant: str) -> Job | None:
        """The newest job of this name, of this tenant ("": of any)."""
        n = self._stored.newest(origin, alias, tenant)
        return self.numbered(n) if n else None

    # ------------------------------------------------------------ many

    def page(self, query: m.ListJobs, live: Sequence[int] | None) -> JobPage:
        """As `Journal.page`; damaged rows are left out. `live`: the numbers of all live jobs, in order, if they are known."""
        found, more, behind, behind_at = self._stored.page(query, live)
        jobs = [self.decode(row) for row in found]
        sound = [job for job in jobs if not job.damaged]
        if len(sound) < len(jobs) and more and not behind:
            # The page is short of what was requested: it goes on behind its last row.
            behind = found[-1][rows.N]
        return JobPage(sound, more, behind, behind_at)

    def rates(self, end: int) -> list[tuple[str, float, float, int]]:
        """(model, units, seconds without loading, GPUs) of the last succeeded jobs before row `end`, oldest first."""
        found = []
        for row in self._stored.succeeded(end - _RATES_WINDOW, RECENT_RATES):
            job = self.decode(row)
            if not job.damaged:
                load_s = 0.0 if job.result is None else job.result.ready_s
                found.append((job.submission.model, job.submission.units, job.run_s - load_s, gpus_of_last(job)))
        found.reverse()
        return found

    # ------------------------------------------------------------ rows

    def decode(self, row: rows.JobRow) -> Job:
        """The job of a row, `damaged` where it cannot be read."""
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
