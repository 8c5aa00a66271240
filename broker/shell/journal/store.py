"""Interface of a database that holds the journal: `Store`, and the `Batch` that it is given to write.

The journal stages, numbers and packs (`journal`, `staged`, `rows`) and tracks what is staged; a store has rows, and no job as an object
and of nothing that is staged, and decides nothing. SQLite is one (`sqlite_store`), the archive in memory of tests another.

**Who commits.** The journal alone, by `Store.commit`; a store commits nothing by itself but its epoch. What was written by then becomes
durable at once and as a whole, or not at all: it is on disk when `commit` returns. Ending without it, or `discard`, leaves what was
committed last.

**Order.** Batches are written in the order in which they were given, and the parts of a batch in that of its fields. Reads include all that
is written, committed or not. A batch never changes: a store may write it again, as one does whose disk was full.

**Errors.** A row that the compare-and-set does not match raises `JournalConflict`, a new job whose id is taken `IdTaken`; nothing of that
transaction may be committed then, and the journal discards it. `JournalFull` and `JournalBroken` end the process, since it is unknown what
is on disk: a commit that was begun and not answered may have been made, and the next start reads which. Reads raise `JournalBroken`, or
`JournalRefused` where what is stored is damaged beyond one row. A row that is not what was written is not a store's business: each bears
checksums, and `reading` finds that out.

**Alone.** There is no other writer while a store is open, and the epoch ensures that: `begin` makes it higher than any before, durably,
before it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from broker.core.deliveries import Delivery
from broker.core.jobs import SetAside
from broker.shell.journal.rows import JobRow
from broker.wire import messages as m


class Batch(Struct, frozen=True, kw_only=True):
    """Changes, to be written in the order of the fields."""

    #: Numbers of jobs to be deleted, with what became of them and their deliveries.
    forgotten: Sequence[int] = ()
    #: `rows.job_row` of jobs that are there, in place of their rows and of what became of them, whatever that was.
    rewritten: Sequence[JobRow] = ()
    #: `rows.job_row` of new jobs. An id that is there already raises `IdTaken`.
    jobs: Sequence[JobRow] = ()
    #: `rows.outcome_row` of jobs. The compare-and-set: one whose fence is lower than that of the outcome that is there, or which finds that
    #: final, raises `JournalConflict`.
    outcomes: Sequence[JobRow] = ()
    #: `usage.rows_of`, to be added up.
    usage: Sequence[Any] = ()
    #: Usage of days before this one goes.
    first_usage_day: int = 0
    #: New, or in place of that of its number. Their jobs are there.
    deliveries: Sequence[Delivery] = ()
    #: By number of the job's row; None: it has no mark any more.
    marks: Sequence[tuple[int, SetAside | None]] = ()
    #: The packed record of the clock; b"": as it was.
    clock: bytes = b""
    #: Jobs and deliveries in it.
    count: int = 0
    #: Number and revision of the newest job in it; zeros: there is none.
    newest: tuple[int, int] = (0, 0)


class RowPage(NamedTuple):
    """Rows as `rows.decode` takes them, whether more match, and behind which number to go on looking, which was accepted at `behind_at`;
    0: all was looked at that the page needs."""

    rows: list[JobRow]
    more: bool
    behind: int
    behind_at: float = 0.0


class JobRows(Protocol):
    """Reads rows of jobs, as `rows.decode` takes them. Raises as in the head of this file."""

    def next_number(self) -> int:
        """One more than that of any job; 1: there is none."""

    def number(self, job_id: str) -> int | None:
        """The number of the job of this id. Called at every submit of an id that is not fresh, mostly for none."""

    def row(self, n: int, *, spec: bool = True) -> JobRow | None:
        """The row of this number, without the bytes of the spec unless `spec`."""

    def spec(self, job_id: str) -> tuple[int, bytes, bytes] | None:
        """The arguments of `rows.checked_body` for the job of this id."""

    def newest(self, origin: str, alias: str, tenant: str) -> int:
        """The number of the newest job of this name, of this tenant ("": of any); 0: there is none."""

    def page(self, query: m.ListJobs, live: Sequence[int] | None) -> RowPage:
        """A page in the order of acceptance. `live`: the numbers of all jobs that are not final, in order, if they are known."""

    def live(self) -> list[JobRow]:
        """The rows of all jobs that are not final, in order, without their specs."""

    def succeeded(self, above: int, limit: int) -> list[JobRow]:
        """The newest rows of succeeded jobs, the newest first, with numbers above this, without their specs."""

    def marks(self) -> list[tuple[str, int, SetAside]]:
        """(id, number, mark) of the jobs that are set aside, in order."""

    def clock(self) -> bytes | None:
        """The packed record of the clock."""

    def usage(self, query: m.GetUsage) -> list[m.UsageRow]:
        """Sums by what the query groups by, in its order; one more than its limit when there are more."""


class DeliveryRows(Protocol):
    """Reads webhook deliveries. Raises as `JobRows`."""

    def of_job(self, job_id: str) -> list[Delivery]:
        """The deliveries of a job."""

    def find(self, number: int) -> Delivery | None:
        """The delivery of this number."""

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        """Pending deliveries that are due, the longest due first, and when the next one behind them is."""


class Store(Protocol):
    """Database of the journal's rows: see the head of this file."""

    @property
    def rebuilt_indexes(self) -> int:
        """Indexes that were damaged and built anew since the start."""

    @property
    def jobs(self) -> JobRows:
        """Rows of jobs, and what else is requested by job."""

    @property
    def deliveries(self) -> DeliveryRows:
        """Webhook deliveries."""

    @property
    def uncommitted(self) -> bool:
        """Whether something is written that is not committed."""

    def begin(self, is_sound: Callable[[int], bool]) -> int:
        """Raise the epoch, durably, and return it; once, before anything is written. `is_sound`: whether the row of this number is there
        and is what was written. Raises `JournalRefused`, `JournalShort`, `JournalBroken` or `JournalFull`."""

    def write(self, batch: Batch) -> None:
        """Write, without making it durable."""

    def commit(self, batch: Batch) -> int:
        """Write, and make all that is written durable; return how many jobs and deliveries that is."""

    def discard(self) -> int:
        """Forget all that is not committed and raise the epoch, as if the process had been killed and started again; return the epoch."""

    def rest(self, first_live: Callable[[], int | None]) -> None:
        """Do what is not urgent; called a few times a second while nothing is staged or uncommitted. `first_live`: no job with a lower
        number is live; None: that is not known."""

    def close(self) -> None:
        """Close it. What was not committed is lost, as if the process had been killed. A second time does nothing."""
