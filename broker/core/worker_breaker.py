"""Benching: a worker on which one job after another fails gets no work for a while.

A broken GPU fails jobs faster than a sound one finishes them, so it would be idle most often and be fed the whole queue. The worker is
to blame, not its jobs, when `bench_after` different jobs have failed on it since the last one that succeeded, and none of those has
failed on another worker too. It sits out `bench_s`, then takes one job on trial: if that fails as well, it sits out twice as long, up
to `LONGEST`. The last worker that could do the work is never benched: a bad one is better than none.
"""

from __future__ import annotations

from broker.core.effects import WorkerNoted
from broker.core.jobs import Job
from broker.core.pool import Worker
from broker.core.state import State
from broker.wire.failures import FailureKind

#: The longest bench, in multiples of the first.
LONGEST = 16


def failed(state: State, worker: Worker, job: Job, kind: FailureKind, now: float) -> None:
    """Count a failed attempt against its worker, unless the job is to blame; bench the worker when it is one too many."""
    if not kind.rules.blames_worker or not state.policy.bench_after:
        return
    elsewhere = [other for other in state.pool if other is not worker and job.id in other.blamed]
    for other in elsewhere:
        del other.blamed[job.id]
    if elsewhere or any(name != worker.name for name in job.excluded):
        return
    worker.blamed[job.id] = None
    while len(worker.blamed) > state.policy.bench_after:
        del worker.blamed[next(iter(worker.blamed))]
    if len(worker.blamed) == state.policy.bench_after and not worker.benched and _others(state, worker):
        _bench(state, worker, kind, now)


def succeeded(worker: Worker) -> None:
    """Clear the count of failures: the worker finished a job."""
    worker.blamed.clear()
    worker.benchings = 0


def end(state: State, name: str) -> None:
    """Let a worker take one job on trial: its time on the bench is over."""
    worker = state.pool.get(name)
    if worker is not None and worker.benched:
        _lift(state, worker, "back for one job on trial")


def reconsider(state: State) -> None:
    """Bring benched workers back whose models no other worker in service has, after one has gone."""
    for worker in list(state.pool):
        if worker.benched and not _others(state, worker):
            _lift(state, worker, "back before its time: no other worker is left for its models")


def _others(state: State, worker: Worker) -> bool:
    """Whether each model of the worker can be run by another one in service."""
    served = {model for other in state.pool if other is not worker and other.in_service for model in other.models}
    return worker.models <= served


def _bench(state: State, worker: Worker, kind: FailureKind, now: float) -> None:
    bench_s = state.policy.bench_s * min(LONGEST, 2**worker.benchings)
    worker.benchings += 1
    state.pool.bench(worker, now + bench_s)
    state.deadlines.set(("bench", worker.name), worker.benched_until)
    text = f"{len(worker.blamed)} jobs in a row failed here, the last by {kind}: no work for {bench_s:g} s"
    state.effects.append(WorkerNoted(worker.name, "benched", text))


def _lift(state: State, worker: Worker, text: str) -> None:
    state.pool.bench(worker, 0.0)
    state.deadlines.clear(("bench", worker.name))
    while len(worker.blamed) >= state.policy.bench_after:
        del worker.blamed[next(iter(worker.blamed))]
    state.effects.append(WorkerNoted(worker.name, "back_from_bench", text))
