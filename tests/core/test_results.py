"""Results: which one counts, which are answered and forgotten, what follows a failure."""

from __future__ import annotations

import pytest

from broker.core.jobs import Cause
from broker.core.machine import Policy
from broker.testing import UNIT, CoreHarness, causes, peer_of, sent
from broker.wire import messages as m
from broker.wire.codec import DecodeError


def ack(effects):
    return [(a.fence, a.accepted) for a in sent(effects, m.ResultAck)]


def test_a_finished_job_is_published_and_acknowledged():
    harness = CoreHarness()
    fence = harness.running("a")
    effects = harness.finish("w1", "a")
    assert ack(effects) == [(fence, True)]
    view = harness.view("a")
    assert (view.state, view.result.seed, view.run_s, view.worker) == ("succeeded", 7, 2.0, "w1")


def test_the_next_job_goes_out_in_the_same_pass():
    harness = CoreHarness()
    harness.running("a")
    harness.submit("b")
    assert [r.job_id for r in sent(harness.finish("w1", "a"), m.Run)] == ["b"]


def test_a_result_resent_because_its_ack_was_lost_is_accepted_again_and_counts_once():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.finish("w1", "a")
    effects = harness.finish("w1", "a", fence)
    assert ack(effects) == [(fence, True)]
    assert causes(effects) == []


def test_a_result_of_an_older_attempt_loses():
    harness = CoreHarness()
    old = harness.running("a")
    harness.hello("w1", boot="b2", peer=b"b-2")  # the process died, the job was granted again
    harness.hello("w3", free=0)
    effects = harness.finish("w3", "a", old)
    assert ack(effects) == [(old, False)]
    assert harness.state("a") == "assigned"


def test_a_result_that_comes_before_another_worker_has_the_job_is_taken():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.tick(7)
    assert harness.state("a") == "queued"
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="finished"), seen=fence, free=0)
    assert ack(harness.finish("w1", "a", fence)) == [(fence, True)]
    assert harness.state("a") == "succeeded"


def test_a_result_for_a_job_nobody_knows_is_answered():
    harness = CoreHarness()
    harness.hello("w1")
    assert ack(harness.finish("w1", "ghost", 5)) == [(5, False)]


def test_a_malformed_result_changes_nothing():
    harness = CoreHarness()
    fence = harness.running("a")
    with pytest.raises(DecodeError):
        harness.feed(peer_of("w1"), m.Finished(job_id="a", fence=fence, free=1, body=b"\x01"))
    assert harness.state("a") == "running"


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("invalid_input", "failed"),
        ("engine_error", "delayed"),
        ("engine_crashed", "delayed"),
        ("hung", "delayed"),
        ("out_of_memory", "delayed"),
    ],
)
def test_what_follows_a_first_failure(kind, outcome):
    harness = CoreHarness()
    harness.running("a")
    harness.fail("w1", "a", kind)
    assert harness.state("a") == outcome


def test_a_failure_resent_because_its_ack_was_lost_counts_once():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.fail("w1", "a", "engine_crashed")
    effects = harness.feed(
        peer_of("w1"), m.Failed(job_id="a", fence=fence, kind=m.FailureKind("engine_crashed"), free=1)
    )
    assert ack(effects) == [(fence, False)]
    assert harness.job("a").crashes == 1


def test_a_delayed_job_returns_when_it_is_due():
    harness = CoreHarness()
    harness.running("a")
    harness.fail("w1", "a", "engine_error")
    harness.beat("w1", free=1)
    effects = harness.tick(1.3)
    assert causes(effects) == [Cause.DUE, Cause.DISPATCHED]
    assert sent(effects, m.Run)[0].attempt == 2


def test_out_of_memory_runs_once_more_with_the_offload_profile():
    harness = CoreHarness()
    harness.running("a")
    harness.fail("w1", "a", "out_of_memory")
    run = sent(harness.tick(1.3), m.Run)[0]
    assert run.profile == "offload"
    harness.start("w1", "a")
    harness.fail("w1", "a", "out_of_memory")
    assert harness.job("a").failure.kind == "out_of_memory"


def test_three_crashes_quarantine_a_job_and_the_story_tells_it():
    harness = CoreHarness()
    harness.submit("a")
    for n in range(3):
        harness.hello("w1", boot=f"b{n}")
        harness.tick(40)
        harness.hello("w1", boot=f"b{n}")
        harness.start("w1", "a")
        harness.fail("w1", "a", "engine_crashed", free=0)
    view = harness.view("a")
    assert (view.state, view.crashes, view.failure.kind) == ("failed", 3, "quarantined")
    assert "3 attempts ended the engine" in view.failure.message
    assert [mv.cause for mv in view.history].count("retried") == 2
    assert view.history[-1].cause == "quarantined"


def test_a_job_goes_to_another_worker_after_a_crash_if_there_is_one():
    harness = CoreHarness()
    harness.running("a")
    harness.hello("w2", free=0)
    harness.fail("w1", "a", "engine_crashed")
    harness.tick(1.3)
    assert harness.state("a") == "queued"  # w1 has room, but w2 is preferred
    harness.beat("w2", free=1)
    assert harness.job("a").worker == "w2"


def test_a_job_that_crashed_everywhere_runs_anywhere():
    harness = CoreHarness(Policy(max_crashes=9))
    harness.running("a")
    harness.fail("w1", "a", "engine_crashed")
    harness.tick(1.3)
    assert (harness.state("a"), harness.job("a").worker) == ("assigned", "w1")


def test_a_job_does_not_wait_for_a_worker_whose_engine_is_down():
    harness = CoreHarness()
    harness.running("a")
    harness.hello("w2", free=0)
    harness.beat("w2", free=0, engine="restarting")
    harness.fail("w1", "a", "engine_crashed")
    harness.tick(1.3)
    assert harness.job("a").worker == "w1"


def test_a_late_failure_of_a_job_that_went_back_to_the_queue_is_counted():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.tick(7)
    harness.hello("w1", seen=fence, free=0)
    harness.feed(peer_of("w1"), m.Failed(job_id="a", fence=fence, kind=m.FailureKind("engine_crashed"), free=0))
    assert (harness.state("a"), harness.job("a").crashes) == ("delayed", 1)


def test_a_cancelled_nobody_asked_for_only_goes_back():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.feed(peer_of("w1"), m.Cancelled(job_id="a", fence=fence, free=0))
    assert harness.state("a") == "queued"


def test_workers_are_counted_by_outcome():
    harness = CoreHarness()
    harness.running("a")
    harness.finish("w1", "a")
    harness.submit("b")
    harness.start("w1", "b")
    harness.fail("w1", "b", "invalid_input")
    worker = harness.core.snapshot().workers[0]
    assert (worker.succeeded, worker.failed, worker.cancelled) == (1, 1, 0)


def test_the_predicted_time_is_learned_from_what_jobs_took():
    harness = CoreHarness()
    harness.running("a", units=4 * UNIT)  # finishes after 2 s: half a second a unit
    harness.finish("w1", "a")
    harness.submit("b", units=8 * UNIT)
    assert sent(harness.effects, m.Run)[0].predicted_s == pytest.approx(4.0, rel=0.01)
    harness.submit("c", units=2 * UNIT)
    harness.tick(0.01)  # one moment, one answer
    assert harness.view("c").eta_s == pytest.approx(4.0 + 1.0, abs=0.5)
