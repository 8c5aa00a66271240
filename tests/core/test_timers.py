"""Timers that fall due in one pass: each checks that what it is for still holds, whatever the others have done."""

from __future__ import annotations

from itertools import permutations

import pytest

from broker.core.deadlines import Deadlines
from broker.core.machine import Policy
from broker.core.timers import REJOIN
from broker.testing import CoreHarness

LATE_S = 400.0


def late(harness: CoreHarness, seconds: float = LATE_S) -> None:
    """One pass for everything that has come due: the broker was busy, or away."""
    harness.now += seconds
    harness.apply(harness.core.tick(harness.now))


def delayed(harness: CoreHarness, job_id: str = "j", deadline_s: float = 1.1) -> None:
    """A job that waits for its second attempt, with a deadline near the end of the wait."""
    harness.running(job_id, deadline_s=deadline_s)
    harness.fail("w1", job_id, "engine_error")
    assert harness.state(job_id) == "delayed"


@pytest.mark.parametrize("deadline_s", [0.5, 1.0, 1.19, 1.3, 5.0])
def test_a_job_whose_back_off_and_deadline_end_in_one_pass_expires(deadline_s: float) -> None:
    harness = CoreHarness()
    delayed(harness, deadline_s=deadline_s)
    late(harness)
    assert harness.state("j") == "failed"
    failure = harness.job("j").failure
    assert failure is not None
    assert failure.kind == "expired"
    harness.submit("k")
    assert harness.state("k") == "queued"


@pytest.mark.parametrize("deadline_s", [0.5, 1.0, 1.3])
def test_so_it_does_in_the_first_pass_after_a_restart(deadline_s: float) -> None:
    harness = CoreHarness()
    delayed(harness, deadline_s=deadline_s)
    harness.now += LATE_S
    harness.restart()
    assert harness.state("j") == "failed"


@pytest.mark.parametrize("order", list(permutations(("worker", "deadline", "bench"))))
def test_a_worker_lost_with_its_job_past_its_deadline_and_its_bench_over_in_any_order(order: tuple[str, ...]) -> None:
    harness = CoreHarness(Policy(breaker_failures=1, breaker_s=5.0))
    harness.hello("w2")
    harness.running("bad", worker="w1")
    harness.fail("w1" if harness.job("bad").worker == "w1" else "w2", "bad", "engine_error")
    name = harness.job("bad").worker
    harness.submit("j", deadline_s=3.0)
    keys = {"worker": ("worker", name), "deadline": ("deadline", "j"), "bench": ("bench", name)}
    for place, kind in enumerate(order):
        harness.core.state.deadlines.set(keys[kind], harness.now + 6.0 + place / 10)
    late(harness, 7.0)
    late(harness)
    assert harness.job("j").final


def test_orphans_that_expire_with_the_rejoin_window() -> None:
    harness = CoreHarness()
    harness.running("j", deadline_s=3.0)
    harness.restart()
    assert harness.core.state.deadlines.has(REJOIN)
    late(harness)
    assert harness.state("j") == "failed"


def test_a_timer_moved_by_another_one_of_its_pass_does_not_fire() -> None:
    deadlines = Deadlines()
    for name in "abc":
        deadlines.set(("due", name), 1.0)
    fired = []
    for _, name in deadlines.due(2.0):
        fired.append(name)
        deadlines.clear(("due", "b"))
        deadlines.set(("due", "c"), 9.0)
    assert fired == ["a"]
    assert deadlines.next() == 9.0


def test_a_timer_set_for_now_in_a_pass_waits_for_the_next_one() -> None:
    deadlines = Deadlines()
    deadlines.set(("worker", "w"), 1.0)
    for key in deadlines.due(2.0):
        deadlines.set(key, 2.0)
    assert deadlines.next() == 2.0
