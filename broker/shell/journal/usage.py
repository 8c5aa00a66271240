"""Usage of the pool by day, tenant, API key and model: one row each, kept longer than the jobs that it counts.

A job is added in the transaction that writes its final state, which is written once; so it is counted once, whatever crashes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from broker.core.jobs import Job
from broker.core.usage import gpu_seconds
from broker.wire.terms import SUCCEEDED, JobState

#: Number of the column in which a job of this state is counted.
_COLUMN = {SUCCEEDED: 4, JobState.FAILED: 5, JobState.CANCELLED: 6}


def day_at(at: float) -> int:
    """Return the day of a Unix time, in UTC."""
    return int(at // 86_400)


def rows_of(ended: Iterable[Job], ahead_s: float) -> list[Any]:
    """Make rows for these jobs, which are over: day, tenant, key, model, and what is to be added to the six sums of a
    `wire.messages.UsageRow`. `ahead_s`: as `Calendar`'s."""
    found: dict[Any, list[Any]] = {}
    rows: list[Any] = []
    for job in ended:
        fixed, result = job.submission, job.result
        # Without a call: this is in every job's way. A store makes an integer of the day.
        key = ((job.finished_at + ahead_s) // 86_400, fixed.tenant, fixed.submitted_by, fixed.model)
        if key not in found:
            found[key] = [*key, 0, 0, 0, 0.0, 0.0, 0]
            rows += (found[key],)
        row = found[key]
        kept, lost = gpu_seconds(job)
        row[_COLUMN[job.state]] += 1
        row[7] += kept
        row[8] += lost
        if result is not None and job.state is SUCCEEDED:
            for artefact in result.artefacts:
                row[9] += artefact.size
    return rows
