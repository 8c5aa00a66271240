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
from tests.core.parking_desk import STEPS, desk_with, refusal, reported, runs

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
    desk = CoreHarness()
    desk.submit("a", tenant="studio")
    message = m.ControlJob(req=0, job_id="a", action="pause", tenant="lab")
    assert desk.ask(message, m.ControlReply).outcome == "not_found"


def test_a_queued_job_is_kept_out_of_the_engines_until_it_is_resumed():
    desk = CoreHarness()
    desk.submit("a")
    assert desk.control("a", "pause") == "done"
    assert (desk.state("a"), reported(desk).reason) == ("parked", "paused")
    desk.hello("w1")
    assert runs(desk) == []
    assert desk.control("a", "resume") == "done"
    assert [run.job_id for run in runs(desk)] == ["a"]


def test_a_paused_job_keeps_its_place_in_the_queue():
    desk = CoreHarness()
    desk.submit("a")
    desk.control("a", "pause")
    desk.tick(30)
    desk.submit("b")
    desk.control("a", "resume")
    desk.hello("w1")
    assert [run.job_id for run in runs(desk)] == ["a"]


def test_a_delayed_job_is_paused_and_is_due_no_more():
    desk = CoreHarness()
    desk.running("a")
    desk.fail("w1", "a", "engine_error")
    assert desk.control("a", "pause") == "done"
    desk.tick(60)
    assert desk.state("a") == "parked"
    desk.control("a", "resume")
    assert desk.state("a") == "queued"


@pytest.mark.parametrize("begun", [False, True])
def test_a_held_job_is_told_durably_and_parked_when_it_is_handed_back(begun):
    desk = CoreHarness()
    desk.hello("w1", body=worker_info(resumes=True))
    desk.submit("a", steps=STEPS)
    if begun:
        desk.start("w1", "a")
    fence = desk.job("a").fence
    effects = desk.feed(EDGE, m.ControlJob(req=1, job_id="a", action="pause"))
    assert [park.fence for park in sent(effects, m.Park, peer_of("w1"))] == [fence]
    assert desk.archive.written("a").park == "pause"
    assert reported(desk).requested
    effects = desk.hand_back("w1", "a", kept=12)
    assert causes(effects)[-1] is Cause.PAUSED
    view = desk.view("a")
    assert (view.state, reported(desk).reason, view.kept, view.losses, view.worker) == ("parked", "paused", 12, 0, "")
    assert view.history[-1].note == "12 of 40 steps are kept"
    assert runs(desk) == []


def test_the_wish_is_repeated_with_every_heartbeat_until_the_job_is_back():
    desk = desk_with()
    fence = desk.job("a").fence
    desk.control("a", "pause")
    for _ in range(3):
        assert sent(desk.feed(peer_of("w1"), holding("a", fence, phase="denoise")), m.Park)
    desk.hand_back("w1", "a", kept=3)
    assert not sent(desk.beat("w1", seen=fence, free=1), m.Park)


def test_what_goes_on_begins_where_it_was_and_costs_what_is_left():
    desk = desk_with(units=UNIT)
    desk.finish("w1", "a")
    desk.submit("b", steps=STEPS, units=UNIT)
    desk.start("w1", "b")
    whole_s = desk.job("b").cost
    desk.control("b", "pause")
    desk.hand_back("w1", "b", kept=30)
    effects = desk.feed(EDGE, m.ControlJob(req=0, job_id="b", action="resume"))
    (run,) = sent(effects, m.Run)
    assert (run.kept, run.attempt) == (30, 2)
    assert run.predicted_s < whole_s / 2
    assert desk.view("b").history[-1].note == "30 of 40 steps are kept"


def test_a_running_job_of_a_model_that_does_not_resume_is_not_paused():
    desk = desk_with(resumes=False)
    assert "model 'demo' cannot go on" in refusal(desk, "a", "pause")
    assert desk.view("a").parking is None


def test_asking_twice_asks_once():
    desk = desk_with()
    assert desk.control("a", "pause") == "requested"
    assert desk.control("a", "pause") == "requested"
    assert causes(desk.effects) == []
    desk.hand_back("w1", "a", kept=3)
    assert desk.control("a", "pause") == "done"
    assert causes(desk.effects) == []


def test_a_job_that_ends_before_the_wish_reaches_it_ends_as_usual():
    desk = desk_with()
    desk.control("a", "pause")
    desk.finish("w1", "a")
    assert desk.state("a") == "succeeded"
    assert "it is over: succeeded" in refusal(desk, "a", "resume")


def test_a_failure_under_way_is_counted_and_the_job_waits_for_its_client():
    desk = desk_with()
    desk.control("a", "pause")
    desk.fail("w1", "a", "engine_crashed")
    assert (desk.state("a"), desk.job("a").crashes) == ("parked", 1)
    desk.tick(60)
    assert desk.state("a") == "parked"


def test_a_lost_worker_leaves_a_paused_job_parked():
    desk = desk_with()
    desk.control("a", "pause")
    desk.tick(10)
    assert (desk.state("a"), desk.job("a").losses) == ("parked", 1)


def test_a_worker_that_was_thought_lost_is_told_again():
    desk = desk_with()
    fence = desk.job("a").fence
    desk.tick(10)
    assert desk.state("a") == "queued"
    desk.control("a", "pause")
    effects = desk.hello("w1", m.Held(job_id="a", fence=fence), body=worker_info(resumes=True), seen=fence, free=0)
    assert desk.state("a") == "running"
    assert [park.fence for park in sent(effects, m.Park)] == [fence]


def test_a_hand_back_whose_word_was_lost_is_no_loss():
    desk = desk_with()
    fence = desk.job("a").fence
    desk.control("a", "pause")
    desk.beat("w1", seen=fence, free=1)
    assert (desk.state("a"), desk.job("a").losses) == ("parked", 0)


def test_a_hand_back_that_nobody_asked_for_is_a_loss():
    desk = desk_with()
    desk.hand_back("w1", "a", kept=5)
    assert desk.job("a").losses == 1
    assert desk.job("a").kept == 5


def test_a_worker_that_is_told_to_stop_hands_its_job_back_and_nothing_is_lost():
    desk = desk_with()
    fence = desk.job("a").fence
    desk.feed(peer_of("w1"), m.Heartbeat(seen=fence, free=0, held=(m.Held(job_id="a", fence=fence),), draining=True))
    effects = desk.hand_back("w1", "a", kept=20, free=0)
    assert causes(effects) == [Cause.RETURNED]
    desk.feed(peer_of("w1"), m.Goodbye(reason="drained", orderly=True))
    view = desk.view("a")
    assert (view.state, view.losses, view.crashes, view.kept) == ("queued", 0, 0, 20)
    assert view.history[-1].note == "worker w1 leaves; 20 of 40 steps are kept"


@pytest.mark.parametrize("begun", [False, True])
def test_what_a_worker_holds_that_leaves_in_order_is_handed_back_with_its_reason(begun):
    desk = CoreHarness()
    desk.hello("w1", body=worker_info(resumes=True))
    desk.submit("a", steps=STEPS)
    if begun:
        desk.start("w1", "a")
    effects = desk.feed(peer_of("w1"), m.Goodbye(reason="stopped by SIGTERM", orderly=True))
    assert causes(effects) == [Cause.RETURNED]
    view = desk.view("a")
    assert (view.state, view.losses) == ("queued", 0)
    assert view.history[-1].note.startswith("worker w1 left: stopped by SIGTERM")


def test_a_worker_that_must_leave_as_its_supervisor_died_is_lost():
    desk = desk_with()
    desk.feed(peer_of("w1"), m.Goodbye(reason="the supervisor is gone"))
    assert (desk.state("a"), desk.job("a").losses) == ("queued", 1)


def test_a_paused_job_stays_parked_when_its_worker_leaves_in_order():
    desk = desk_with()
    desk.control("a", "pause")
    desk.feed(peer_of("w1"), m.Goodbye(reason="stopped by SIGTERM", orderly=True))
    assert (desk.state("a"), desk.job("a").losses) == ("parked", 0)


def test_what_a_worker_says_of_an_attempt_that_it_handed_back_counts_no_more():
    desk = desk_with()
    fence = desk.job("a").fence
    desk.control("a", "pause")
    desk.hand_back("w1", "a", kept=3)
    effects = desk.feed(peer_of("w1"), holding("a", fence))
    assert sent(effects, m.Cancel)
    desk.finish("w1", "a", fence)
    assert desk.state("a") == "parked"


def test_a_pause_that_is_taken_back_lets_the_job_go_on_after_its_hand_back():
    desk = desk_with()
    desk.control("a", "pause")
    assert desk.control("a", "resume") == "done"
    assert desk.state("a") == "running"
    effects = desk.hand_back("w1", "a", kept=3)
    assert [run.kept for run in sent(effects, m.Run)] == [3]
    assert desk.job("a").losses == 0


def test_a_paused_job_is_cancelled_at_once():
    desk = desk_with()
    desk.control("a", "pause")
    desk.hand_back("w1", "a", kept=3)
    assert desk.cancel("a") == "cancelled"
    assert "it is over: cancelled" in refusal(desk, "a", "resume")


def test_a_cancel_overtakes_a_pause():
    desk = desk_with()
    desk.control("a", "pause")
    assert desk.cancel("a") == "requested"
    assert "being cancelled" in refusal(desk, "a", "resume")
    desk.hand_back("w1", "a", kept=3)
    assert desk.state("a") == "cancelled"


def test_a_deadline_counts_while_a_job_is_parked():
    desk = desk_with(deadline_s=100.0)
    desk.control("a", "pause")
    desk.hand_back("w1", "a", kept=3)
    desk.tick(101)
    failure = desk.job("a").failure
    assert failure is not None
    assert failure.kind == "expired"


def test_a_pause_and_what_is_kept_outlive_the_broker():
    desk = desk_with()
    desk.control("a", "pause")
    desk.hand_back("w1", "a", kept=12)
    desk.restart()
    assert (reported(desk).reason, desk.view("a").kept) == ("paused", 12)
    desk.hello("w1", body=worker_info(resumes=True))
    assert runs(desk) == []
    effects = desk.feed(EDGE, m.ControlJob(req=0, job_id="a", action="resume"))
    assert [run.kept for run in sent(effects, m.Run)] == [12]


def test_a_grant_does_not_overtake_the_row_that_lets_its_job_go_on():
    desk = CoreHarness()
    desk.submit("a")
    desk.control("a", "pause")
    desk.hello("w1")
    effects = desk.feed(EDGE, m.ControlJob(req=0, job_id="a", action="resume"))
    assert [effect.early for effect in effects if isinstance(effect, Send) and isinstance(effect.message, m.Run)] == [
        False
    ]


def test_a_wish_outlives_the_broker_and_is_told_anew():
    desk = desk_with()
    fence = desk.job("a").fence
    desk.control("a", "pause")
    desk.restart()
    held = m.Held(job_id="a", fence=fence)
    effects = desk.hello("w1", held, body=worker_info(resumes=True), seen=fence, free=0)
    assert [park.fence for park in sent(effects, m.Park)] == [fence]


def test_parked_jobs_count_as_waiting():
    desk = CoreHarness(Policy(queue_limit=1))
    desk.submit("a")
    desk.control("a", "pause")
    answer = desk.submit("b")
    assert isinstance(answer, m.Rejected)
    assert answer.code == "queue_full"


# ---------------------------------------------------------------- what a webhook is told


def webhook_events_sent(desk: CoreHarness) -> list[str]:
    return [delivery.event for delivery in desk.job("a").deliveries.values()]


def test_a_webhook_is_told_of_a_pause_and_its_end_once():
    desk = desk_with(webhook="https://client.example/hook", webhook_events=("parked", "resumed"))
    desk.control("a", "pause")
    assert webhook_events_sent(desk) == [], "it runs"
    desk.hand_back("w1", "a", kept=3, free=0)
    assert webhook_events_sent(desk) == ["parked"]
    for _ in range(2):
        desk.control("a", "resume")
        desk.control("a", "pause")
    assert webhook_events_sent(desk) == ["parked", "resumed"]


def test_a_webhook_is_not_told_of_a_pause_that_was_taken_back_in_time():
    desk = desk_with(webhook="https://client.example/hook", webhook_events=("parked", "resumed"))
    desk.control("a", "pause")
    desk.control("a", "resume")
    desk.hand_back("w1", "a", kept=3)
    assert webhook_events_sent(desk) == []


def test_a_webhook_is_told_that_a_draft_is_there():
    desk = desk_with(draft_steps=8, webhook="https://client.example/hook", webhook_events=("draft_ready",))
    desk.hand_back("w1", "a", kept=8)
    assert webhook_events_sent(desk) == ["draft_ready"]


# ---------------------------------------------------------------- making room


def test_a_preempted_job_waits_for_a_worker_and_the_time_is_counted():
    desk = desk_with()
    parking.preempt(desk.core.state, desk.job("a"), "b", desk.now)
    desk.apply(desk.core.finish_pass())
    assert sent(desk.effects, m.Park)
    desk.hand_back("w1", "a", kept=20, free=0)
    view = desk.view("a")
    assert (view.state, reported(desk).reason, reported(desk).preemptions, view.losses) == ("queued", "preempted", 1, 0)
    desk.tick(1.5)
    desk.beat("w1", seen=desk.job("a").fence, free=1)
    desk.start("w1", "a")
    assert desk.job("a").preempted_s == pytest.approx(1.5)
    assert reported(desk).reason == ""


def test_a_job_that_makes_room_can_be_paused_instead():
    desk = desk_with()
    parking.preempt(desk.core.state, desk.job("a"), "b", desk.now)
    assert desk.control("a", "pause") == "requested"
    desk.hand_back("w1", "a", kept=20)
    assert reported(desk).reason == "paused"


def test_a_wish_to_make_room_ends_with_the_attempt():
    desk = desk_with()
    parking.preempt(desk.core.state, desk.job("a"), "b", desk.now)
    desk.fail("w1", "a", "engine_error")
    desk.tick(2)
    assert (desk.job("a").park, desk.state("a")) == ("", "assigned")


def test_a_drain_that_hands_back_costs_no_loss():
    desk = desk_with()
    effects = desk.feed(EDGE, m.DrainWorker(req=0, name="w1", hand_back=True))
    assert [drain.hand_back for drain in sent(effects, m.Drain)] == [True]
    fence = desk.job("a").fence
    effects = desk.feed(
        peer_of("w1"), m.Heartbeat(seen=fence, free=0, held=(m.Held(job_id="a", fence=fence),), draining=True)
    )
    assert [drain.hand_back for drain in sent(effects, m.Drain)] == [True], "said again while it holds something"
    desk.hand_back("w1", "a", kept=20, free=0)
    assert (desk.state("a"), desk.job("a").losses, desk.job("a").kept) == ("queued", 0, 20)


def test_a_drain_can_be_made_a_quick_one():
    desk = desk_with()
    desk.feed(EDGE, m.DrainWorker(req=0, name="w1"))
    effects = desk.feed(EDGE, m.DrainWorker(req=0, name="w1", hand_back=True))
    assert [drain.hand_back for drain in sent(effects, m.Drain)] == [True]
