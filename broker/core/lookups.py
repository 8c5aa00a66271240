"""Lookups: reads from disk that a message needs. The core reads nothing while it decides: the answer comes in with the message.

Before the shell gives the core a message, it calls `Core.needs` for what to read, reads that (staged rows of the pass included) and hands
it in as `Found`. Nothing happens in between, so a handler decides in one go about memory and disk as they are at that moment, and answers
keep the order of their requests. Jobs in memory are looked up here, never read from disk, but for a spec that `spec_cache` has dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct, structs

from broker.core.deliveries import Delivery
from broker.core.jobs import Job
from broker.core.state import State
from broker.wire import messages as m
from broker.wire.terms import DELAYED, PARKED, QUEUED


class FindJob(Struct, frozen=True):
    """The job of this id; else, with an alias, the newest job of that name, of this tenant ("": of any)."""

    job_id: str
    origin: str = ""
    alias: str = ""
    tenant: str = ""


class FindSpec(Struct, frozen=True):
    """The spec of a job that is in memory without it."""

    job_id: str


class FindJobs(Struct, frozen=True):
    """The jobs of these ids, without their specs."""

    job_ids: tuple[str, ...]


class FindPage(Struct, frozen=True):
    """A page of jobs; its times are on the core's timeline."""

    query: m.ListJobs


class FindSetAside(Struct, frozen=True):
    """The jobs that are set aside, as far as their rows can be read, without their specs."""


class FindDue(Struct, frozen=True):
    """Pending deliveries that are due, the longest due first, `limit` at most."""

    limit: int


class FindDelivery(Struct, frozen=True):
    """The delivery of this number, first; behind it, if `siblings`, all of its job."""

    number: int
    siblings: bool


class FindUsage(Struct, frozen=True):
    """Sums of what was used."""

    query: m.GetUsage


class CountRecords(Struct, frozen=True):
    """The numbers in `RecordCounts`."""


Lookup = FindJob | FindSpec | FindJobs | FindPage | FindSetAside | FindDue | FindDelivery | CountRecords | FindUsage


class RecordCounts(Struct, frozen=True):
    """Jobs that are set aside; records of jobs that are over, and indexes, found damaged since the start."""

    kept_aside: int = 0
    damaged_records: int = 0
    rebuilt_indexes: int = 0


class JobPage(NamedTuple):
    """Jobs that match, whether more follow, and `Jobs.behind`, which was accepted at `behind_at`."""

    jobs: list[Job]
    more: bool
    behind: int
    behind_at: float


class Found(Struct, frozen=True, kw_only=True):
    """The answer to a lookup; fields of others have their defaults. Jobs have their deliveries, where they have a webhook."""

    #: By `FindJob`: None when there is none.
    job: Job | None = None
    #: By `FindSpec`, and by `FindJob` for the job it found; why it cannot be read.
    spec: bytes = b""
    spec_error: str = ""
    #: By `FindJobs`, `FindPage` (and the rest of its `JobPage`) and `FindSetAside`, in the order requested.
    jobs: tuple[Job, ...] = ()
    more: bool = False
    behind: int = 0
    behind_at: float = 0.0
    #: By `FindDelivery` and `FindDue`, and when the next pending one that is not among them is due.
    webhook_deliveries: tuple[Delivery, ...] = ()
    next_due_at: float | None = None
    #: By `FindUsage`: one more than the limit when there are more.
    usage: tuple[m.UsageRow, ...] = ()
    #: By `CountRecords`.
    counts: RecordCounts = RecordCounts()


#: Nothing was looked up.
NOTHING = Found()


def _submit(state: State, _: bytes, message: m.Submit) -> Lookup | None:
    job = state.jobs.get(message.job_id)
    if job is not None:
        return FindSpec(job.id) if job.evicted else None
    if message.fresh and state.skips_lookup_of_fresh and not _may_refuse(state, message):
        return None
    if message.alias_unique:
        return FindJob(message.job_id, message.submission.origin, message.submission.alias, message.submission.tenant)
    return FindJob(message.job_id)


def _may_refuse(state: State, message: m.Submit) -> bool:
    """Whether a new job like this could be refused. Then its id is looked up, however fresh: what was accepted is not refused later."""
    counts, policy = state.counts, state.policy
    return bool(
        message.alias_unique
        or message.only_if_idle
        or message.max_queued
        or message.deadline_s
        or message.promise is not None
        or state.stopping
        or state.refusing
        or policy.queue_limit_s
        or counts[QUEUED] + counts[DELAYED] + counts[PARKED] >= policy.queue_limit
    )


def _whole_job(state: State, _: bytes, message: m.CancelJob | m.ControlJob | m.GetJob) -> Lookup | None:
    job = state.jobs.get(message.job_id)
    if job is not None:
        return FindSpec(job.id) if job.evicted else None
    if type(message) is m.GetJob:
        return FindJob(message.job_id, message.origin, message.alias, message.tenant)
    return FindJob(message.job_id)


def _set_aside(state: State, _: bytes, message: m.SettleSetAside) -> Lookup | None:
    return None if message.job_id in state.jobs else FindJob(message.job_id)


def _result(state: State, peer: bytes, message: m.AgentResult) -> Lookup | None:
    """A result of a job that is over and no longer in memory: whether it is the one that was published."""
    if message.job_id in state.jobs or state.pool.by_peer.get(peer) is None:
        return None
    return FindJob(message.job_id)


def _jobs(state: State, _: bytes, message: m.ForgetJobs) -> Lookup | None:
    cold = tuple(job_id for job_id in dict.fromkeys(message.job_ids) if job_id not in state.jobs)
    return FindJobs(cold) if cold else None


def _page(state: State, _: bytes, message: m.ListJobs) -> Lookup:
    ranges = {name: at for name in ("after_at", "since", "until") if (at := getattr(message, name))}
    if ranges:  # of the time before the clocks began it is the first moment
        ahead_s = state.calendar.ahead_s
        message = structs.replace(message, **{name: max(1.0, at - ahead_s) for name, at in ranges.items()})
    return FindPage(message)


def _delivery(_state: State, _: bytes, message: m.DeliveryDone) -> Lookup:
    return FindDelivery(message.number, siblings=message.outcome == "disabled")


#: Message -> the lookup that it needs, if any: (state, peer, message) -> lookup or None.
NEEDS: dict[type[m.Message], Callable[[State, bytes, Any], Lookup | None]] = {
    m.Submit: _submit,
    m.CancelJob: _whole_job,
    m.ControlJob: _whole_job,
    m.GetJob: _whole_job,
    m.SettleSetAside: _set_aside,
    m.Finished: _result,
    m.Failed: _result,
    m.Cancelled: _result,
    m.ForgetJobs: _jobs,
    m.ListJobs: _page,
    m.ListSetAside: lambda state, peer, message: FindSetAside(),
    m.ClaimDeliveries: lambda state, peer, message: FindDue(message.limit),
    m.DeliveryDone: _delivery,
    m.GetUsage: lambda state, peer, message: FindUsage(message),
    m.GetPool: lambda state, peer, message: CountRecords(),
}
