"""Waiting jobs by their latest starts: in order, and what has left is met no more."""

from __future__ import annotations

from broker.core.scheduling.urgency import Urgency


def noted(**start_by: float) -> Urgency:
    urgency = Urgency()
    for job_id, at in start_by.items():
        urgency.add(job_id, at)
    return urgency


def test_the_soonest_comes_first_up_to_a_time():
    urgency = noted(b=2.0, a=1.0, d=4.0, c=3.0)
    assert [*urgency.soonest(lambda _: True, 0.0, 3.0)] == [(1.0, "a"), (2.0, "b"), (3.0, "c")]


def test_what_is_late_by_far_and_what_waits_no_more_is_passed_over():
    urgency = noted(a=1.0, b=2.0, c=3.0, d=4.0)
    assert [job_id for _, job_id in urgency.soonest({"a", "b", "d"}.__contains__, 2.0, 9.0)] == ["b", "d"]
    assert [job_id for _, job_id in urgency.soonest(lambda _: True, 0.0, 9.0)] == ["b", "c", "d"]


def test_it_holds_few_more_than_wait():
    urgency, waiting = Urgency(), {"first"}
    urgency.add("first", 0.0)
    for number in range(10_000):
        urgency.add(f"j{number}", 1.0 + number)
        assert [*urgency.soonest(waiting.__contains__, 0.0, 0.0)] == [(0.0, "first")]
    assert len(urgency) < 200
