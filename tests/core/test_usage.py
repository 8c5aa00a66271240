"""GPU-seconds of a job, by its history."""

from __future__ import annotations

import pytest

from broker.core.jobs import MAX_HISTORY, Cause, Job
from broker.core.usage import gpu_seconds
from broker.testing import submission

C = Cause
#: (cause, at) of a job's moves; the first attempt starts at 10.
START = [(C.SUBMITTED, 0.0), (C.DISPATCHED, 9.0), (C.STARTED, 10.0)]
AGAIN = [(C.DISPATCHED, 40.0), (C.STARTED, 50.0)]


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([*START, (C.FINISHED, 15.0)], (5.0, 0.0)),
        ([*START, (C.STOP_REQUESTED, 12.0), (C.CANCELLED, 13.0)], (0.0, 3.0)),
        ([*START, (C.LOST, 13.0), *AGAIN, (C.FINISHED, 54.0)], (4.0, 3.0)),
        ([*START, (C.LOST, 13.0), (C.ADOPTED, 14.0), (C.FINISHED, 20.0)], (6.0, 3.0)),
        ([*START, (C.RETRIED, 11.0), (C.DUE, 20.0), *AGAIN, (C.FAILED, 51.0)], (0.0, 2.0)),
        ([*START, (C.PREEMPTED, 13.0), *AGAIN, (C.FINISHED, 54.0)], (7.0, 0.0)),
        ([*START, (C.PAUSED, 13.0), (C.RESUMED, 30.0), *AGAIN, (C.FINISHED, 54.0)], (7.0, 0.0)),
        ([*START, (C.PAUSED, 13.0), (C.CANCELLED, 1000.0)], (0.0, 3.0)),
        ([(C.SUBMITTED, 0.0), (C.CANCELLED, 100.0)], (0.0, 0.0)),
        ([*START, (C.ADOPTED, 12.0), (C.FINISHED, 15.0)], (5.0, 0.0)),
    ],
)
@pytest.mark.parametrize("gpus", [1, 4])
def test_gpu_seconds_are_of_attempts_and_no_waiting(moves, expected, gpus):
    job = Job(id="a", submission=submission({"gpus": gpus}), body=b"")
    for cause, at in moves:
        job.move(cause, at)
    assert gpu_seconds(job) == (expected[0] * gpus, expected[1] * gpus)


@pytest.mark.parametrize("more", range(4))
def test_time_parked_is_no_run_time_where_the_history_was_cut(more):
    job = Job(id="a", submission=submission({}), body=b"")
    job.move(C.SUBMITTED, 0.0)
    for _ in range(more):
        job.move(C.PROMISE_BROKEN, 0.0)
    at = 0.0
    for fence in range(1, 41):
        for cause, after_s in ((C.DISPATCHED, 0.0), (C.STARTED, 0.0), (C.PAUSED, 1.0), (C.RESUMED, 100.0)):
            at += after_s
            if cause is C.STARTED:
                job.fence = fence
                job.begin_attempt(at)
            job.move(cause, at)
    job.move(C.CANCELLED, at)
    assert len(job.history) == MAX_HISTORY
    assert 10.0 < sum(gpu_seconds(job)) <= 40.0
