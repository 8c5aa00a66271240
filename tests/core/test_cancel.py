"""Cancelling and deadlines: from every state, and racing everything."""

from __future__ import annotations

import pytest

from broker.core.jobs import Cause
from broker.testing import CoreHarness, causes, peer_of, sent
from broker.wire import messages as m


def test_an_unknown_job():
    assert CoreHarness().cancel("nope") == "not_found"


def test_a_queued_job_ends_at_once():
    desk = CoreHarness()
    desk.submit("a")
    assert desk.cancel("a") == "cancelled"
    assert desk.archive.written("a").state == "cancelled"
    desk.hello("w1")
    assert not sent(desk.effects, m.Run)


def test_a_delayed_job_ends_at_once():
    desk = CoreHarness()
    desk.running("a")
    desk.fail("w1", "a", "engine_error")
    assert desk.cancel("a") == "cancelled"
    assert causes(desk.tick(60)) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_held_job_is_told_to_stop_durably_and_ends_when_the_worker_says_so(begun):
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    fence = desk.job("a").fence
    if begun:
        desk.start("w1", "a")
    effects = desk.feed(b"f-edge", m.CancelJob(req=1, job_id="a"))
    assert [c.fence for c in sent(effects, m.Cancel, peer_of("w1"))] == [fence]
    assert desk.archive.written("a").stop == "cancel"
    assert desk.view("a").cancel_requested
    effects = desk.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert desk.state("a") == "cancelled"
    assert sent(effects, m.ResultAck)[0].accepted


def test_asking_twice_asks_once():
    desk = CoreHarness()
    desk.running("a")
    assert desk.cancel("a") == "requested"
    assert desk.cancel("a") == "requested"
    assert causes(desk.effects) == []


def test_a_final_job_stays_as_it_is():
    desk = CoreHarness()
    desk.running("a")
    desk.finish("w1", "a")
    assert desk.cancel("a") == "already_final"
    assert desk.state("a") == "succeeded"


def test_the_order_is_repeated_with_every_heartbeat_until_the_result_is_in():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.cancel("a")
    held = m.Held(job_id="a", fence=fence, phase="denoise")
    for _ in range(3):
        assert sent(desk.beat("w1", held, seen=fence), m.Cancel)
    desk.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert not sent(desk.beat("w1", seen=fence, free=1), m.Cancel)


def test_a_finish_after_an_accepted_cancel_loses_and_is_told_so():
    desk = CoreHarness()
    desk.running("a")
    desk.cancel("a")
    effects = desk.finish("w1", "a")
    assert desk.state("a") == "cancelled"
    assert desk.job("a").result is None
    assert [a.accepted for a in sent(effects, m.ResultAck)] == [False]


def test_a_cancelled_job_still_shows_how_far_it_came():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.beat("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=7, total=20), seen=fence)
    desk.beat("w1", m.Held(job_id="a", fence=fence, phase="decode", step=0, total=17), seen=fence)
    desk.cancel("a")
    desk.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    view = desk.view("a")
    assert (view.state, view.phase, view.step, view.total) == ("cancelled", "", 7, 20)


@pytest.mark.parametrize("kind", ["engine_crashed", "out_of_memory", "engine_error"])
def test_an_engine_that_dies_while_stopping_ends_the_job_as_cancelled(kind):
    desk = CoreHarness()
    desk.running("a")
    desk.cancel("a")
    desk.fail("w1", "a", kind, free=0)
    assert (desk.state("a"), desk.job("a").failure) == ("cancelled", None)


def test_a_worker_lost_while_stopping_ends_the_job_as_cancelled():
    desk = CoreHarness()
    desk.running("a")
    desk.cancel("a")
    desk.tick(7)
    assert desk.state("a") == "cancelled"


def test_a_refusal_while_stopping_ends_the_job_as_cancelled():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a")
    desk.cancel("a")
    desk.feed(peer_of("w1"), m.Refused(job_id="a", fence=desk.job("a").fence, free=1))
    assert desk.state("a") == "cancelled"


def test_cancelling_one_job_never_touches_the_next():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.submit("b")
    desk.cancel("a")
    effects = desk.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert [r.job_id for r in sent(effects, m.Run)] == ["b"]
    desk.start("w1", "b")
    held = m.Held(job_id="b", fence=desk.job("b").fence)
    assert not sent(desk.beat("w1", held, seen=desk.job("b").fence), m.Cancel)


def test_a_waiting_job_expires_at_its_deadline():
    desk = CoreHarness()
    desk.submit("a", deadline_s=5.0)
    assert causes(desk.tick(4.9)) == []
    assert causes(desk.tick(0.2)) == [Cause.EXPIRED]
    assert desk.job("a").failure.kind == "expired"


def test_a_running_job_is_stopped_at_its_deadline_and_fails_as_expired():
    desk = CoreHarness()
    fence = desk.running("a", deadline_s=5.0)
    held = m.Held(job_id="a", fence=fence)
    desk.tick(2)
    desk.beat("w1", held, seen=fence)
    desk.tick(2)
    desk.beat("w1", held, seen=fence)
    assert sent(desk.tick(1.5), m.Cancel)
    assert desk.state("a") == "running"
    desk.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert (desk.state("a"), desk.job("a").failure.kind) == ("failed", "expired")


def test_a_job_that_is_done_in_time_does_not_expire():
    desk = CoreHarness()
    desk.running("a", deadline_s=5.0)
    desk.finish("w1", "a")
    assert causes(desk.tick(10)) == []


def test_a_cancel_before_the_deadline_stays_a_cancel():
    desk = CoreHarness()
    desk.running("a", deadline_s=5.0)
    desk.cancel("a")
    desk.tick(5.5)
    desk.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=desk.job("a").fence, free=1))
    assert desk.state("a") == "cancelled"
