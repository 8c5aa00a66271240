"""Expectations of the pool as it is: how long held jobs still take, when each worker is free, and which could take a job.

Read from the core's state for forecasts, promises and preemption; nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from broker.core import views
from broker.core.jobs import Job
from broker.core.pool import Worker
from broker.core.scheduling import placement
from broker.core.scheduling.forecast import Availability, Work
from broker.core.scheduling.queue import Lane
from broker.core.state import State
from broker.wire import messages as m
from broker.wire.terms import JobState

#: A job that has run longer than predicted is taken to need this share of its prediction more.
OVERDUE_SHARE = 0.1
#: How many steps of a job's own the prediction weighs, in what is expected of the rest.
PREDICTION_STEPS = 3
#: A worker that is busy is taken to be free so many standard deviations after what is expected: as often as run times are reserved.
BUSY_DEVIATIONS = 1.04


def able(state: State) -> Callable[[Lane], frozenset[str]]:
    """Workers by lane, each lane looked at once."""
    known: dict[Lane, frozenset[str]] = {}

    def able(lane: Lane) -> frozenset[str]:
        found = known.get(lane)
        if found is None:
            found = known[lane] = frozenset(
                worker.name for worker in state.pool if serves(worker) and placement.fits(lane, worker)
            )
        return found

    return able


def serves(worker: Worker) -> bool:
    """Whether it runs jobs, or is expected to: one that restarts its engine or is on trial later is, one that leaves is not."""
    gone = worker.lost or worker.suspect or worker.draining or worker.drain_requested or worker.fault
    return not gone and worker.engine != "stopped"


def load_s(state: State, model: str) -> float:
    return state.reloads.predict(model, otherwise=state.policy.reload_s)


def busy(state: State, worker: Worker, now: float) -> tuple[float, float]:
    """(seconds until the worker is free, their variance)."""
    seconds, variance = max(0.0, worker.tripped_until - now), 0.0
    if not worker.held and not worker.free and worker.engine in ("starting", "loading", "restarting"):
        seconds += state.policy.reload_s
    for job_id in worker.held:
        job = state.jobs.get(job_id)
        if job is not None:
            left_s, sd = left(state, job, now)
            seconds += left_s
            variance += sd * sd
    return seconds, variance


def makes_room(state: State, worker: Worker) -> bool:
    """Whether it is about to hand back what it holds."""
    return any(state.jobs[job_id].park for job_id in worker.held)


def left(state: State, job: Job, now: float) -> tuple[float, float]:
    """(expected seconds until a held job is done, their standard deviation)."""
    model, units, size = job.submission.model, job.left(job.submission.units, job.goes_on_from), gpus(state, job)
    predicted = state.costs.predict(model, units, size)
    left_s = views.remaining_s(job, predicted, now)
    done = job.step - job.goes_on_from
    if job.state is JobState.RUNNING and job.phase == "denoise" and done > 0:
        # The pace of its own steps outweighs the prediction the more of them there were.
        paced = max(0.0, now - job.started_at) / done * max(0, job.total - job.step)
        left_s = (done * paced + PREDICTION_STEPS * left_s) / (done + PREDICTION_STEPS)
    if job.state is not JobState.RUNNING or job.phase == "load":
        worker = state.pool.workers.get(job.worker)
        if worker is not None and worker.model != model:
            left_s = max(0.0, left_s) + load_s(state, model)
    left_s = max(left_s, OVERDUE_SHARE * predicted)
    share = min(1.0, left_s / predicted) if predicted > 0 else 1.0
    return left_s, state.costs.spread(model, units, size) * predicted * sqrt(share)


def gpus(state: State, job: Job) -> int:
    """GPUs of the worker that holds a job; where it is not there, of one like those that run such jobs."""
    worker = state.pool.workers.get(job.worker)
    return worker.info.gpus if worker is not None else job.held_gpus or state.run_times.least_gpus(job.submission)


def units(job: Job) -> float:
    """The work that its current or next attempt has to do."""
    return job.left(job.submission.units, job.goes_on_from if job.held else job.kept)


def takes_s(state: State, job: Job) -> float:
    if job.held:
        return state.costs.predict(job.submission.model, units(job), gpus(state, job))
    return state.run_times.predict(job.submission, units(job))


def availability(state: State, now: float, *, making_room: bool = False) -> list[Availability]:
    """The workers that serve; `making_room`: without what they are about to hand back for others."""
    found = []
    for worker in state.pool:
        if serves(worker):
            busy_s, variance = busy(state, worker, now)
            if making_room and makes_room(state, worker):
                busy_s, variance = min(busy_s, state.policy.preempt_bounds.overhead_s), 0.0
            model = worker.model
            for job_id in worker.held:
                if (job := state.jobs.get(job_id)) is not None:
                    model = job.submission.model
            found.append(Availability(worker.name, worker.info.gpus, busy_s, variance, model))
    return found


def work(state: State, submission: m.Submission, units: float) -> Work:
    lane = Lane(submission.model, submission.gpus, submission.pinned)
    by_size = state.run_times.by_size(submission, units)
    if len(by_size) == 1:
        ((takes_s, sd_s),) = by_size.values()
    else:
        takes_s = state.run_times.predict(submission, units)
        sd_s = takes_s * state.run_times.spread(submission, units)
    return Work(lane, submission.tenant, by_size, takes_s, sd_s)


def limits(state: State, submission: m.Submission) -> dict[str, int]:
    """Limits of running jobs by tenant: that of the tenant's newest job."""
    known = {tenant: state.tenants.share(tenant).max_running for tenant in state.tenants.names()}
    known[submission.tenant] = submission.max_running
    return {tenant: limit for tenant, limit in known.items() if limit}


def running(state: State, limits: dict[str, int], now: float) -> dict[str, list[float]]:
    """Ends of the held jobs of limited tenants, seconds from now."""
    ends: dict[str, list[float]] = {}
    for worker in state.pool if limits else ():
        for job_id in worker.held:
            job = state.jobs.get(job_id)
            if job is not None and job.submission.tenant in limits:
                ends.setdefault(job.submission.tenant, []).append(left(state, job, now)[0])
    return ends


def free_at(state: State, now: float) -> dict[str, float]:
    """Times at which each worker is free, with the caution of what is reserved."""
    found = {}
    for worker in state.pool:
        busy_s, variance = busy(state, worker, now)
        found[worker.name] = now + busy_s + BUSY_DEVIATIONS * sqrt(variance)
    return found
