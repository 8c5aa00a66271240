"""Parking: an attempt is handed back with a checkpoint, on the broker's word, at a step, at a drain, or when the worker is stopped."""

from __future__ import annotations

from math import inf

from broker.wire import messages as m
from tests.agent.stage import Stage, fence
from workers.agent import effects as fx


def handed_back(stage: Stage, counter: int = 1, kept: int = 3, age_s: float = 0.0, why: str = "") -> bool:
    """Whether this attempt has just been handed back, and nothing else been said of it."""
    [said] = stage.sent(m.Refused)
    reason = why or f"parked with {kept} steps in a checkpoint"
    expected = m.Refused(job_id=f"j{counter}", fence=fence(counter), reason=reason, age_s=age_s, kept=kept)
    return said == expected and not stage.sent(m.Failed) and not stage.sent(m.Cancelled)


def test_a_parked_attempt_is_handed_back_and_the_room_told_at_once() -> None:
    stage = Stage().busy(1)
    stage.park(1)
    assert stage.orders() == [fx.RequestPark(0, fence(1))]
    stage.pass_time(0.5).parked(1, kept=7)
    assert handed_back(stage, kept=7, age_s=0.5)
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.free, beat.held, beat.engine) == (1, (), "ready")
    assert stage.orders() == [], "its checkpoints and its pictures stay"


def test_the_word_sent_again_changes_nothing() -> None:
    stage = Stage().busy(1)
    for _ in range(2):
        stage.park(1)
        assert stage.orders() == [fx.RequestPark(0, fence(1))]
    stage.parked(1)
    assert handed_back(stage)
    stage.park(1)
    [said] = stage.sent(m.Refused)
    assert (said.age_s, said.free) == (-1.0, 1), "not held here"
    assert stage.orders() == []


def test_a_job_that_is_asked_to_park_may_finish_fail_or_crash_as_ever() -> None:
    for end, kind in (("finish", m.Finished), ("fail", m.Failed), ("exited", m.Failed)):
        stage = Stage().busy(1)
        stage.park(1)
        getattr(stage, end)()
        assert len(stage.sent(kind)) == 1, end
        assert not stage.sent(m.Refused), end


def test_a_tail_has_no_step_left_at_which_it_could_be_parked() -> None:
    stage = Stage().overlapped()
    stage.park(1)
    assert stage.orders() == []
    assert not stage.sent(m.Refused)
    stage.park(2)
    assert stage.orders() == [fx.RequestPark(1, fence(2))]


def test_a_cancel_counts_for_more() -> None:
    stage = Stage().busy(1)
    stage.park(1)
    stage.cancel(1)
    stage.parked(1)
    assert [type(said) for said in stage.sent(m.Cancelled)] == [m.Cancelled]
    assert not stage.sent(m.Refused)


def test_a_job_that_parks_at_a_step_needs_no_further_word() -> None:
    stage = Stage().idle()
    stage.broker(m.Run(job_id="j1", fence=fence(1), lease_s=6.0, body=b"spec", kept=2, park_at=8))
    [started] = stage.effects(fx.StartJob)
    assert (started.message.kept, started.message.park_at) == (2, 8)
    stage.words(1, "denoise", 8, 20, kept=8)
    stage.parked(1, kept=8)
    assert handed_back(stage, kept=8)


def test_an_engine_that_parks_unasked_has_failed_the_job() -> None:
    stage = Stage().busy(1)
    stage.parked(1)
    [failed] = stage.sent(m.Failed)
    assert failed.kind == "engine_error"


def test_the_broker_is_told_what_lies_in_checkpoints() -> None:
    stage = Stage().idle()
    stage.broker(m.Run(job_id="j1", fence=fence(1), lease_s=6.0, body=b"spec", kept=5))
    assert [held.kept for held in stage.core.capacity.held(stage.now)] == [5], "what earlier attempts left"
    stage.words(1, "denoise", 9, 20, kept=9)
    assert [held.kept for held in stage.core.capacity.held(stage.now)] == [9]
    stage.words(1, "denoise", 10, 20, tick=2, kept=9)
    stage.words(1, "denoise", 10, 20, tick=3)
    assert [held.kept for held in stage.core.capacity.held(stage.now)] == [0], "the engine found none that it may use"


def test_an_attempt_that_never_began_is_handed_back_with_what_was_there() -> None:
    stage = Stage().idle()
    stage.broker(m.Run(job_id="j1", fence=fence(1), lease_s=6.0, body=b"spec", kept=5))
    stage.exited()
    [said] = stage.sent(m.Refused)
    assert said.kept == 5


# ---------------------------------------------------------------- leaving


def test_a_stop_with_grace_costs_a_step() -> None:
    stage = Stage(stop_grace_s=60.0).busy(1)
    stage.end()
    assert stage.orders() == [fx.RequestPark(0, fence(1))]
    assert not stage.sent(m.Goodbye)
    stage.pass_time(0.5).parked(1)
    kinds = [type(effect.message) for effect in stage.effects(fx.SendBroker)]
    assert kinds.index(m.Refused) < kinds.index(m.Goodbye), "what is left of it is told before the goodbye"
    assert fx.KillEngine("drained") in stage.orders()


def test_that_a_worker_leaves_is_told_before_the_shortest_step_is_handed_back() -> None:
    stage = Stage(stop_grace_s=60.0).busy(1)
    stage.tick()
    stage.words(1, "denoise", 1, 9)
    stage.tick()
    stage.end()
    assert [beat.draining for beat in stage.sent(m.Heartbeat)] == [True]
    stage.parked(1)
    assert handed_back(stage, why="worker cpu-0 leaves")


def test_a_stop_waits_for_the_tail_beside_what_it_parks() -> None:
    stage = Stage(stop_grace_s=60.0).overlapped()
    stage.end()
    assert stage.orders() == [fx.RequestPark(1, fence(2))]
    stage.parked(2)
    assert handed_back(stage, counter=2, why="worker cpu-0 leaves")
    assert not stage.sent(m.Goodbye)
    stage.finish(1)
    stage.ack(1)
    assert stage.sent(m.Goodbye)


def test_a_drain_hands_back_only_if_it_says_so() -> None:
    for drain, orders in ((m.Drain(), []), (m.Drain(hand_back=True), [fx.RequestPark(0, fence(1))])):
        stage = Stage().busy(1)
        stage.broker(drain)
        assert stage.orders() == orders
        assert not stage.sent(m.Goodbye)


def killed_after_s(stage: Stage, limit_s: int) -> float:
    """Seconds of silence after which the engine is killed; infinity: it is not within the limit."""
    start = stage.now
    while stage.now < start + limit_s:
        stage.silence(1.0)
        if stage.effects(fx.KillEngine):
            return stage.now - start
    return inf


def test_while_a_job_is_parked_nothing_of_it_can_hang() -> None:
    """However long it is out of the engine; once it goes on, the watch is that of a first step, and not of the time in between."""
    stage = Stage().busy(1)
    stage.words(1, "denoise", 5, 40, tick=5, kept=5)
    stage.park(1)
    stage.parked(1, kept=6)
    assert killed_after_s(stage, 2_000) == inf

    stage.run(2, job="j1")
    stage.words(2, "denoise", 0, 40, tick=1, kept=6)
    assert killed_after_s(stage, 2_000) == 300


def test_a_job_that_is_asked_to_park_and_stands_still_has_hung() -> None:
    stage = Stage().busy(1)
    stage.words(1, "denoise", 5, 40, tick=5, kept=5)
    stage.park(1)
    assert killed_after_s(stage, 2_000) == 30
    stage.exited("killed by SIGKILL")
    [failed] = stage.sent(m.Failed)
    assert failed.kind == "hung"
