"""Parking: a job is taken out of its engine with a checkpoint, or kept out of one, and goes on later from where it was.

Three reasons (`Job.parked`). Its client paused it: it is `parked` until the client resumes it. It is a draft: it is `parked` after
`draft_steps` steps until the client commits it, and fails as expired when that takes longer than `draft_expires_s`. It was preempted: it
waits at the front of its tenant's queue, as the job did for which it made room. While a worker has it, a wish (`Job.park`) is sent to the
worker and repeated with every heartbeat; the job moves when it comes back, however that happens, or ends where it is past its last step.
Deadlines count on, and a cancel ends what is parked at once.

`Job.kept` is the report of the current attempt. One that hands its job back when its worker was taken for lost, or when the job was granted
again, is ignored, and no work is lost by that: agents look for the newest checkpoint of a job themselves, on their disk and, from the
second attempt on, in the depot, where it lies before the report is sent. What the next attempt began without was drawn while its worker was
silent, and is being drawn again by then.
"""

from __future__ import annotations

from broker.core.jobs import Cause, Job
from broker.core.pool import Worker
from broker.core.scheduling import preemption
from broker.core.state import State
from broker.wire import messages as m
from broker.wire.terms import JobState

Answer = tuple[m.ControlOutcome, str]

_DONE: Answer = "done", ""
_REQUESTED: Answer = "requested", ""


# ---------------------------------------------------------------- requests of clients


def control(state: State, job: Job, action: m.JobAction, now: float) -> Answer:
    """Return (outcome, reason of a refusal)."""
    if refusal := _refusal(job):
        # What is requested again after it was done is not wrong.
        return _DONE if action == "commit" and job.committed else ("refused", refusal)
    return _ACTIONS[action](state, job, now)


def _refusal(job: Job) -> str:
    """Reason why this job cannot be paused, resumed or committed; "": it can."""
    if job.damaged:
        return f"its record is damaged: {job.damaged}"
    if job.final:
        return f"it is over: {job.state}"
    if job.set_aside is not None:
        return "the service took it out of its work; its operator decides"
    if job.stop:
        return "it is being cancelled" if job.stop == "cancel" else "its deadline passed"
    return ""


def _pause(state: State, job: Job, now: float) -> Answer:
    if job.state is JobState.PARKED:
        return _DONE
    if job.waiting:
        job.wish_park("pause")
        state.pause(job, now)
        return _DONE
    if job.park != "pause":
        worker = state.holder(job)
        if worker is not None and job.submission.model not in worker.resumable:
            model = job.submission.model
            return (
                "refused",
                f"it runs, and model {model!r} cannot go on where it was: such jobs are paused while they wait",
            )
        job.wish_park("pause")
        _request(state, job, now)
    return _REQUESTED


def _resume(state: State, job: Job, now: float) -> Answer:
    if job.state is not JobState.PARKED:
        if job.park == "pause":
            # Its worker may have been sent `Park`: it comes back, and goes on.
            job.wish_park("preempt")
            state.move(job, Cause.RESUMED, now)
        return _DONE
    if job.park != "pause":
        return "refused", "it is a draft: commit it, or cancel it"
    job.wish_park("")
    if job.draft_due:
        job.parked_at = now
        state.move(job, Cause.DRAFTED, now)
        watch_draft(state, job)
    else:
        _go_on(state, job, Cause.RESUMED, now)
    return _DONE


def _commit(state: State, job: Job, now: float) -> Answer:
    draft_steps = job.submission.draft_steps
    if not draft_steps:
        return "refused", "it is no draft: it was submitted without draft_steps"
    if job.committed:
        return _DONE
    if job.state is not JobState.PARKED or not job.draft_due:
        return (
            "refused",
            f"its draft is not there yet: it is {job.state}, and {job.kept} of {draft_steps} steps are done",
        )
    job.committed = True
    if job.park:
        job.wish_park("")
    _go_on(state, job, Cause.COMMITTED, now)
    return _DONE


_ACTIONS = {"pause": _pause, "resume": _resume, "commit": _commit}


def _go_on(state: State, job: Job, cause: Cause, now: float) -> None:
    """Put a parked job back in its place in the queue: that of its arrival, or the front if it was begun."""
    job.parked_at = 0.0
    # Its grant must not overtake the row that lets it go on.
    state.reopened.add(job.id)
    state.move(job, cause, now)
    state.enqueue(job, front=job.attempts > 0)


# ---------------------------------------------------------------- a worker hands back


def preempt(state: State, job: Job, yields_to: str, now: float) -> None:
    """Have a running job of a model that resumes make room for another one, which goes first."""
    job.wish_park("preempt")
    job.preemptions += 1
    job.yields_to = yields_to
    _request(state, job, now)


def _request(state: State, job: Job, now: float) -> None:
    state.move(job, Cause.PARK_REQUESTED, now, job.park)
    state.send_park(job)


def expected_back(job: Job, worker: Worker) -> bool:
    """Whether the worker was to hand this job back, so that it is neither lost nor to blame."""
    # One that drains takes no more: it can hand back no job twice.
    return bool(job.park) or worker.hand_back or worker.draining or job.draft_due


def handed_back(state: State, job: Job, now: float, why: str = "") -> None:
    """Let a held job wait for what it was handed back for. Later reports of the attempt do not count."""
    state.unhold(job, now)
    note = f"{why}; {kept_text(job)}" if why else kept_text(job)
    if job.stop:
        state.end_stopped(job, now, note)
        return
    fence = job.fence
    job.phase, job.step, job.total = "", 0, 0
    job.parked_at = now
    if job.draft_due and not job.draft_fence:
        job.draft_fence = fence
    if job.park == "pause":
        state.move(job, Cause.PAUSED, now, note)
    elif job.draft_due:
        state.move(job, Cause.DRAFTED, now, note)
        watch_draft(state, job)
    elif job.park == "preempt":
        state.move(job, Cause.PREEMPTED, now, note)
        worker = state.pool.workers.get(job.worker)
        if worker is not None and job.yields_to:
            worker.left_by = job.id
        # One whose pause was taken back makes room for no other job.
        state.enqueue(job, front=True, yields_until=_yields_until(state, job, now) if job.yields_to else None)
    else:
        job.parked_at = 0.0
        state.move(job, Cause.RETURNED, now, note)
        state.enqueue(job, front=True)
    # No worker has it, so none can have it adopted.
    job.worker, job.held_gpus = "", 0


def _yields_until(state: State, job: Job, now: float) -> float:
    """Until when a job that has just made room lets shorter ones of its tenant pass: as long as it may still wait."""
    submission, run_times = job.submission, state.run_times
    units = job.left(submission.units, job.kept)
    left_s = run_times.predict(submission, units)
    sd_s = left_s * run_times.spread(submission, units)
    bounds, whole_s = state.policy.preempt_bounds, run_times.predict(submission, submission.units)
    spare_s = preemption.spare_s(job.promise, job.deadline_at, left_s, sd_s, now) - bounds.overhead_s
    most_s = state.policy.preempt_delay * whole_s
    wait_s = preemption.delay_left_s(most_s, job.preemptions, job.preempted_s, bounds)
    return now + max(0.0, min(wait_s, spare_s))


def kept_text(job: Job) -> str:
    """Share of a job that is in its checkpoint, as text for its history."""
    steps = job.submission.steps
    of = f" of {steps}" if steps else ""
    return f"{job.kept}{of} steps are kept" if job.kept else "nothing is kept"


def view(state: State, job: Job) -> m.Parking:
    """View of it for an edge."""
    reason, shown = job.parked, state.calendar.shown
    return m.Parking(
        reason=reason,
        at=shown(job.parked_at) if reason else 0.0,
        requested=job.held and bool(job.park),
        committed=job.committed,
        draft_expires_at=shown(draft_expires_at(state, job)),
        draft_fence=job.draft_fence,
        preemptions=job.preemptions,
    )


# ---------------------------------------------------------------- drafts


def draft_expires_at(state: State, job: Job) -> float:
    """Time at which a draft that waits fails, if it is not committed; 0: it is none."""
    if job.state is not JobState.PARKED or job.park == "pause":
        return 0.0
    return job.parked_at + state.policy.draft_expires_s


def watch_draft(state: State, job: Job) -> None:
    """Wake when a parked job's draft expires, if it is one."""
    if at := draft_expires_at(state, job):
        state.deadlines.set(("draft", job.id), at)


def expire_draft(state: State, job_id: str, now: float) -> None:
    """Fail a job whose draft was not committed in its time."""
    job = state.jobs.get(job_id)
    if job is not None and draft_expires_at(state, job):
        text = f"its draft was not committed within {state.policy.draft_expires_s:g} s"
        state.fail(job, m.Failure(m.FailureKind.EXPIRED, text), now)
