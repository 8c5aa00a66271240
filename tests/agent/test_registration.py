"""What the agent says of itself, when, and what it makes of a broker that is new, silent or gone."""

from __future__ import annotations

from zlib import crc32

import pytest
from msgspec import structs

from broker.wire import codec
from broker.wire import messages as m
from tests.agent.stage import EPOCH, IDENTITY, INFO, SETUP, Stage, fence
from workers.agent import effects as fx
from workers.agent.core import AgentCore
from workers.agent.registration import Registration
from workers.ipc.messages import Ready
from workers.supervisor.agent_policy import AgentPolicy
from workers.supervisor.exit_codes import EXIT_NAME_TAKEN, EXIT_RESTART, EXIT_UNWANTED
from workers.supervisor.messages import NameHeld


def test_first_tick_starts_the_engine_and_says_hello() -> None:
    stage = Stage()
    stage.tick()
    assert stage.orders() == [fx.StartEngine(SETUP)]
    assert stage.sent(m.Hello) == [m.Hello(name="cpu-0", boot="b1", seen=0, free=0, body=codec.encode_body(INFO))]
    [hello] = stage.effects(fx.SendBroker)
    assert codec.worker_info(hello.message.body) == INFO


def test_hello_is_repeated_each_second_until_welcome() -> None:
    stage = Stage()
    stage.tick()
    assert stage.tick(0.9) == []
    assert len(stage.tick(0.1)) == 1
    assert stage.sent(m.Hello)
    stage.welcome()
    for _ in range(20):
        stage.broker(m.HeartbeatAck())
        stage.tick(0.5)
        assert not stage.sent(m.Hello)


@pytest.mark.parametrize("question", [None, m.Identify()], ids=["probe", "who"])
def test_probe_and_who_are_answered_by_hello_at_once(question: m.Identify | None) -> None:
    stage = Stage().idle()
    stage.broker(question)
    assert stage.sent(m.Hello) == [m.Hello(name="cpu-0", boot="b1", seen=0, free=1, body=codec.encode_body(INFO))]
    assert not stage.sent(m.Heartbeat)


def test_hello_says_what_is_running_and_what_is_finished() -> None:
    stage = Stage().busy(1)
    stage.finish(1)
    stage.run(2)
    stage.words(2, "denoise", 3, 12)
    stage.broker(None)
    [hello] = stage.sent(m.Hello)
    running = m.Held(job_id="j2", fence=fence(2), phase="denoise", step=3, total=12)
    finished = m.Held(job_id="j1", fence=fence(1), phase="finished")
    assert (hello.held, hello.seen, hello.free) == ((running, finished), fence(2), 0)


def test_heartbeat_each_second_when_nothing_changes() -> None:
    stage = Stage().idle()
    stage.tick(1.0)
    assert stage.sent(m.Heartbeat) == [m.Heartbeat(seen=0, free=1, engine="ready", model="demo")]
    assert stage.core.next_deadline() == stage.now + 1.0
    assert stage.tick(0.99) == []
    stage.tick(0.01)
    assert len(stage.sent(m.Heartbeat)) == 1


def reported_loras(stage: Stage) -> list[tuple[str, ...]]:
    return [beat.loaded_loras for beat in stage.sent(m.Heartbeat)]


def test_loras_in_memory_are_said_and_are_gone_with_the_engine() -> None:
    stage = Stage().busy(1)
    stage.tail(1, loras=("film",))
    assert reported_loras(stage) == [("film",)]
    stage.run(2)
    stage.words(2, "denoise", 1, 10)
    stage.finish(1)  # a tail: what is in memory is the other job's to say
    stage.tick(1.0)
    assert reported_loras(stage) == [("film",)]
    stage.finish(2, loras=("pan", "film"))
    stage.tick(0.25)
    assert reported_loras(stage) == [("pan", "film")]
    stage.exited()
    stage.tick(0.25)
    assert reported_loras(stage) == [()]


def test_a_heartbeat_names_no_more_loras_than_it_has_room_for() -> None:
    stage = Stage().busy(1)
    names = tuple(f"{number:03}" + "é" * 125 for number in range(256))
    stage.finish(1, loras=names)
    stage.tick(1.0)
    (beat,) = stage.sent(m.Heartbeat)
    assert beat.loaded_loras == names[:2]
    assert len(codec.encode(beat)) < codec.MAX_HEAD


def test_the_broker_sets_the_heartbeat() -> None:
    stage = Stage().idle()
    stage.broker(m.Welcome(epoch=EPOCH, heartbeat_s=0.2))
    assert len(stage.sent(m.Heartbeat)) == 1
    stage.tick(0.2)
    assert len(stage.sent(m.Heartbeat)) == 1


def test_a_heartbeat_of_zero_seconds_does_not_flood() -> None:
    stage = Stage().idle()
    stage.broker(m.Welcome(epoch=EPOCH, heartbeat_s=0.0))
    assert stage.core.next_deadline() > stage.now


def test_a_change_is_said_at_once_but_not_twice_within_a_quarter_second() -> None:
    stage = Stage().busy()
    stage.tick(1.0)
    stage.pass_time(0.3).words(1, "denoise", 1, 10)
    [beat] = stage.sent(m.Heartbeat)
    (held,) = beat.held
    assert (held.job_id, held.fence, held.phase, held.step, held.total) == ("j1", fence(1), "denoise", 1, 10)
    stage.pass_time(0.1).words(1, "denoise", 2, 10)
    assert stage.out == []
    assert stage.core.next_deadline() == pytest.approx(stage.now + 0.15)
    stage.tick(0.15)
    [beat] = stage.sent(m.Heartbeat)
    assert beat.held[0].step == 2


def test_an_engine_that_gets_ready_is_said_at_once() -> None:
    stage = Stage().registered()
    stage.pass_time(0.5).engine(Ready(model="demo"))
    assert [(beat.free, beat.engine, beat.model) for beat in stage.sent(m.Heartbeat)] == [(1, "ready", "demo")]


def test_heartbeat_carries_the_measured_numbers() -> None:
    stage = Stage().idle()
    stage.core.measured(
        fx.Stats(memory_used_mb=10.5, memory_total_mb=80.0, utilisation=97.0, temperature_c=61.0), stage.now
    )
    stage.tick(1.0)
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.memory_used_mb, beat.memory_total_mb, beat.utilisation, beat.temperature_c) == (10.5, 80.0, 97.0, 61.0)


def test_counters_beyond_the_wire_s_bound_are_cut() -> None:
    stage = Stage().busy()
    stage.pass_time(1.0).words(1, "denoise", 2_000_000, 3_000_000)
    [beat] = stage.sent(m.Heartbeat)
    (sent,) = codec.from_agent(codec.encode(beat))
    assert sent.held[0].total == 1_000_000


def test_seen_never_falls() -> None:
    stage = Stage().idle()
    stage.run(9)
    stage.run(4)
    stage.cancel(2)
    stage.tick(1.0)
    assert stage.sent(m.Heartbeat)[0].seen == fence(9)


def test_a_silent_broker_gets_hello_again_until_it_answers() -> None:
    stage = Stage().idle()
    for _ in range(2):
        stage.tick(1.0)
        assert stage.sent(m.Heartbeat)
    stage.tick(1.0)
    assert stage.sent(m.Hello)
    assert not stage.sent(m.Heartbeat)
    assert [note.action for note in stage.effects(fx.Note)] == ["broker_silent"]
    stage.tick(1.0)
    assert stage.sent(m.Hello)
    stage.welcome()
    assert stage.sent(m.Heartbeat)


def test_every_heartbeat_acknowledged_keeps_the_registration() -> None:
    stage = Stage().idle().silence(60.0)
    assert stage.core.registration.registered


def test_work_goes_on_without_the_broker_for_a_quarter_of_an_hour() -> None:
    stage = Stage().busy()
    for second in range(899):
        stage.pass_time(1.0).words(1, "denoise", second, 2000, tick=second + 2)
        stage.tick()
        assert not stage.effects(fx.KillEngine)
    stage.pass_time(1.0).words(1, "denoise", 900, 2000, tick=9000)
    stage.tick()
    assert stage.effects(fx.KillEngine)
    stage.exited("killed by SIGKILL")
    assert fx.RemoveDir("j1", fence(1)) in stage.out
    assert fx.StartEngine(SETUP) in stage.out
    assert stage.core.capacity.held(stage.now) == ()


def test_a_dropped_job_is_not_held_when_the_broker_returns() -> None:
    stage = Stage(detached_s=20.0).busy()
    stage.tick(20.0)
    stage.exited()
    stage.broker(None)
    assert stage.sent(m.Hello)[0].held == ()
    assert stage.sent(m.Hello)[0].seen == fence(1)


def test_results_are_kept_however_long_the_broker_is_away() -> None:
    stage = Stage().busy()
    stage.finish()
    stage.tick(100_000.0)
    assert stage.orders() == []
    stage.broker(None)
    assert [held.phase for held in stage.sent(m.Hello)[0].held] == ["finished"]
    stage.welcome()
    assert [result.fence for result in stage.sent(m.Finished)] == [fence(1)]


def test_a_restarted_broker_is_told_everything_again() -> None:
    stage = Stage().busy()
    stage.finish()
    stage.pass_time(0.3).broker(None)
    assert not stage.sent(m.Finished)  # it does not know us yet
    stage.welcome(EPOCH + 1)
    assert stage.sent(m.Finished)
    assert stage.sent(m.Heartbeat)


def test_another_journal_asks_for_a_fresh_start() -> None:
    stage = Stage().busy()
    stage.welcome(EPOCH - 1)
    assert stage.effects(fx.KillEngine)
    stage.exited("killed by SIGKILL")
    assert stage.orders() == [fx.RemoveDir("j1", fence(1)), fx.Exit(EXIT_RESTART)]


def test_bye_ends_the_agent_for_good_and_without_goodbye() -> None:
    stage = Stage().busy()
    stage.broker(m.WorkerRejected(reason="another process took the name"))
    assert stage.effects(fx.KillEngine)
    assert not stage.sent(m.Goodbye)
    stage.exited("killed by SIGKILL")
    assert stage.orders() == [fx.RemoveDir("j1", fence(1)), fx.Exit(EXIT_UNWANTED)]


@pytest.mark.parametrize(("remedy", "code"), [("anew", EXIT_RESTART), ("yield", EXIT_NAME_TAKEN)])
def test_a_dismissal_that_can_heal_ends_this_process_alone(remedy: m.Remedy, code: int) -> None:
    stage = Stage().idle()
    stage.broker(m.WorkerRejected(reason="why", remedy=remedy))
    stage.exited("killed by SIGKILL")
    assert fx.Exit(code) in stage.orders()


def test_a_worker_that_yields_starts_its_engine_and_is_like_others_once_it_has_the_name() -> None:
    stage = Stage()
    stage.core = AgentCore(structs.replace(IDENTITY, yields=True), AgentPolicy(), stage.now)
    stage.tick()
    assert [hello.yields for hello in stage.sent(m.Hello)] == [True]
    assert stage.orders() == []
    stage.welcome()
    assert stage.effects(fx.Report) == [fx.Report(NameHeld())]
    stage.tick()
    assert stage.orders() == [fx.StartEngine(SETUP)]
    stage.broker(m.Identify())
    assert [hello.yields for hello in stage.sent(m.Hello)] == [False]


def test_agents_that_were_welcomed_together_do_not_beat_together() -> None:
    """Five thousand of them, a heartbeat each second: in no hundredth of a second three times as many as there would be evenly."""
    beats = [0] * 100
    for number in range(5000):
        agent = Registration(AgentPolicy(), 0.0, phase=crc32(f"boot {number}".encode()) / 2**32)
        agent.welcomed(1.0, 0.0)
        assert agent.beat_due("idle", 0.0)
        now = agent.next_due("idle")
        assert 0.25 <= now <= 1.0
        assert not agent.beat_due("idle", now - 0.001)
        assert agent.beat_due("idle", now)
        agent.note_message(now)
        assert agent.next_due("idle") == now + 1.0
        beats[int(now * 100) % 100] += 1
    assert max(beats) < 150


def test_the_first_pause_is_no_shorter_than_one_between_heartbeats_that_tell_something() -> None:
    agent = Registration(AgentPolicy(), 0.0, phase=0.0)
    agent.welcomed(0.1, 0.0)
    assert agent.beat_due("idle", 0.0)
    assert agent.next_due("idle") == 0.1
