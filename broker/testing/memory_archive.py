"""An archive in memory: what the journal keeps of jobs, deliveries and usage, without a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from broker.core.deliveries import Delivery
from broker.core.jobs import DamagedRecord, Job, SetAside, Stop
from broker.core.usage import gpu_seconds
from broker.runtime.errors import JournalConflict
from broker.wire import messages as m
from broker.wire.jobspec import prompt_of
from broker.wire.usage import USAGE_GROUPS


class MemoryDeliveries:
    """Webhook deliveries of a `MemoryArchive`."""

    def __init__(self) -> None:
        self.rows: dict[int, Delivery] = {}
        self.staged: dict[int, Delivery] = {}

    def stage(self, delivery: Delivery) -> None:
        """Write it with the next commit. Its job is staged or on disk."""
        self.staged[delivery.number] = delivery

    def _all(self) -> list[Delivery]:
        return sorted({**self.rows, **self.staged}.values(), key=lambda delivery: delivery.number)

    def of_job(self, job_id: str) -> list[Delivery]:
        """The job's deliveries, oldest first."""
        return [delivery for delivery in self._all() if delivery.job_id == job_id]

    def find(self, number: int) -> Delivery | None:
        """The delivery of this number."""
        return self.staged.get(number) or self.rows.get(number)

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        """Pending deliveries that are due, the longest due first, and when the next one behind them is."""
        pending = [delivery for delivery in self._all() if delivery.state == "pending"]
        pending.sort(key=lambda delivery: (delivery.due_at, delivery.number))
        due = [delivery for delivery in pending[:limit] if delivery.due_at <= now]
        return due, pending[len(due)].due_at if len(pending) > len(due) else None


class MemoryUsage:
    """What was used, of a `MemoryArchive`: one entry a job that is over, kept when the job is deleted."""

    def __init__(self, write_staged: Callable[[], None]) -> None:
        self._write_staged = write_staged
        self.entries: list[m.UsageRow] = []

    def add(self, job: Job) -> None:
        """Count a job whose final row is being written."""
        kept, lost = gpu_seconds(job)
        size = sum(artefact.size for artefact in job.result.artefacts) if job.result and job.state == "succeeded" else 0
        fixed = job.submission
        self.entries.append(
            m.UsageRow(
                day=int(job.finished_at // 86_400),
                tenant=fixed.tenant,
                key=fixed.submitted_by,
                model=fixed.model,
                succeeded=int(job.state == "succeeded"),
                failed=int(job.state == "failed"),
                cancelled=int(job.state == "cancelled"),
                gpu_s=kept,
                lost_gpu_s=lost,
                bytes=size,
            )
        )

    def rows(self, query: m.GetUsage) -> list[m.UsageRow]:
        """Sums by what the query groups by, in its order; one more than its limit when there are more."""
        self._write_staged()
        sums: dict[tuple[Any, ...], m.UsageRow] = {}
        for one in self.entries:
            if query.first_day <= one.day <= query.last_day and query.tenant in ("", one.tenant):
                names = {name: getattr(one, name) for name in query.by}
                there = sums.get(
                    key := tuple(names[name] for name in USAGE_GROUPS if name in names), m.UsageRow(**names)
                )
                added = {name: getattr(there, name) + getattr(one, name) for name in m.UsageRow.__struct_fields__[4:]}
                sums[key] = replace(there, **added)
        return [sums[key] for key in sorted(sums)][: query.limit + 1]


class MemoryArchive:
    """The journal's part that holds jobs and deliveries, without a file: the same calls, the same answers, nothing damaged."""

    #: Nothing in memory is ever damaged.
    damaged = 0
    rebuilt_indexes = 0

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        #: Written rows, in the order of acceptance; durable unless `_durable` keeps what was before the open transaction.
        self.rows: dict[str, Job] = {}
        self.deliveries = MemoryDeliveries()
        self.usage = MemoryUsage(self.flush)
        self._marks: dict[str, SetAside] = {}
        #: Staged and not written; lazy ones may be lost in a crash though a commit went by.
        self._staged: dict[str, Job] = {}
        self._lazy: dict[str, Job] = {}
        self._durable: tuple[dict[str, Job], dict[str, SetAside], dict[int, Delivery], int] | None = None

    # writing

    def stage(self, job: Job, *, lazy: bool = False) -> None:
        """Write this job's row with the next commit; `lazy`: with the next that includes lazy rows."""
        if lazy and job.id not in self._staged and (job.id in self.rows or job.id in self._lazy):
            self._lazy[job.id] = job
        else:
            self._staged[job.id] = job
            self._lazy.pop(job.id, None)

    def flush(self) -> None:
        """Write all staged rows, without making them durable. Raises `JournalConflict`."""
        self._staged.update(self._lazy)
        self._lazy.clear()
        self._write()

    def commit(self, *, lazy: bool = True) -> None:
        """Make the staged rows durable, with or without the lazy ones. Raises `JournalConflict`."""
        if lazy:
            self.flush()
        else:
            self._write()
        self._durable = None

    def _begin(self) -> None:
        if self._durable is None:
            self._durable = {**self.rows}, {**self._marks}, {**self.deliveries.rows}, len(self.usage.entries)

    def _write(self) -> None:
        self._begin()
        for job_id, job in self._staged.items():
            old = self.rows.get(job_id)
            if old is not None and (old.final or job.fence < old.fence):
                raise JournalConflict(
                    f"job {job_id} is {old.state} with fence {old.fence}, the core has it {job.state}"
                )
            self.rows[job_id] = _row(job, old)
            if job.final:
                self.usage.add(job)
        self._staged.clear()
        for delivery in self.deliveries.staged.values():
            if delivery.job_id not in self.rows:
                raise JournalConflict(f"a delivery of {delivery.job_id}, which has no row")
        self.deliveries.rows.update(self.deliveries.staged)
        self.deliveries.staged.clear()

    def forget(self, job_id: str) -> None:
        """Delete the row of a job that is final or set aside, and its deliveries, with the next commit. Raises `JournalConflict`."""
        self.flush()
        row = self.rows.get(job_id)
        if row is None or not (row.final or job_id in self._marks):
            raise JournalConflict(f"job {job_id} cannot be deleted: its row is {row and row.state}")
        del self.rows[job_id]
        self._marks.pop(job_id, None)
        for delivery in self.deliveries.of_job(job_id):
            del self.deliveries.rows[delivery.number]

    def discard(self) -> None:
        """Forget all that is not committed and raise the epoch, as if the process had been killed and started again."""
        for staged in (self._staged, self._lazy, self.deliveries.staged):
            staged.clear()
        if self._durable is not None:
            self.rows, self._marks, self.deliveries.rows, counted = self._durable
            del self.usage.entries[counted:]
            self._durable = None
        self.epoch += 1

    def set_aside(self, job_id: str, reason: str, now: float) -> bool:
        """Mark a live job, durable when this returns; False when there is no such job. Nothing may be staged."""
        row = self.rows.get(job_id)
        if row is None or row.final:
            return False
        old = self._marks.get(job_id)
        stop: Stop = "" if old is None else old.stop
        self._marks[job_id] = SetAside(reason=reason, at=now, revision=self.epoch << 32, stop=stop)
        return True

    def mark(self, job: Job, mark: SetAside | None) -> None:
        """Change the mark of a job that has one with the next commit; None: it has none from then on, and its row is written."""
        self._begin()
        if mark is not None:
            self._marks[job.id] = mark
            return
        del self._marks[job.id]
        self.stage(job)

    # reading

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""
        staged = self._staged.get(job_id) or self._lazy.get(job_id)
        return staged or (self._read(self.rows[job_id]) if job_id in self.rows else None)

    def body(self, job_id: str) -> bytes:
        """The spec of a job that was committed. Raises `DamagedRecord`."""
        if job_id not in self.rows:
            raise DamagedRecord("its row is gone")
        return self.rows[job_id].body

    def find_alias(self, origin: str, alias: str, tenant: str = "") -> Job | None:
        """The newest job of this name, of this tenant ("": of any)."""
        for job in reversed({**self.rows, **self._staged}.values()):
            if (
                alias
                and (job.submission.origin, job.submission.alias) == (origin, alias)
                and tenant in ("", job.submission.tenant)
            ):
                return self.find(job.id)
        return None

    def page(self, query: m.ListJobs) -> tuple[list[Job], bool, int]:
        """Jobs that match, in the order of acceptance, whether more follow, and `Jobs.behind`. An unknown `after` gives an empty page."""
        self.flush()
        jobs = list(self.rows.values())
        first = _position(jobs, query)
        if first is None:
            return [], False, 0
        jobs = jobs[:first][::-1] if query.newest_first else jobs[first:]
        found = [job for job in jobs if _matches(job, query)]
        return [self._read(job) for job in found[: query.limit]], len(found) > query.limit, 0

    def live(self) -> list[Job]:
        """Every durable job that is neither final nor set aside, oldest first, its spec left out; for a start."""
        live = [self._read(job) for job in self.rows.values() if not job.final and job.id not in self._marks]
        return [replace(job, body=b"", evicted=True, deliveries=self._deliveries(job)) for job in live]

    def _deliveries(self, job: Job) -> dict[int, Delivery]:
        return {delivery.number: delivery for delivery in self.deliveries.of_job(job.id)}

    def set_asides(self) -> list[Job]:
        """The jobs that are set aside, without their specs."""
        return [replace(self._read(self.rows[job_id]), body=b"") for job_id in self._marks]

    @property
    def set_aside_count(self) -> int:
        """How many there are."""
        return len(self._marks)

    def _read(self, row: Job) -> Job:
        return replace(row, history=[*row.history], set_aside=self._marks.get(row.id))


def _row(job: Job, old: Job | None) -> Job:
    """What a file would keep: no part of the current attempt, and a spec that is written once."""
    body = job.body if old is None else old.body
    kept: dict[str, Any] = {
        "body": body,
        "history": [*job.history],
        "set_aside": None,
        "evicted": False,
        "deliveries": {},
        "holder": "nobody",
    }
    return replace(
        job,
        **kept,
        phase="",
        step=0,
        total=0,
        cost=0.0,
        skipped_s=0.0,
        granted_at=0.0,
        resends=0,
        begun=0,
        goes_on_from=0,
        yields_to="",
    )


def _position(jobs: list[Job], query: m.ListJobs) -> int | None:
    """The page begins at this index, or before it, newest first; None: `after` is not a job."""
    if not query.after:
        return len(jobs) if query.newest_first else 0
    for index, job in enumerate(jobs):
        if job.id == query.after:
            return index if query.newest_first else index + 1
    if not query.after_at:
        return None
    return next((index for index, job in enumerate(jobs) if job.submitted_at >= query.after_at), len(jobs))


def _matches(job: Job, query: m.ListJobs) -> bool:
    return (
        (not query.states or job.state.value in query.states)
        and query.origin in ("", job.submission.origin)
        and query.model in ("", job.submission.model)
        and query.tenant in ("", job.submission.tenant)
        and query.worker in ("", job.worker, job.submission.pinned)
        and (not query.text or query.text.casefold() in prompt_of(job.body).casefold())
        and query.since <= job.submitted_at
        and not 0 < query.until <= job.submitted_at
    )
