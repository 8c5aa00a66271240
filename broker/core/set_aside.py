"""Jobs that were set aside: requests of their clients and their operator about them.

The shell sets a job aside when the core raised over it: its row stays as it was last committed, with a mark, and the job is not taken into
the core's memory, so it has no timer, worker or place in the queue. It is not over: its operator lets it go on, or ends it. Until then a
cancel is only noted, so that nothing is done with the job that might raise again.
"""

from __future__ import annotations

import msgspec

from broker.core import parking, views
from broker.core.effects import Marked
from broker.core.jobs import Cause, Job
from broker.core.lookups import Found
from broker.core.state import State
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.terms import JobState


def list_all(state: State, peer: bytes, message: m.ListSetAside, found: Found, now: float) -> None:
    """Answer with all jobs that are set aside."""
    listed = [views.job_view(state, job, now) for job in found.jobs]
    state.send(peer, m.Jobs(req=message.req, body=codec.encode_body(listed)))


def note_cancel(state: State, job: Job) -> None:
    """Let the job end as cancelled when it is released."""
    mark = job.set_aside
    if mark is not None and not mark.stop:
        job.set_aside = msgspec.structs.replace(mark, stop="cancel")
        state.effects.append(Marked(job, job.set_aside))


def resolve(state: State, peer: bytes, message: m.SettleSetAside, found: Found, now: float) -> None:
    """Release, fail or delete a job, as its operator decided."""
    job = found.job
    mark = None if job is None else job.set_aside
    if job is None or mark is None:
        state.send(peer, m.SetAsideSettled(req=message.req, outcome="not_set_aside"))
        return
    if message.action == "release" and not mark.readable:
        state.send(peer, m.SetAsideSettled(req=message.req, outcome="unreadable"))
        return
    if message.action == "delete":
        state.forget(job)
    else:
        job.set_aside = None
        state.effects.append(Marked(job, None))
        state.fresh[job.id] = job
        state.reopened.add(job.id)
        state.adopt_record(job)
        if job.fence > state.last_fence:
            job.renew_fence("voided", 0)
        state.close_attempt(job)  # reports of an old one do not count any more
        if mark.stop and not job.stop:
            job.request_stop(mark.stop)
        if message.action == "fail" and not job.stop:
            text = f"the broker could not handle this job: {mark.reason}"
            state.fail(job, m.Failure(m.FailureKind.QUARANTINED, text), now)
        else:
            _resume(state, job, now)
    state.send(peer, m.SetAsideSettled(req=message.req, outcome="done"))


def _resume(state: State, job: Job, now: float) -> None:
    """Let the job go on from the state it was in; its worker was sent a cancel."""
    state.set_deadline(job)
    if job.held:
        state.give_back(job, Cause.RETURNED, now, "released by the operator")
    elif job.stop:
        state.end_stopped(job, now, "released by the operator")
    elif job.state is JobState.DELAYED:
        state.deadlines.set(("due", job.id), job.not_before)
        state.note_change(job)
    elif job.state is JobState.PARKED:
        parking.watch_draft(state, job)
        state.note_change(job)
    else:
        state.enqueue(job, front=job.attempts > 0)
        state.note_change(job)
