"""The wall clock is set: durations stay what they were, and what is shown follows."""

from __future__ import annotations

import pytest

from broker.core.calendar import Calendar, Step
from broker.testing import EDGE, START, CoreHarness
from broker.wire import codec
from broker.wire import messages as m
from tests.core.deletions import forget

HOUR = 3600.0


@pytest.mark.parametrize("ahead_s", [-HOUR, 0.0, HOUR])
def test_a_deadline_is_so_long_after_the_acceptance_whatever_the_clock_was_set_to(ahead_s):
    harness = CoreHarness()
    harness.running("held", deadline_s=3.0)
    harness.submit("waits", pinned="nobody", deadline_s=3.0)
    harness.core.set_calendar(Calendar(ahead_s=ahead_s))
    harness.submit("later", pinned="nobody", deadline_s=4.0)
    harness.tick(2.5)
    assert [harness.state(job_id) for job_id in ("held", "waits", "later")] == ["running", "queued", "queued"]
    harness.tick(1.0)
    assert harness.core.job("held").stop == "expired"
    assert (harness.state("waits"), harness.state("later")) == ("failed", "queued")
    harness.tick(1.0)
    assert harness.state("later") == "failed"


def test_a_repeated_submit_with_another_duration_left_is_the_same_request():
    harness = CoreHarness()
    assert not harness.submit("a", deadline_s=60.0).duplicate
    harness.now += 30.0
    harness.core.set_calendar(Calendar(ahead_s=-HOUR))
    assert harness.submit("a", deadline_s=60.0).duplicate
    assert harness.view("a").deadline_at == START + 60.0 - HOUR


def test_every_time_that_is_shown_follows_the_clock():
    harness = CoreHarness()
    harness.running("a", deadline_s=60.0)
    harness.finish("w1", "a")
    harness.submit("b", pinned="nobody")
    before = harness.view("a")
    harness.core.set_calendar(Calendar(ahead_s=HOUR))
    after = harness.view("a")
    for name in ("submitted_at", "started_at", "finished_at", "deadline_at"):
        assert getattr(after, name) == getattr(before, name) + HOUR
    assert [move.at for move in after.history] == [move.at + HOUR for move in before.history]
    waiting = harness.view("b")
    assert (waiting.started_at, waiting.finished_at, waiting.deadline_at) == (0.0, 0.0, 0.0)


def test_an_age_is_time_that_passed():
    harness = CoreHarness()
    harness.running("a")
    harness.finish("w1", "a")
    harness.now += 10.0
    harness.core.set_calendar(Calendar(ahead_s=1e6))
    assert forget(harness, "a", finished_s=11.0) == ()
    assert forget(harness, "a", finished_s=10.0) == ("a",)


def test_the_pool_tells_the_time_and_when_the_clock_was_set():
    harness = CoreHarness()
    steps = (Step(at=START, by_s=HOUR),)
    harness.core.set_calendar(Calendar(ahead_s=HOUR, settled_at=START + 600.0, steps=steps))
    harness.now += 10.0
    (answer,) = harness.feed(EDGE, m.GetPool(req=1))
    pool = codec.pool_view(answer.message.body)
    assert (pool.now, pool.settling_s) == (START + HOUR + 10.0, 590.0)
    assert pool.clock_steps == (m.ClockStep(age_s=10.0, by_s=HOUR),)
