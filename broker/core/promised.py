"""Promises of jobs: forecasting a job to come, giving a promise, keeping it, and reporting at once that it is broken.

The rules are pure (`scheduling.promises`, `scheduling.forecast`); `expected` reads the core's state for them, and this file carries
them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from broker.core import expected, views
from broker.core.jobs import Cause, Job
from broker.core.pool import Worker
from broker.core.scheduling import bounds, dispatch, forecast, promises
from broker.core.scheduling.dispatch import Choice
from broker.core.scheduling.forecast import Start
from broker.core.scheduling.queue import Lane
from broker.core.state import State
from broker.wire import messages as m
from broker.wire.terms import JobState

REVIEW = ("promises", "")

#: A time promised after a broken promise lies at least this share of the job's age so far ahead, so that few are needed.
LEAST_SHARE = 0.25
LEAST_S = 1.0

#: How exactly the earliest possible promise is looked for: a share of its distance.
PRECISION = 0.01


# ---------------------------------------------------------------- forecasts of a job to come


def forecast_of(state: State, submission: m.Submission, confidence: float, now: float, job_id: str = "") -> m.Forecast:
    """Forecast of such a job if it came now, or of the one that waits: by the queue as it is, and beside what is promised."""
    model, units = submission.model, submission.units
    if job_id:
        units = expected.units(state.jobs[job_id])
    predicted = state.run_times.estimate(submission, units)
    able = expected.able(state)
    lane = Lane(model, submission.gpus, submission.pinned)
    workers = able(lane)
    cost = state.run_times.predict(submission, units)
    position = state.queue.ahead(job_id)[0] if job_id else _position(state, submission, now, cost)
    known = m.Forecast(position=position, confidence=confidence, workers=len(workers))
    if not workers:
        return replace(known, unknown="no worker is there that could run it")
    if predicted is None:
        return replace(known, unknown=f"no job of model {model} and about this size has been finished yet")
    start = _start(state, submission, now, cost, job_id, units, able)
    if start is None:
        return replace(known, unknown="a job of a model that is not known yet runs, or waits, before it")
    spread = state.run_times.spread(submission, units)
    # Which worker takes it is not known before one does: any that could must be in time.
    least = state.run_times.least_gpus(submission)
    slowest_s = state.costs.predict(model, units, least)
    whole_s = state.run_times.quantile(submission, units, confidence) or slowest_s
    ready_s = forecast.done_within(start, slowest_s, whole_s, confidence)
    wish = m.Promise(ready_by=0.0, confidence=confidence)
    demand = promises.demand_of(job_id, submission, units, wish, state.run_times, start.load_s)
    promised_s = _beside_others(state, demand, ready_s, now, able)
    return replace(
        known,
        starts_s=bounds.wait_s(start.at_s),
        done_s=bounds.wait_s(start.at_s + start.load_s + start.takes_s),
        ready_s=-1.0 if promised_s is None else bounds.wait_s(promised_s),
        takes_s=start.takes_s,
        unknown="" if promised_s is not None else f"what is promised already leaves no room (spread {spread:.2f})",
    )


def _position(state: State, submission: m.Submission, now: float, cost: float) -> int:
    return state.queue.ahead_of_new(submission, now, cost)[0] if len(state.queue) else 0


def _start(
    state: State,
    submission: m.Submission,
    now: float,
    cost: float,
    job_id: str,
    units: float,
    able: Callable[[Lane], frozenset[str]],
) -> Start | None:
    """Start of it; None: something before it is not known."""
    queue, run_times = state.queue, state.run_times
    for worker in state.pool:
        for held_id in worker.held:
            held = state.jobs.get(held_id)
            if held is not None and not run_times.can_predict(held.submission, held.submission.units):
                return None
    limits = expected.limits(state, submission)
    line = forecast.Line(
        expected.availability(state, now),
        able,
        lambda model: expected.load_s(state, model),
        limits,
        expected.running(state, limits, now),
    )
    if len(queue):
        seconds, spread = 0.0, 0.0
        for given, (ahead_id, _) in enumerate(queue.in_order(submission, now, cost, job_id)):
            if given >= forecast.LOOK:
                total_s = (queue.ahead(job_id) if job_id else queue.ahead_of_new(submission, now, cost))[1]
                line.fill(max(0.0, total_s - seconds), spread / given)
                break
            job = state.jobs[ahead_id]
            ahead = job.submission
            if not run_times.can_predict(ahead, ahead.units):
                return None
            work = expected.work(state, ahead, job.left(ahead.units, job.kept))
            line.give(work)
            seconds += work.takes_s
            spread += work.sd_s / work.takes_s if work.takes_s > 0 else 0.0
    return line.give(expected.work(state, submission, units))


def _beside_others(
    state: State, demand: promises.Demand, least_s: float, now: float, able: Callable[[Lane], frozenset[str]]
) -> float | None:
    """The earliest end, seconds from now, at which all promises given and this one can be kept; None: there is none."""
    others = [other for other in state.promises.waiting.values() if other.job_id != demand.job_id]
    if not others:
        return least_s
    free_at = expected.free_at(state, now)

    workers = able(demand.lane)

    def lateness_s(demands: list[promises.Demand]) -> float:
        plans = [plan for plan in promises.plan_all(demands, able) if plan.workers & workers]
        return max((promises.lateness_s(plan, [free_at[name] for name in plan.workers]) for plan in plans), default=0.0)

    # What is late already, as jobs took longer, is no reason to promise nothing; it must not become later.
    late_s = lateness_s(others)

    def feasible(seconds: float) -> bool:
        return lateness_s([*others, replace(demand, ready_by=now + seconds)]) <= late_s

    # Behind all that is promised, and once all workers are free, there is room.
    last = max([least_s, *(other.ready_by - now for other in others), *(at - now for at in free_at.values())])
    most = last + demand.takes_s + demand.margin_s + 1.0
    return promises.earliest(feasible, least_s, most, precision=PRECISION * most)


# ---------------------------------------------------------------- giving one


def give(state: State, message: m.Submit, now: float) -> m.Promise | m.Rejected | None:
    """The promise that a new job requests, or the refusal with the earliest that could be given; None: it requests none."""
    wish = message.promise
    if wish is None:
        return None

    def refused(text: str, earliest_s: float = 0.0) -> m.Rejected:
        return m.Rejected(req=message.req, code="promise", message=text[:1024], earliest_s=earliest_s)

    if len(state.promises.waiting) >= promises.MAX_WAITING:
        return refused(f"{promises.MAX_WAITING} promised jobs wait already, and no more are planned for at once")
    found = forecast_of(state, message.submission, wish.confidence, now)
    if found.unknown:
        return refused(f"no time can be promised: {found.unknown}")
    if found.ready_s > wish.within_s:
        text = (
            f"cannot be promised within {wish.within_s:g} s: {found.ready_s:.1f} s is the earliest with a confidence of"
            f" {wish.confidence:g}"
        )
        return refused(text, earliest_s=found.ready_s)
    return m.Promise(ready_by=now + wish.within_s, confidence=wish.confidence)


# ---------------------------------------------------------------- keeping it


def guarded(state: State, choice: Choice[Job, Worker], now: float) -> Choice[Job, Worker]:
    """The choice; or in its place, when that would make promises late, the promised job with the least laxity that the worker can run."""
    job, worker = choice.job, choice.worker
    able = expected.able(state)
    pool = frozenset(other.name for other in state.pool if expected.serves(other))
    free_at: dict[str, float] | None = None
    for plan in state.promises.plan(pool, able):
        if worker.name not in plan.workers:
            continue
        others = plan.without(job.id) if job.id in state.promises.waiting else plan
        if not others.demands:
            continue
        if free_at is None:
            free_at = expected.free_at(state, now)
            free_at[worker.name] += _reserved_s(state, job, worker)
        if promises.holds(others, [free_at[name] for name in others.workers]):
            continue
        for _, job_id in plan.latest:
            if job_id == job.id:
                return choice
            if _may_pass(state, job_id, worker):
                return Choice(state.jobs[job_id], worker, choice.turn)
    return choice


def _reserved_s(state: State, job: Job, worker: Worker) -> float:
    model, units = job.submission.model, expected.units(job)
    reserved = state.costs.quantile(model, units, promises.RESERVED, worker.info.gpus)
    load_s = 0.0 if worker.model == model else expected.load_s(state, model)
    return load_s + (job.cost if reserved is None else reserved)


def _may_pass(state: State, job_id: str, worker: Worker) -> bool:
    """Whether a promised job may take this worker out of turn."""
    job = state.jobs[job_id]
    return _may_lead(state, job) and dispatch.may_run(state, job, state.queue.lane(job_id), worker)


def _may_lead(state: State, job: Job) -> bool:
    """Whether a promised job may go before the others, for what its tenant is owed."""
    return (
        job.id in state.queue
        and state.tenants.may_start(job.submission.tenant)
        and state.queue.lead_s(job.id) <= promises.MAX_LEAD_S * state.run_times.least_gpus(job.submission)
    )


def in_danger(state: State, now: float) -> Iterator[str]:
    """Promised jobs that wait and would be late behind what runs now, but not if one made room; the least laxity first.

    As many as there are workers that are needed sooner than they are free.
    """
    if not state.promises.waiting:
        return
    able = expected.able(state)
    pool = frozenset(worker.name for worker in state.pool if expected.serves(worker))
    soon = now + state.policy.preempt_bounds.overhead_s
    free_at = expected.free_at(state, now)
    for worker in state.pool:
        if expected.makes_room(state, worker):
            free_at[worker.name] = min(free_at[worker.name], soon)
    for plan in state.promises.plan(pool, able):
        lacking = promises.lacking(plan, [free_at[name] for name in plan.workers])
        for _, job_id in plan.latest:
            job = state.jobs[job_id]
            if (
                lacking
                and job.promise is not None
                and soon + job.cost <= job.promise.ready_by
                and _may_lead(state, job)
            ):
                lacking -= 1
                yield job_id


# ---------------------------------------------------------------- breaking it


def check(state: State, job: Job, now: float) -> None:
    """Break a live job's promise at once if it is not to be expected any more; else look again when it would be."""
    promise = job.promise
    if promise is None or job.final:
        return
    if job.held:
        expected_s, again_at = expected.left(state, job, now)[0], promise.ready_by
        if now < promise.ready_by and not job.step:
            # Its progress is known from its time alone: it may be done before long.
            expected_s = max(0.0, views.remaining_s(job, expected.takes_s(state, job), now))
    else:
        expected_s = expected.takes_s(state, job) + max(0.0, job.not_before - now)
        again_at = promise.ready_by - expected_s
    if now + expected_s > promise.ready_by or now >= promise.ready_by:
        break_promise(state, job, now)
    else:
        state.deadlines.set(("promise", job.id), max(again_at, now) + 0.001)


def break_promise(state: State, job: Job, now: float) -> None:
    """Record that a job comes later than promised, and promise another time in its place."""
    promise = job.promise
    if promise is None:
        raise AssertionError(f"job {job.id} has no promise to break")
    late_s = _new_time_s(state, job, promise.confidence, now)
    least_s = LEAST_S + LEAST_SHARE * (now - job.submitted_at)
    ready_by = max(promise.ready_by, now) + least_s if late_s is None else max(now + late_s, promise.ready_by + least_s)
    job.promise = m.Promise(
        ready_by=ready_by,
        confidence=promise.confidence,
        first_ready_by=promise.first_ready_by or promise.ready_by,
        broken_at=now,
        breaks=promise.breaks + 1,
    )
    if job.id in state.promises.waiting:
        state.expect(job)
    else:
        state.deadlines.set(("promise", job.id), ready_by)
    state.move(job, Cause.PROMISE_BROKEN, now, f"ready {ready_by - promise.ready_by:.1f} s later than promised")


def _new_time_s(state: State, job: Job, confidence: float, now: float) -> float | None:
    """Seconds until the job is done with this confidence; None where that is not known."""
    units = expected.units(job)
    if job.held:
        whole_s = state.costs.quantile(job.submission.model, units, confidence, expected.gpus(state, job))
    else:
        whole_s = state.run_times.quantile(job.submission, units, confidence)
    if whole_s is None:
        return None
    if job.held:
        left_s, _ = expected.left(state, job, now)
        return max(left_s, whole_s - max(0.0, now - job.started_at)) if job.state is JobState.RUNNING else whole_s
    if job.id not in state.queue:
        return max(0.0, job.not_before - now) + whole_s
    found = forecast_of(state, job.submission, confidence, now, job.id)
    return found.ready_s if found.ready_s >= 0 else None


def review(state: State, now: float) -> None:
    """Break the promises of waiting jobs that the workers that are left, after some have gone, cannot be expected to keep."""
    workers = expected.availability(state, now, making_room=True)
    line = forecast.Line(workers, expected.able(state), lambda model: expected.load_s(state, model), {}, {})
    for job_id in _by_laxity(state):
        job = state.jobs[job_id]
        start = line.give(expected.work(state, job.submission, expected.units(job)))
        if job.promise is not None and (start is None or now + _end_s(start) > job.promise.ready_by):
            break_promise(state, job, now)


def _end_s(start: Start) -> float:
    return start.at_s + start.load_s + start.takes_s


def _by_laxity(state: State) -> Iterator[str]:
    """Promised jobs that wait, the least laxity first."""
    demands = sorted(state.promises.waiting.values(), key=lambda demand: demand.ready_by - demand.takes_s)
    return iter([demand.job_id for demand in demands])
