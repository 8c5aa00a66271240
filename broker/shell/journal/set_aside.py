"""Jobs that were set aside: marks beside rows that stay as they were last committed.

Few, so all marks are in memory as well. A mark is put and taken away in the transaction of whatever else happens to its job.
"""

from __future__ import annotations

from itertools import islice

from broker.core.jobs import Job, SetAside
from broker.shell.journal import rows
from broker.shell.journal.store import JobRows

#: Shown in one answer.
_MOST_SHOWN = 1000


class SetAsideMarks:
    """Marks by job. What the store raises passes through."""

    def __init__(self, stored: JobRows, staged: dict[int, SetAside | None]) -> None:
        """`staged`: marks by number of the row, to be written with the next commit; None: it has none from then on."""
        self._stored = stored
        #: Job -> number of its row, mark.
        self._marks: dict[str, tuple[int, SetAside]] = {}
        self._staged = staged
        self.load()

    def load(self) -> None:
        """Read all marks."""
        self._marks = {job_id: (n, mark) for job_id, n, mark in self._stored.marks()}

    def __len__(self) -> int:
        return len(self._marks)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._marks

    def of_job(self, job_id: str) -> SetAside | None:
        """The job's mark."""
        found = self._marks.get(job_id)
        return None if found is None else found[1]

    def number(self, job_id: str) -> int:
        """The number of the row of a job that has a mark."""
        return self._marks[job_id][0]

    def numbers(self) -> list[int]:
        """The numbers of the rows of all jobs that have one."""
        return [n for n, _ in self._marks.values()]

    def since(self, at: float) -> int:
        """Number of those put at or after this time."""
        return sum(1 for _, mark in self._marks.values() if mark.at >= at)

    def put(self, job_id: str, n: int, mark: SetAside) -> None:
        """Mark the job of this row with the next commit."""
        self._marks[job_id] = n, mark
        self._staged[n] = mark

    def take_away(self, job_id: str) -> None:
        """Let the job have no mark from the next commit on."""
        n, _ = self._marks.pop(job_id)
        self._staged[n] = None

    def job(self, job_id: str, *, spec: bool = True) -> Job | None:
        """The job that has a mark, with its spec unless that is left out; as far as its row can be read."""
        n, mark = self._marks[job_id]
        row = self._stored.row(n, spec=spec)
        if row is None:
            return None
        try:
            job = rows.decode(row) if mark.readable else rows.salvage(row)
        except (ValueError, TypeError, RecursionError):  # damaged since
            job = rows.salvage(row)
        job.id, job.set_aside = job_id, mark
        return job

    def jobs(self) -> list[Job]:
        """The jobs that are set aside, the oldest first, without their specs; the first 1,000."""
        found = [self.job(job_id, spec=False) for job_id in islice(self._marks, _MOST_SHOWN)]
        return [job for job in found if job is not None]
