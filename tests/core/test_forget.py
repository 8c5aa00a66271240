"""Deleting records: final jobs alone, for good, and every watcher hears of it."""

from __future__ import annotations

from broker.core.effects import RecordDeleted
from broker.core.machine import Policy
from broker.testing import EDGE, CoreHarness, sent
from broker.wire import messages as m
from tests.core.deletions import forget


def test_final_jobs_go_and_live_ones_stay():
    harness = CoreHarness()
    harness.running("done")
    harness.finish("w1", "done", free=0)
    harness.running("running", worker="w2")
    harness.submit("waiting", pinned="nobody")
    harness.submit("cancelled", pinned="nobody")
    harness.cancel("cancelled")
    assert forget(harness, "done", "running", "waiting", "cancelled", "unknown", "done") == ("done", "cancelled")
    assert [effect.job_id for effect in harness.effects if isinstance(effect, RecordDeleted)] == ["done", "cancelled"]
    for job_id in ("done", "cancelled"):
        assert not harness.ask(m.GetJob(req=1, job_id=job_id), m.JobReply).found
    assert (harness.state("running"), harness.state("waiting")) == ("running", "queued")
    assert forget(harness, "done") == ()
    harness.restart()
    assert not harness.ask(m.GetJob(req=1, job_id="done"), m.JobReply).found


def test_a_job_that_is_only_in_the_archive_goes_too():
    harness = CoreHarness(Policy(recent_finals=0))
    harness.running("old")
    harness.finish("w1", "old")
    assert harness.core.job("old") is None
    assert forget(harness, "old") == ("old",)
    assert harness.archive.find("old") is None


def test_what_finished_later_than_asked_for_stays():
    harness = CoreHarness()
    harness.running("early")
    harness.finish("w1", "early")
    harness.now += 2
    harness.running("late")
    harness.finish("w1", "late")
    assert forget(harness, "early", "late", finished_s=1.0) == ("early",)


def test_the_id_is_free_again_and_an_old_result_is_garbage():
    harness = CoreHarness()
    fence = harness.running("a")
    harness.finish("w1", "a")
    forget(harness, "a")
    answer = harness.submit("a", b"another spec")
    assert isinstance(answer, m.Accepted)
    assert not answer.duplicate
    acks = sent(harness.finish("w1", "a", fence), m.ResultAck)
    assert [(ack.fence, ack.accepted) for ack in acks] == [(fence, False)]


def test_the_bytes_of_forgotten_jobs_do_not_count():
    harness = CoreHarness(Policy(recent_finals=10, recent_final_bytes=100))
    for _ in range(3):
        harness.running("a", body=b"x" * 60)
        harness.finish("w1", "a")
        forget(harness, "a")
    harness.running("b", body=b"x" * 60)
    harness.finish("w1", "b")
    assert harness.core.job("b") is not None


def test_watchers_are_told_in_their_numbering():
    harness = CoreHarness()
    harness.running("a")
    watching = harness.ask(m.Watch(req=1), m.Watching)
    harness.finish("w1", "a")
    assert [event.seq for event in sent(harness.effects, m.Event, EDGE)] == [watching.seq + 1]
    forget(harness, "a")
    assert sent(harness.effects, m.JobsDeleted, EDGE) == [m.JobsDeleted(seq=watching.seq + 2, job_ids=("a",))]
    forget(harness, "a")
    assert sent(harness.effects, m.JobsDeleted) == []
