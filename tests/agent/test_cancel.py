"""Cancel: heard in time, enforced when not, and never felt by another job."""

from __future__ import annotations

import pytest

from broker.wire import messages as m
from tests.agent.stage import RESULT_BODY, SETUP, Stage, fence
from workers.agent import effects as fx
from workers.supervisor.exit_codes import describe_exit

KILLED = describe_exit(-9)


def steps(stage: Stage, count: int, step_s: float, counter: int = 1, total: int = 40) -> Stage:
    """The engine denoises `count` steps of `step_s` seconds each."""
    first = next((attempt.held(stage.now).step for attempt in stage.core.engine_slot.attempts), 0)
    stage.words(counter, "denoise", first, total, tick=1000 + first)
    for step in range(first + 1, first + count + 1):
        stage.pass_time(step_s).words(counter, "denoise", step, total, tick=1000 + step)
    return stage


def test_a_cancel_sets_the_word_and_the_engine_stops() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    assert stage.orders() == [fx.RequestCancel(0, fence(1))]
    stage.pass_time(0.1).stop(1)
    assert stage.sent(m.Cancelled) == [m.Cancelled(job_id="j1", fence=fence(1), free=1, age_s=pytest.approx(0.1))]
    assert stage.orders() == [fx.RemoveDir("j1", fence(1))]
    stage.run(2)
    assert stage.effects(fx.StartJob)


def test_a_repeated_cancel_sets_no_word_and_gains_no_time() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    for _ in range(3):
        stage.pass_time(0.5).cancel(1)
        assert stage.orders() == []
    stage.tick(0.5)
    assert stage.effects(fx.KillEngine)


@pytest.mark.parametrize(
    ("step_s", "predicted_s", "grace_s", "expected"),
    [
        (3.0, 0.0, 0.0, 8.0),  # two steps as seen, and two seconds
        (0.0, 400.0, 0.0, 22.0),  # 400 s over 40 steps, as the broker predicted
        (0.0, 0.0, 0.0, 2.0),  # nothing known
        (3.0, 400.0, 1.5, 1.5),  # the broker's own
        (0.0, 1e7, 0.0, 30.0),  # a prediction that is far off
        (200.0, 0.0, 0.0, 30.0),  # steps so long that two would be minutes
        (0.0, 0.0, 1e9, 30.0),  # an order that is far off
    ],
)
def test_grace(step_s: float, predicted_s: float, grace_s: float, expected: float) -> None:
    stage = Stage(first_step_budget_s=1e4).busy(predicted_s=predicted_s)
    steps(stage, 4 if step_s else 0, step_s)
    stage.cancel(1, grace_s)
    stage.tick(expected - 0.01)
    assert not stage.effects(fx.KillEngine)
    stage.tick(0.01)
    assert stage.effects(fx.KillEngine)


def test_the_end_of_the_grace_is_a_deadline() -> None:
    stage = Stage().busy()
    stage.tick()
    stage.cancel(1, grace_s=0.05)
    assert stage.core.next_deadline() == pytest.approx(stage.now + 0.05)


def test_a_shorter_grace_later_shortens_a_longer_one_does_not_lengthen() -> None:
    stage = Stage().busy()
    stage.cancel(1, grace_s=60.0)
    stage.cancel(1, grace_s=100.0)
    stage.cancel(1, grace_s=5.0)
    stage.tick(5.0)
    assert stage.effects(fx.KillEngine)


def test_a_deaf_engine_is_killed_and_cancelled_is_said_when_the_gpu_is_free() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    stage.tick(2.0)
    assert not stage.sent(m.Cancelled)
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.engine, [held.fence for held in beat.held]) == ("restarting", [fence(1)])
    stage.exited(KILLED)
    assert stage.sent(m.Cancelled) == [m.Cancelled(job_id="j1", fence=fence(1), free=0, age_s=2.0)]
    assert stage.orders() == [
        fx.RemoveDir("j1", fence(1)),
        fx.StartEngine(SETUP),
    ]  # at once: it was no fault of the engine


def test_a_finish_that_wins_the_race_is_the_result() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    stage.finish(1)
    assert stage.sent(m.Finished)
    assert not stage.effects(fx.RemoveDir)
    stage.cancel(1)
    assert stage.sent(m.Finished)  # asked again, the answer is the same


def test_a_finish_between_kill_and_end_is_the_result() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    stage.tick(2.0)
    stage.finish(1)
    assert [(message.fence, message.free) for message in stage.sent(m.Finished)] == [(fence(1), 0)]
    stage.exited(KILLED)
    assert not stage.sent(m.Cancelled)
    assert stage.effects(fx.StartEngine)


def test_a_failure_while_stopping_is_told_as_it_was() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    stage.exited("killed by SIGSEGV")
    [failed] = stage.sent(m.Failed)
    assert failed.kind == "engine_crashed"


def test_an_unasked_stop_is_a_failure() -> None:
    stage = Stage().busy()
    stage.stop(1)
    assert [failed.kind for failed in stage.sent(m.Failed)] == ["engine_error"]


def test_a_cancel_of_another_attempt_never_touches_this_one() -> None:
    stage = Stage().busy(5)
    for counter, job in ((4, "j4"), (6, "j5"), (5, "j4")):
        stage.cancel(counter, job=job)
        assert stage.orders() == []
        assert stage.sent(m.Refused) == [
            m.Refused(job_id=job, fence=fence(counter), free=0, reason="this attempt is not held here")
        ]
    stage.tick(100.0)
    assert not any("cancel" in kill.reason for kill in stage.effects(fx.KillEngine))


def test_a_cancel_that_outlives_its_lost_run_spends_the_fence() -> None:
    stage = Stage().idle()
    stage.cancel(8)
    assert [refused.fence for refused in stage.sent(m.Refused)] == [fence(8)]
    stage.run(8)
    assert stage.sent(m.Refused)
    assert not stage.effects(fx.StartJob)


def test_a_late_cancel_of_an_acknowledged_result_is_answered_from_memory() -> None:
    stage = Stage().busy()
    stage.finish()
    stage.ack(1)
    stage.cancel(1)
    assert stage.sent(m.Finished) == [m.Finished(job_id="j1", fence=fence(1), free=1, run_s=2.5, body=RESULT_BODY)]
    assert stage.core.capacity.held(stage.now) == ()


def test_the_memory_of_results_has_an_end() -> None:
    stage = Stage().idle()
    for counter in range(1, 102):
        stage.run(counter)
        stage.finish(counter)
        stage.ack(counter)
    stage.cancel(1)
    assert stage.sent(m.Refused)
    stage.cancel(101)
    assert stage.sent(m.Finished)


def test_a_cancel_at_the_end_of_an_engine_that_is_going_waits_for_its_end() -> None:
    stage = Stage().busy()
    stage.closed()
    stage.cancel(1)
    stage.silence(4.9)
    assert not stage.effects(fx.KillEngine)  # it has closed its socket; exit_s runs
    stage.tick(0.1)
    assert stage.effects(fx.KillEngine)
    stage.exited(KILLED)
    assert stage.sent(m.Failed)
