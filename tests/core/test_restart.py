"""The broker dies and comes back: what was promised is kept, what was running goes on."""

from __future__ import annotations

import pytest

from broker.core.effects import Send
from broker.core.machine import Core
from broker.core.policy import Policy
from broker.testing import UNIT, CoreHarness, peer_of, sent
from broker.wire import codec
from broker.wire import messages as m


def test_queued_jobs_are_still_there_and_start_as_soon_as_a_worker_is():
    desk = CoreHarness()
    desk.submit("a")
    desk.restart()
    desk.hello("w1")
    assert sent(desk.effects, m.Run)[0].job_id == "a"


def test_fences_and_revisions_only_grow():
    desk = CoreHarness()
    fence = desk.running("a")
    revision = desk.job("a").revision
    desk.restart()
    desk.hello("w1", seen=fence)
    assert desk.job("a").fence > fence
    assert desk.job("a").revision > revision


def test_a_running_job_is_adopted_when_its_worker_comes_back():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.archive.commit()
    desk.restart()
    assert desk.state("a") == "running"
    desk.tick(1)
    desk.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=4, total=9), seen=fence, free=0)
    assert desk.view("a").step == 4
    assert desk.job("a").attempts == 1
    desk.tick(2.4)
    assert desk.state("a") == "running"
    desk.finish("w1", "a", fence)
    assert desk.state("a") == "succeeded"


def test_a_running_job_whose_rows_were_lost_is_adopted_too():
    desk = CoreHarness()
    desk.submit("a")
    desk.hello("w1")
    desk.start("w1", "a")
    fence = desk.job("a").fence
    desk.restart()  # the rows of dispatch and start were lazy
    assert desk.state("a") == "queued"
    desk.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise"), seen=fence, free=0)
    assert (desk.state("a"), desk.job("a").fence) == ("running", fence)


def test_a_result_finished_while_the_broker_was_away_is_taken():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.archive.commit()
    desk.restart()
    desk.hello("w1", m.Held(job_id="a", fence=fence, phase="finished"), seen=fence, free=1)
    effects = desk.finish("w1", "a", fence)
    assert sent(effects, m.ResultAck)[0].accepted
    assert desk.state("a") == "succeeded"


def test_orphans_go_to_the_front_when_their_worker_does_not_come_back():
    desk = CoreHarness()
    desk.running("a")
    desk.submit("b")
    desk.archive.commit()
    desk.restart()
    desk.hello("w2", free=0)
    desk.tick(2.9)
    assert desk.state("a") == "running"
    desk.tick(0.2)
    assert desk.state("a") == "queued"
    desk.beat("w2", free=1)
    assert (desk.state("a"), desk.state("b")) == ("assigned", "queued")


def test_an_orphan_whose_worker_comes_back_without_it_does_not_wait_for_the_window():
    desk = CoreHarness()
    desk.running("a")
    desk.archive.commit()
    desk.restart()
    desk.hello("w1", boot="b2")
    assert sent(desk.effects, m.Run)[0].job_id == "a"


def test_a_worker_that_comes_back_gives_back_its_own_orphans_alone():
    desk = CoreHarness()
    desk.running("a", worker="w1")
    desk.running("b", worker="w2")
    desk.archive.commit()
    desk.restart()
    desk.hello("w1", boot="b2", free=0)
    assert (desk.state("a"), desk.state("b")) == ("queued", "running")
    desk.hello("w2", boot="b2", free=0)
    assert (desk.state("a"), desk.state("b")) == ("queued", "queued")


def test_a_cancel_survives_and_reaches_the_worker_when_it_returns():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.cancel("a")
    desk.restart()
    effects = desk.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise"), seen=fence, free=0)
    assert [c.fence for c in sent(effects, m.Cancel)] == [fence]
    desk.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert desk.state("a") == "cancelled"


def test_a_cancelled_orphan_ends_with_the_window():
    desk = CoreHarness()
    desk.running("a")
    desk.cancel("a")
    desk.restart()
    desk.tick(3.5)
    assert desk.state("a") == "cancelled"


def test_an_orphan_can_be_cancelled():
    desk = CoreHarness()
    desk.running("a")
    desk.archive.commit()
    desk.restart()
    assert desk.cancel("a") == "requested"
    desk.tick(3.5)
    assert desk.state("a") == "cancelled"


def test_delays_and_deadlines_survive():
    desk = CoreHarness()
    desk.running("a", deadline_s=100.0)
    desk.fail("w1", "a", "engine_error", free=0)
    desk.submit("b", deadline_s=50.0)
    desk.restart()
    assert desk.state("a") == "delayed"
    desk.tick(2)
    assert desk.state("a") == "queued"
    desk.tick(50)
    assert desk.state("b") == "failed"
    assert desk.state("a") == "queued"


def test_a_failure_resent_after_the_restart_counts_once():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.fail("w1", "a", "engine_crashed", free=0)
    desk.restart()
    desk.hello("w1", m.Held(job_id="a", fence=fence, phase="finished"), seen=fence, free=0)
    desk.feed(peer_of("w1"), m.Failed(job_id="a", fence=fence, kind=m.FailureKind("engine_crashed"), free=0))
    assert desk.job("a").crashes == 1


@pytest.mark.parametrize("seen", [1 << 32 | 5, 1 << 32 | 0xFFFF_FFFF, 7 << 32 | 1, 2**63 - 1])
def test_a_worker_that_was_given_jobs_by_another_journal_must_start_anew(seen):
    """The journal was deleted, or restored from a backup: the worker would take new grants for ones that it has seen."""
    desk = CoreHarness(epoch=1)
    effects = desk.hello("w1", seen=seen)
    assert "start the worker anew" in sent(effects, m.WorkerRejected, peer_of("w1"))[0].reason
    desk.submit("b")
    assert desk.state("b") == "queued"
    desk.hello("w1", seen=0, boot="anew")
    assert desk.state("b") == "assigned"


def test_attempts_are_counted_right_over_a_restart():
    desk = CoreHarness()
    desk.running("a")
    desk.fail("w1", "a", "engine_error")
    desk.tick(1.3)
    assert desk.state("a") == "assigned"  # granted again, not begun
    desk.archive.commit()
    fence = desk.job("a").fence
    desk.restart()
    desk.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise"), seen=fence, free=0)
    assert desk.job("a").attempts == 2


def test_predictions_are_learned_again_from_the_journal():
    desk = CoreHarness()
    desk.core.restore([], [("demo", 10 * UNIT, 5.0, 1)], desk.now)
    desk.hello("w1")
    desk.submit("a", units=4 * UNIT)
    assert sent(desk.effects, m.Run)[0].predicted_s == pytest.approx(2.0, rel=0.01)


def test_workers_get_their_keys_to_the_depot_also_after_a_fresh_start():
    core = Core(1, Policy(), 0.0, lambda worker: f"key of {worker}")
    hello = m.Hello(name="gpu-0", boot="b", seen=0, free=1, body=codec.encode_body(m.WorkerInfo()))
    for epoch in (1, 2):
        core.reset(epoch, float(epoch))
        effects = core.receive(b"b1", hello, float(epoch), None)
        assert [one.message.depot_key for one in effects if isinstance(one, Send)] == ["key of gpu-0"]


def test_an_attempt_at_a_job_that_was_deleted_is_none_at_a_later_one_of_its_id():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.tick(desk.policy.lost_after_s + 1)
    desk.cancel("a")
    assert desk.ask(m.ForgetJobs(req=1, job_ids=("a",)), m.Forgotten).job_ids == ("a",)
    desk.submit("a", body=b"another spec")
    desk.restart()
    effects = desk.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=4, total=9), seen=fence, free=0)
    assert [(cancel.job_id, cancel.fence) for cancel in sent(effects, m.Cancel)] == [("a", fence)]
    assert desk.state("a") == "queued"


def test_a_job_that_was_never_granted_is_shown_without_a_fence():
    desk = CoreHarness()
    desk.running("a")
    desk.submit("b")
    assert desk.job("b").fence == desk.view("a").fence
    assert desk.view("b").fence == 0
