"""Preemption: finds what waits and what could make room for it; `scheduling.preemption` decides, `parking` carries it out."""

from __future__ import annotations

from collections.abc import Iterator

from broker.core import parking, views
from broker.core.pool import Worker
from broker.core.scheduling import placement, preemption
from broker.core.scheduling.preemption import Running
from broker.core.scheduling.queue import Lane
from broker.core.state import State
from broker.wire.submission import Submission
from broker.wire.terms import JobState

#: How often it is looked, seconds: parking takes a step.
EVERY_S = 1.0


def consider(state: State, now: float) -> None:
    """Have one running job make room for the first that waits, where that pays. One at a time."""
    if not state.counts[JobState.QUEUED] or now < state.preempt_at:
        return
    state.preempt_at = now + EVERY_S
    seats = [worker for worker in state.pool if worker.in_service and not worker.room and len(worker.held) == 1]
    if any(state.jobs[job_id].park for worker in seats for job_id in worker.held):
        return

    def usable(lane: Lane) -> bool:
        return any(placement.fits(lane, worker) for worker in seats)

    def allowed(job_id: str, lane: Lane) -> bool:
        job = state.jobs[job_id]
        # What made room itself makes nobody else do so.
        return not job.parked_at and not job.excluded

    job_id = state.queue.first(usable, allowed, served=state.tenants.may_start)
    if job_id is None:
        return
    job, lane = state.jobs[job_id], state.queue.lane(job_id)
    if not state.costs.knows(lane.model, job.submission.units):
        return
    fitting = [worker for worker in seats if placement.fits(lane, worker)]
    chosen = preemption.choose(job.cost, _running(state, fitting, job.submission, now))
    if chosen:
        parking.preempt(state, state.jobs[chosen], job_id, now)


def _running(state: State, workers: list[Worker], wanted: Submission, now: float) -> Iterator[Running]:
    """What these workers are denoising that could go on later, of no higher priority than what is wanted."""
    for worker in workers:
        for job_id in worker.held:
            job = state.jobs[job_id]
            own, units = job.submission.model, job.submission.units
            ready = own in worker.resumable and job.state is JobState.RUNNING and job.phase == "denoise"
            # A promised time is kept: such a job is not made to wait.
            if (
                not ready
                or job.submission.priority > wanted.priority
                or job.stop
                or job.promise is not None
                or not state.costs.knows(own, units)
            ):
                continue
            same = own == wanted.model
            reloads = (state.reloads.predict(name, otherwise=state.policy.reload_s) for name in (own, wanted.model))
            yield Running(
                job_id=job_id,
                left_s=views.remaining_s(job, state.costs.predict(own, job.left(units, job.goes_on_from)), now),
                whole_s=state.costs.predict(own, units),
                preemptions=job.preemptions,
                preempted_s=job.preempted_s,
                reload_s=0.0 if same else sum(reloads),
            )
