"""Which running job makes room for one that waits: a pure choice.

Two reasons. A short job overtakes a long one, when it has waited for a share of what it takes (`Bounds.patience`), and what is left of the
long one is many times what the short one takes. A promised job that would be late takes the place of one that has more left than parking
costs.

Parking costs a step and a checkpoint, and it delays the job that is parked. So that is bounded: no job makes room more than so many times,
none right after it went on, and all its delays with what they cost are a share of its own time at most (`Bounds.delay_share`), and no more
than what a time that was promised for it, or its deadline, leaves. And it must help: a job that has used up its delay before the line of
short jobs is worked off comes back in the midst of it, and they wait for it then. So the line, spread over the workers, counts as delay.

A job leaves at the end of a step, which may take as long as a short job. So the request is sent at the last end of a step that is early
enough.

Small jobs come often, and each takes little of that delay. A job that were as long as half of it would use it up, and then all small ones
would wait for the long ones in the engines. So a part of it is reserved for jobs that are small beside the one that makes room
(`Bounds.reserve`): for others it neither makes room out of that part, nor lets them pass once it waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from msgspec import Struct

from broker.core.scheduling.costs import deviations
from broker.wire.promises import CONFIDENCE, Promise


class Bounds(Struct, frozen=True, kw_only=True):
    """Limits of parking: when it pays, and how often it may be done."""

    #: A short job is to wait for at most so many times what it takes.
    patience: float = 0.7
    #: It is looked for room so many seconds before it has, as parking takes a step.
    lead_s: float = 0.5
    #: One that is later than that does not press any more: the whole pool has too much to do, and the fair order decides.
    late_s: float = 30.0
    #: What is left of a running job must be more than so many times the short job.
    factor: float = 2.0
    #: How often a job makes room.
    most: int = 8
    #: What parking a job and taking it up again costs, beside the loading of models, seconds.
    overhead_s: float = 1.0
    #: A job that has made room runs for at least this share of what the other one takes before it does so again, but for no more than so
    #: many seconds.
    rest: float = 0.5
    most_rest_s: float = 4.0
    #: Share of the delay that a job may have which is left to jobs that are promised, or small beside it: others use the rest only.
    reserve: float = 0.3
    #: A job is small beside one of which it takes no more than this share of the time.
    small: float = 0.125


class Waiting(Struct, frozen=True, kw_only=True):
    """A job that waits, in predicted seconds."""

    cost_s: float
    #: It has a promise, which it would break.
    promised: bool = False
    #: How long it will have waited when its turn comes, if nothing makes room.
    waits_s: float = 0.0
    #: Work of other short jobs that wait, for each worker.
    line_s: float = 0.0
    #: Seconds until it has waited for as long as it is to wait.
    start_in_s: float = 0.0
    #: Number of jobs that wait like it and go first.
    behind: int = 0


class Running(Struct, frozen=True, kw_only=True):
    """A job in an engine that can be parked, in predicted seconds."""

    job_id: str
    left_s: float
    whole_s: float
    preemptions: int = 0
    #: Seconds for which it has waited after it made room.
    preempted_s: float = 0.0
    #: Seconds to load the other job's model in its place, and its own again; 0: they are the same.
    reload_s: float = 0.0
    #: Seconds since it was started last.
    ran_s: float = inf
    #: Seconds until its step ends, when it can leave, and of each step.
    park_s: float = 0.0
    step_s: float = 0.0
    #: Seconds by which it may be delayed before it breaks what was promised for it, or misses its deadline.
    spare_s: float = inf


def choose(waiting: Waiting, running: Iterable[Running], delay_share: float, bounds: Bounds) -> str:
    """The id of the job, of these, that makes room: that with most left; "": none."""
    if not waiting.promised and waiting.waits_s <= bounds.patience * waiting.cost_s:
        return ""
    able = [job for job in running if helps(job, waiting, bounds) and may_wait(job, waiting, delay_share, bounds)]
    if not waiting.promised:
        if sum(job.park_s + job.step_s < waiting.start_in_s for job in able) > waiting.behind:
            return ""
        able = [job for job in able if job.park_s <= waiting.start_in_s] or sorted(able, key=_park_s)[:1]
    return max(able, key=lambda job: (job.left_s, job.job_id)).job_id if able else ""


def _park_s(job: Running) -> float:
    return job.park_s


def helps(job: Running, waiting: Waiting, bounds: Bounds) -> bool:
    """Whether the worker is free so much sooner when this job is parked than when it ends that it pays."""
    if waiting.promised:
        return job.left_s > 2.0 * bounds.overhead_s + job.reload_s
    return job.left_s > bounds.factor * waiting.cost_s + bounds.overhead_s + job.reload_s


def may_wait(job: Running, waiting: Waiting, delay_share: float, bounds: Bounds) -> bool:
    """Whether the delay is within the bounds of the job that makes room."""
    delay_s = waiting.cost_s + bounds.overhead_s + job.reload_s + (0.0 if waiting.promised else waiting.line_s)
    rested = rests_s(job, waiting, bounds) <= 0.0
    left_s = delay_left_s(delay_share * job.whole_s, job.preemptions, job.preempted_s, bounds)
    if not waiting.promised:
        left_s -= reserve_s(waiting.cost_s, job.whole_s, delay_share, bounds)
    return job.preemptions < bounds.most and rested and delay_s <= min(left_s, job.spare_s)


def rests_s(job: Running, waiting: Waiting, bounds: Bounds) -> float:
    """Seconds for which a job that made room is still left alone by this one; none or less: it is not."""
    return min(bounds.most_rest_s, bounds.rest * waiting.cost_s) - job.ran_s if job.preemptions else 0.0


def look_again_s(waiting: Waiting, running: Iterable[Running], bounds: Bounds) -> float:
    """Seconds until `choose`, which has found none of these, may find one though nothing has happened: one has rested, or the end of a step
    is the last that is early enough."""
    found = inf
    for job in running:
        wait_s = rests_s(job, waiting, bounds)
        if not waiting.promised:
            wait_s = max(wait_s, waiting.start_in_s - job.step_s)
        if wait_s > 0.0:
            found = min(found, wait_s)
    return found


def reserve_s(cost_s: float, whole_s: float, delay_share: float, bounds: Bounds) -> float:
    """The part of a job's delay that another one of this cost may not use."""
    return 0.0 if small(cost_s, whole_s, bounds) else bounds.reserve * delay_share * whole_s


def small(cost_s: float, whole_s: float, bounds: Bounds) -> bool:
    """Whether a job of this cost is small beside one that takes so long."""
    return cost_s <= bounds.small * whole_s


def goes_on(left_s: float, whole_s: float, cost_s: float, wait_s: float, delay_share: float, bounds: Bounds) -> bool:
    """Whether a job that made room, of which so much is left, goes before another one of this cost, though its turn is later.

    It may still wait for `wait_s`. Small ones it lets pass; other shorter ones while that leaves enough for making room again, and none
    else: it would be begun while others wait in their midst.
    """
    if left_s <= cost_s:
        return True
    reserved_s = reserve_s(cost_s, whole_s, delay_share, bounds)
    return not small(cost_s, whole_s, bounds) and wait_s - cost_s < reserved_s


def precedence(wait_s: float, left_s: float) -> tuple[bool, float]:
    """Order in which jobs that made room go on: those that may wait no longer by how long that is so, then those with the least left."""
    return wait_s > 0.0, left_s if wait_s > 0.0 else wait_s


def start_by(submitted_at: float, cost_s: float, bounds: Bounds) -> float:
    """Time at which a job has waited for as long as it is to wait."""
    return submitted_at + bounds.patience * cost_s


def delay_left_s(most_s: float, preemptions: int, preempted_s: float, bounds: Bounds) -> float:
    """Rest of the delay that a job may have in all, after it made room so often and waited so long for it."""
    return max(0.0, most_s - preempted_s - preemptions * bounds.overhead_s)


def spare_s(promise: Promise | None, deadline_at: float, left_s: float, sd_s: float, now: float) -> float:
    """Seconds by which a job, of which so much is left, may come later and still keep its promise and its deadline (0: it has none)."""
    spare = inf
    if promise is not None:
        spare = promise.ready_by - now - left_s - deviations(promise.confidence) * sd_s
    if deadline_at:
        spare = min(spare, deadline_at - now - left_s - deviations(CONFIDENCE) * sd_s)
    return spare
