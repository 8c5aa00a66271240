"""Circuit breaker of a worker: one on which job after job fails gets no work for a while.

A broken GPU fails jobs faster than a sound one finishes them, so it would be idle most often and be fed the whole queue. The worker is
to blame, not its jobs, when `breaker_failures` different jobs have failed on it since the last one that succeeded, and none of those
has failed on another worker too. The breaker trips: no job for `breaker_s`, then one on trial; if that fails as well, twice as long, up
to `LONGEST`. It never trips for the last worker that could do the work: a bad one is better than none.
"""

from __future__ import annotations

from broker.core import promised
from broker.core.effects import WorkerNoted
from broker.core.jobs import Job
from broker.core.pool import Worker
from broker.core.state import State
from broker.wire.failures import FailureKind

#: The longest time without work, in multiples of the first.
LONGEST = 16


def failed(state: State, worker: Worker, job: Job, kind: FailureKind, now: float) -> None:
    """Count a failed attempt against its worker, unless the job is to blame; trip its breaker at one too many."""
    if not kind.rules.blames_worker or not state.policy.breaker_failures:
        return
    elsewhere = [other for other in state.pool if other is not worker and job.id in other.recent_failures]
    for other in elsewhere:
        del other.recent_failures[job.id]
    if elsewhere or any(name != worker.name for name in job.excluded):
        return
    worker.recent_failures[job.id] = None
    while len(worker.recent_failures) > state.policy.breaker_failures:
        del worker.recent_failures[next(iter(worker.recent_failures))]
    if len(worker.recent_failures) == state.policy.breaker_failures and not worker.tripped and _others(state, worker):
        _trip(state, worker, kind, now)


def succeeded(worker: Worker) -> None:
    """Clear the count of failures: the worker finished a job."""
    if worker.recent_failures:
        worker.recent_failures.clear()
    worker.trips = 0


def end(state: State, name: str) -> None:
    """Let a worker take one job on trial: its time without work is over."""
    worker = state.pool.workers.get(name)
    if worker is not None and worker.tripped:
        _restore(state, worker, "back for one job on trial")


def reconsider(state: State) -> None:
    """Restore tripped workers whose models no other worker in service has, after one has gone; look at all promises."""
    if state.promises.waiting:
        state.deadlines.set(promised.REVIEW, 0.0)
    for worker in list(state.pool):
        if worker.tripped and not _others(state, worker):
            _restore(state, worker, "back before its time: no other worker is left for its models")


def _others(state: State, worker: Worker) -> bool:
    """Whether each model of the worker can be run by another one in service."""
    served = {model for other in state.pool if other is not worker and other.in_service for model in other.models}
    return worker.models <= served


def _trip(state: State, worker: Worker, kind: FailureKind, now: float) -> None:
    pause_s = state.policy.breaker_s * min(LONGEST, 2**worker.trips)
    worker.trips += 1
    state.pool.trip(worker, now + pause_s)
    state.deadlines.set(("breaker", worker.name), worker.tripped_until)
    text = f"{len(worker.recent_failures)} jobs in a row failed here, the last by {kind}: no work for {pause_s:g} s"
    state.effects.append(WorkerNoted(worker.name, "worker_tripped", text))


def _restore(state: State, worker: Worker, text: str) -> None:
    state.pool.trip(worker, 0.0)
    state.deadlines.clear(("breaker", worker.name))
    while len(worker.recent_failures) >= state.policy.breaker_failures:
        del worker.recent_failures[next(iter(worker.recent_failures))]
    state.effects.append(WorkerNoted(worker.name, "worker_restored", text))
