"""Handlers of the edges' messages, one a message. Each answers every request, once."""

from __future__ import annotations

from math import inf
from operator import attrgetter

from broker.core import parking, promised, set_aside, views, worker_breaker
from broker.core.effects import WorkerNoted
from broker.core.grants import give, grant, send_grant
from broker.core.jobs import SUBMITTED, Cause, DamagedRecord, Job
from broker.core.lookups import Found
from broker.core.pool import Worker
from broker.core.scheduling.dispatch import at_once, would_start
from broker.core.state import State
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.submission import MAX_GPUS, Submission
from broker.wire.terms import DELAYED, DISK_RETRY_S, MAX_RETRY_AFTER_S, PARKED, QUEUED

#: Seconds to wait, in the answer of a broker that is stopping.
STOPPING_RETRY_S = 5.0

#: Fields that a repeated submit must repeat, beside the spec; limits and cost may have changed meanwhile.
_same = attrgetter("model", "origin", "alias", "tenant", "webhook", "webhook_events", "draft_steps", "gpus")

#: Bytes of specs in one page of jobs; a page with more is cut short and marked so.
MAX_PAGE_BYTES = 8 * 1024 * 1024


def submit(state: State, peer: bytes, message: m.Submit, found: Found, now: float) -> None:
    """Take the job, or refuse it. The answer to a repeated submit is the job as it is now."""
    existing = state.jobs.get(message.job_id)
    if existing is None and found.job is not None and found.job.id == message.job_id:  # else it only has the same name
        existing = found.job
    if existing is not None:
        _answer_repeat(state, peer, message, existing, found, now)
        return
    submission = message.submission
    known = state.run_times.outlook(submission, submission.units)
    cost = state.run_times.predict(submission, submission.units) if known is None else known[0]
    refusal = _refusal(state, message, cost, found, now)
    if refusal is not None:
        code, text, retry_after_s = refusal
        state.send(peer, m.Rejected(req=message.req, code=code, message=text, retry_after_s=retry_after_s))
        return
    promise = promised.give(state, message, now) if message.promise is not None else None
    if promise is not None and isinstance(promise, m.Rejected):
        state.send(peer, promise)
        return
    job = Job(
        id=message.job_id,
        submission=submission,
        body=message.body,
        deadline_at=now + message.deadline_s if message.deadline_s else 0.0,
        submitted_at=now,
        cost=cost,
        promise=promise,
        # No attempt that was granted before counts for it: see `jobs`.
        fence=state.last_fence,
    )
    state.fresh[job.id] = job
    worker = at_once(state, submission)
    if worker is not None and promise is None:
        if not state.pool.sizes.one:
            known = state.costs.outlook(submission.model, submission.units, worker.info.gpus)
        state.queue.pass_by(now)
        give(state, job, worker)
        state.grant_new(job, now)
        if job.deadline_at:
            state.set_deadline(job)
        admission = views.admission(state, job, job.revision - 1, known, now)
        state.send(peer, m.Accepted(req=message.req, job_id=job.id, admission=admission))
        send_grant(state, job, worker, now, known=known is not None)
        return
    state.adopt_record(job)
    if worker is None:
        state.line_up(job)
        if promise is not None:
            state.expect(job)
    else:
        state.queue.pass_by(now)
    state.move(job, SUBMITTED, now)
    if job.deadline_at or promise is not None:
        state.set_deadline(job)
    admission = views.admission(state, job, job.revision, known, now)
    state.send(peer, m.Accepted(req=message.req, job_id=job.id, admission=admission))
    if worker is not None:
        grant(state, job, worker, now)


def _spec(job: Job, found: Found) -> tuple[bytes, str]:
    """(the job's spec, why it cannot be read)."""
    return (found.spec, found.spec_error) if job.evicted else (job.body, job.damaged)


def _record(state: State, job: Job, found: Found, now: float) -> bytes:
    """The job's full view, encoded."""
    body, damaged = _spec(job, found)
    return codec.encode_body(views.job_view(state, job, now, full=True, spec=body, spec_error=damaged))


def _answer_repeat(state: State, peer: bytes, message: m.Submit, job: Job, found: Found, now: float) -> None:
    if job.damaged:
        text = f"the job {message.job_id!r} is there, and its record is damaged: {job.damaged}"
        state.send(peer, m.Rejected(req=message.req, code="id_conflict", message=text))
        return
    body, damaged = _spec(job, found)
    if damaged:
        raise DamagedRecord(damaged)
    if _same(job.submission) != _same(message.submission) or body != message.body:
        text = f"another job bears the id {message.job_id!r}"
        state.send(peer, m.Rejected(req=message.req, code="id_conflict", message=text))
        return
    state.send(peer, m.Accepted(req=message.req, job_id=job.id, duplicate=True, body=_record(state, job, found, now)))


def _refusal(
    state: State, message: m.Submit, cost: float, found: Found, now: float
) -> tuple[m.RejectCode, str, float] | None:
    """(code, sentence, seconds to wait) when the job cannot be taken."""
    if state.stopping:
        return "shutting_down", "the broker is stopping; it will be back", STOPPING_RETRY_S
    if state.refusing:
        text = "the disk is nearly full: what room is left is kept for the results of jobs already taken"
        return "queue_full", text, DISK_RETRY_S
    submission = message.submission
    if not (submission.units < inf and message.deadline_s < inf):  # nor one that is no number
        return "invalid", "units and deadline_s must be finite numbers", 0.0
    if submission.gpus > 1 and (most := _most_gpus(state, submission, now)) < submission.gpus:
        subject = f"worker {submission.pinned!r}" if submission.pinned else f"any worker of model {submission.model!r}"
        return "gpus", f"{submission.gpus} is more than {subject} has, {most}", 0.0
    if message.only_if_idle and not would_start(state, submission):
        return "busy", "no worker is free", retry_after_s(state, now)
    if message.alias_unique and found.job is not None:
        return "alias_taken", f"a job named {submission.alias!r} exists already", 0.0
    if message.max_queued and (own := state.tenants.share(submission.tenant).waiting) >= message.max_queued:
        text = f"{own} jobs of tenant {submission.tenant} are waiting, its limit is {message.max_queued}"
        return "queue_full", text, _own_turn_s(state, message, own, cost, now)
    limit, limit_s = state.policy.queue_limit, state.policy.queue_limit_s
    waiting = state.counts[QUEUED] + state.counts[DELAYED] + state.counts[PARKED]
    if waiting >= limit:
        return "queue_full", f"{waiting} jobs are waiting, the limit is {limit}", retry_after_s(state, now)
    if limit_s and state.queue.backlog_s + cost > limit_s:
        text = f"{state.queue.backlog_s:.0f} s of work are waiting, the limit is {limit_s:.0f} s"
        return "queue_full", text, retry_after_s(state, now)
    return _too_late(state, message, cost, now) if message.deadline_s else None


def _most_gpus(state: State, submission: Submission, now: float) -> int:
    """GPUs of the largest worker for such a job; no end where others may come: while workers come back to a broker that was started, while
    none has the model, and where a launcher may bring one."""
    sizes = [
        worker.info.gpus
        for worker in state.pool
        if submission.model in worker.models and (not submission.pinned or submission.pinned == worker.name)
    ]
    open_ended = not sizes or now < state.rejoin_until or state.on_demand.covers(submission.model)
    return MAX_GPUS if open_ended else max(sizes)


def _too_late(state: State, message: m.Submit, cost: float, now: float) -> tuple[m.RejectCode, str, float] | None:
    submission, left = message.submission, message.deadline_s
    needed = views.wait_s(state, now) + cost if state.run_times.can_predict(submission, submission.units) else 0.0
    if left > needed:
        return None
    return "deadline", f"the deadline is in {left:.1f} s, the job would take about {needed:.1f} s", 0.0


def retry_after_s(state: State, now: float) -> float:
    """Seconds after which a refused client should come back: until about one job has left the queue, 1 to 120."""
    waiting = max(1, len(state.queue))
    return min(MAX_RETRY_AFTER_S, max(1.0, views.wait_s(state, now) / waiting))


def _own_turn_s(state: State, message: m.Submit, own: int, cost: float, now: float) -> float:
    """The time until about one of the tenant's own jobs has left the queue: all of them have when the whole queue has, and its
    running jobs make room one after another."""
    at_once = message.submission.max_running
    pace_s = cost / at_once if at_once else 0.0
    return min(MAX_RETRY_AFTER_S, max(1.0, views.wait_s(state, now) / max(1, own), pace_s))


def cancel_job(state: State, peer: bytes, message: m.CancelJob, found: Found, now: float) -> None:
    """End a waiting job at once; send the worker of a held one a cancel."""
    job = state.jobs.get(message.job_id) or found.job
    if job is None or message.tenant not in ("", job.submission.tenant):
        state.send(peer, m.CancelReply(req=message.req, outcome="not_found"))
        return
    outcome = _cancel(state, job, now)
    state.send(peer, m.CancelReply(req=message.req, outcome=outcome, body=_record(state, job, found, now)))


def _cancel(state: State, job: Job, now: float) -> m.CancelOutcome:
    if job.final or job.damaged:
        return "already_final"
    if job.set_aside is not None:
        set_aside.note_cancel(state, job)
        return "requested"
    if job.waiting:
        job.request_stop("cancel")
        state.move(job, Cause.CANCELLED, now)
        return "cancelled"
    if not job.stop:
        job.request_stop("cancel")
        state.move(job, Cause.STOP_REQUESTED, now, "cancel")
        state.send_cancel(job)
    return "requested"


def control_job(state: State, peer: bytes, message: m.ControlJob, found: Found, now: float) -> None:
    """Pause a job, let it go on, or commit its draft."""
    job = state.jobs.get(message.job_id) or found.job
    if job is None or message.tenant not in ("", job.submission.tenant):
        state.send(peer, m.ControlReply(req=message.req, outcome="not_found"))
        return
    outcome, reason = parking.control(state, job, message.action, now)
    body = _record(state, job, found, now)
    state.send(peer, m.ControlReply(req=message.req, outcome=outcome, reason=reason[:1024], body=body))


def get_job(state: State, peer: bytes, message: m.GetJob, found: Found, now: float) -> None:
    """Answer with the job of this id, else of this (origin, alias); of the tenant that was named."""
    job = state.jobs.get(message.job_id)
    if job is None and found.job is not None:
        job = state.jobs.get(found.job.id, found.job)
    if job is not None and message.tenant not in ("", job.submission.tenant):
        job = None
    body = b"" if job is None else _record(state, job, found, now)
    state.send(peer, m.JobReply(req=message.req, found=job is not None, body=body))


def list_jobs(state: State, peer: bytes, message: m.ListJobs, found: Found, now: float) -> None:
    """Answer with a page of what is on disk, each job as it is in memory where it is there."""
    more, behind, behind_at = found.more, found.behind, state.calendar.shown(found.behind_at)
    page: list[m.JobView] = []
    size = 0
    for job in found.jobs:
        size += len(job.body)
        if page and size > MAX_PAGE_BYTES:
            more, behind, behind_at = True, 0, 0.0
            break
        page.append(views.job_view(state, state.jobs.get(job.id, job), now, full=True, spec=job.body))
    body = codec.encode_body(page)
    state.send(peer, m.Jobs(req=message.req, more=more, behind=behind, behind_at=behind_at, body=body))


def watch(state: State, peer: bytes, message: m.Watch, now: float) -> None:
    """Begin or end the stream of events to this peer.

    Repeating `on` keeps the numbering. A new stream starts at a number that none had before: a client can tell it from
    its old one.
    """
    if message.on:
        state.watchers.setdefault(peer, state.next_revision())
        if message.steps:
            state.steps.of_all.add(peer)
        else:
            state.steps.of_all.discard(peer)
    else:
        state.end_watch(peer)
    state.send(peer, m.Watching(req=message.req, seq=state.watchers.get(peer, 0)))


def follow(state: State, peer: bytes, message: m.Follow, now: float) -> None:
    """Begin or end to send a watcher the steps of some jobs; it is sent at once where they are, as it may have missed the last step."""
    if peer not in state.watchers:
        return
    if not message.on:
        for job_id in message.job_ids:
            state.steps.unfollow(peer, job_id)
        return
    live = [job for job_id in dict.fromkeys(message.job_ids) if (job := state.jobs.get(job_id)) and not job.final]
    for job in live:
        state.steps.follow(peer, job.id)
    if live:
        state.send_event(peer, codec.encode_body([views.job_update(state, job, now) for job in live]))


def forget_jobs(state: State, peer: bytes, message: m.ForgetJobs, found: Found, now: float) -> None:
    """Delete the records of final jobs; live ones stay, and are not in the answer."""
    forgotten = []
    cold = {job.id: job for job in found.jobs}
    for job_id in dict.fromkeys(message.job_ids):
        job = state.jobs.get(job_id) or cold.get(job_id)
        if job is None or not job.final:
            continue
        if message.finished_s and now - job.finished_at < message.finished_s:
            continue
        state.forget(job)
        forgotten.append(job_id)
    state.send(peer, m.Forgotten(req=message.req, job_ids=tuple(forgotten)))


def drain_worker(state: State, peer: bytes, message: m.DrainWorker, now: float) -> None:
    """Give a worker no more work, and send it `Drain`, which is repeated with its heartbeats until it reports that it drains."""
    worker = state.pool.workers.get(message.name)
    if worker is None or worker.lost:
        state.send(peer, m.WorkerReply(req=message.req, found=False))
        return
    if not worker.drain_requested or (message.hand_back and not worker.hand_back):
        state.pool.request_drain(worker, hand_back=message.hand_back)
        state.effects.append(WorkerNoted(worker.name, "drain_requested", f"it holds {len(worker.held)} jobs"))
        state.send(worker.peer, m.Drain(hand_back=worker.hand_back))
        worker_breaker.reconsider(state)
    _answer_worker(state, peer, message.req, worker, now)


def undrain_worker(state: State, peer: bytes, message: m.UndrainWorker, now: float) -> None:
    """Give a drained worker work again; `Undrain` is sent with its heartbeats until it reports that it drains no more, or leaves.

    A drain may be older than this broker: then only the worker's heartbeat has it.
    """
    worker = state.pool.workers.get(message.name)
    if worker is None or worker.lost:
        state.send(peer, m.WorkerReply(req=message.req, found=False))
        return
    if (worker.drain_requested or worker.draining) and not worker.undrain_requested:
        state.pool.request_undrain(worker)
        state.effects.append(WorkerNoted(worker.name, "undrain_requested", f"it holds {len(worker.held)} jobs"))
        state.send(worker.peer, m.Undrain())
    _answer_worker(state, peer, message.req, worker, now)


def _answer_worker(state: State, peer: bytes, req: int, worker: Worker, now: float) -> None:
    view = codec.encode_body(views.worker_view(worker, state.jobs, now))
    state.send(peer, m.WorkerReply(req=req, found=True, body=view))


def estimate(state: State, peer: bytes, message: m.Estimate, now: float) -> None:
    """Answer with what would become of such a job, were it to come now."""
    found = promised.forecast_of(state, message.submission, message.confidence, now)
    state.send(peer, m.Estimated(req=message.req, body=codec.encode_body(found)))


def get_pool(state: State, peer: bytes, message: m.GetPool, found: Found, now: float) -> None:
    """Answer with workers and totals."""
    view = views.pool_view(state, found.counts, now, message.after, message.limit)
    state.send(peer, m.Pool(req=message.req, body=codec.encode_body(view)))


def get_load_history(state: State, peer: bytes, message: m.GetLoadHistory, now: float) -> None:
    """Answer with the samples of the last hour, and one of now."""
    samples = [*state.load_history.samples, views.load_sample(state, now)]
    state.send(peer, m.LoadSamples(req=message.req, body=codec.encode_body(samples)))


def get_usage(state: State, peer: bytes, message: m.GetUsage, found: Found) -> None:
    """Answer with what was used."""
    rows, limit = found.usage, message.limit
    body = codec.encode_body(rows[:limit])
    state.send(peer, m.Usage(req=message.req, more=len(rows) > limit, body=body))
