"""The transition table says what the theory says."""

from __future__ import annotations

import pytest

from broker.core.jobs import LAZY, MAX_HISTORY, TABLE, Cause, IllegalMove, Job
from broker.wire.submission import Submission
from broker.wire.terms import FINAL, JobState


def job(state: JobState = JobState.QUEUED) -> Job:
    return Job(id="j", submission=Submission(model="demo"), body=b"", state=state)


@pytest.mark.parametrize("state", sorted(FINAL))
def test_nothing_leads_out_of_a_final_state(state):
    assert TABLE[state] == {}
    for cause in Cause:
        with pytest.raises(IllegalMove, match="j is " + state):
            job(state).move(cause, 1.0)


@pytest.mark.parametrize("state", [s for s in JobState if s not in FINAL])
def test_every_live_state_can_end_in_each_final_one(state):
    reachable = set(TABLE[state].values())
    assert reachable >= FINAL


def test_every_state_but_the_first_is_reached():
    targets = {target for moves in TABLE.values() for target in moves.values()}
    assert targets == set(JobState)


def test_no_lazy_move_is_final_or_a_promise():
    for moves in TABLE.values():
        for cause, target in moves.items():
            if target in FINAL or cause in (Cause.SUBMITTED, Cause.STOP_REQUESTED):
                assert cause not in LAZY


def test_a_missing_pair_names_job_state_cause_and_story():
    record = job()
    record.move(Cause.SUBMITTED, 1.0)
    with pytest.raises(IllegalMove, match=r"job j is queued, cannot move by started; history: ->queued \(submitted\)"):
        record.move(Cause.STARTED, 2.0)


def test_a_story_tells_each_move_and_stays_bounded():
    record = job()
    record.move(Cause.SUBMITTED, 1.0)
    for n in range(100):
        record.move(Cause.DISPATCHED, 2.0 + n)
        record.move(Cause.REFUSED, 2.5 + n, note="no room")
    record.move(Cause.CANCELLED, 200.0)
    assert len(record.history) == MAX_HISTORY
    assert record.history[0].cause == "submitted"
    assert record.history[-1].target == "cancelled"
    assert record.finished_at == 200.0


def test_a_stop_has_one_reason_and_is_never_taken_back():
    record = job(JobState.RUNNING)
    record.request_stop("cancel")
    for reason in ("cancel", "expired", ""):
        with pytest.raises(IllegalMove, match="cannot be stopped by"):
            record.request_stop(reason)
    assert record.stop == "cancel"


def test_a_job_that_is_over_is_neither_stopped_nor_granted():
    record = job(JobState.SUCCEEDED)
    with pytest.raises(IllegalMove, match="cannot be stopped by"):
        record.request_stop("cancel")
    with pytest.raises(IllegalMove, match="cannot be granted with"):
        record.renew_fence("granted", 9)
    with pytest.raises(IllegalMove, match="cannot be granted"):
        record.change_holder("granted")


@pytest.mark.parametrize(
    ("event", "fence", "legal"),
    [
        ("granted", 4, False),
        ("granted", 5, False),
        ("granted", 6, True),
        ("adopted", 4, False),
        ("adopted", 5, True),
        ("closed", 5, False),
        ("closed", 6, True),
        ("voided", 0, True),
        ("voided", 5, False),
    ],
)
def test_a_fence_rises_with_each_grant_and_falls_only_where_it_was_damaged(event, fence, legal):
    record = job()
    record.fence = 5
    if legal:
        record.renew_fence(event, fence)
        assert record.fence == fence
    else:
        with pytest.raises(IllegalMove, match="fence 0x5"):
            record.renew_fence(event, fence)


def test_what_is_held_is_not_granted_again():
    record = job()
    record.change_holder("granted")
    with pytest.raises(IllegalMove, match="held by worker, cannot be granted"):
        record.change_holder("granted")
    record.change_holder("released")
    record.change_holder("granted")
