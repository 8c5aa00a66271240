"""Pausing, making room and hand-backs: from every state, and racing everything."""

from __future__ import annotations

import pytest

from broker.core import parking
from broker.core.effects import Send
from broker.core.jobs import PARKS, Cause, IllegalMove, Job
from broker.core.policy import Policy
from broker.testing import EDGE, UNIT, CoreHarness, causes, holding, peer_of, sent, worker_info
from broker.wire import messages as m
from broker.wire.submission import Submission
from tests.core.parking_harness import STEPS, harness_with, refusal, reported, runs

# ---------------------------------------------------------------- the wish


def test_each_wish_gives_way_to_those_of_the_table():
    for old, allowed in PARKS.items():
        for new in PARKS:
            job = Job(id="j", submission=Submission(model="demo"), body=b"", park=old)
            if new in allowed:
                job.wish_park(new)
                assert job.park == new
            else:
                with pytest.raises(IllegalMove, match="cannot be"):
                    job.wish_park(new)


# ---------------------------------------------------------------- pause


def test_an_unknown_job():
    assert CoreHarness().control("nope", "pause") == "not_found"


def test_a_job_of_another_tenant_is_not_found():
    harness = CoreHarness()
    harness.submit("a", tenant="studio")
    message = m.ControlJob(req=0, job_id="a", action="pause", tenant="lab")
    assert harness.ask(message, m.ControlReply).outcome == "not_found"


def test_a_queued_job_is_kept_out_of_the_engines_until_it_is_resumed():
    harness = CoreHarness()
    harness.submit("a")
    assert harness.control("a", "pause") == "done"
    assert (harness.state("a"), reported(harness).reason) == ("parked", "paused")
    harness.hello("w1")
    assert runs(harness) == []
    assert harness.control("a", "resume") == "done"
    assert [run.job_id for run in runs(harness)] == ["a"]


def test_a_paused_job_keeps_its_place_in_the_queue():
    harness = CoreHarness()
    harness.submit("a")
    harness.control("a", "pause")
    harness.tick(30)
    harness.submit("b")
    harness.control("a", "resume")
    harness.hello("w1")
    assert [run.job_id for run in runs(harness)] == ["a"]


def test_a_delayed_job_is_paused_and_is_due_no_more():
    harness = CoreHarness()
    harness.running("a")
    harness.fail("w1", "a", "engine_error")
    assert harness.control("a", "pause") == "done"
    harness.tick(60)
    assert harness.state("a") == "parked"
    harness.control("a", "resume")
    assert harness.state("a") == "queued"


@pytest.mark.parametrize("begun", [False, True])
def test_a_held_job_is_told_durably_and_parked_when_it_is_handed_back(begun):
    harness = CoreHarness()
    harness.hello("w1", body=worker_info(resumes=True))
    harness.submit("a", steps=STEPS)
    if begun:
        harness.start("w1", "a")
    fence = harness.job("a").fence
    effects = harness.feed(EDGE, m.ControlJob(req=1, job_id="a", action="pause"))
    assert [park.fence for park in sent(effects, m.Park, peer_of("w1"))] == [fence]
    assert harness.archive.written("a").park == "pause"
    assert reported(harness).requested
    effects = harness.hand_back("w1", "a", kept=12)
    assert causes(effects)[-1] is Cause.PAUSED
    view = harness.view("a")
    assert (view.state, reported(harness).reason, view.kept, view.losses, view.worker) == (
        "parked",
        "paused",
        12,
        0,
        "",
    )
    assert view.history[-1].note == "12 of 40 steps are kept"
    assert runs(harness) == []


def test_the_wish_is_repeated_with_every_heartbeat_until_the_job_is_back():
    harness = harness_with()
    fence = harness.job("a").fence
    harness.control("a", "pause")
    for _ in range(3):
        assert sent(harness.feed(peer_of("w1"), holding("a", fence, phase="denoise")), m.Park)
    harness.hand_back("w1", "a", kept=3)
    assert not sent(harness.beat("w1", seen=fence, free=1), m.Park)


def test_what_goes_on_begins_where_it_was_and_costs_what_is_left():
    harness = harness_with(units=UNIT)
    harness.finish("w1", "a")
    harness.submit("b", steps=STEPS, units=UNIT)
    harness.start("w1", "b")
    whole_s = harness.job("b").cost
    harness.control("b", "pause")
    harness.hand_back("w1", "b", kept=30)
    effects = harness.feed(EDGE, m.ControlJob(req=0, job_id="b", action="resume"))
    (run,) = sent(effects, m.Run)
    assert (run.kept, run.attempt) == (30, 2)
    assert run.predicted_s < whole_s / 2
    assert harness.view("b").history[-1].note == "30 of 40 steps are kept"


def test_a_running_job_of_a_model_that_does_not_resume_is_not_paused():
    harness = harness_with(resumes=False)
    assert "model 'demo' cannot go on" in refusal(harness, "a", "pause")
    assert harness.view("a").parking is None


def test_asking_twice_asks_once():
    harness = harness_with()
    assert harness.control("a", "pause") == "requested"
    assert harness.control("a", "pause") == "requested"
    assert causes(harness.effects) == []
    harness.hand_back("w1", "a", kept=3)
    assert harness.control("a", "pause") == "done"
    assert causes(harness.effects) == []


def test_a_job_that_ends_before_the_wish_reaches_it_ends_as_usual():
    harness = harness_with()
    harness.control("a", "pause")
    harness.finish("w1", "a")
    assert harness.state("a") == "succeeded"
    assert "it is over: succeeded" in refusal(harness, "a", "resume")


def test_a_failure_under_way_is_counted_and_the_job_waits_for_its_client():
    harness = harness_with()
    harness.control("a", "pause")
    harness.fail("w1", "a", "engine_crashed")
    assert (harness.state("a"), harness.job("a").crashes) == ("parked", 1)
    harness.tick(60)
    assert harness.state("a") == "parked"


def test_a_lost_worker_leaves_a_paused_job_parked():
    harness = harness_with()
    harness.control("a", "pause")
    harness.tick(10)
    assert (harness.state("a"), harness.job("a").losses) == ("parked", 1)


def test_a_worker_that_was_thought_lost_is_told_again():
    harness = harness_with()
    fence = harness.job("a").fence
    harness.tick(10)
    assert harness.state("a") == "queued"
    harness.control("a", "pause")
    effects = harness.hello("w1", m.Held(job_id="a", fence=fence), body=worker_info(resumes=True), seen=fence, free=0)
    assert harness.state("a") == "running"
    assert [park.fence for park in sent(effects, m.Park)] == [fence]


def test_a_hand_back_whose_word_was_lost_is_no_loss():
    harness = harness_with()
    fence = harness.job("a").fence
    harness.control("a", "pause")
    harness.beat("w1", seen=fence, free=1)
    assert (harness.state("a"), harness.job("a").losses) == ("parked", 0)


def test_a_hand_back_that_nobody_asked_for_is_a_loss():
    harness = harness_with()
    harness.hand_back("w1", "a", kept=5)
    assert harness.job("a").losses == 1
    assert harness.job("a").kept == 5


def test_a_worker_that_is_told_to_stop_hands_its_job_back_and_nothing_is_lost():
    harness = harness_with()
    fence = harness.job("a").fence
    harness.feed(peer_of("w1"), m.Heartbeat(seen=fence, free=0, held=(m.Held(job_id="a", fence=fence),), draining=True))
    effects = harness.hand_back("w1", "a", kept=20, free=0)
    assert causes(effects) == [Cause.RETURNED]
    harness.feed(peer_of("w1"), m.Goodbye(reason="drained", orderly=True))
    view = harness.view("a")
    assert (view.state, view.losses, view.crashes, view.kept) == ("queued", 0, 0, 20)
    assert view.history[-1].note == "worker w1 leaves; 20 of 40 steps are kept"


@pytest.mark.parametrize("begun", [False, True])
def test_what_a_worker_holds_that_leaves_in_order_is_handed_back_with_its_reason(begun):
    harness = CoreHarness()
    harness.hello("w1", body=worker_info(resumes=True))
    harness.submit("a", steps=STEPS)
    if begun:
        harness.start("w1", "a")
    effects = harness.feed(peer_of("w1"), m.Goodbye(reason="stopped by SIGTERM", orderly=True))
    assert causes(effects) == [Cause.RETURNED]
    view = harness.view("a")
    assert (view.state, view.losses) == ("queued", 0)
    assert view.history[-1].note.startswith("worker w1 left: stopped by SIGTERM")


def test_a_worker_that_must_leave_as_its_supervisor_died_is_lost():
    harness = harness_with()
    harness.feed(peer_of("w1"), m.Goodbye(reason="the supervisor is gone"))
    assert (harness.state("a"), harness.job("a").losses) == ("queued", 1)


def test_a_paused_job_stays_parked_when_its_worker_leaves_in_order():
    harness = harness_with()
    harness.control("a", "pause")
    harness.feed(peer_of("w1"), m.Goodbye(reason="stopped by SIGTERM", orderly=True))
    assert (harness.state("a"), harness.job("a").losses) == ("parked", 0)


def test_what_a_worker_says_of_an_attempt_that_it_handed_back_counts_no_more():
    harness = harness_with()
    fence = harness.job("a").fence
    harness.control("a", "pause")
    harness.hand_back("w1", "a", kept=3)
    effects = harness.feed(peer_of("w1"), holding("a", fence))
    assert sent(effects, m.Cancel)
    harness.finish("w1", "a", fence)
    assert harness.state("a") == "parked"


def test_a_pause_that_is_taken_back_lets_the_job_go_on_after_its_hand_back():
    harness = harness_with()
    harness.control("a", "pause")
    assert harness.control("a", "resume") == "done"
    assert harness.state("a") == "running"
    effects = harness.hand_back("w1", "a", kept=3)
    assert [run.kept for run in sent(effects, m.Run)] == [3]
    assert harness.job("a").losses == 0


def test_a_paused_job_is_cancelled_at_once():
    harness = harness_with()
    harness.control("a", "pause")
    harness.hand_back("w1", "a", kept=3)
    assert harness.cancel("a") == "cancelled"
    assert "it is over: cancelled" in refusal(harness, "a", "resume")


def test_a_cancel_overtakes_a_pause():
    harness = harness_with()
    harness.control("a", "pause")
    assert harness.cancel("a") == "requested"
    assert "being cancelled" in refusal(harness, "a", "resume")
    harness.hand_back("w1", "a", kept=3)
    assert harness.state("a") == "cancelled"


def test_a_deadline_counts_while_a_job_is_parked():
    harness = harness_with(deadline_s=100.0)
    harness.control("a", "pause")
    harness.hand_back("w1", "a", kept=3)
    harness.tick(101)
    failure = harness.job("a").failure
    assert failure is not None
    assert failure.kind == "expired"


def test_a_pause_and_what_is_kept_outlive_the_broker():
    harness = harness_with()
    harness.control("a", "pause")
    harness.hand_back("w1", "a", kept=12)
    harness.restart()
    assert (reported(harness).reason, harness.view("a").kept) == ("paused", 12)
    harness.hello("w1", body=worker_info(resumes=True))
    assert runs(harness) == []
    effects = harness.feed(EDGE, m.ControlJob(req=0, job_id="a", action="resume"))
    assert [run.kept for run in sent(effects, m.Run)] == [12]


def test_a_grant_does_not_overtake_the_row_that_lets_its_job_go_on():
    harness = CoreHarness()
    harness.submit("a")
    harness.control("a", "pause")
    harness.hello("w1")
    effects = harness.feed(EDGE, m.ControlJob(req=0, job_id="a", action="resume"))
    assert [effect.early for effect in effects if isinstance(effect, Send) and isinstance(effect.message, m.Run)] == [
        False
    ]


def test_a_wish_outlives_the_broker_and_is_told_anew():
    harness = harness_with()
    fence = harness.job("a").fence
    harness.control("a", "pause")
    harness.restart()
    held = m.Held(job_id="a", fence=fence)
    effects = harness.hello("w1", held, body=worker_info(resumes=True), seen=fence, free=0)
    assert [park.fence for park in sent(effects, m.Park)] == [fence]


def test_parked_jobs_count_as_waiting():
    harness = CoreHarness(Policy(queue_limit=1))
    harness.submit("a")
    harness.control("a", "pause")
    answer = harness.submit("b")
    assert isinstance(answer, m.Rejected)
    assert answer.code == "queue_full"


# ---------------------------------------------------------------- what a webhook is told


def webhook_events_sent(harness: CoreHarness) -> list[str]:
    return [delivery.event for delivery in harness.job("a").deliveries.values()]


def test_a_webhook_is_told_of_a_pause_and_its_end_once():
    harness = harness_with(webhook="https://client.example/hook", webhook_events=("parked", "resumed"))
    harness.control("a", "pause")
    assert webhook_events_sent(harness) == [], "it runs"
    harness.hand_back("w1", "a", kept=3, free=0)
    assert webhook_events_sent(harness) == ["parked"]
    for _ in range(2):
        harness.control("a", "resume")
        harness.control("a", "pause")
    assert webhook_events_sent(harness) == ["parked", "resumed"]


def test_a_webhook_is_not_told_of_a_pause_that_was_taken_back_in_time():
    harness = harness_with(webhook="https://client.example/hook", webhook_events=("parked", "resumed"))
    harness.control("a", "pause")
    harness.control("a", "resume")
    harness.hand_back("w1", "a", kept=3)
    assert webhook_events_sent(harness) == []


def test_a_webhook_is_told_that_a_draft_is_there():
    harness = harness_with(draft_steps=8, webhook="https://client.example/hook", webhook_events=("draft_ready",))
    harness.hand_back("w1", "a", kept=8)
    assert webhook_events_sent(harness) == ["draft_ready"]


# ---------------------------------------------------------------- making room


def test_a_preempted_job_waits_for_a_worker_and_the_time_is_counted():
    harness = harness_with()
    parking.preempt(harness.core.state, harness.job("a"), "b", harness.now)
    harness.apply(harness.core.finish_pass())
    assert sent(harness.effects, m.Park)
    harness.hand_back("w1", "a", kept=20, free=0)
    view = harness.view("a")
    assert (view.state, reported(harness).reason, reported(harness).preemptions, view.losses) == (
        "queued",
        "preempted",
        1,
        0,
    )
    harness.tick(1.5)
    harness.beat("w1", seen=harness.job("a").fence, free=1)
    harness.start("w1", "a")
    assert harness.job("a").preempted_s == pytest.approx(1.5)
    assert reported(harness).reason == ""


def test_a_job_that_makes_room_can_be_paused_instead():
    harness = harness_with()
    parking.preempt(harness.core.state, harness.job("a"), "b", harness.now)
    assert harness.control("a", "pause") == "requested"
    harness.hand_back("w1", "a", kept=20)
    assert reported(harness).reason == "paused"


def test_a_wish_to_make_room_ends_with_the_attempt():
    harness = harness_with()
    parking.preempt(harness.core.state, harness.job("a"), "b", harness.now)
    harness.fail("w1", "a", "engine_error")
    harness.tick(2)
    assert (harness.job("a").park, harness.state("a")) == ("", "assigned")


def test_a_drain_that_hands_back_costs_no_loss():
    harness = harness_with()
    effects = harness.feed(EDGE, m.DrainWorker(req=0, name="w1", hand_back=True))
    assert [drain.hand_back for drain in sent(effects, m.Drain)] == [True]
    fence = harness.job("a").fence
    effects = harness.feed(
        peer_of("w1"), m.Heartbeat(seen=fence, free=0, held=(m.Held(job_id="a", fence=fence),), draining=True)
    )
    assert [drain.hand_back for drain in sent(effects, m.Drain)] == [True], "said again while it holds something"
    harness.hand_back("w1", "a", kept=20, free=0)
    assert (harness.state("a"), harness.job("a").losses, harness.job("a").kept) == ("queued", 0, 20)


def test_a_drain_can_be_made_a_quick_one():
    harness = harness_with()
    harness.feed(EDGE, m.DrainWorker(req=0, name="w1"))
    effects = harness.feed(EDGE, m.DrainWorker(req=0, name="w1", hand_back=True))
    assert [drain.hand_back for drain in sent(effects, m.Drain)] == [True]
