"""Drafts: parked at a step until they are committed."""

from __future__ import annotations

from broker.core.jobs import Cause
from broker.core.policy import Policy
from broker.testing import EDGE, CoreHarness, causes, sent, worker_info
from broker.wire import messages as m
from tests.core.parking_harness import STEPS, harness_with, refusal, reported, runs


def test_a_draft_is_parked_at_its_step_and_goes_on_when_it_is_committed():
    harness = CoreHarness()
    harness.hello("w1", body=worker_info(resumes=True))
    harness.submit("a", steps=STEPS, draft_steps=8)
    assert [run.park_at for run in runs(harness)] == [8]
    fence = harness.job("a").fence
    harness.start("w1", "a")
    effects = harness.hand_back("w1", "a", kept=8)
    assert causes(effects)[-1] is Cause.DRAFTED
    view = harness.view("a")
    assert (view.state, reported(harness).reason, reported(harness).draft_fence) == ("parked", "draft", fence)
    assert reported(harness).draft_expires_at == harness.now + 3600
    effects = harness.feed(EDGE, m.ControlJob(req=0, job_id="a", action="commit"))
    (run,) = sent(effects, m.Run)
    assert (run.kept, run.park_at) == (8, 0)
    assert harness.control("a", "commit") == "done"
    harness.finish("w1", "a")
    assert harness.control("a", "commit") == "done"


def test_a_draft_that_is_not_there_yet_is_not_committed():
    harness = harness_with(draft_steps=8)
    assert "not there yet: it is running, and 0 of 8 steps are done" in refusal(harness, "a", "commit")


def test_a_job_that_is_no_draft_is_not_committed():
    assert "it is no draft" in refusal(harness_with(), "a", "commit")


def test_a_draft_is_not_resumed_but_committed():
    harness = harness_with(draft_steps=8)
    harness.hand_back("w1", "a", kept=8)
    assert "commit it" in refusal(harness, "a", "resume")


def test_a_draft_that_nobody_commits_expires():
    harness = harness_with(policy=Policy(draft_expires_s=50), draft_steps=8)
    harness.hand_back("w1", "a", kept=8)
    harness.tick(49)
    harness.restart()
    assert harness.state("a") == "parked"
    harness.tick(2)
    failure = harness.job("a").failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("expired", "its draft was not committed within 50 s")


def test_an_attempt_that_is_lost_before_the_draft_is_made_again_and_parks_there():
    harness = harness_with(draft_steps=8)
    harness.hand_back("w1", "a", kept=5)
    assert harness.job("a").losses == 1
    assert [(run.kept, run.park_at) for run in runs(harness)] == [(5, 8)]


def test_a_pause_on_the_way_to_the_draft_leaves_it_a_draft():
    harness = harness_with(draft_steps=8)
    harness.control("a", "pause")
    harness.hand_back("w1", "a", kept=8)
    assert reported(harness).reason == "paused"
    assert harness.control("a", "resume") == "done"
    assert reported(harness).reason == "draft"
    harness.tick(3601)
    assert harness.state("a") == "failed"
