"""Giving waiting jobs to workers that have room, until one of the two runs out."""

from __future__ import annotations

from broker.core.jobs import Cause, Job
from broker.core.pool import Worker
from broker.core.scheduling import placement
from broker.core.scheduling.queue import Lane
from broker.core.state import State
from broker.wire import messages as m


def dispatch(state: State, now: float) -> None:
    """Grant as many jobs as possible."""
    while state.pool.free and len(state.queue):
        free = list(state.pool.free.values())
        job = _next_job(state, free)
        if job is None:
            return
        lane = Lane(job.model, job.gpus, job.pinned)
        worker = placement.choose(job.model, [w for w in free if placement.fits(lane, w) and _allowed(state, job, w)])
        if worker is None:  # _next_job has just found one
            raise AssertionError(f"no worker for job {job.id}, which had one")
        _grant(state, _longest(state, _affine(state, job, worker), worker, now), worker, now)


def would_start(state: State, lane: Lane, tenant: str, max_running: int) -> bool:
    """Whether a new job of this lane and tenant would be granted at once."""
    if max_running and state.tenants.share(tenant).held >= max_running:
        return False
    return any(placement.fits(lane, worker) for worker in state.pool.free.values())


def _next_job(state: State, free: list[Worker]) -> Job | None:
    jobs = state.jobs

    def usable(lane: Lane) -> bool:
        # A plain loop, as it is run for every job.
        for worker in free:  # noqa: SIM110
            if placement.fits(lane, worker):
                return True
        return False

    def allowed(job_id: str, lane: Lane) -> bool:
        job = jobs[job_id]
        return not job.excluded or any(placement.fits(lane, w) and _allowed(state, job, w) for w in free)

    job_id = state.queue.first(usable, allowed, served=state.tenants.may_start)
    return None if job_id is None else jobs[job_id]


def _allowed(state: State, job: Job, worker: Worker) -> bool:
    """Whether the job may run here: not where it crashed, unless every other worker that fits is gone or crashed under it too."""
    if worker.name not in job.excluded:
        return True
    lane = Lane(job.model, job.gpus, job.pinned)
    return not any(
        other.name not in job.excluded and other.in_service and placement.fits(lane, other) for other in state.pool
    )


def _affine(state: State, job: Job, worker: Worker) -> Job:
    """The job to run on this worker in place of `job`, when its model would have to be loaded and waiting work need not."""
    if not worker.model or worker.model == job.model:
        return job

    def usable(lane: Lane) -> bool:
        return lane.model == worker.model and placement.fits(lane, worker)

    def allowed(job_id: str, lane: Lane) -> bool:
        return _allowed(state, state.jobs[job_id], worker)

    other_id = state.queue.first(usable, allowed, like=job.id)
    if other_id is None:
        return job
    other = state.jobs[other_id]
    reload_s = state.reloads.predict(job.model, otherwise=state.policy.reload_s)
    if not placement.may_skip(job.skipped_s, other.cost, reload_s):
        return job
    job.skipped_s += other.cost
    return other


def _longest(state: State, job: Job, worker: Worker, now: float) -> Job:
    """The job to run on this worker in place of `job` when the backlog ends: the longest. One that has been begun before keeps its turn."""
    workers = state.pool.usable()
    # One worker is done with all of it at the same time, whatever comes first.
    if workers < 2 or job.attempts or not state.costs.knows(job.model, job.units):
        return job
    queue = state.queue
    next_s = state.costs.predict(job.model, job.units)
    if next_s < placement.TAIL_FROM_S:
        return job
    # What waits was weighed when it came; since then the model may have turned out to be slower or faster.
    scale = next_s / job.cost if job.cost > 0 else 1.0
    if not placement.backlog_ends(now - queue.newest_at, scale * queue.backlog_s, workers):
        return job
    longest = state.jobs[queue.largest(job.id, lambda job_id: state.jobs[job_id].units)]
    passes = placement.may_pass(state.costs.predict(job.model, longest.units), next_s) and _allowed(
        state, longest, worker
    )
    return longest if passes else job


def _grant(state: State, job: Job, worker: Worker, now: float) -> None:
    state.queue.serve(job.id)
    state.load_spec(job)
    job.fence = state.next_fence()
    job.worker = worker.name
    job.resends = 0
    state.pool.grant(worker, job.id, job.fence)
    state.move(job, Cause.DISPATCHED, now)
    send_grant(state, job, worker, now)


def send_grant(state: State, job: Job, worker: Worker, now: float) -> None:
    """Send the current grant; agents take a repeated one for what it is."""
    job.granted_at = now
    run = m.Run(
        job_id=job.id,
        fence=job.fence,
        lease_s=state.policy.lost_after_s,
        attempt=job.attempts + 1,
        profile="offload" if job.profile == "offload" else "normal",
        predicted_s=job.cost if state.costs.knows(job.model, job.units) else 0.0,
        alone=job.crashes > 0,
    )
    state.send_run(worker.peer, run, state.body(job))
