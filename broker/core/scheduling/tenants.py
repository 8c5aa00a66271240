"""Numbers of each tenant's waiting and held jobs, and the limit of the latter.

The edge sends a tenant's limits with its jobs. The newest job has how many of its tenant may be held at once, so that a raised limit helps
jobs that wait already; it is journaled with the job, so that it is there after a restart too.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from broker.wire.submission import Submission
from broker.wire.terms import FINAL, HELD, WAITING, JobState


class TenantJob(Protocol):
    """The part of a job that is counted."""

    submission: Submission
    state: JobState


class Share(Struct):
    """One tenant's live jobs."""

    waiting: int = 0
    held: int = 0
    #: Jobs that may be held at once; 0: no limit.
    max_running: int = 0


_WAITS, _IS_HELD, _IS_OVER = (1, 0), (0, 1), (0, 0)
#: State -> what a job in it counts for, waiting and held.
_COUNTED = {state: _WAITS if state in WAITING else _IS_HELD if state in HELD else _IS_OVER for state in JobState}

_NOTHING = Share()


class Tenants:
    """Every tenant that has live jobs."""

    def __init__(self) -> None:
        self._shares: dict[str, Share] = {}

    def adopt(self, job: TenantJob) -> None:
        """Count a job that is new in memory; jobs come in the order of their acceptance."""
        if job.state in FINAL:
            return
        share = self._shares.get(job.submission.tenant)
        if share is None:
            share = self._shares[job.submission.tenant] = Share()
        share.max_running = job.submission.max_running
        waiting, held = _COUNTED[job.state]
        share.waiting += waiting
        share.held += held

    def moved(self, job: TenantJob, source: JobState) -> None:
        """Count a job where it is now, and no longer where it was."""
        before, after = _COUNTED[source], _COUNTED[job.state]
        if before is after:
            return
        share = self._shares[job.submission.tenant]
        share.waiting += after[0] - before[0]
        share.held += after[1] - before[1]
        if not (share.waiting or share.held):
            del self._shares[job.submission.tenant]

    def share(self, tenant: str) -> Share:
        """The share of this tenant; for reading."""
        return self._shares.get(tenant) or _NOTHING

    def may_start(self, tenant: str) -> bool:
        """Whether a worker may take one more job of this tenant."""
        share = self._shares.get(tenant, _NOTHING)
        return not share.max_running or share.held < share.max_running

    def names(self) -> frozenset[str]:
        """The tenants that have live jobs."""
        return frozenset(self._shares)
