"""Rules that must hold after every step. Tests check them; a running broker does with `check_invariants`."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from broker.core.deliveries import Delivery
from broker.core.jobs import Job
from broker.core.state import State
from broker.wire import messages as m
from broker.wire.terms import JobState


class BrokenInvariant(AssertionError):
    """A rule of the core does not hold: a bug in the core."""


def check(state: State, on_disk: Callable[[str], list[Delivery]] | None = None) -> None:
    """Raise `BrokenInvariant` with every rule that does not hold. `on_disk` gives a job's deliveries there, to be compared."""
    broken = [
        *_jobs(state),
        *_stops(state),
        *_parks(state),
        *_fences(state),
        *_queue(state),
        *_workers(state),
        *_counts(state),
    ]
    broken += [*_tenants(state), *_timers(state), *_hooks(state, on_disk), *_bodies(state), *_promises(state)]
    broken += _step_streams(state)
    if broken:
        raise BrokenInvariant("; ".join(broken))


def _jobs(state: State) -> list[str]:
    broken = []
    for job in state.jobs.values():
        if job.set_aside is not None:
            broken.append(f"{job.id} is set aside and in memory")
        if job.history and job.history[-1].target != job.state:
            broken.append(f"{job.id} is {job.state}, its last move led to {job.history[-1].target}")
        if (job.state is JobState.SUCCEEDED) != (job.result is not None):
            broken.append(f"{job.id} is {job.state} {'with' if job.result else 'without'} a result")
        if (job.state is JobState.FAILED) != (job.failure is not None):
            broken.append(f"{job.id} is {job.state} with failure {job.failure}")
        if job.final != (job.finished_at > 0):
            broken.append(f"{job.id} is {job.state}, finished_at {job.finished_at}")
        if job.crashes > state.policy.max_crashes or job.losses > state.policy.max_losses + 1:
            broken.append(f"{job.id} has {job.crashes} crashes, {job.losses} losses")
        finals = [move for move in job.history if move.target in ("succeeded", "failed", "cancelled")]
        if len(finals) != (1 if job.final else 0):
            broken.append(f"{job.id} is {job.state} after {len(finals)} final moves")
    return broken


def _stops(state: State) -> list[str]:
    """Rules of the stop machine: a job to be stopped ends by that reason alone, and at once unless a worker has it."""
    broken = []
    for job in state.jobs.values():
        if job.state is JobState.SUCCEEDED and job.stop:
            broken.append(f"{job.id} succeeded although it was asked to stop ({job.stop})")
        if job.waiting and job.stop:
            broken.append(f"{job.id} waits although it was asked to stop ({job.stop})")
        if (job.state is JobState.CANCELLED) != (job.final and job.stop == "cancel"):
            broken.append(f"{job.id} is {job.state}, stop {job.stop!r}")
        if job.final and job.stop == "expired" and (job.failure is None or job.failure.kind != "expired"):
            broken.append(f"{job.id} was stopped at its deadline and has failed with {job.failure}")
    return broken


def _parks(state: State) -> list[str]:
    """Rules of the park machine: what is paused is in no queue; what makes room has a worker; what is parked has the time and the reason of
    it.
    """
    broken = []
    for job in state.jobs.values():
        if job.park == "pause" and job.state in (JobState.QUEUED, JobState.DELAYED):
            broken.append(f"{job.id} is {job.state} although it is paused")
        if job.park == "preempt" and job.waiting:
            broken.append(f"{job.id} is {job.state} and is to make room")
        if job.state is JobState.PARKED and (job.park == "preempt" or not job.parked_at):
            broken.append(f"{job.id} is parked, park {job.park!r}, since {job.parked_at}")
        if job.state is JobState.PARKED and job.park == "" and (job.committed or not job.submission.draft_steps):
            broken.append(f"{job.id} is parked as a draft, which it is not")
        if job.kept < 0 or job.preempted_s < 0:
            broken.append(f"{job.id} keeps {job.kept} steps, was preempted for {job.preempted_s} s")
    return broken


def _fences(state: State) -> list[str]:
    """Rules of the fence machine: a fence was given, by this broker or one before it; an attempt that was counted, or is held, has one."""
    broken = []
    for job in state.jobs.values():
        if not 0 <= job.begun <= job.fence <= state.last_fence:
            broken.append(
                f"{job.id} bears fence {job.fence:#x}, begun {job.begun:#x}, last given {state.last_fence:#x}"
            )
        if job.held and not job.fence:
            broken.append(f"{job.id} is {job.state} and was never granted")
    return broken


def _where(job: Job | None) -> str:
    """State, fence and worker, for a message: a log must not hold more of a job."""
    return "not in memory" if job is None else f"{job.state} {job.fence:#x} at {job.worker!r}"


def _queue(state: State) -> list[str]:
    queued = {job.id for job in state.jobs.values() if job.state is JobState.QUEUED}
    waiting = set(state.queue.ids())
    broken = []
    if queued != waiting:
        broken.append(f"queued {sorted(queued - waiting)} not in the queue, {sorted(waiting - queued)} only there")
    if state.queue.backlog_s < -1e-6:
        broken.append(f"backlog of {state.queue.backlog_s} s")
    return broken


def _workers(state: State) -> list[str]:
    broken = []
    holders: dict[str, str] = {}
    for worker in state.pool:
        if worker.lost and worker.held:
            broken.append(f"lost worker {worker.name} holds {sorted(worker.held)}")
        if worker.room > worker.free:
            broken.append(f"{worker.name} has room {worker.room} of {worker.free}")
        if (worker.room > 0) != (state.pool.free.get(worker.name) is worker):
            broken.append(f"{worker.name} with room {worker.room} is wrongly listed")
        if state.pool.by_peer.get(worker.peer) not in (worker, None):
            broken.append(f"the address of {worker.name} leads to another worker")
        for job_id, fence in worker.held.items():
            job = state.jobs.get(job_id)
            if job is None or not job.held or job.fence != fence or job.worker != worker.name:
                broken.append(f"{worker.name} holds {job_id} {fence:#x}, which is {_where(job)}")
            if job_id in holders:
                broken.append(f"{job_id} is held by {holders[job_id]} and {worker.name}")
            holders[job_id] = worker.name
    serving = sum(worker.in_service for worker in state.pool)
    if state.pool.usable() != serving:
        broken.append(f"{state.pool.usable()} workers counted as in service, {serving} are")
    for job in state.jobs.values():
        if job.held and job.id not in holders and job.id not in state.orphans:
            broken.append(f"{job.id} is {job.state} and nobody holds it")
        holder = "worker" if job.id in holders else "orphaned" if job.id in state.orphans else "nobody"
        if job.holder != holder:
            broken.append(f"{job.id} says that it is held by {job.holder}, it is by {holder}")
        if job.id in state.orphans and (job.id in holders or not job.held):
            broken.append(f"{job.id} is no orphan: {job.state}, held by {holders.get(job.id)}")
    return broken


def _counts(state: State) -> list[str]:
    live = [job for job in state.jobs.values() if not job.final]
    counted = {job_state: state.counts[job_state] for job_state in JobState}
    return [
        f"{counted[job_state]} jobs counted as {job_state}, {actual} there"
        for job_state in (JobState.QUEUED, JobState.DELAYED, JobState.PARKED, JobState.ASSIGNED, JobState.RUNNING)
        if counted[job_state] != (actual := sum(1 for job in live if job.state is job_state))
    ]


def _tenants(state: State) -> list[str]:
    live = [job for job in state.jobs.values() if not job.final]
    broken = []
    for name in state.tenants.names() | {job.submission.tenant for job in live}:
        share, own = state.tenants.share(name), [job for job in live if job.submission.tenant == name]
        actual = sum(job.waiting for job in own), sum(job.held for job in own)
        if (share.waiting, share.held) != actual:
            broken.append(f"tenant {name} counted as {(share.waiting, share.held)} waiting and held, is {actual}")
    return broken


def _timers(state: State) -> list[str]:
    broken = []
    for job in state.jobs.values():
        if (job.state is JobState.DELAYED) != state.deadlines.has(("due", job.id)):
            broken.append(f"{job.id} is {job.state}, timer for its back-off: {state.deadlines.has(('due', job.id))}")
        draft = job.state is JobState.PARKED and job.park != "pause"
        if draft != state.deadlines.has(("draft", job.id)):
            broken.append(f"{job.id} is {job.state}, park {job.park!r}, timer of its draft: {not draft}")
        required = bool(job.deadline_at) and not job.final and not job.stop
        if required and not state.deadlines.has(("deadline", job.id)):
            broken.append(f"{job.id} has a deadline and no timer")
    broken += [f"no timer for worker {w.name}" for w in state.pool if not state.deadlines.has(("worker", w.name))]
    if state.orphans and not state.deadlines.has(("rejoin", "")):
        broken.append("orphans, and the rejoin window has no end")
    return broken


def _promises(state: State) -> list[str]:
    """Rules of promises: each is planned for while its job waits, looked at in time, and never passed over in silence."""
    promised = [job for job in state.jobs.values() if job.promise is not None]
    queued = {job.id for job in promised if job.state is JobState.QUEUED}
    planned = set(state.promises.waiting)
    broken = [] if queued == planned else [f"promises of {sorted(queued)} wait, {sorted(planned)} are planned for"]
    for job in promised:
        promise = job.promise
        if not job.final and not state.deadlines.has(("promise", job.id)):
            broken.append(f"{job.id} is {job.state} with a promise and no timer for it")
        if promise is not None and job.state is JobState.SUCCEEDED and job.finished_at > promise.ready_by:
            broken.append(
                f"{job.id} was done {job.finished_at - promise.ready_by:.3f} s late, and its promise was not broken before"
            )
        moves = sum(move.cause == "promise_broken" for move in job.history)
        breaks = promise.breaks if promise is not None else 0
        if moves > breaks or bool(breaks) != bool(promise is not None and promise.broken_at):
            broken.append(f"{job.id} has {moves} broken promises in its history, and counts {promise}")
    return broken


def _bodies(state: State) -> list[str]:
    kept = [job for job in state.jobs.values() if not job.final and not job.evicted]
    counted, actual = (state.spec_cache.count, state.spec_cache.bytes), (len(kept), sum(len(job.body) for job in kept))
    broken = [] if counted == actual else [f"{counted} specs and bytes counted, {actual} there"]
    return broken + [f"{job.id} is evicted with a body" for job in state.jobs.values() if job.evicted and job.body]


def _hooks(state: State, on_disk: Callable[[str], list[Delivery]] | None) -> list[str]:
    broken = []
    for job in state.jobs.values():
        if not job.submission.webhook:
            continue
        found = sorted(delivery.event for delivery in job.deliveries.values())
        if on_disk is not None and found != sorted(delivery.event for delivery in on_disk(job.id)):
            broken.append(f"{job.id} has deliveries on disk other than {found}")
        required = set(job.submission.webhook_events) or set(get_args(m.WebhookEvent))
        end = {"succeeded": "completed", "failed": "failed", "cancelled": "cancelled"}.get(job.state.value)
        needed = {end} & required if end else set()
        ends = set(found) & {"completed", "failed", "cancelled"}
        if ends != needed or not set(found) <= required:
            broken.append(f"{job.id} is {job.state}, its webhook wants {sorted(required)} and is sent {found}")
        if len(found) != len(set(found)):
            broken.append(f"{job.id} sends its webhook {found}")
    return broken


def _step_streams(state: State) -> list[str]:
    """Rules of streams of steps: to watchers alone, of live jobs alone, and the pairs are the same both ways."""
    steps = state.steps
    pairs = {(peer, job_id) for peer, jobs in steps.followed.items() for job_id in jobs}
    broken = []
    if pairs != {(peer, job_id) for job_id, peers in steps.followers.items() for peer in peers}:
        broken.append("who follows a job, and which jobs are followed, differ")
    broken += [
        f"{peer.hex()} is sent steps and does not watch"
        for peer in {*steps.of_all, *steps.followed} - {*state.watchers}
    ]
    for job_id in steps.followers:
        job = state.jobs.get(job_id)
        if job is None or job.final:
            broken.append(f"{job_id} is followed and is not live")
    return broken
