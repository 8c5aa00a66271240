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
    harness = CoreHarness()
    harness.submit("a")
    harness.restart()
    harness.hello("w1")
    assert sent(harness.effects, m.Run)[0].job_id == "a"


def test_fences_and_revisions_only_grow():
    harness = CoreHarness()
    fence = harness.running("a")
    revision = harness.job("a").revision
    harness.restart()
    harness.hello("w1", seen=fence)
    assert harness.job("a").fence > fence
    assert harness.job("a").revision > revision


def test_a_running_job_is_adopted_when_its_worker_comes_back():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.archive.commit()
    harness.restart()
    assert harness.state("a") == "running"
    harness.tick(1)
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=4, total=9), seen=fence, free=0)
    assert harness.view("a").step == 4
    assert harness.job("a").attempts == 1
    harness.tick(2.4)
    assert harness.state("a") == "running"
    harness.finish("w1", "a", fence)
    assert harness.state("a") == "succeeded"


def test_a_running_job_whose_rows_were_lost_is_adopted_too():
    harness = CoreHarness()
    harness.submit("a")
    harness.hello("w1")
    harness.start("w1", "a")
    fence = harness.job("a").fence
    harness.restart()  # the rows of dispatch and start were lazy
    assert harness.state("a") == "queued"
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise"), seen=fence, free=0)
    assert (harness.state("a"), harness.job("a").fence) == ("running", fence)


def test_a_result_finished_while_the_broker_was_away_is_taken():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.archive.commit()
    harness.restart()
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="finished"), seen=fence, free=1)
    effects = harness.finish("w1", "a", fence)
    assert sent(effects, m.ResultAck)[0].accepted
    assert harness.state("a") == "succeeded"


def test_orphans_go_to_the_front_when_their_worker_does_not_come_back():
    harness = CoreHarness()
    harness.running("a")
    harness.submit("b")
    harness.archive.commit()
    harness.restart()
    harness.hello("w2", free=0)
    harness.tick(2.9)
    assert harness.state("a") == "running"
    harness.tick(0.2)
    assert harness.state("a") == "queued"
    harness.beat("w2", free=1)
    assert (harness.state("a"), harness.state("b")) == ("assigned", "queued")


def test_an_orphan_whose_worker_comes_back_without_it_does_not_wait_for_the_window():
    harness = CoreHarness()
    harness.running("a")
    harness.archive.commit()
    harness.restart()
    harness.hello("w1", boot="b2")
    assert sent(harness.effects, m.Run)[0].job_id == "a"


def test_a_worker_that_comes_back_gives_back_its_own_orphans_alone():
    harness = CoreHarness()
    harness.running("a", worker="w1")
    harness.running("b", worker="w2")
    harness.archive.commit()
    harness.restart()
    harness.hello("w1", boot="b2", free=0)
    assert (harness.state("a"), harness.state("b")) == ("queued", "running")
    harness.hello("w2", boot="b2", free=0)
    assert (harness.state("a"), harness.state("b")) == ("queued", "queued")


def test_a_cancel_survives_and_reaches_the_worker_when_it_returns():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.cancel("a")
    harness.restart()
    effects = harness.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise"), seen=fence, free=0)
    assert [c.fence for c in sent(effects, m.Cancel)] == [fence]
    harness.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=1))
    assert harness.state("a") == "cancelled"


def test_a_cancelled_orphan_ends_with_the_window():
    harness = CoreHarness()
    harness.running("a")
    harness.cancel("a")
    harness.restart()
    harness.tick(3.5)
    assert harness.state("a") == "cancelled"


def test_an_orphan_can_be_cancelled():
    harness = CoreHarness()
    harness.running("a")
    harness.archive.commit()
    harness.restart()
    assert harness.cancel("a") == "requested"
    harness.tick(3.5)
    assert harness.state("a") == "cancelled"


def test_delays_and_deadlines_survive():
    harness = CoreHarness()
    harness.running("a", deadline_s=100.0)
    harness.fail("w1", "a", "engine_error", free=0)
    harness.submit("b", deadline_s=50.0)
    harness.restart()
    assert harness.state("a") == "delayed"
    harness.tick(2)
    assert harness.state("a") == "queued"
    harness.tick(50)
    assert harness.state("b") == "failed"
    assert harness.state("a") == "queued"


def test_a_failure_resent_after_the_restart_counts_once():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.fail("w1", "a", "engine_crashed", free=0)
    harness.restart()
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="finished"), seen=fence, free=0)
    harness.feed(peer_of("w1"), m.Failed(job_id="a", fence=fence, kind=m.FailureKind("engine_crashed"), free=0))
    assert harness.job("a").crashes == 1


@pytest.mark.parametrize("seen", [1 << 32 | 5, 1 << 32 | 0xFFFF_FFFF, 7 << 32 | 1, 2**63 - 1])
def test_a_worker_that_was_given_jobs_by_another_journal_must_start_anew(seen):
    """The journal was deleted, or restored from a backup: the worker would take new grants for ones that it has seen."""
    harness = CoreHarness(epoch=1)
    effects = harness.hello("w1", seen=seen)
    assert "start the worker anew" in sent(effects, m.WorkerRejected, peer_of("w1"))[0].reason
    harness.submit("b")
    assert harness.state("b") == "queued"
    harness.hello("w1", seen=0, boot="anew")
    assert harness.state("b") == "assigned"


def test_attempts_are_counted_right_over_a_restart():
    harness = CoreHarness()
    harness.running("a")
    harness.fail("w1", "a", "engine_error")
    harness.tick(1.3)
    assert harness.state("a") == "assigned"  # granted again, not begun
    harness.archive.commit()
    fence = harness.job("a").fence
    harness.restart()
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise"), seen=fence, free=0)
    assert harness.job("a").attempts == 2


def test_predictions_are_learned_again_from_the_journal():
    harness = CoreHarness()
    harness.core.restore([], [("demo", 10 * UNIT, 5.0, 1)], harness.now)
    harness.hello("w1")
    harness.submit("a", units=4 * UNIT)
    assert sent(harness.effects, m.Run)[0].predicted_s == pytest.approx(2.0, rel=0.01)


def test_workers_get_their_keys_to_the_depot_also_after_a_fresh_start():
    core = Core(1, Policy(), 0.0, lambda worker: f"key of {worker}")
    hello = m.Hello(name="gpu-0", boot="b", seen=0, free=1, body=codec.encode_body(m.WorkerInfo()))
    for epoch in (1, 2):
        core.reset(epoch, float(epoch))
        effects = core.receive(b"b1", hello, float(epoch), None)
        assert [one.message.depot_key for one in effects if isinstance(one, Send)] == ["key of gpu-0"]


def test_an_attempt_at_a_job_that_was_deleted_is_none_at_a_later_one_of_its_id():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.tick(harness.policy.lost_after_s + 1)
    harness.cancel("a")
    assert harness.ask(m.ForgetJobs(req=1, job_ids=("a",)), m.Forgotten).job_ids == ("a",)
    harness.submit("a", body=b"another spec")
    harness.restart()
    effects = harness.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise", step=4, total=9), seen=fence, free=0)
    assert [(cancel.job_id, cancel.fence) for cancel in sent(effects, m.Cancel)] == [("a", fence)]
    assert harness.state("a") == "queued"


def test_a_job_that_was_never_granted_is_shown_without_a_fence():
    harness = CoreHarness()
    harness.running("a")
    harness.submit("b")
    assert harness.job("b").fence == harness.view("a").fence
    assert harness.view("b").fence == 0
