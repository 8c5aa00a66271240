"""A bug in the broker's core that shows for one job alone: whenever it is moved for some cause, or taken back at a start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from broker.core.jobs import Cause, Job
from broker.core.state import State

_OFTEN = (Cause.DISPATCHED, Cause.STARTED, Cause.FINISHED, Cause.RETRIED, Cause.DUE, Cause.CANCELLED, "restored")
_SELDOM = (
    Cause.SUBMITTED,
    Cause.ADOPTED,
    Cause.REFUSED,
    Cause.RETURNED,
    Cause.LOST,
    Cause.FAILED,
    Cause.EXPIRED,
    Cause.STOP_REQUESTED,
)

#: Where it may show, what happens to most jobs three times as likely. "restored": in the core of a new life.
PLACES = (*_OFTEN * 3, *_SELDOM)


class Planted(RuntimeError):
    """It has shown."""

    def __init__(self, job_id: str, where: str) -> None:
        super().__init__(f"planted in {job_id}: {where}")
        self.job_id = job_id
        self.where = where


class Bug(Struct, frozen=True):
    """For which job, where, and whether only when half of the work is done."""

    job_id: str
    where: str
    late: bool


@contextmanager
def planted(bug: Bug | None, shows: Callable[[], bool]) -> Iterator[None]:
    """The core has this bug in here, as long as it `shows`."""
    if bug is None:
        yield
        return
    move, adopt = State.move, State.adopt_record
    grant_new, start_and_finish = State.grant_new, State.start_and_finish
    #: The new job that is being granted at once.
    fresh: list[Job] = []

    def granted(state: State, job: Job, now: float) -> None:
        with shown(job, Cause.SUBMITTED, Cause.DISPATCHED):
            fresh.append(job)
            try:
                grant_new(state, job, now)
            finally:
                fresh.clear()

    def finished(state: State, job: Job, begun_at: float, now: float) -> None:
        with shown(job, Cause.STARTED, Cause.FINISHED):
            start_and_finish(state, job, begun_at, now)

    @contextmanager
    def shown(job: Job, *causes: str) -> Iterator[None]:
        """Around a change of the job for these causes."""
        hit = job.id == bug.job_id and bug.where in causes and shows()
        if hit and not bug.late:
            raise Planted(job.id, bug.where)
        yield
        if hit:
            raise Planted(job.id, bug.where)

    def moved(state: State, job: Job, cause: Cause, now: float, note: str = "") -> None:
        with shown(job, cause):
            move(state, job, cause, now, note)

    def adopted(state: State, job: Job) -> None:
        # A new job is taken in as well.
        with shown(job, *(["restored"] if job.history and job not in fresh else [])):
            adopt(state, job)

    State.move, State.adopt_record = moved, adopted  # type: ignore[method-assign]
    State.grant_new, State.start_and_finish = granted, finished  # type: ignore[method-assign]
    try:
        yield
    finally:
        State.move, State.adopt_record = move, adopt  # type: ignore[method-assign]
        State.grant_new, State.start_and_finish = grant_new, start_and_finish  # type: ignore[method-assign]
