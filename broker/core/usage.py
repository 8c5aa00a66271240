"""Usage of the pool by a job, read from its history when it is over."""

from __future__ import annotations

from broker.core.jobs import Cause, Job
from broker.wire.terms import RUNNING, SUCCEEDED

#: How an attempt ends whose work is in the result, or in a checkpoint that the job goes on from.
_KEPT = frozenset((Cause.FINISHED, Cause.PAUSED, Cause.DRAFTED, Cause.PREEMPTED))


def gpu_seconds(job: Job) -> tuple[float, float]:
    """Return GPU-seconds of a job that is over: (in attempts whose work its result holds, in all others).

    Seconds from a start to the end of that attempt, times the GPUs of the worker that had it, all of which it keeps from others.
    Waiting and being parked cost nothing.
    """
    kept = lost = 0.0
    began, attempt, gpus = -1.0, 0, 1
    for entry in job.history:
        if entry.target == RUNNING:
            if began < 0 or entry.source != RUNNING:
                began, attempt, gpus = entry.at, entry.attempt, entry.gpus or job.submission.gpus
        elif began >= 0 and entry.source == RUNNING:  # the attempt that ran was over with this move
            # Where the history was cut, the end may be that of a later attempt: nothing is known of what lies between.
            if entry.attempt != attempt:
                pass
            elif entry.cause in _KEPT:
                kept += (entry.at - began) * gpus
            else:
                lost += (entry.at - began) * gpus
            began = -1.0
    if job.state is not SUCCEEDED:
        return 0.0, kept + lost
    return kept, lost


def gpus_of_last(job: Job) -> int:
    """Number of GPUs of the worker that had the job last; those that it requested where that was not recorded."""
    return next((entry.gpus for entry in reversed(job.history) if entry.gpus), job.submission.gpus)
