"""Staged changes, and the batch that one write makes of them.

`Staged` fills: it holds live objects, each written as it is at the write, once however often it was staged. `Staged.take` empties it into
a `store.Batch`, which never changes.
"""

from __future__ import annotations

from msgspec.msgpack import encode

from broker.core.deliveries import Delivery
from broker.core.jobs import Job, SetAside
from broker.runtime.errors import JournalConflict
from broker.shell.journal import rows, usage
from broker.shell.journal.clock_record import Record
from broker.shell.journal.store import Batch
from broker.wire.terms import FINAL

_NOTHING = Batch()


class Staged:
    """Changes that the next write takes, and the numbers of rows."""

    def __init__(self) -> None:
        #: Jobs that the store does not have yet, in the order of their numbers, and others. By id.
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
        #: Row of every live job that has been staged; once `has_all_live`: of every one that has no mark. (Number, a fence that it
        #: bears or has borne): there is no other writer.
        self.known: dict[str, tuple[int, int]] = {}
        self.has_all_live = False
        #: Number of the next new job.
        self.next = 1

    @property
    def filled(self) -> bool:
        """Whether there is something to take."""
        return bool(self.new or self.changed or self.deliveries or self.marks or self.clock or self.first_usage_day)

    def find(self, job_id: str) -> Job | None:
        """The job of this id, if it is staged."""
        return self.new.get(job_id) or self.changed.get(job_id) or self.lazy.get(job_id)

    def named(self, origin: str, alias: str, tenant: str) -> Job | None:
        """The newest of the new jobs that bears this name, of this tenant ("": of any)."""
        found = None
        for job in self.new.values():
            submission = job.submission
            if (submission.origin, submission.alias) == (origin, alias) and tenant in ("", submission.tenant):
                found = job
        return found

    def include_lazy(self) -> None:
        """Let the next `take` have the lazy ones."""
        if self.lazy:
            self.changed.update(self.lazy)
            self.lazy.clear()

    def clear(self, following: int) -> None:
        """Forget everything; the next new job has the number `following`."""
        for staged in (self.new, self.changed, self.lazy, self.deliveries, self.marks, self.known):
            staged.clear()
        self.clock = None
        self.first_usage_day = 0
        self.has_all_live = False
        self.next = following

    def take(self) -> Batch:
        """Take everything out but what is lazy. Raises `JournalConflict` where a fence would fall."""
        jobs: list[rows.JobRow] = []
        outcomes: list[rows.JobRow] = []
        count, newest = 0, (0, 0)
        ended: list[Job] = []
        known = self.known
        for made, make, staged in ((jobs, rows.job_row, self.new), (outcomes, rows.outcome_row, self.changed)):
            for job_id in staged:
                job = staged[job_id]
                n, fence = known[job_id]
                if job.fence < fence:  # of a job's first outcome the store has nothing to compare with
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
        self.new, self.changed = {}, {}
        if self.deliveries or self.marks or self.clock is not None or self.first_usage_day:
            return self._take_rest(jobs, outcomes, ended, newest)
        if not count:
            return _NOTHING
        return Batch(
            jobs=jobs,
            outcomes=outcomes,
            usage=usage.rows_of(ended, self.ahead_s) if ended else (),
            count=count,
            newest=newest,
        )

    def _take_rest(
        self, jobs: list[rows.JobRow], outcomes: list[rows.JobRow], ended: list[Job], newest: tuple[int, int]
    ) -> Batch:
        batch = Batch(
            jobs=jobs,
            outcomes=outcomes,
            usage=usage.rows_of(ended, self.ahead_s),
            first_usage_day=self.first_usage_day,
            deliveries=[*self.deliveries.values()],
            marks=[*self.marks.items()],
            clock=b"" if self.clock is None else encode(self.clock),
            count=len(jobs) + len(outcomes) + len(self.deliveries),
            newest=newest,
        )
        self.deliveries.clear()
        self.marks.clear()
        self.clock, self.first_usage_day = None, 0
        return batch

    def live(self, aside: list[int]) -> list[int] | None:
        """The numbers of all live jobs, `aside` among them, in order, and of some that have ended since the last commit; None: they are not
        known."""
        return sorted([*(n for n, _ in self.known.values()), *aside]) if self.has_all_live else None

    def first_live(self, aside: list[int]) -> int | None:
        """No job with a lower number is live, nor in `aside`; None: that is not known."""
        return min([*(n for n, _ in self.known.values()), *aside], default=self.next) if self.has_all_live else None
