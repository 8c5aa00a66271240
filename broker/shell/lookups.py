"""Reads for the core what a message is about that only the disk has: see `core.lookups`."""

from __future__ import annotations

from typing import Protocol

from msgspec.structs import replace

from broker.core import lookups
from broker.core.deliveries import Delivery
from broker.core.jobs import DamagedRecord, Job
from broker.core.lookups import Found, Lookup, RecordCounts
from broker.wire import messages as m


class Deliveries(Protocol):
    """Webhook deliveries on disk, those staged in this pass included."""

    def of_job(self, job_id: str) -> list[Delivery]:
        """The deliveries of this job, oldest first."""

    def find(self, number: int) -> Delivery | None:
        """The delivery of this number."""

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        """Pending deliveries that are due, the longest due first, and when one that is not among them is due."""


class SetAsides(Protocol):
    """Jobs that are set aside."""

    def jobs(self) -> list[Job]:
        """These jobs, as far as their rows can be read, without their specs."""


class Archive(Protocol):
    """Jobs on disk, staged rows of this pass included."""

    def find(self, job_id: str) -> Job | None:
        """The job of this id."""

    def find_alias(self, origin: str, alias: str, tenant: str) -> Job | None:
        """The newest job of this name, of this tenant ("": of any)."""

    def body(self, job_id: str) -> bytes:
        """The spec of a job that is there. Raises `DamagedRecord`."""

    def counts(self) -> RecordCounts:
        """Numbers of jobs that are set aside, and of rows that were found damaged."""

    def page(self, query: m.ListJobs) -> lookups.JobPage:
        """Jobs that match, in order."""

    @property
    def deliveries(self) -> Deliveries:
        """The webhook deliveries of all jobs."""

    @property
    def asides(self) -> SetAsides:
        """The jobs that are set aside."""

    def usage(self, query: m.GetUsage) -> list[m.UsageRow]:
        """Sums of what was used by jobs that are over, in the order of what the query groups by; one more than its limit when there are
        more."""


def look_up(archive: Archive, lookup: Lookup, now: float) -> Found:
    """Read it. Raises what the archive raises."""
    match lookup:
        case lookups.FindJob():
            job = archive.find(lookup.job_id) if lookup.job_id else None
            if job is None and lookup.alias:
                job = archive.find_alias(lookup.origin, lookup.alias, lookup.tenant)
            return lookups.NOTHING if job is None else _whole(archive, job)
        case lookups.FindSpec():
            spec, error = _spec(archive, lookup.job_id)
            return Found(spec=spec, spec_error=error)
        case lookups.FindJobs():
            jobs = [job for job_id in lookup.job_ids if (job := archive.find(job_id)) is not None]
            return Found(jobs=tuple(replace(job, body=b"") for job in jobs))
        case lookups.FindPage():
            page = archive.page(lookup.query)
            listed = tuple(_with_deliveries(archive, job) for job in page.jobs)
            return Found(jobs=listed, more=page.more, behind=page.behind, behind_at=page.behind_at)
        case lookups.FindSetAside():
            return Found(jobs=tuple(archive.asides.jobs()))
        case lookups.FindDue():
            due, next_due_at = archive.deliveries.due(now, lookup.limit)
            return Found(webhook_deliveries=tuple(due), next_due_at=next_due_at)
        case lookups.FindDelivery():
            delivery = archive.deliveries.find(lookup.number)
            if delivery is None:
                return Found()
            siblings = archive.deliveries.of_job(delivery.job_id) if lookup.siblings else ()
            return Found(webhook_deliveries=(delivery, *siblings))
        case lookups.FindUsage():
            return Found(usage=tuple(archive.usage(lookup.query)))
        case lookups.CountRecords():
            return Found(counts=archive.counts())


def with_spec(archive: Archive, run: m.Run) -> m.Run:
    """A grant that the core gave without its spec. Raises `DamagedRecord`."""
    return replace(run, body=archive.body(run.job_id))


def _whole(archive: Archive, job: Job) -> Found:
    spec, error = job.body, job.damaged
    if job.evicted:  # the core's own record, staged
        spec, error = _spec(archive, job.id)
    return Found(job=_with_deliveries(archive, job), spec=spec, spec_error=error)


def _spec(archive: Archive, job_id: str) -> tuple[bytes, str]:
    """(the spec, why it cannot be read)."""
    try:
        return archive.body(job_id), ""
    except DamagedRecord as error:
        return b"", str(error)


def _with_deliveries(archive: Archive, job: Job) -> Job:
    if not job.submission.webhook:
        return job
    return replace(job, deliveries={delivery.number: delivery for delivery in archive.deliveries.of_job(job.id)})
