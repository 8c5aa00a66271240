"""A broken device: no more jobs, what runs goes on, no engine is started again."""

from __future__ import annotations

from broker.wire import messages as m
from tests.agent.stage import FAR, WITH_INPUT, Stage, refused
from workers.agent import effects as fx

HEALTH = m.DeviceHealth(xids={48: 1}, fault="Xid 48: a memory error of two bits, which cannot be corrected")


def break_device(stage: Stage, health: m.DeviceHealth = HEALTH) -> list[fx.Effect]:
    return stage._out(stage.core.measured(fx.Stats(health=health), stage.now))


def test_it_is_told_at_once_and_logged_once() -> None:
    stage = Stage().idle().pass_time(0.5)
    break_device(stage)
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.free, beat.health) == (0, HEALTH)
    [note] = stage.effects(fx.Note)
    assert (note.action, note.level, note.detail) == ("device_fault", "error", f"no more jobs: {HEALTH.fault}")
    break_device(stage)
    assert stage.effects(fx.Note) == []


def test_a_job_that_comes_all_the_same_is_refused_with_the_reason() -> None:
    stage = Stage().idle()
    break_device(stage)
    stage.run(1)
    [refused] = stage.sent(m.Refused)
    assert refused.reason == f"the device is broken: {HEALTH.fault}"


def test_what_runs_goes_on_and_no_engine_is_started_after_it() -> None:
    stage = Stage().busy()
    break_device(stage)
    assert stage.orders() == []
    stage.finish()
    assert stage.sent(m.Finished)
    stage.exited("killed by SIGKILL")
    stage.silence(3600.0, every=1.0)
    assert not stage.effects(fx.StartEngine)
    stage.tick(1.0)
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.free, beat.engine) == (0, "restarting")


def test_an_engine_that_waits_for_its_next_start_is_not_started() -> None:
    stage = Stage().idle()
    stage.exited()
    break_device(stage)
    started = []
    for _ in range(60):
        stage.tick(1.0)
        started += stage.effects(fx.StartEngine)
    assert started == []


def test_a_job_whose_inputs_are_on_their_way_is_handed_back() -> None:
    stage = Stage(dirs=FAR).idle()
    stage.run(1, body=WITH_INPUT)
    break_device(stage)
    assert refused(stage) == {1: f"the device is broken: {HEALTH.fault}"}
    stage.fetched(1)
    assert not stage.effects(fx.StartJob)
