"""Preemption: finds what waits and what could make room for it; `scheduling.preemption` decides, `parking` carries it out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain, islice
from math import inf

from broker.core import expected, parking, promised
from broker.core.jobs import Job
from broker.core.pool import Worker
from broker.core.scheduling import dispatch, placement, preemption, promises
from broker.core.scheduling.dispatch import Choice
from broker.core.scheduling.preemption import Running, Waiting
from broker.core.scheduling.queue import Lane, key_of
from broker.core.state import State
from broker.wire.terms import JobState

#: How often it is looked at least, seconds: forecasts change without a message.
EVERY_S = 0.25
#: The least time between two checks, and how much longer it is for each worker: all that run are gone through.
LEAST_S = 0.02
LEAST_EACH_S = 5e-5
#: How many of the jobs that must start soonest are looked at.
LOOK = 8
#: How many of them are counted as the line of short jobs.
LINE = 256
#: It is looked again while jobs wait, though no message came.
ROOM = ("room", "")


def consider(state: State, now: float) -> None:
    """Have running jobs make room for promised jobs in danger, and for short ones that wait, where that pays."""
    if not state.counts[JobState.QUEUED]:
        return
    pause_s = LEAST_S + LEAST_EACH_S * len(state.pool.workers)
    if state.urgency.grown and state.looked_at + pause_s < state.preempt_at:
        state.preempt_at = state.looked_at + pause_s
        state.deadlines.set(ROOM, state.preempt_at)
    if now < state.preempt_at:
        return
    state.urgency.grown = False
    again_at = _make_room(state, chain(_in_danger(state, now), _pressing(state, now)), now)
    state.looked_at = now
    state.preempt_at = max(min(again_at, now + EVERY_S), now + pause_s)
    state.deadlines.set(ROOM, state.preempt_at)


def rescue(state: State, now: float) -> None:
    """Have running jobs make room for promised jobs in danger alone, at once: before their promises are reported as broken."""
    _make_room(state, _in_danger(state, now), now)


def _make_room(state: State, queued: Iterator[tuple[Job, Lane, Waiting]], now: float) -> float:
    """Have one running job make room for each of these, where that pays. Returns when to look again, though nothing happens until then."""
    again_s = inf
    held = [(worker, state.jobs[job_id]) for worker in state.pool for job_id in worker.held]
    able = [worker for worker, job in held if _may_leave(worker, job)]
    #: For these a job makes room already.
    served = {job.yields_to for _, job in held if job.park == "preempt"}
    for job, lane, waiting in queued:
        if not able:
            break
        if job.id in served or job.parked_at or job.excluded:
            # A job that made room makes no other do so.
            continue
        running = [*_running(state, able, job.submission.priority, lane, waiting, now)]
        chosen = preemption.choose(waiting, running, state.policy.preempt_delay, state.policy.preempt_bounds)
        if chosen:
            served.add(job.id)
            able = [worker for worker in able if chosen not in worker.held]
            parking.preempt(state, state.jobs[chosen], job.id, now)
        else:
            again_s = min(again_s, preemption.look_again_s(waiting, running, state.policy.preempt_bounds))
    return now + again_s


def _may_leave(worker: Worker, job: Job) -> bool:
    """Whether it is the one job of its worker, is denoised, and could go on later."""
    alone = worker.in_service and not worker.room and len(worker.held) == 1
    ready = job.submission.model in worker.resumable and job.state is JobState.RUNNING and job.phase == "denoise"
    return alone and ready and not job.stop and not job.park


def _in_danger(state: State, now: float) -> Iterator[tuple[Job, Lane, Waiting]]:
    """Promised jobs that would be late, the least laxity first."""
    for job_id in promised.in_danger(state, now):
        job = state.jobs[job_id]
        yield job, state.queue.lane(job_id), Waiting(cost_s=job.cost, promised=True)


def pressed(state: State, choice: Choice[Job, Worker], now: float) -> Choice[Job, Worker]:
    """The choice; or in its place the shorter one that must start soonest, sooner than the chosen one, and may have that worker at once."""
    job, worker = choice.job, choice.worker
    bounds = state.policy.preempt_bounds
    # One that is many times shorter goes first whenever it must start: all long ones are past their time where they have to wait at all.
    short_s = state.run_times.predict(job.submission, job.submission.units) / bounds.factor
    start_by = key_of(state.queue, job.id) if job.parked_at else _start_by(state, job)
    until = start_by if job.parked_at else max(start_by, now + bounds.patience * short_s)
    found: Job | None = None
    for other_by, other_id in islice(_soonest(state, until, now), LINE):
        other = state.jobs[other_id]
        short = other.cost <= short_s
        if (
            other.cost <= job.cost
            and (short or (found is None and not job.parked_at and other_by <= start_by))
            and not (job.parked_at and _goes_on(state, job, other, now))
            and other.submission.priority >= job.submission.priority
            and worker.model == other.submission.model
            and _may_lead(state, other)
            and dispatch.may_run(state, other, state.queue.lane(other_id), worker)
        ):
            found = other
            if short:
                break
    return Choice(found, worker, choice.turn) if found is not None else choice


def going_on(state: State, choice: Choice[Job, Worker], now: float) -> Choice[Job, Worker]:
    """The choice; or in its place, of the jobs that made room and go on before the chosen one, the first by `preemption.precedence`."""
    job, worker = choice.job, choice.worker
    found: tuple[tuple[bool, float], Job] | None = None
    # A job that made room twice has left an entry behind with more than is left of it now.
    for left_s, other_id in islice(state.preempted.soonest(state.queue.__contains__, 0.0, inf), LINE):
        other = state.jobs[other_id]
        submission = other.submission
        if (
            other.cost == left_s
            and _goes_on(state, other, job, now)
            and submission.priority >= job.submission.priority
            and worker.model == submission.model
            and state.tenants.may_start(submission.tenant)
            and dispatch.may_run(state, other, state.queue.lane(other_id), worker)
        ):
            rank = preemption.precedence(key_of(state.queue, other_id) - now, left_s)
            if found is None or rank < found[0]:
                found = rank, other
    return choice if found is None else Choice(found[1], worker, choice.turn)


def _goes_on(state: State, job: Job, other: Job, now: float) -> bool:
    """Whether a job that waits as it made room goes before this one."""
    policy, submission = state.policy, job.submission
    whole_s = state.run_times.predict(submission, submission.units)
    wait_s = key_of(state.queue, job.id) - now
    return preemption.goes_on(job.cost, whole_s, other.cost, wait_s, policy.preempt_delay, policy.preempt_bounds)


def _start_by(state: State, job: Job) -> float:
    return preemption.start_by(job.submitted_at, job.cost, state.policy.preempt_bounds)


def _soonest(state: State, until: float, now: float) -> Iterator[tuple[float, str]]:
    """(latest start, job) of those that wait, the soonest first."""
    return state.urgency.soonest(state.queue.__contains__, now - state.policy.preempt_bounds.late_s, until)


def _may_lead(state: State, job: Job) -> bool:
    """Whether a job may press others, for what its tenant is owed and what is known of such jobs."""
    known = state.run_times.can_predict(job.submission, job.submission.units)
    most = promises.MAX_LEAD_S * state.run_times.least_gpus(job.submission)
    return known and state.tenants.may_start(job.submission.tenant) and state.queue.lead_s(job.id) <= most


def _pressing(state: State, now: float) -> Iterator[tuple[Job, Lane, Waiting]]:
    """The jobs that must start now, with how long they will have waited if nothing makes room."""
    held = [state.jobs[job_id] for worker in state.pool for job_id in worker.held]
    ends = sorted(expected.left(state, job, now)[0] for job in held if not job.park)
    if not ends:
        return
    bounds = state.policy.preempt_bounds
    short_s = ends[-1] / bounds.factor
    soonest = list(islice(_soonest(state, now + max(bounds.lead_s, bounds.patience * short_s), now), LINE))
    short = [(start_by, job_id) for start_by, job_id in soonest if state.jobs[job_id].cost <= short_s]
    costs = sorted(state.jobs[job_id].cost for _, job_id in short)
    sums, workers = [0.0, *accumulate(costs)], max(1, state.pool.usable())
    for number, (start_by, job_id) in enumerate(short[:LOOK]):
        job, lane = state.jobs[job_id], state.queue.lane(job_id)
        if not _may_lead(state, job):
            continue
        # Those that are many times longer do not go before a job that made room for this one.
        line_s = (sums[bisect_right(costs, bounds.factor * job.cost)] - job.cost) / workers
        # Those before it take the workers that are free first.
        free_s = ends[number] if number < len(ends) else line_s
        yield (
            job,
            lane,
            Waiting(
                cost_s=job.cost,
                waits_s=now - job.submitted_at + free_s,
                line_s=line_s,
                start_in_s=start_by - now - bounds.lead_s,
                behind=number,
            ),
        )


def _running(
    state: State, workers: list[Worker], priority: int, lane: Lane, waiting: Waiting, now: float
) -> Iterator[Running]:
    """Jobs that run on those of these workers that fit; of no higher priority than the job that waits, unless that is promised."""
    for worker in workers:
        if not placement.fits(lane, worker):
            continue
        for job_id in worker.held:
            job = state.jobs[job_id]
            own, units = job.submission.model, job.submission.units
            above = job.submission.priority > priority and not waiting.promised
            if above or not state.costs.can_predict(own, units, worker.info.gpus):
                continue
            left_s, sd_s = expected.left(state, job, now)
            done = job.step - job.goes_on_from
            step_s = (job.stepped_at - job.started_at) / done if done > 1 else left_s / max(1, job.total - job.step)
            names = () if own == lane.model else (own, lane.model)
            yield Running(
                job_id=job_id,
                left_s=left_s,
                whole_s=state.run_times.predict(job.submission, units),
                preemptions=job.preemptions,
                preempted_s=job.preempted_s,
                reload_s=sum(state.reloads.predict(name, otherwise=state.policy.reload_s) for name in names),
                ran_s=now - job.started_at,
                park_s=max(0.0, max(job.stepped_at, job.started_at) + step_s - now),
                step_s=step_s,
                spare_s=preemption.spare_s(job.promise, job.deadline_at, left_s, sd_s, now),
            )
