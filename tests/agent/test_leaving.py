"""Leaving: told by a signal or the supervisor's end (at once), or by a drain (when done)."""

from __future__ import annotations

from broker.wire import messages as m
from broker.wire.jobspec import Result
from tests.agent.stage import Stage, fence
from workers.agent import effects as fx
from workers.ipc.messages import JobFinished, Ready
from workers.supervisor.exit_codes import EXIT_LEFT


def test_a_stop_hands_everything_back_and_ends_the_engine() -> None:
    stage = Stage(stop_grace_s=0.0).busy()
    stage.end()
    assert stage.sent(m.Goodbye) == [m.Goodbye(reason="stopped by SIGTERM", orderly=True)]
    assert stage.orders() == [fx.KillEngine("stopped by SIGTERM")]
    stage.exited("killed by SIGKILL")
    assert stage.orders() == [fx.RemoveDir("j1", fence(1)), fx.Exit(EXIT_LEFT)]
    assert not stage.sent(m.Failed)


def test_a_result_goes_out_before_the_goodbye_and_its_files_stay() -> None:
    stage = Stage().busy()
    stage.finish()
    stage.pass_time(0.1).leave()
    kinds = [type(effect.message) for effect in stage.effects(fx.SendBroker)]
    assert kinds.index(m.Finished) < kinds.index(m.Goodbye)
    stage.exited("killed by SIGKILL")
    assert stage.orders() == [fx.Exit(EXIT_LEFT)]


def test_without_an_engine_the_exit_is_immediate() -> None:
    stage = Stage().registered()
    stage.exited()
    stage.exited()
    stage.leave()
    assert stage.orders() == [fx.Exit(EXIT_LEFT)]


def test_an_engine_that_does_not_die_holds_the_exit_up_for_a_moment_only() -> None:
    stage = Stage().busy()
    stage.leave()
    assert stage.core.next_deadline() == stage.now + 1.5
    stage.tick(1.4)
    assert stage.orders() == []
    stage.tick(0.1)
    assert stage.orders() == [fx.Exit(EXIT_LEFT)]


def test_nothing_is_said_or_done_once_leaving() -> None:
    stage = Stage().busy()
    stage.leave()
    for event in (
        m.Run(job_id="j2", fence=fence(2), lease_s=1.0, body=b""),
        m.Identify(),
        None,
        m.Welcome(epoch=9),
        m.Drain(),
    ):
        assert stage.broker(event) == []
    assert stage.leave("again") == []
    assert stage.finish() == []
    stage.tick(1.0)
    assert not stage.effects(fx.SendBroker)


def test_a_second_kill_for_leaving_does_not_confuse_a_cancelled_engine() -> None:
    stage = Stage().busy()
    stage.cancel(1)
    stage.tick(2.0)
    stage.leave()
    stage.exited("killed by SIGKILL")
    assert stage.orders() == [fx.RemoveDir("j1", fence(1)), fx.Exit(EXIT_LEFT)]


def test_drain_finishes_what_is_held_then_says_goodbye() -> None:
    stage = Stage().busy()
    stage.pass_time(0.5).broker(m.Drain())
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.draining, beat.free) == (True, 0)
    stage.finish()
    assert [message.free for message in stage.sent(m.Finished)] == [0]
    assert not stage.sent(m.Goodbye)
    stage.ack(1)
    assert stage.sent(m.Goodbye) == [m.Goodbye(reason="drained", orderly=True)]
    assert stage.effects(fx.KillEngine)
    stage.exited("killed by SIGKILL")
    assert stage.orders() == [fx.Exit(EXIT_LEFT)]


def test_a_drain_taken_back_in_time_is_none() -> None:
    stage = Stage().busy()
    stage.broker(m.Drain())
    stage.pass_time(0.5).broker(m.Undrain())
    assert [beat.draining for beat in stage.sent(m.Heartbeat)][-1] is False
    stage.finish()
    assert [message.free for message in stage.sent(m.Finished)] == [1]
    stage.ack(1)
    assert not stage.sent(m.Goodbye)


def test_a_stop_with_grace_is_not_taken_back() -> None:
    stage = Stage(stop_grace_s=60.0).busy()
    stage.end()
    stage.broker(m.Undrain())
    stage.finish()
    stage.ack(1)
    assert stage.sent(m.Goodbye)


def test_drain_of_an_idle_worker_is_immediate() -> None:
    stage = Stage().idle()
    stage.broker(m.Drain())
    assert stage.sent(m.Goodbye)


def test_drain_of_a_loading_worker_does_not_wait_for_the_model() -> None:
    stage = Stage().registered()
    stage.broker(m.Drain())
    assert stage.sent(m.Goodbye)
    assert stage.engine(Ready(model="demo")) == []


def test_a_drained_worker_does_not_wait_for_a_broker_that_is_gone() -> None:
    stage = Stage(detached_s=60.0).busy()
    stage.broker(m.Drain())
    stage.engine(JobFinished(fence=fence(1), result=Result(), run_s=1.0))
    stage.tick(59.0)
    assert not stage.effects(fx.KillEngine)
    assert stage.core.next_deadline() <= stage.now + 1.0
    stage.tick(1.0)
    assert stage.effects(fx.KillEngine)
    stage.exited("killed by SIGKILL")
    assert stage.orders() == [fx.Exit(EXIT_LEFT)]


# ---------------------------------------------------------------- a stop with grace


def test_without_grace_a_stop_hands_back_at_once() -> None:
    stage = Stage(stop_grace_s=0.0).busy()
    stage.end()
    assert stage.sent(m.Goodbye)


def test_within_its_grace_a_stopped_worker_finishes_what_it_holds_and_takes_no_more() -> None:
    stage = Stage(stop_grace_s=60.0).busy()
    stage.pass_time(0.5).end()
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.draining, beat.free) == (True, 0)
    assert not stage.sent(m.Goodbye)
    stage.finish()
    stage.ack(1)
    assert stage.sent(m.Goodbye)


def test_a_stopped_worker_with_nothing_to_do_leaves_at_once_whatever_its_grace() -> None:
    stage = Stage(stop_grace_s=60.0).idle()
    stage.end()
    assert stage.sent(m.Goodbye)


def test_when_the_grace_is_over_the_job_is_handed_back() -> None:
    stage = Stage(stop_grace_s=60.0).busy()
    stage.end()
    while stage.now < 1059.0:
        stage.broker(m.HeartbeatAck(epoch=3))
        stage.words(1, "denoise", 1, 9, tick=int(stage.now))
        stage.tick(1.0)
        assert not stage.sent(m.Goodbye)
    for _ in range(3):
        if not stage.sent(m.Goodbye):
            stage.tick(1.0)
    assert stage.sent(m.Goodbye) == [m.Goodbye(reason="stopped; the grace is over", orderly=True)]


def test_a_second_stop_ends_the_grace() -> None:
    stage = Stage(stop_grace_s=60.0).busy()
    stage.end()
    stage.end("stopped by SIGINT")
    assert stage.sent(m.Goodbye) == [m.Goodbye(reason="stopped by SIGINT", orderly=True)]
