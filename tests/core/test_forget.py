"""Deleting records: final jobs alone, for good, and every watcher hears of it."""

from __future__ import annotations

from broker.core.effects import RecordDeleted
from broker.core.machine import Policy
from broker.testing import EDGE, CoreHarness, sent
from broker.wire import messages as m
from tests.core.deletions import forget


def test_final_jobs_go_and_live_ones_stay():
    desk = CoreHarness()
    desk.running("done")
    desk.finish("w1", "done", free=0)
    desk.running("running", worker="w2")
    desk.submit("waiting", pinned="nobody")
    desk.submit("cancelled", pinned="nobody")
    desk.cancel("cancelled")
    assert forget(desk, "done", "running", "waiting", "cancelled", "unknown", "done") == ("done", "cancelled")
    assert [effect.job_id for effect in desk.effects if isinstance(effect, RecordDeleted)] == ["done", "cancelled"]
    for job_id in ("done", "cancelled"):
        assert not desk.ask(m.GetJob(req=1, job_id=job_id), m.JobReply).found
    assert (desk.state("running"), desk.state("waiting")) == ("running", "queued")
    assert forget(desk, "done") == ()
    desk.restart()
    assert not desk.ask(m.GetJob(req=1, job_id="done"), m.JobReply).found


def test_a_job_that_is_only_in_the_archive_goes_too():
    desk = CoreHarness(Policy(recent_finals=0))
    desk.running("old")
    desk.finish("w1", "old")
    assert desk.core.job("old") is None
    assert forget(desk, "old") == ("old",)
    assert desk.archive.find("old") is None


def test_what_finished_later_than_asked_for_stays():
    desk = CoreHarness()
    desk.running("early")
    desk.finish("w1", "early")
    desk.now += 2
    desk.running("late")
    desk.finish("w1", "late")
    assert forget(desk, "early", "late", finished_s=1.0) == ("early",)


def test_the_id_is_free_again_and_an_old_result_is_garbage():
    desk = CoreHarness()
    fence = desk.running("a")
    desk.finish("w1", "a")
    forget(desk, "a")
    answer = desk.submit("a", b"another spec")
    assert isinstance(answer, m.Accepted)
    assert not answer.duplicate
    acks = sent(desk.finish("w1", "a", fence), m.ResultAck)
    assert [(ack.fence, ack.accepted) for ack in acks] == [(fence, False)]


def test_the_bytes_of_forgotten_jobs_do_not_count():
    desk = CoreHarness(Policy(recent_finals=10, recent_final_bytes=100))
    for _ in range(3):
        desk.running("a", body=b"x" * 60)
        desk.finish("w1", "a")
        forget(desk, "a")
    desk.running("b", body=b"x" * 60)
    desk.finish("w1", "b")
    assert desk.core.job("b") is not None


def test_watchers_are_told_in_their_numbering():
    desk = CoreHarness()
    desk.running("a")
    watching = desk.ask(m.Watch(req=1), m.Watching)
    desk.finish("w1", "a")
    assert [event.seq for event in sent(desk.effects, m.Event, EDGE)] == [watching.seq + 1]
    forget(desk, "a")
    assert sent(desk.effects, m.JobsDeleted, EDGE) == [m.JobsDeleted(seq=watching.seq + 2, job_ids=("a",))]
    forget(desk, "a")
    assert sent(desk.effects, m.JobsDeleted) == []
