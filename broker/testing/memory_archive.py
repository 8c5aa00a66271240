"""An archive in memory: the journal, over a store without a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from broker.core.deliveries import Delivery
from broker.core.jobs import Job, SetAside
from broker.runtime.errors import IdTaken, JournalConflict
from broker.shell.journal import rows
from broker.shell.journal.journal import Journal
from broker.shell.journal.rows import COLUMNS, JobRow
from broker.shell.journal.store import Batch, RowPage
from broker.wire import messages as m
from broker.wire.jobspec import prompt_of
from broker.wire.terms import FINAL
from broker.wire.usage import USAGE_GROUPS

_COLUMN = {name: at for at, name in enumerate(COLUMNS)}
#: In place of what became of a job: state, fence, worker, what is packed.
_NO_OUTCOME = (None, None, None, None)


class Tables(Struct):
    """All rows, by table."""

    #: By number, in the order of acceptance: `rows.job_row`, and `rows.outcome_row` without its number.
    jobs: dict[int, JobRow] = field(default_factory=dict)
    outcomes: dict[int, JobRow] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    marks: dict[int, SetAside] = field(default_factory=dict)
    #: Sums by day, tenant, key and model.
    usage: dict[tuple[Any, ...], tuple[float, ...]] = field(default_factory=dict)
    clock: bytes | None = None

    def copy(self) -> Tables:
        """Copy the tables; their rows never change."""
        return replace(self, **{name: {**table} for name, table in asdict(self).items() if isinstance(table, dict)})

    def row(self, n: int, *, spec: bool) -> JobRow:
        """The row of this number as `rows.decode` takes it."""
        *columns, tail, head, body = self.jobs[n]
        return *columns, tail, *self.outcomes.get(n, _NO_OUTCOME), head, body if spec else None


class MemoryRows:
    """Rows of jobs: a `store.JobRows`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def next_number(self) -> int:
        return max(self._store.tables.jobs, default=0) + 1

    def number(self, job_id: str) -> int | None:
        return self._store.tables.numbers.get(job_id)

    def row(self, n: int, *, spec: bool = True) -> JobRow | None:
        tables = self._store.tables
        return tables.row(n, spec=spec) if n in tables.jobs else None

    def spec(self, job_id: str) -> tuple[int, bytes, bytes] | None:
        n = self.number(job_id)
        row = None if n is None else self.row(n)
        return None if row is None or n is None else (n, *row[-2:])

    def newest(self, origin: str, alias: str, tenant: str) -> int:
        named = (
            n
            for n, row in self._store.tables.jobs.items()
            if (row[_COLUMN["origin"]], row[_COLUMN["alias"]]) == (origin, alias)
            and tenant in ("", row[_COLUMN["tenant"]])
        )
        return max(named, default=0)

    def page(self, query: m.ListJobs, live: Sequence[int] | None) -> RowPage:
        """All of it at once, however many rows that takes."""
        tables = self._store.tables
        found = [tables.row(n, spec=True) for n in sorted(tables.jobs)]
        first = _position(found, query)
        if first is None:
            return RowPage([], False, 0)
        found = found[:first][::-1] if query.newest_first else found[first:]
        found = [row for row in found if _matches(row, query)]
        return RowPage(found[: query.limit], len(found) > query.limit, 0)

    def live(self) -> list[JobRow]:
        tables = self._store.tables
        found = (tables.row(n, spec=False) for n in sorted(tables.jobs))
        return [row for row in found if rows.standing(row)[0] not in FINAL]

    def succeeded(self, above: int, limit: int) -> list[JobRow]:
        tables = self._store.tables
        numbers = sorted((n for n in tables.jobs if n > above), reverse=True)
        found = (tables.row(n, spec=False) for n in numbers)
        return [row for row in found if rows.standing(row)[0] == "succeeded"][:limit]

    def marks(self) -> list[tuple[str, int, SetAside]]:
        tables = self._store.tables
        return [
            (tables.jobs[n][_COLUMN["id"]], n, mark) for n, mark in sorted(tables.marks.items()) if n in tables.jobs
        ]

    def clock(self) -> bytes | None:
        return self._store.tables.clock

    def usage(self, query: m.GetUsage) -> list[m.UsageRow]:
        sums: dict[tuple[Any, ...], tuple[Any, tuple[float, ...]]] = {}
        for key, added in self._store.tables.usage.items():
            names = dict(zip(USAGE_GROUPS, key, strict=True))
            if query.first_day <= names["day"] <= query.last_day and query.tenant in ("", names["tenant"]):
                by = {name: value for name, value in names.items() if name in query.by}
                _, there = sums.get((*by.values(),), (by, (0,) * len(added)))
                sums[(*by.values(),)] = by, _sum(there, added)
        fields = m.UsageRow.__struct_fields__[len(USAGE_GROUPS) :]
        found: list[dict[str, Any]] = [
            {**by, **dict(zip(fields, total, strict=True))} for _, (by, total) in sorted(sums.items())
        ]
        return [m.UsageRow(**row) for row in found[: query.limit + 1]]


class MemoryDeliveries:
    """Webhook deliveries: a `store.DeliveryRows`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def of_job(self, job_id: str) -> list[Delivery]:
        return [delivery for delivery in self._store.tables.deliveries.values() if delivery.job_id == job_id]

    def find(self, number: int) -> Delivery | None:
        return self._store.tables.deliveries.get(number)

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        pending = [delivery for delivery in self._store.tables.deliveries.values() if delivery.state == "pending"]
        pending.sort(key=lambda delivery: (delivery.due_at, delivery.number))
        due = [delivery for delivery in pending[:limit] if delivery.due_at <= now]
        return due, pending[len(due)].due_at if len(pending) > len(due) else None


class MemoryStore:
    """A `store.Store` in which nothing is ever damaged."""

    rebuilt_indexes = 0

    def __init__(self, epoch: int = 1) -> None:
        """`epoch`: that of its first journal."""
        self.tables = Tables()
        self.jobs = MemoryRows(self)
        self.deliveries = MemoryDeliveries(self)
        self._epoch = epoch - 1
        #: What was there before the open transaction; None: there is none.
        self._durable: Tables | None = None

    def begin(self, is_sound: Callable[[int], bool]) -> int:
        return self.discard()

    @property
    def uncommitted(self) -> bool:
        return self._durable is not None

    def write(self, batch: Batch) -> None:
        if self._durable is None:
            self._durable = self.tables.copy()
        tables = self.tables
        for n in batch.forgotten:
            job_id = tables.jobs.pop(n)[_COLUMN["id"]]
            tables.outcomes.pop(n, None)
            del tables.numbers[job_id]
            for delivery in self.deliveries.of_job(job_id):
                del tables.deliveries[delivery.number]
        for row in batch.rewritten:
            tables.outcomes.pop(row[0], None)
            tables.jobs[row[0]] = _kept(row)
        taken = [row[_COLUMN["id"]] for row in batch.jobs if row[_COLUMN["id"]] in tables.numbers]
        if taken:
            raise IdTaken(taken)
        for row in batch.jobs:
            tables.jobs[row[0]] = _kept(row)
            tables.numbers[row[_COLUMN["id"]]] = row[0]
        for n, state, fence, *rest in batch.outcomes:
            old_state, old_fence, *_ = tables.outcomes.get(n, ("", 0))
            if old_state in FINAL or fence < old_fence:
                job_id = tables.jobs[n][_COLUMN["id"]]
                raise JournalConflict(
                    f"job {job_id} is {old_state} with fence {old_fence}, the core has it {state}", job_id
                )
            tables.outcomes[n] = _kept((state, fence, *rest))
        for day, tenant, key, model, *added in batch.usage:
            group = int(day), tenant, key, model
            tables.usage[group] = _sum(tables.usage.get(group, (0,) * len(added)), added)
        tables.usage = {key: sums for key, sums in tables.usage.items() if key[0] >= batch.first_usage_day}
        self._write_beside(batch)

    def _write_beside(self, batch: Batch) -> None:
        for delivery in batch.deliveries:
            if delivery.job_id not in self.tables.numbers:
                raise JournalConflict(f"a webhook delivery does not fit: {delivery.job_id} has no row")
            self.tables.deliveries[delivery.number] = delivery
        for n, mark in batch.marks:
            if mark is None:
                self.tables.marks.pop(n, None)
            else:
                self.tables.marks[n] = mark
        self.tables.clock = batch.clock or self.tables.clock

    def commit(self, batch: Batch) -> int:
        self.write(batch)
        self._durable = None
        return batch.count

    def discard(self) -> int:
        if self._durable is not None:
            self.tables, self._durable = self._durable, None
        self._epoch += 1
        return self._epoch

    def rest(self, first_live: Callable[[], int | None]) -> None:
        pass

    def close(self) -> None:
        self.discard()


class MemoryArchive(Journal):
    """The journal without a file: the same staging, the same rows, in memory."""

    def __init__(self, epoch: int = 1) -> None:
        super().__init__(MemoryStore(epoch))

    def written(self, job_id: str) -> Job | None:
        """The job as it is written, whatever is staged."""
        n = self.store.jobs.number(job_id)
        row = None if n is None else self.store.jobs.row(n)
        return None if row is None else rows.decode(row)


def _kept(row: JobRow) -> JobRow:
    return tuple(bytes(value) if isinstance(value, bytearray) else value for value in row)


def _sum(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _position(found: list[JobRow], query: m.ListJobs) -> int | None:
    """The page begins at this index, or before it, newest first; None: `after` is not a job."""
    if not query.after:
        return len(found) if query.newest_first else 0
    for index, row in enumerate(found):
        if row[_COLUMN["id"]] == query.after:
            return index if query.newest_first else index + 1
    if not query.after_at:
        return None
    at = _COLUMN["submitted_at"]
    return next((index for index, row in enumerate(found) if row[at] >= query.after_at), len(found))


def _matches(row: JobRow, query: m.ListJobs) -> bool:
    fixed = {name: row[at] for name, at in _COLUMN.items()}
    worker = row[_COLUMN["worker"]] if row[-3] is None else row[-4]
    return (
        (not query.states or rows.standing(row)[0] in query.states)
        and query.origin in ("", fixed["origin"])
        and query.model in ("", fixed["model"])
        and query.tenant in ("", fixed["tenant"])
        and query.worker in ("", worker, fixed["pinned"])
        and (not query.text or query.text.casefold() in prompt_of(row[rows.BODY]).casefold())
        and query.since <= fixed["submitted_at"]
        and not 0 < query.until <= fixed["submitted_at"]
    )
