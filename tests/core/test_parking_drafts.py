"""Drafts: parked at a step until they are committed."""

from __future__ import annotations

from broker.core.jobs import Cause
from broker.core.policy import Policy
from broker.testing import EDGE, CoreHarness, causes, sent, worker_info
from broker.wire import messages as m
from tests.core.parking_desk import STEPS, desk_with, refusal, reported, runs


def test_a_draft_is_parked_at_its_step_and_goes_on_when_it_is_committed():
    desk = CoreHarness()
    desk.hello("w1", body=worker_info(resumes=True))
    desk.submit("a", steps=STEPS, draft_steps=8)
    assert [run.park_at for run in runs(desk)] == [8]
    fence = desk.job("a").fence
    desk.start("w1", "a")
    effects = desk.hand_back("w1", "a", kept=8)
    assert causes(effects)[-1] is Cause.DRAFTED
    view = desk.view("a")
    assert (view.state, reported(desk).reason, reported(desk).draft_fence) == ("parked", "draft", fence)
    assert reported(desk).draft_expires_at == desk.now + 3600
    effects = desk.feed(EDGE, m.ControlJob(req=0, job_id="a", action="commit"))
    (run,) = sent(effects, m.Run)
    assert (run.kept, run.park_at) == (8, 0)
    assert desk.control("a", "commit") == "done"
    desk.finish("w1", "a")
    assert desk.control("a", "commit") == "done"


def test_a_draft_that_is_not_there_yet_is_not_committed():
    desk = desk_with(draft_steps=8)
    assert "not there yet: it is running, and 0 of 8 steps are done" in refusal(desk, "a", "commit")


def test_a_job_that_is_no_draft_is_not_committed():
    assert "it is no draft" in refusal(desk_with(), "a", "commit")


def test_a_draft_is_not_resumed_but_committed():
    desk = desk_with(draft_steps=8)
    desk.hand_back("w1", "a", kept=8)
    assert "commit it" in refusal(desk, "a", "resume")


def test_a_draft_that_nobody_commits_expires():
    desk = desk_with(policy=Policy(draft_expires_s=50), draft_steps=8)
    desk.hand_back("w1", "a", kept=8)
    desk.tick(49)
    desk.restart()
    assert desk.state("a") == "parked"
    desk.tick(2)
    failure = desk.job("a").failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("expired", "its draft was not committed within 50 s")


def test_an_attempt_that_is_lost_before_the_draft_is_made_again_and_parks_there():
    desk = desk_with(draft_steps=8)
    desk.hand_back("w1", "a", kept=5)
    assert desk.job("a").losses == 1
    assert [(run.kept, run.park_at) for run in runs(desk)] == [(5, 8)]


def test_a_pause_on_the_way_to_the_draft_leaves_it_a_draft():
    desk = desk_with(draft_steps=8)
    desk.control("a", "pause")
    desk.hand_back("w1", "a", kept=8)
    assert reported(desk).reason == "paused"
    assert desk.control("a", "resume") == "done"
    assert reported(desk).reason == "draft"
    desk.tick(3601)
    assert desk.state("a") == "failed"
