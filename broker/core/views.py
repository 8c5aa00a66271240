"""Views of jobs and workers, the structs that edges get; a waiting job's position and predicted end among them."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, structs

from broker.core import backlog, deliveries, parking
from broker.core.calendar import Calendar
from broker.core.jobs import Job
from broker.core.lookups import RecordCounts
from broker.core.pool import Worker
from broker.core.scheduling import bounds
from broker.core.state import State
from broker.wire import messages as m
from broker.wire.terms import ASSIGNED, DELAYED, FINAL, HELD, QUEUED, RUNNING, STATE_NAMES


def job_view(
    state: State, job: Job, now: float, *, full: bool = False, spec: bytes = b"", spec_error: str = ""
) -> m.JobView:
    """The view of a job for an edge; `full` adds history, deliveries and its `spec`. `spec_error`: why that cannot be read."""
    mark = job.set_aside
    position, eta, ready_by, promise = _expected(state, job, now)
    step, total = job.drawn if job.state in FINAL else (job.step, job.total)
    ahead_s = state.calendar.ahead_s
    return m.JobView(
        id=job.id,
        state=STATE_NAMES[job.state],
        submission=job.submission,
        revision=job.revision if mark is None else max(job.revision, mark.revision),
        attempts=job.attempts,
        crashes=job.crashes,
        losses=job.losses,
        cancel_requested="cancel" in (job.stop, mark.stop if mark else ""),
        # Before its first grant it has none of its own.
        fence=job.fence if job.worker or job.attempts else 0,
        worker=job.worker,
        phase=job.phase,
        step=step,
        total=total,
        position=position,
        eta_s=eta,
        submitted_at=job.submitted_at + ahead_s,
        started_at=state.calendar.shown(job.started_at),
        finished_at=state.calendar.shown(job.finished_at),
        deadline_at=state.calendar.shown(job.deadline_at),
        run_s=job.run_s,
        kept=job.kept,
        parking=_parking(state, job),
        failure=job.failure,
        result=job.result,
        history=_history(job.history, ahead_s) if full else (),
        body=b"" if spec_error else spec,
        deliveries=_deliveries(state, job) if full and job.submission.webhook else (),
        set_aside=None if mark is None else m.SetAside(mark.reason, state.calendar.shown(mark.at)),
        damaged=spec_error or job.damaged,
        ready_by=ready_by,
        promise=promise,
    )


def job_update(state: State, job: Job, now: float) -> tuple[object, ...]:
    """The fields of a `wire.messages.JobUpdate` for a job in memory, in their order: msgspec packs a tuple as it would the struct, without
    making one."""
    current, shift = job.state, state.calendar.ahead_s
    step, total = job.drawn if current in FINAL else (job.step, job.total)
    if current in FINAL and job.promise is None:
        position, eta, ready_by, promise = -1, -1.0, 0.0, None
    else:
        position, eta, ready_by, promise = _expected(state, job, now)
    return (
        job.id,
        STATE_NAMES[current],
        job.submission,
        job.revision,
        job.attempts,
        job.crashes,
        job.losses,
        job.stop == "cancel",
        job.fence if job.worker or job.attempts else 0,
        job.worker,
        job.phase,
        step,
        total,
        position,
        eta,
        job.submitted_at + shift,
        # As `Calendar.shown`, inlined.
        job.started_at and job.started_at + shift,
        job.finished_at and job.finished_at + shift,
        job.deadline_at and job.deadline_at + shift,
        job.run_s,
        job.kept,
        ready_by,
        _parking(state, job),
        job.failure,
        job.result,
        promise,
    )


def _expected(state: State, job: Job, now: float) -> tuple[int, float, float, m.Promise | None]:
    """(jobs ahead, seconds until it is final, when it is with the confidence of its promise, the promise): see `m.JobView`."""
    position, eta, ready = _outlook(state, job, now) if job.set_aside is None else (-1, -1.0, -1.0)
    if ready > bounds.MAX_WAIT_S:
        eta, ready = min(eta, bounds.MAX_WAIT_S), bounds.MAX_WAIT_S
    ready_by, promise = now + state.calendar.ahead_s + ready if ready >= 0.0 else 0.0, job.promise
    if promise is not None:
        promise = _shown_promise(promise, state.calendar)
        ready_by = 0.0 if job.state in FINAL else promise.ready_by
    return position, eta, ready_by, promise


def _parking(state: State, job: Job) -> m.Parking | None:
    """Return the part of a view about parking; None where there is none."""
    if job.parked_at or job.park or job.preemptions or job.submission.draft_steps:
        return parking.view(state, job)
    return None


def _deliveries(state: State, job: Job) -> tuple[m.DeliveryView, ...]:
    return tuple(deliveries.view(delivery, state.calendar) for delivery in job.deliveries.values())


def _history(history: list[m.HistoryEntry], ahead_s: float) -> tuple[m.HistoryEntry, ...]:
    if not ahead_s:
        return tuple(history)
    return tuple(structs.replace(move, at=move.at + ahead_s) for move in history)


def admission(state: State, job: Job, revision: int, known: tuple[float, float] | None, now: float) -> m.Admission:
    """Fields of a new job's view that its edge lacks, with what is `known` of its run time: by them it makes the view itself, of the
    job while it was queued, which is `revision`."""
    if job.id in state.queue.where:
        position, eta, ready = _waiting(state, job, known, now)
    else:  # it is about to be granted
        position, eta, ready = (0, -1.0, -1.0) if known is None else (0, known[0], known[0] * known[1])
    if ready > bounds.MAX_WAIT_S:
        eta, ready = min(eta, bounds.MAX_WAIT_S), bounds.MAX_WAIT_S
    calendar, promise = state.calendar, job.promise
    ready_by = now + calendar.ahead_s + ready if ready >= 0.0 else 0.0
    if promise is not None:
        promise = _shown_promise(promise, calendar)
        ready_by = promise.ready_by
    return m.Admission(
        revision=revision,
        position=position,
        eta_s=eta,
        submitted_at=job.submitted_at + calendar.ahead_s,
        deadline_at=calendar.shown(job.deadline_at) if job.deadline_at else 0.0,
        ready_by=ready_by,
        promise=promise,
    )


def _outlook(state: State, job: Job, now: float) -> tuple[int, float, float]:
    """(jobs ahead or -1, predicted seconds until final or -1, and so with `promises.CONFIDENCE`).

    By sums, as it is requested with every change of every job: what is promised is worked out by `promised.forecast_of`.
    """
    if job.state in FINAL:
        return -1, -1.0, -1.0
    units, done = job.submission.units, job.goes_on_from if job.held else job.kept
    left = job.left(units, done) if done else units
    if job.held_gpus and job.state in HELD:
        known = state.costs.outlook(job.submission.model, left, job.held_gpus)
    else:
        known = state.run_times.outlook(job.submission, left)
    if job.state is QUEUED and not job.damaged:
        return _waiting(state, job, known, now)
    if job.state in HELD:
        eta = remaining_s(job, known[0] if known else 0.0, now)
        return -1, eta, eta * known[1] if known else -1.0
    if job.state is DELAYED and known is not None:
        wait = max(0.0, job.not_before - now)
        return -1, wait + known[0], wait + known[0] * known[1]
    return -1, -1.0, -1.0


def _waiting(state: State, job: Job, known: tuple[float, float] | None, now: float) -> tuple[int, float, float]:
    """As `_outlook`, for a job in the queue."""
    jobs, seconds = state.queue.ahead(job.id)
    if known is None:
        return jobs, -1.0, -1.0
    running_s, workers = _load(state, now)
    wait = (seconds + running_s) / workers
    # The errors of many jobs even out.
    longest = 1.0 + (known[1] - 1.0) / (1.0 + jobs / workers) ** 0.5
    return jobs, wait + known[0], wait * longest + known[0] * known[1]


def _shown_promise(promise: m.Promise, calendar: Calendar) -> m.Promise:
    return structs.replace(
        promise,
        ready_by=calendar.shown(promise.ready_by),
        first_ready_by=calendar.shown(promise.first_ready_by),
        broken_at=calendar.shown(promise.broken_at),
    )


def remaining_s(job: Job, predicted: float, now: float) -> float:
    """Seconds that a held job still needs, of a predicted run time (0: not known); -1 when they are not known, 0 when it is overdue."""
    elapsed = max(0.0, now - job.started_at) if job.state is RUNNING else 0.0
    if predicted > elapsed:
        return predicted - elapsed
    if job.phase == "denoise" and job.step > job.goes_on_from:
        return elapsed / (job.step - job.goes_on_from) * (job.total - job.step)
    return 0.0 if predicted else -1.0


#: Held jobs looked at for the work still to come on the workers; with more, the rest is taken to be like these.
_SAMPLE = 32


def _load(state: State, now: float) -> tuple[float, int]:
    """(predicted seconds left in held jobs, workers at least 1), worked out once for all questions of one moment."""
    if state.load[0] != now:
        state.load = (now, _sum_running(state, now), max(1, state.pool.usable()))
    return state.load[1:]


def _sum_running(state: State, now: float) -> float:
    total, seen = 0.0, 0
    for worker in state.pool.workers.values():
        for job_id in worker.held:
            job = state.jobs.get(job_id)
            if job is not None:
                units = job.left(job.submission.units, job.goes_on_from)
                predicted = state.costs.predict(job.submission.model, units, worker.info.gpus)
                total += max(0.0, remaining_s(job, predicted, now))
                seen += 1
        if seen >= _SAMPLE:
            break
    held = state.counts[ASSIGNED] + state.counts[RUNNING]
    return total * held / seen if seen else 0.0


def wait_s(state: State, now: float) -> float:
    """Predicted wait of a job that came now, seconds."""
    if state.pool.free.by_name and not len(state.queue):
        return 0.0
    running_s, workers = _load(state, now)
    return bounds.wait_s((state.queue.backlog_s + running_s) / workers)


def worker_view(worker: Worker, jobs: dict[str, Job], now: float) -> m.WorkerView:
    """The view of a worker for an edge."""
    held = []
    for job_id, fence in worker.held.items():
        job = jobs.get(job_id)
        if job is not None:
            held.append(m.Held(job_id=job_id, fence=fence, phase=job.phase, step=job.step, total=job.total))
    stats = worker.stats
    return m.WorkerView(
        name=worker.name,
        state=_worker_state(worker),
        device=worker.info.device,
        gpus=worker.info.gpus,
        host=worker.info.host,
        pid=worker.info.pid,
        engine=worker.engine,
        model=worker.model,
        models=worker.info.models,
        jobs=tuple(held),
        free=worker.room,
        heartbeat_age_s=max(0.0, now - worker.last_message_at),
        memory_used_mb=stats.memory_used_mb,
        memory_total_mb=stats.memory_total_mb,
        utilisation=stats.utilisation,
        temperature_c=stats.temperature_c,
        succeeded=worker.succeeded,
        failed=worker.failed,
        cancelled=worker.cancelled,
        tripped_s=max(0.0, worker.tripped_until - now),
        failed_in_a_row=len(worker.recent_failures),
        health=stats.health,
        loaded_loras=stats.loaded_loras,
        lora_memory=worker.info.lora_memory,
        versions=worker.info.versions,
        loading=stats.loading,
        depot=stats.depot,
    )


def _worker_state(worker: Worker) -> m.WorkerStateName:
    if worker.lost:
        return "lost"
    if worker.suspect:
        return "suspect"
    if worker.draining or worker.drain_requested:
        return "draining"
    if worker.fault:
        return "faulty"
    if worker.tripped:
        return "tripped"
    if worker.held:
        return "busy"
    return "idle" if worker.room else "starting"


def load_sample(state: State, now: float) -> m.LoadSample:
    """Sample of the pool's load now, with what has ended since the newest sample of its history."""
    counts, free, busy, idle = state.counts, state.pool.free.by_name, 0, 0
    # As `_worker_state`, without a call each: there may be ten thousand, while jobs wait to be given out.
    for worker in state.pool:
        if (
            worker.lost
            or worker.suspect
            or worker.draining
            or worker.drain_requested
            or worker.tripped_until
            or worker.stats.health.fault
        ):
            continue
        if worker.held:
            busy += 1
        elif worker.name in free:
            idle += 1
    return m.LoadSample(
        at=round(now + state.calendar.ahead_s, 3),
        workers=busy + idle,
        busy=busy,
        waiting=counts[QUEUED] + counts[DELAYED],
        running=counts[ASSIGNED] + counts[RUNNING],
        wait_s=round(wait_s(state, now), 3),
        finished=state.load_history.ended_since(counts),
    )


class PoolTotals(Struct, frozen=True, kw_only=True):
    """The pool in numbers alone: where there are thousands of workers, their views take the broker tens of milliseconds."""

    #: Live jobs by state, and final ones since the broker started.
    jobs: dict[str, int]
    workers: dict[m.WorkerStateName, int]
    #: Predicted seconds that workers need for what waits.
    backlog_s: float


def pool_totals(state: State) -> PoolTotals:
    """Totals of the pool now."""
    return PoolTotals(
        jobs={job_state.value: count for job_state, count in state.counts.items()},
        workers=Counter(map(_worker_state, state.pool)),
        backlog_s=bounds.wait_s(state.queue.backlog_s),
    )


def pool_view(state: State, counts: RecordCounts, now: float, after: str = "", limit: int = 0) -> m.PoolView:
    """Workers behind a name, at most `limit` (0: all); with the first of them, the queue in numbers."""
    page, more = state.pool.behind(after, limit)
    shown = tuple(worker_view(worker, state.jobs, now) for worker in page)
    if after:
        return m.PoolView(epoch=state.epoch, workers=shown, more=more)
    workers = [*state.pool]
    calendar = state.calendar
    lanes = state.queue.by_lane()
    by_model = backlog.by_model(lanes)
    return m.PoolView(
        epoch=state.epoch,
        workers=shown,
        more=more,
        counts={job_state.value: count for job_state, count in state.counts.items()},
        backlog_s=bounds.wait_s(state.queue.backlog_s),
        wait_s=wait_s(state, now),
        queue_limit=state.policy.queue_limit,
        prediction_errors=dict(state.costs.errors),
        set_aside=counts.kept_aside,
        damaged=counts.damaged_records,
        rebuilt_indexes=counts.rebuilt_indexes,
        waiting={model: jobs for model, (jobs, _) in by_model.items()},
        backlog_by_model={model: bounds.wait_s(cost_s) for model, (_, cost_s) in by_model.items()},
        backlog_by_class=tuple(
            structs.replace(one, backlog_s=bounds.wait_s(one.backlog_s))
            for one in backlog.by_class(lanes, workers, state.on_demand.known, state.run_times.seconds_on)
        ),
        on_demand=state.on_demand.missing(workers),
        refusing=state.refusing,
        now=now + calendar.ahead_s,
        settling_s=max(0.0, calendar.settled_at - now),
        clock_steps=tuple(m.ClockStep(now - step.at, step.by_s) for step in calendar.steps),
    )
