"""Handlers of the agents' messages, one a message.

An agent's report is authoritative about what it holds; fence and name decide whether it counts. Equal to
the job's fence, from the worker it was granted to: it is the job's attempt. Lower: an old one, sent `Cancel`. Higher, of an earlier
epoch: the row of its grant was lost in the crash of the broker that gave it; it is adopted in the rejoin window, from any worker, as
no record has its worker. A worker's name belongs to its key (over tcp it begins with the key's name), so that a name is enough.

A fence that was never given is no report but a forgery, or of another journal: see `check_fence`.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from broker.core import parking, promised, retry, worker_breaker
from broker.core.effects import Send, WorkerNoted
from broker.core.grants import send_grant
from broker.core.jobs import FINISHED, STARTED, Cause, Job
from broker.core.lookups import Found
from broker.core.pool import Worker
from broker.core.scheduling import bounds
from broker.core.state import State
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Result
from broker.wire.terms import ASSIGNED, RUNNING, SUCCEEDED, JobState

#: A grant that a worker has not seen after this many heartbeats was lost on the way, and is sent again, so often at most: a worker that
#: beats and takes none of them cannot read it.
RESEND_HEARTBEATS = 2.0
MAX_RESENDS = 5


def check_fence(state: State, fence: int) -> None:
    """Raise `DecodeError` for a fence that this broker cannot have given."""
    if fence > state.last_fence:
        raise codec.DecodeError(f"fence {fence:#x} was never given, the last is {state.last_fence:#x}")


def hello(state: State, peer: bytes, message: m.Hello, now: float) -> None:
    """Register a worker, or take it back; reconcile the attempts it holds. Raises `DecodeError` before anything changes."""
    info: m.WorkerInfo = codec.worker_info(message.body)
    speaker = state.pool.by_peer.get(peer)
    if speaker is not None and speaker.name != message.name:
        state.send(peer, bye(f"this connection is that of worker {speaker.name!r}"))
        return
    if max((message.seen, *(item.fence for item in message.held))) > state.last_fence:
        # It would take every grant for one that it has seen before.
        state.send(peer, bye("it was given jobs by a broker with another journal: start the worker anew", "anew"))
        return
    old = state.pool.workers.get(message.name)
    if message.yields and old is not None and old.boot != message.boot and not (old.lost or old.suspect):
        state.send(peer, bye(f"another process bears the name {message.name!r}", "yield"))
        return
    reborn = old is not None and old.boot != message.boot
    stands = old is not None and old.peer == peer and not reborn
    worker = _register(state, message, peer, info, now)
    state.on_demand.register(info)
    state.pool.update_room(worker, message.seen, message.free)
    state.send(
        peer,
        m.Welcome(
            epoch=state.epoch,
            heartbeat_s=state.policy.heartbeat_s,
            lost_s=state.policy.lost_after_s,
            depot_key=state.depot_key_of(message.name),
        ),
    )
    reconcile_held(state, worker, message.held, now)
    # What was granted at the old address and is not held now will never be: the grant went down with the connection. One that this
    # `Hello` has crossed on a connection that still stands is on its way.
    held = {item.job_id for item in message.held}
    for job in [state.jobs[job_id] for job_id in [*worker.held] if job_id not in held]:
        if stands and job.fence > message.seen:
            continue
        if reborn:  # the process that had it is dead
            lose(state, job, now, f"worker {worker.name} started anew")
        else:
            state.give_back(job, Cause.RETURNED, now, "not held when the worker came back")
    for job in [state.jobs[job_id] for job_id in state.orphans.of(message.name)]:
        if job.id not in held:
            state.give_back(job, Cause.RETURNED, now, "not held when the worker came back")
    # Wake when this worker would be suspect; from then on the timer renews itself.
    state.deadlines.set(("worker", worker.name), now + state.policy.suspect_after_s)


def _register(state: State, message: m.Hello, peer: bytes, info: m.WorkerInfo, now: float) -> Worker:
    """The record of the worker that sent `Hello`: a new one, or that of its name at its new address. The newcomer wins."""
    worker = state.pool.workers.get(message.name)
    if worker is None:
        worker = Worker(message.name, message.boot, peer, info, now)
        state.pool.add(worker)
        return worker
    if worker.boot != message.boot:
        state.deadlines.clear(("breaker", worker.name))
        if worker.peer != peer and not worker.lost:
            state.send(worker.peer, bye(f"another process took the name {worker.name!r}", "yield"))
    state.pool.register_again(worker, message.boot, peer, info, now)
    return worker


def bye(reason: str, remedy: m.Remedy = "none") -> m.WorkerRejected:
    """A dismissal, its reason cut to what the message may hold."""
    return m.WorkerRejected(reason=reason[:256], remedy=remedy)


def reconcile_held(state: State, worker: Worker, held: Iterable[m.Held], now: float) -> None:
    """Compare the attempts that a worker holds with those it should hold, one by one."""
    for item in held:
        job = state.jobs.get(item.job_id)
        if job is None or job.closed or not _may_hold(state, worker, job, item.fence, now):
            if item.phase != "finished":  # a finished one is settled by its result, which is being resent
                state.send(worker.peer, m.Cancel(job_id=item.job_id, fence=item.fence))
            continue
        if item.fence > job.fence or worker.held.get(job.id) != item.fence or job.state is not RUNNING:
            _adopt(state, worker, job, item.fence, item.age_s, now)
        if (job.phase, job.step, job.total) != (item.phase, item.step, item.total):
            job.phase, job.step, job.total = item.phase, item.step, item.total
            if item.phase == "denoise":
                job.stepped_at = now
                job.drawn = (item.step, item.total)
            state.note_step(job)
            if job.promise is not None:
                promised.check(state, job, now)
        if item.kept and item.kept != job.kept:
            job.kept, job.kept_host = item.kept, worker.info.host
            state.note_step(job)
        if job.stop:
            state.send_cancel(job)
        elif job.park:
            state.send_park(job)


def _may_hold(state: State, worker: Worker, job: Job, fence: int, now: float) -> bool:
    """Whether this worker's attempt of a live job counts."""
    if fence == job.fence:
        return job.worker == worker.name
    return fence > job.fence and fence >> 32 < state.epoch and now < state.rejoin_until and not job.held


def _adopt(state: State, worker: Worker, job: Job, fence: int, age_s: float, now: float) -> None:
    """Note that the worker runs this attempt, which was only granted, or held by another until now; begun `age_s` ago."""
    begun_at = _begun_at(job, age_s, now)
    if job.state is ASSIGNED and job.holder == "worker":
        job.begin_attempt(begun_at)
        last_at = job.history[-1].at
        # In the history nothing is earlier than what came before: its stop may be requested before its start is reported.
        state.move(job, STARTED, begun_at if begun_at > last_at else last_at)
        return
    state.unhold(job, now)
    job.renew_fence("adopted", fence)
    state.hold(job, worker)
    job.begin_attempt(begun_at)
    state.move(job, Cause.ADOPTED, now)


def _begun_at(job: Job, age_s: float, now: float) -> float:
    """Time at which an attempt of this age began. The age is by the worker's clock: not in the future, nor before the grant."""
    begun_at = now - age_s if age_s > 0.0 else now
    granted_at = job.granted_at or job.submitted_at
    return begun_at if begun_at > granted_at else granted_at


def heartbeat(state: State, worker: Worker, message: m.Heartbeat, now: float) -> None:
    """Renew the lease, take the numbers, reconcile the held attempts, answer. Raises `DecodeError` before anything changes."""
    check_fence(state, max((message.seen, *(item.fence for item in message.held))))
    was_sound, before = not worker.fault, worker.stats.depot
    state.pool.update_stats(worker, bounds.heartbeat(message))
    if before is not message.depot:
        _note_depot(state, worker, before, message.depot)
    if worker.fault and was_sound:
        text = f"its device is broken, and it gets no more jobs: {worker.fault}"
        state.effects.append(WorkerNoted(worker.name, "device_fault", text))
        worker_breaker.reconsider(state)
    reconcile_held(state, worker, message.held, now)
    held = {item.job_id for item in message.held}
    for job_id in [job_id for job_id in worker.held if job_id not in held]:
        _reconcile_absent(state, worker, state.jobs[job_id], message.seen, now)
    state.send(worker.peer, m.HeartbeatAck(epoch=state.epoch))
    if worker.drain_requested and (not worker.draining or (worker.hand_back and worker.held)):
        state.send(worker.peer, m.Drain(hand_back=worker.hand_back))
    elif worker.undrain_requested:
        state.send(worker.peer, m.Undrain())


def _note_depot(state: State, worker: Worker, before: m.DepotWait | None, now: m.DepotWait | None) -> None:
    was_full, is_full = before is not None and before.full, now is not None and now.full
    if is_full and not was_full and now is not None:
        why = f": {now.fault}" if now.fault else ""
        text = f"it takes no job: {now.results} results ({now.size_mb:.0f} MB) wait to be put into the depot{why}"
        state.effects.append(WorkerNoted(worker.name, "depot_full", text))
    elif was_full and not is_full:
        state.effects.append(
            WorkerNoted(worker.name, "depot_room", "it takes jobs again: its results are in the depot")
        )


def _reconcile_absent(state: State, worker: Worker, job: Job, seen: int, now: float) -> None:
    """Settle a job granted to this worker that it does not hold: seen and dropped, on its way, or lost on the way."""
    if job.fence <= seen:
        # Most likely the message with which it handed the job back was lost.
        if parking.expected_back(job, worker):
            parking.handed_back(state, job, now, _leaves(job, worker))
        else:
            lose(state, job, now, f"worker {worker.name} does not hold it")
    elif now - job.granted_at >= RESEND_HEARTBEATS * state.policy.heartbeat_s:
        if job.resends >= MAX_RESENDS:
            if worker.name not in job.excluded:
                job.excluded = (*job.excluded, worker.name)
            lose(state, job, now, f"worker {worker.name} did not take it, though it was sent {job.resends + 1} times")
        elif job.stop:
            job.resends += 1
            job.granted_at = now
            state.send_cancel(job)  # never seen, so refused, which ends it
        else:
            job.resends += 1
            send_grant(state, job, worker, now)


def refused(state: State, worker: Worker, message: m.Refused, now: float) -> None:
    """Put an attempt that was not taken back to the front, as if it had not been granted. One that was taken and is handed back is a loss,
    unless it was to be handed back.

    Raises `DecodeError` before anything changes.
    """
    check_fence(state, message.fence)
    job = state.jobs.get(message.job_id)
    state.pool.update_room(worker, message.fence, message.free)
    if job is None or not job.held or job.fence != message.fence or job.worker != worker.name:
        return
    if message.kept and message.kept != job.kept:
        job.kept, job.kept_host = message.kept, worker.info.host
    if message.age_s >= 0 and job.state is ASSIGNED:
        _adopt(state, worker, job, job.fence, message.age_s, now)
    if job.state is RUNNING and parking.expected_back(job, worker):
        why = _leaves(job, worker)
        parking.handed_back(state, job, now, why and (message.reason or why))
    elif job.state is RUNNING:
        lose(state, job, now, message.reason)
    else:
        state.give_back(job, Cause.REFUSED, now, message.reason)


def _leaves(job: Job, worker: Worker) -> str:
    """Reason why a worker hands back a job that is not to be parked; "": it is to be parked."""
    return "" if job.park or job.draft_due else f"worker {worker.name} leaves"


def finished(state: State, worker: Worker, message: m.Finished, found: Found, now: float) -> None:
    """Publish the result, if it is the one that counts. Raises `DecodeError` before anything changes."""
    result: Result = bounds.result(codec.result(message.body))
    job = _current(state, worker, message, found, now, started=False)
    if job is None:
        return
    # No heartbeat came in between: its start is reported with its end.
    start_unreported = job.begun != job.fence
    if start_unreported and not _plain(job):
        _adopt(state, worker, job, job.fence, message.age_s, now)
        start_unreported = False
    if job.stop:
        state.end_stopped(job, now, "finished after it was asked to stop")
        worker.cancelled += 1
        _acknowledge(state, worker, message, accepted=False)
        return
    if job.promise is not None and now > job.promise.ready_by:
        promised.break_promise(state, job, now)
    job.result = result
    run_s = message.run_s
    job.run_s = run_s if run_s <= bounds.MAX_RUN_S else bounds.run_s(run_s)
    job.failure = None
    load_s = result.ready_s
    state.costs.learn(job.submission.model, job.submission.units, job.run_s - load_s, worker.info.gpus)
    if load_s:
        state.reloads.learn(job.submission.model, load_s)
    if start_unreported:
        state.start_and_finish(job, _begun_at(job, message.age_s, now), now)
    else:
        state.move(job, FINISHED, now)
    worker.succeeded += 1
    if worker.recent_failures or worker.trips:
        worker_breaker.succeeded(worker)
    _acknowledge(state, worker, message, accepted=True)


def _plain(job: Job) -> bool:
    """Whether its worker has it as it was granted, and nothing is to be sent of its start by itself."""
    return (
        job.state is ASSIGNED
        and job.holder == "worker"
        and not job.stop
        and job.promise is None
        and not job.submission.webhook
    )


def failed(state: State, worker: Worker, message: m.Failed, found: Found, now: float) -> None:
    """Count the failure by its class, and try again or give up."""
    job = _current(state, worker, message, found, now)
    if job is None:
        return
    worker.failed += 1
    _acknowledge(state, worker, message, accepted=True)
    if job.stop:
        state.end_stopped(job, now, f"{message.kind} while stopping")
        return
    worker_breaker.failed(state, worker, job, message.kind, now)
    if message.kind.rules.crash:
        job.crashes += 1
    else:
        job.errors += 1
    tries = retry.Tries(crashes=job.crashes, errors=job.errors, profile=job.profile)
    spread = crc32(f"{job.id}:{job.fence}".encode()) / 2**32
    choice = retry.decide(message.kind, message.message, tries, worker.name, spread, state.policy.max_crashes)
    state.unhold(job, now)
    state.close_attempt(job)
    if isinstance(choice, retry.GiveUp):
        state.fail(job, m.Failure(choice.kind, choice.message), now)
        return
    job.profile = choice.profile
    if choice.avoid and choice.avoid not in job.excluded:
        job.excluded = (*job.excluded, choice.avoid)
    job.not_before = now + choice.delay_s
    job.phase, job.step, job.total = "", 0, 0
    state.move(job, Cause.RETRIED, now, f"{message.kind}: {message.message}")
    if job.park:
        state.pause(job, now)
    if job.promise is not None:
        promised.check(state, job, now)


def cancelled(state: State, worker: Worker, message: m.Cancelled, found: Found, now: float) -> None:
    """End the job whose attempt was stopped; one that was stopped unasked goes back to the queue."""
    job = _current(state, worker, message, found, now)
    if job is None:
        return
    worker.cancelled += 1
    _acknowledge(state, worker, message, accepted=True)
    if job.stop:
        state.end_stopped(job, now)
        return
    state.unhold(job, now)
    state.close_attempt(job)  # a heartbeat that crosses the acknowledgement still names it
    if job.held:
        state.give_back(job, Cause.RETURNED, now, "stopped by the worker, unasked")


def _current(
    state: State, worker: Worker, message: m.AgentResult, found: Found, now: float, *, started: bool = True
) -> Job | None:
    """The job, if this result is of its current attempt, from the worker that has it; else answer the result (it lost, or was counted
    before) and return None. `started`: note its start, if nothing has reported that. Raises `DecodeError` before anything changes."""
    fence = message.fence
    if fence > state.last_fence:
        check_fence(state, fence)
    state.pool.update_room(worker, fence, message.free)
    job = state.jobs.get(message.job_id) or found.job
    if job is None or job.fence != fence or job.closed or job.worker != worker.name:
        _acknowledge(state, worker, message, accepted=_already(job, message))
        state.pool.release(worker, message.job_id, fence, now)
        return None
    if started and job.begun != job.fence:
        _adopt(state, worker, job, job.fence, message.age_s, now)
    return job


def _already(job: Job | None, message: m.AgentResult) -> bool:
    """Whether this very result is the one that was committed, and only its acknowledgement was lost."""
    if job is None or job.fence != message.fence:
        return False
    committed = {m.Finished: SUCCEEDED, m.Failed: JobState.FAILED, m.Cancelled: JobState.CANCELLED}
    return job.state is committed[type(message)]


def _acknowledge(state: State, worker: Worker, message: m.AgentResult, *, accepted: bool) -> None:
    ack = m.ResultAck(job_id=message.job_id, fence=message.fence, accepted=accepted)
    state.effects.append(Send(worker.peer, ack))  # as `State.send`: a `Run` may overtake it


def goodbye(state: State, worker: Worker, message: m.Goodbye, now: float) -> None:
    """Remove a worker that leaves; its jobs go back. Those of one that was drained are not lost."""
    for job in [state.jobs[job_id] for job_id in worker.held]:
        text = f"worker {worker.name} left: {message.reason}"
        if not message.orderly:
            lose(state, job, now, text)
        elif job.state is RUNNING:
            parking.handed_back(state, job, now, text)
        else:
            state.give_back(job, Cause.RETURNED, now, text)
    state.deadlines.clear(("worker", worker.name))
    state.deadlines.clear(("breaker", worker.name))
    state.pool.remove(worker)
    worker_breaker.reconsider(state)


def lose(state: State, job: Job, now: float, note: str) -> None:
    """Requeue a job whose worker or link is gone: free, until it happens too often."""
    job.losses += 1
    if job.losses > state.policy.max_losses and not job.stop:
        state.unhold(job, now)
        state.close_attempt(job)
        text = f"{job.losses} workers were lost under this job; the last: {note}"
        state.fail(job, m.Failure(m.FailureKind.QUARANTINED, text), now)
        return
    state.give_back(job, Cause.LOST, now, note)
