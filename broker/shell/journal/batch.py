"""Staged changes, and the rows that one write makes of them.

`Staged` fills: it holds live objects, each written as it is at the write, once however often it was staged. `Staged.take` empties it into
a `Batch`, which never changes: should the transaction be rolled back for want of room, the same rows are written again.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.msgpack import encode

from broker.core.deliveries import Delivery
from broker.core.jobs import Job, SetAside
from broker.runtime.errors import JournalConflict
from broker.shell.journal import deliveries, rows, set_aside, usage
from broker.shell.journal.clock_record import Record
from broker.wire.terms import FINAL

#: A statement, and the rows that it is run with.
Write = tuple[str, list[tuple[Any, ...]]]

_PUT_CLOCK = "INSERT OR REPLACE INTO clock (k, record) VALUES (1, ?)"


class Batch(Struct, frozen=True):
    """Rows to be written in this order."""

    writes: list[Write]
    #: Number of jobs and deliveries in it.
    rows: int = 0
    #: Number and revision of the newest job in it; zeros: there is none.
    newest: tuple[int, int] = (0, 0)


class Staged:
    """Changes that the next write takes."""

    def __init__(self) -> None:
        #: Jobs that the file does not have yet, in the order of their numbers, and others. By id.
        self.new: dict[str, Job] = {}
        self.changed: dict[str, Job] = {}
        #: Changed jobs whose rows may be lost in a crash: they are taken only once they are moved to `changed`.
        self.lazy: dict[str, Job] = {}
        #: By number.
        self.deliveries: dict[int, Delivery] = {}
        #: By number of the job's row.
        self.marks: dict[int, SetAside | None] = {}
        self.clock: Record | None = None
        #: Usage of days before this one is to be deleted.
        self.first_usage_day = 0
        #: As `Calendar`'s.
        self.ahead_s = 0.0

    @property
    def filled(self) -> bool:
        """Whether there is something to take."""
        return bool(self.new or self.changed or self.deliveries or self.marks or self.clock or self.first_usage_day)

    def find(self, job_id: str) -> Job | None:
        """The job of this id, if it is staged."""
        return self.new.get(job_id) or self.changed.get(job_id) or self.lazy.get(job_id)

    def include_lazy(self) -> None:
        """Let the next `take` have the lazy ones."""
        if self.lazy:
            self.changed.update(self.lazy)
            self.lazy.clear()

    def clear(self) -> None:
        """Forget everything."""
        for staged in (self.new, self.changed, self.lazy, self.deliveries, self.marks):
            staged.clear()
        self.clock = None
        self.first_usage_day = 0

    def take(self, known: dict[str, tuple[int, int]]) -> Batch:
        """Take everything out but what is lazy, jobs before what refers to their rows.

        `known`: (number, highest fence known to be in the file) by job; that of a job which is over is removed. Raises `JournalConflict`
        where a fence would fall.
        """
        writes: list[Write] = []
        count, newest = 0, (0, 0)
        ended: list[Job] = []
        for statement, make, jobs in (
            (rows.INSERT_JOB, rows.job_row, self.new),
            (rows.PUT_OUTCOME, rows.outcome_row, self.changed),
        ):
            if not jobs:
                continue
            made: list[rows.JobRow] = []
            for job_id, job in jobs.items():
                n, fence = known[job_id]
                if job.fence < fence:  # of a job's first outcome SQL has nothing to compare with
                    raise JournalConflict(f"job {job_id} has fence {fence}, the core has it with {job.fence}", job_id)
                made += (make(n, job),)
                count += 1
                if job.state in FINAL:
                    del known[job_id]
                    ended += (job,)
                elif job.fence > fence:
                    known[job_id] = n, job.fence
                if job.revision >= newest[1]:
                    newest = n, job.revision
            writes += ((statement, made),)
        self.new, self.changed = {}, {}
        if ended:
            writes += ((usage.PUT, usage.rows_of(ended, self.ahead_s)),)
        if self.first_usage_day:
            writes.append((usage.DELETE, [(self.first_usage_day,)]))
            self.first_usage_day = 0
        if self.deliveries:
            count += len(self.deliveries)
            writes.append((deliveries.PUT, [deliveries.row(delivery) for delivery in self.deliveries.values()]))
            self.deliveries.clear()
        if self.marks:
            writes += set_aside.writes(self.marks)
            self.marks.clear()
        if self.clock is not None:
            writes.append((_PUT_CLOCK, [(encode(self.clock),)]))
            self.clock = None
        return Batch(writes, count, newest)
