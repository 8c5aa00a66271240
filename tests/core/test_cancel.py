"""Cancelling and deadlines: from every state, and racing everything."""

from __future__ import annotations

import pytest

from broker.core.jobs import Cause
from broker.testing import CoreHarness, causes, peer_of, sent
from broker.wire import messages as m


def test_an_unknown_job():
    assert CoreHarness().cancel("nope") == "not_found"


def test_a_queued_job_ends_at_once():
    harness = CoreHarness()
    harness.submit("a")
    assert harness.cancel("a") == "cancelled"
    assert harness.archive.written("a").state == "cancelled"
    harness.hello("w1")
    assert not sent(harness.effects, m.Run)


def test_a_delayed_job_ends_at_once():
    harness = CoreHarness()
    harness.running("a")
    harness.fail("w1", "a", "engine_error")
    assert harness.cancel("a") == "cancelled"
    assert causes(harness.tick(60)) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_held_job_is_told_to_stop_durably_and_ends_when_the_worker_says_so(begun):
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    fence = harness.job("a").fence
    if begun:
        harness.start("w1", "a")
    effects = harness.feed(b"f-edge", m.CancelJob(req=1, job_id="a"))
    assert [c.fence for c in sent(effects, m.Cancel, peer_of("w1"))] == [fence]
    assert harness.archive.written("a").stop == "cancel"
    assert harness.view("a").cancel_requested
    effects = harness.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert harness.state("a") == "cancelled"
    assert sent(effects, m.ResultAck)[0].accepted


def test_asking_twice_asks_once():
    harness = CoreHarness()
    harness.running("a")
    assert harness.cancel("a") == "requested"
    assert harness.cancel("a") == "requested"
    assert causes(harness.effects) == []


def test_a_final_job_stays_as_it_is():
    harness = CoreHarness()
    harness.running("a")
    harness.finish("w1", "a")
    assert harness.cancel("a") == "already_final"
    assert harness.state("a") == "succeeded"


def test_the_order_is_repeated_with_every_heartbeat_until_the_result_is_in():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.cancel("a")
    held = m.Held(job_id="a", fence=fence, phase="denoise")
    for _ in range(3):
        assert sent(harness.beat("w1", held, seen=fence), m.Cancel)
    harness.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert not sent(harness.beat("w1", seen=fence, free=1), m.Cancel)


def test_a_finish_after_an_accepted_cancel_loses_and_is_told_so():
    harness = CoreHarness()
    harness.running("a")
    harness.cancel("a")
    effects = harness.finish("w1", "a")
    assert harness.state("a") == "cancelled"
    assert harness.job("a").result is None
    assert [a.accepted for a in sent(effects, m.ResultAck)] == [False]


def test_a_cancelled_job_still_shows_how_far_it_came():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.beat("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=7, total=20), seen=fence)
    harness.beat("w1", m.Held(job_id="a", fence=fence, phase="decode", step=0, total=17), seen=fence)
    harness.cancel("a")
    harness.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    view = harness.view("a")
    assert (view.state, view.phase, view.step, view.total) == ("cancelled", "", 7, 20)


@pytest.mark.parametrize("kind", ["engine_crashed", "out_of_memory", "engine_error"])
def test_an_engine_that_dies_while_stopping_ends_the_job_as_cancelled(kind):
    harness = CoreHarness()
    harness.running("a")
    harness.cancel("a")
    harness.fail("w1", "a", kind, free=0)
    assert (harness.state("a"), harness.job("a").failure) == ("cancelled", None)


def test_a_worker_lost_while_stopping_ends_the_job_as_cancelled():
    harness = CoreHarness()
    harness.running("a")
    harness.cancel("a")
    harness.tick(7)
    assert harness.state("a") == "cancelled"


def test_a_refusal_while_stopping_ends_the_job_as_cancelled():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a")
    harness.cancel("a")
    harness.feed(peer_of("w1"), m.Refused(job_id="a", fence=harness.job("a").fence, free=1))
    assert harness.state("a") == "cancelled"


def test_cancelling_one_job_never_touches_the_next():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.submit("b")
    harness.cancel("a")
    effects = harness.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert [r.job_id for r in sent(effects, m.Run)] == ["b"]
    harness.start("w1", "b")
    held = m.Held(job_id="b", fence=harness.job("b").fence)
    assert not sent(harness.beat("w1", held, seen=harness.job("b").fence), m.Cancel)


def test_a_waiting_job_expires_at_its_deadline():
    harness = CoreHarness()
    harness.submit("a", deadline_s=5.0)
    assert causes(harness.tick(4.9)) == []
    assert causes(harness.tick(0.2)) == [Cause.EXPIRED]
    assert harness.job("a").failure.kind == "expired"


def test_a_running_job_is_stopped_at_its_deadline_and_fails_as_expired():
    harness = CoreHarness()
    fence = harness.running("a", deadline_s=5.0)
    held = m.Held(job_id="a", fence=fence)
    harness.tick(2)
    harness.beat("w1", held, seen=fence)
    harness.tick(2)
    harness.beat("w1", held, seen=fence)
    assert sent(harness.tick(1.5), m.Cancel)
    assert harness.state("a") == "running"
    harness.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert (harness.state("a"), harness.job("a").failure.kind) == ("failed", "expired")


def test_a_job_that_is_done_in_time_does_not_expire():
    harness = CoreHarness()
    harness.running("a", deadline_s=5.0)
    harness.finish("w1", "a")
    assert causes(harness.tick(10)) == []


def test_a_cancel_before_the_deadline_stays_a_cancel():
    harness = CoreHarness()
    harness.running("a", deadline_s=5.0)
    harness.cancel("a")
    harness.tick(5.5)
    harness.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=harness.job("a").fence, free=1))
    assert harness.state("a") == "cancelled"
