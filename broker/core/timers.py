"""Timers: what is done because time has passed.

Back-offs end, tripped workers are tried again, deadlines expire, silent workers are suspected and then lost, the rejoin window closes, the
load is sampled.
"""

from __future__ import annotations

from broker.core import parking, preempting, promised, reports, views, worker_breaker
from broker.core.jobs import Cause
from broker.core.pool import Worker
from broker.core.state import State
from broker.wire.load import LOAD_PERIOD_S
from broker.wire.terms import JobState

REJOIN = ("rejoin", "")

#: After a start, requests that the broker before has taken may be repeated for so long: edges give up after that.
FRESH = ("fresh", "")
FRESH_S = 10.0

#: The next sample of `load_history`.
LOAD = ("load", "")


def run_due(state: State, now: float) -> None:
    """Run every timer that is due.

    Several timers may concern one job or worker, so each checks that what it was set for still holds when its turn comes.
    """
    for kind, name in state.deadlines.due(now):
        if kind == "due":
            _end_back_off(state, name, now)
        elif kind == "deadline":
            _expire(state, name, now)
        elif kind == "draft":
            parking.expire_draft(state, name, now)
        elif kind == "worker":
            _watch_worker(state, name, now)
        elif kind == "promise":
            _check_promise(state, name, now)
        elif kind == "promises":
            if state.policy.preempt:
                preempting.rescue(state, now)
            promised.review(state, now)
        elif kind == "breaker":
            worker_breaker.end(state, name)
        elif kind == "load":
            _sample_load(state, now)
        elif kind == "room":
            pass  # woken is enough: it is looked after every pass
        elif kind == "fresh":
            state.skips_lookup_of_fresh = True
        else:
            _close_rejoin(state, now)


def _sample_load(state: State, now: float) -> None:
    state.load_history.add(views.load_sample(state, now), state.counts)
    state.deadlines.set(LOAD, now + LOAD_PERIOD_S)


def _end_back_off(state: State, job_id: str, now: float) -> None:
    job = state.jobs.get(job_id)
    if job is not None and job.state is JobState.DELAYED:
        state.move(job, Cause.DUE, now)
        state.enqueue(job)


def _check_promise(state: State, job_id: str, now: float) -> None:
    job = state.jobs.get(job_id)
    if job is not None:
        promised.check(state, job, now)


def _expire(state: State, job_id: str, now: float) -> None:
    job = state.jobs.get(job_id)
    if job is None or job.final:
        return
    if job.waiting:
        job.request_stop("expired")
        state.end_stopped(job, now)
    elif not job.stop:
        job.request_stop("expired")
        state.move(job, Cause.STOP_REQUESTED, now, "expired")
        state.send_cancel(job)


def _watch_worker(state: State, name: str, now: float) -> None:
    """Suspect a silent worker, end its lease if it stays silent, delete its record in the end; and set the timer for the next check."""
    worker = state.pool.workers.get(name)
    if worker is None:
        return
    policy = state.policy
    silent_s = now - worker.last_message_at
    key = ("worker", name)
    if worker.lost:
        if silent_s >= policy.lost_after_s + policy.forget_worker_s:
            state.deadlines.clear(("breaker", name))
            state.pool.remove(worker)
            return
        state.deadlines.set(key, worker.last_message_at + policy.lost_after_s + policy.forget_worker_s)
    elif silent_s >= policy.lost_after_s:
        _lose_worker(state, worker, now)
        state.deadlines.set(key, worker.last_message_at + policy.lost_after_s + policy.forget_worker_s)
    elif silent_s >= policy.suspect_after_s:
        state.pool.mark_suspect(worker)
        state.deadlines.set(key, worker.last_message_at + policy.lost_after_s)
    else:
        state.deadlines.set(key, worker.last_message_at + policy.suspect_after_s)


def _lose_worker(state: State, worker: Worker, now: float) -> None:
    """End a worker's lease: what it holds goes back to the queue."""
    state.pool.mark_lost(worker)
    for job_id in list(worker.held):
        reports.lose(
            state, state.jobs[job_id], now, f"worker {worker.name} silent for {now - worker.last_message_at:.1f} s"
        )
    worker_breaker.reconsider(state)


def _close_rejoin(state: State, now: float) -> None:
    """Put orphans whose worker has not come back at the front of their queue."""
    for job_id in sorted(state.orphans):
        state.give_back(state.jobs[job_id], Cause.LOST, now, "its worker did not come back after the broker's restart")
