"""Which running job makes room for a short one that waits: a pure choice.

Parking costs a step and a checkpoint, and it delays the job that is parked. So it must pay: what is left of the running job is many times
what the short one takes; and it is bounded: no job makes room more than `MOST` times, or is delayed by more than `DELAY_SHARE` of what it
takes itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

#: What is left of a running job must be more than so many times the short job, and more than so many seconds.
FACTOR = 4.0
LEAST_LEFT_S = 20.0
#: How often a job makes room, and which share of its own time it is delayed by, in all.
MOST = 3
DELAY_SHARE = 0.2
#: What parking a job and taking it up again costs, beside the loading of models.
OVERHEAD_S = 2.0


class Running(Struct, frozen=True, kw_only=True):
    """A job in an engine that can be parked, in predicted seconds."""

    job_id: str
    left_s: float
    whole_s: float
    preemptions: int = 0
    #: Seconds for which it has waited after it made room.
    preempted_s: float = 0.0
    #: Seconds to load the short job's model in its place, and its own again; 0: they are the same.
    reload_s: float = 0.0


def choose(cost_s: float, running: Iterable[Running]) -> str:
    """The id of the job, of these of no higher priority, that makes room for one of this cost: that with most left; "": none."""
    able = [job for job in running if makes_room(job, cost_s)]
    return max(able, key=lambda job: (job.left_s, job.job_id)).job_id if able else ""


def makes_room(job: Running, cost_s: float) -> bool:
    """Whether parking this job for the short one pays, and is within its bounds."""
    delay_s = cost_s + OVERHEAD_S + job.reload_s
    return (
        job.preemptions < MOST
        and job.left_s > LEAST_LEFT_S
        and job.left_s > FACTOR * cost_s + OVERHEAD_S + job.reload_s
        and job.preempted_s + delay_s <= DELAY_SHARE * job.whole_s
    )
