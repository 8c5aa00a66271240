"""Grants of waiting jobs to workers: `scheduling.dispatch` chooses, this file carries it out."""

from __future__ import annotations

from broker.core import parking, preempting, promised
from broker.core.jobs import DISPATCHED, Job
from broker.core.pool import Worker
from broker.core.scheduling import dispatch
from broker.core.state import State
from broker.wire import messages as m


def grant_all(state: State, now: float) -> None:
    """Grant as many jobs as possible."""
    while (choice := dispatch.choose(state, now)) is not None:
        if state.policy.preempt:
            choice = preempting.going_on(state, choice, now)
            choice = preempting.pressed(state, choice, now)
        if state.promises.waiting:
            choice = promised.guarded(state, choice, now)
        turn = choice.turn
        if turn.submission.model != choice.job.submission.model:
            turn.skipped_s += choice.job.cost
        state.queue.serve(choice.job.id, _charge(state, choice.job, choice.worker))
        grant(state, choice.job, choice.worker, now)


def _charge(state: State, job: Job, worker: Worker) -> float | None:
    """GPU-seconds that a job is charged on this worker; None: those that were expected of it, as all workers are alike."""
    if state.pool.sizes.one:
        return None
    submission, gpus = job.submission, worker.info.gpus
    return gpus * state.costs.predict(submission.model, job.left(submission.units, job.kept), gpus)


def grant(state: State, job: Job, worker: Worker, now: float) -> None:
    """Grant a job that waits no more to a worker with room."""
    give(state, job, worker)
    job.resends = 0
    job.yields_to = ""
    if worker.left_by:
        # The room that it made is taken, whoever took it.
        if (left_by := state.jobs.get(worker.left_by)) is not None:
            left_by.yields_to = ""
        worker.left_by = ""
    state.move(job, DISPATCHED, now, parking.kept_text(job) if job.kept else "")
    send_grant(state, job, worker, now)


def give(state: State, job: Job, worker: Worker) -> None:
    """Begin the attempt that is about to be granted: its fence and its holder."""
    job.renew_fence("granted", state.next_fence())
    job.change_holder("granted")
    job.worker, job.held_gpus = worker.name, worker.info.gpus
    state.pool.grant(worker, job.id, job.fence)


def send_grant(state: State, job: Job, worker: Worker, now: float, *, known: bool | None = None) -> None:
    """Send the current grant, again too: agents recognise a repeated fence. `known`: whether its predicted time is reliable, where the
    caller has that.
    """
    job.granted_at = now
    job.goes_on_from = job.kept
    submission = job.submission
    if known is None:
        known = state.run_times.can_predict(submission, submission.units)
    predicted_s = job.cost if known else 0.0
    if known and not state.pool.sizes.one:
        predicted_s = state.costs.predict(submission.model, job.left(submission.units, job.kept), worker.info.gpus)
    run = m.Run(
        job_id=job.id,
        fence=job.fence,
        lease_s=state.policy.lost_after_s,
        attempt=job.attempts + 1,
        profile=job.profile,
        predicted_s=predicted_s,
        alone=job.crashes > 0,
        body=job.body,
        kept=job.kept,
        park_at=0 if job.committed else submission.draft_steps,
    )
    state.send_run(worker.peer, run, evicted=job.evicted)
