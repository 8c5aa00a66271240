"""The next waiting job and its worker: a pure choice, made anew after each grant.

The queue decides which job's turn it is, among those that a worker with room may run (`CONDITIONS`); `placement`, on which of them.
Then another job may take its place on that worker (`REPLACEMENTS`, one after another).

Two straight ways lead to what `choose_among_all` would choose. While all that waits is of one tenant and one lane, the turn is the
head of its line and no other model waits, so `choose` checks nothing else. While nothing waits, a job that comes is not queued: `at_once`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from broker.core.scheduling import free_workers, placement
from broker.core.scheduling.costs import Reloads
from broker.core.scheduling.placement import Requirements
from broker.core.scheduling.queue import Lane, Queue
from broker.core.scheduling.run_times import RunTimes
from broker.core.scheduling.tenants import Tenants
from broker.wire.submission import Submission


class Job(Protocol):
    """The part of a waiting job that the rules read."""

    id: str
    submission: Submission
    #: Predicted run time when it was queued, seconds.
    cost: float
    #: Attempts begun.
    attempts: int
    #: Names of workers it crashed on.
    excluded: tuple[str, ...]
    #: Seconds of work of other models that went before it.
    skipped_s: float
    #: The job for which it made room, while it is preempted: since when it is, else 0.
    yields_to: str
    parked_at: float
    #: Steps of it that lie in a checkpoint, and the machine on which that was written.
    kept: int
    kept_host: str

    def left(self, units: float, done: int) -> float: ...


class Worker(free_workers.Worker, Protocol):
    """The part of a worker that the rules read."""

    @property
    def in_service(self) -> bool: ...


AnyJob = TypeVar("AnyJob", bound=Job)
AnyWorker = TypeVar("AnyWorker", bound=Worker)
JobOut = TypeVar("JobOut", bound=Job, covariant=True)
WorkerOut = TypeVar("WorkerOut", bound=Worker, covariant=True)


class Free(Protocol[WorkerOut]):
    """Workers with room: see `free_workers.FreeWorkers`."""

    @property
    def by_name(self) -> Mapping[str, WorkerOut]: ...
    def any_fits(self, required: Requirements) -> bool: ...
    def choose(self, required: Requirements, loras: Sequence[str] = ()) -> WorkerOut | None: ...


class Workers(Protocol[WorkerOut]):
    """The pool."""

    @property
    def free(self) -> Free[WorkerOut]: ...

    def usable(self) -> int:
        """Number of workers that run jobs or soon will."""

    def __iter__(self) -> Iterator[WorkerOut]: ...


class Rules(Protocol):
    """The part of the policy that the rules read."""

    @property
    def reload_s(self) -> float: ...


class Scene(Protocol[JobOut, WorkerOut]):
    """The part of the core's state that is chosen from, read only."""

    @property
    def jobs(self) -> Mapping[str, JobOut]: ...
    @property
    def pool(self) -> Workers[WorkerOut]: ...
    @property
    def queue(self) -> Queue: ...
    @property
    def tenants(self) -> Tenants: ...
    @property
    def run_times(self) -> RunTimes: ...
    @property
    def reloads(self) -> Reloads: ...
    @property
    def policy(self) -> Rules: ...


class Choice(Struct, Generic[AnyJob, AnyWorker], frozen=True, gc=False):
    """This job goes to this worker, where it was the turn of `turn`."""

    job: AnyJob
    worker: AnyWorker
    turn: AnyJob


# ---------------------------------------------------------------- whether a worker may run a job


def fits(scene: Scene[Job, Worker], job: Job, lane: Lane, worker: Worker) -> bool:
    """It has the model and the GPUs, and the job is not pinned to another one."""
    return placement.fits(lane, worker)


def not_excluded(scene: Scene[Job, Worker], job: Job, lane: Lane, worker: Worker) -> bool:
    """The job did not crash there, unless every other worker that fits is gone or it crashed there too."""
    if worker.name not in job.excluded:
        return True
    return not any(
        other.name not in job.excluded and other.in_service and placement.fits(lane, other) for other in scene.pool
    )


def not_yielding(scene: Scene[Job, Worker], job: Job, lane: Lane, worker: Worker) -> bool:
    """The job for which it made room waits no more, has seen that room go to another, or is kept from starting by the limit of its tenant;
    or no worker is there that could run it."""
    # One that is not preempted any more does not wait any more: were it to wait for what made room for it, neither would go.
    if not job.parked_at or job.yields_to not in scene.queue:
        return True
    first = scene.queue.lane(job.yields_to)
    if not scene.tenants.may_start(scene.jobs[job.yields_to].submission.tenant):
        return True
    return not any(other.in_service and placement.fits(first, other) for other in scene.pool)


#: All must hold. One that a job can fail which never crashed must be checked in `choose`, too: its straight path checks `fits` alone.
CONDITIONS: tuple[Callable[[Scene[Job, Worker], Job, Lane, Worker], bool], ...] = (fits, not_excluded, not_yielding)


def may_run(scene: Scene[Job, Worker], job: Job, lane: Lane, worker: Worker) -> bool:
    """Whether all `CONDITIONS` hold."""
    # A plain loop, as it is run for every job.
    for condition in CONDITIONS:  # noqa: SIM110
        if not condition(scene, job, lane, worker):
            return False
    return True


def kept_of(scene: Scene[Job, Worker], job: Job) -> placement.Kept:
    """Return where the checkpoint of a job lies, and what it spares a worker that can read it."""
    submission, predict = job.submission, scene.run_times.predict
    left_s = predict(submission, job.left(submission.units, job.kept))
    return placement.Kept(job.kept_host, predict(submission, submission.units) - left_s)


# ---------------------------------------------------------------- which job goes in place of the next


def affinity(scene: Scene[AnyJob, AnyWorker], job: AnyJob, worker: AnyWorker, now: float) -> AnyJob:
    """A job of the model in memory, when that of `job` would have to be loaded; within `placement.may_skip`."""
    if not worker.model or worker.model == job.submission.model:
        return job

    def usable(lane: Lane) -> bool:
        return lane.model == worker.model and placement.fits(lane, worker)

    def allowed(job_id: str, lane: Lane) -> bool:
        return may_run(scene, scene.jobs[job_id], lane, worker)

    other_id = scene.queue.first(usable, allowed, like=job.id)
    if other_id is None:
        return job
    other = scene.jobs[other_id]
    reload_s = scene.reloads.predict(job.submission.model, otherwise=scene.policy.reload_s)
    return other if placement.may_skip(job.skipped_s, other.cost, reload_s) else job


def longest_last(scene: Scene[AnyJob, AnyWorker], job: AnyJob, worker: AnyWorker, now: float) -> AnyJob:
    """The longest job of the same lane, when the backlog ends. A job that has been begun before keeps its turn."""
    workers = scene.pool.usable()
    # One worker is done with all of it at the same time, whatever comes first.
    if workers < 2 or job.attempts or not scene.run_times.can_predict(job.submission, job.submission.units):
        return job
    queue = scene.queue
    next_s = scene.run_times.predict(job.submission, job.submission.units)
    if next_s < placement.TAIL_FROM_S:
        return job
    # What waits was weighed when it came; since then the model may have turned out to be slower or faster.
    scale = next_s / job.cost if job.cost > 0 else 1.0
    if not placement.backlog_ends(now - queue.newest_at, scale * queue.backlog_s, workers):
        return job
    longest = scene.jobs[queue.largest(job.id, lambda job_id: scene.jobs[job_id].submission.units)]
    passes = placement.may_pass(scene.run_times.predict(job.submission, longest.submission.units), next_s)
    return longest if passes and may_run(scene, longest, queue.lane(longest.id), worker) else job


#: Each may put another job of the same tenant and priority in place of the one before it.
REPLACEMENTS = (affinity, longest_last)


# ---------------------------------------------------------------- the choice


def choose(scene: Scene[AnyJob, AnyWorker], now: float) -> Choice[AnyJob, AnyWorker] | None:
    """The next job and its worker; None: no waiting job has a worker with room. To be granted before the next call."""
    if not scene.pool.free.by_name:
        return None
    job_id = scene.queue.head_of_all()
    if job_id is None or (job := scene.jobs[job_id]).excluded or job.yields_to or job.kept:
        return choose_among_all(scene, now)
    if not scene.tenants.may_start(job.submission.tenant):
        return None
    worker = scene.pool.free.choose(job.submission, job.submission.lora_names)
    return None if worker is None else Choice(longest_last(scene, job, worker, now), worker, job)


def at_once(scene: Scene[Job, AnyWorker], submission: Submission) -> AnyWorker | None:
    """The worker for a job that has just come; None: others wait, or it must."""
    if scene.queue.where or not scene.pool.free.by_name:
        return None
    # The newest job has its tenant's limit.
    limit = submission.max_running
    if limit and scene.tenants.share(submission.tenant).held >= limit:
        return None
    return scene.pool.free.choose(submission, submission.lora_names)


def choose_among_all(scene: Scene[AnyJob, AnyWorker], now: float) -> Choice[AnyJob, AnyWorker] | None:
    """As `choose`, for any number of tenants and lanes."""
    free = scene.pool.free
    turn = _turn(scene, free)
    if turn is None:
        return None
    lane, loras = scene.queue.lane(turn.id), turn.submission.lora_names
    if turn.excluded or turn.yields_to or turn.kept:
        able = [worker for worker in free.by_name.values() if may_run(scene, turn, lane, worker)]
        reload_s = scene.reloads.predict(lane.model, otherwise=scene.policy.reload_s)
        worker = placement.choose(lane.model, able, loras, kept_of(scene, turn), reload_s)
    else:
        worker = free.choose(lane, loras)
    if worker is None:  # `_turn` has just found one
        raise AssertionError(f"no worker for job {turn.id}, which had one")
    job = turn
    for replacement in REPLACEMENTS:
        job = replacement(scene, job, worker, now)
    return Choice(job, worker, turn)


def _turn(scene: Scene[AnyJob, AnyWorker], free: Free[AnyWorker]) -> AnyJob | None:
    """The first job that one of the free workers may run."""
    jobs = scene.jobs

    def allowed(job_id: str, lane: Lane) -> bool:
        job = jobs[job_id]
        return not (job.excluded or job.yields_to) or any(
            may_run(scene, job, lane, worker) for worker in free.by_name.values()
        )

    job_id = scene.queue.first(free.any_fits, allowed, served=scene.tenants.may_start)
    return None if job_id is None else jobs[job_id]


def would_start(scene: Scene[Job, Worker], submission: Submission) -> bool:
    """Whether such a job would be granted at once, were it to come now."""
    limit = submission.max_running
    if limit and scene.tenants.share(submission.tenant).held >= limit:
        return False
    return scene.pool.free.any_fits(submission)
