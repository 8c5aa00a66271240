"""A group over several machines: what becomes of its job when one of them is lost, crashes an engine, or is being stopped."""

from __future__ import annotations

import pytest

from broker.wire import messages as m
from tests.agent.stage import FAR, SETUP, Stage, failed, fence, refused
from workers.agent import effects as fx
from workers.ipc.messages import Ready

LOST = "host-b is gone: no message for 6 s"
STOPS = "host-b is being stopped: stopped by SIGTERM"
CRASH = {"kind": m.FailureKind.ENGINE_CRASHED, "message": "rank 0 of 2: another rank is gone", "fatal": True}


def drawing(kept: int = 0, **policy: object) -> Stage:
    """In the third step, with so many in a checkpoint."""
    stage = Stage(machines=2, **policy).busy()  # type: ignore[arg-type]
    stage.words(1, "denoise", 3, 12, kept=kept)
    return stage


@pytest.mark.parametrize("first_sign", ["silence", "the report of rank 0", "the end of rank 0"])
def test_a_lost_machine_is_a_loss_whatever_shows_first(first_sign: str) -> None:
    stage = drawing(kept=2)
    match first_sign:
        case "the report of rank 0":
            stage.fail(**CRASH)
            assert not stage.sent(m.Failed)
        case "the end of rank 0":
            stage.rank_ended("rank 0 of 2: exit code 66")
        case _:
            stage.rank_ended(f"rank 1 of 2 (host-b): {LOST}")
    stage.exited("killed by SIGKILL", LOST)
    assert refused(stage) == {1: LOST}
    [message] = stage.sent(m.Refused)
    assert message.age_s >= 0, "it was taken, so this is a loss"
    assert message.kept == 2
    assert not stage.sent(m.Failed)


def test_a_rank_that_crashes_while_its_machine_stays_is_a_crash_in_the_words_of_rank_0() -> None:
    stage = drawing()
    stage.fail(**CRASH)
    stage.exited("rank 1 of 2 (host-b): killed by SIGSEGV")
    assert failed(stage) == {1: m.FailureKind.ENGINE_CRASHED}
    [message] = stage.sent(m.Failed)
    assert message.message == "rank 0 of 2: another rank is gone: rank 1 of 2 (host-b): killed by SIGSEGV"


def test_a_rank_that_runs_out_of_memory_is_no_matter_of_machines() -> None:
    stage = drawing()
    stage.fail(**CRASH)
    stage.fail(kind=m.FailureKind.OUT_OF_MEMORY, message="rank 1 of 2: memory ran out", fatal=True)
    assert failed(stage) == {1: m.FailureKind.OUT_OF_MEMORY}
    stage.exited("killed by SIGKILL", LOST)
    assert not stage.sent(m.Refused)


def test_a_cancel_counts_for_more_than_a_loss() -> None:
    stage = drawing()
    stage.cancel(1)
    stage.silence(3.0)
    stage.exited("killed by SIGKILL", LOST)
    assert [message.fence for message in stage.sent(m.Cancelled)] == [fence(1)]


def test_a_lost_machine_is_no_death_of_the_engine_and_no_trouble_with_its_model() -> None:
    stage = Stage(machines=2).registered()
    for _ in range(5):
        stage.exited("killed by SIGKILL", LOST)
        assert stage.effects(fx.StartEngine), "without a pause"
        assert not stage.effects(fx.Report)


def test_what_a_lost_group_left_is_put_into_the_depot_before_it_is_handed_back() -> None:
    stage = drawing(kept=2, dirs=FAR, checkpoint_put_s=60.0)
    stage.exited("killed by SIGKILL", LOST)
    assert stage.effects(fx.PutParked)
    assert not stage.sent(m.Refused)
    stage.put(1)
    assert refused(stage) == {1: LOST}


def test_a_machine_that_is_being_stopped_has_its_job_handed_back_and_then_its_engine_ended() -> None:
    stage = drawing()
    stage.machine_stops(STOPS)
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.draining, beat.free) == (True, 0)
    assert [(one.slot, one.fence) for one in stage.effects(fx.RequestPark)] == [(0, fence(1))]
    stage.machine_stops(STOPS)
    assert stage.orders() == []
    stage.parked(1, kept=4)
    assert refused(stage) == {1: STOPS}
    stage.machine_stops(STOPS)
    assert stage.effects(fx.KillEngine) == [fx.KillEngine(STOPS)]
    stage.pass_time(1.0).exited("killed by SIGKILL")
    assert [beat.draining for beat in stage.sent(m.Heartbeat)] == [True]
    stage.pass_time(1.0).machine_stops("")
    assert [beat.draining for beat in stage.sent(m.Heartbeat)] == [False]
    assert not stage.sent(m.Goodbye), "the worker stays"


def test_what_is_on_its_way_into_the_depot_when_the_machine_is_gone_is_no_loss_either() -> None:
    stage = drawing(kept=2, dirs=FAR, checkpoint_put_s=60.0)
    stage.machine_stops(STOPS)
    stage.parked(1, kept=4)
    stage.machine_stops(STOPS)
    stage.exited("killed by SIGKILL")
    stage.pass_time(1.0).machine_stops("")
    assert all(beat.draining for beat in stage.sent(m.Heartbeat))
    stage.put(1)
    assert refused(stage) == {1: STOPS}
    stage.pass_time(1.0).machine_stops("")
    assert [beat.draining for beat in stage.sent(m.Heartbeat)] == [False]


def test_what_cannot_be_handed_back_in_time_goes_with_the_machine_and_is_no_loss() -> None:
    stage = drawing()
    stage.machine_stops(STOPS)
    stage.rank_ended("rank 1 of 2 (host-b): host-b is gone: its rank host has ended")
    stage.exited("killed by SIGKILL", "host-b is gone: its rank host has ended")
    assert list(refused(stage)) == [1]
    kinds = [type(one.message) for one in stage.effects(fx.SendBroker)]
    assert kinds == [m.Refused], "nothing before it takes back that the worker hands back"
    stage.pass_time(1.0).machine_stops("")
    assert [beat.draining for beat in stage.sent(m.Heartbeat)] == [False]


def test_a_machine_that_is_stopped_while_the_model_loads_ends_that() -> None:
    stage = Stage(machines=2).registered()
    stage.machine_stops(STOPS)
    assert stage.effects(fx.KillEngine)
    stage.exited("killed by SIGKILL")
    assert stage.orders() == []
    stage.machine_stops("")
    stage.tick()
    assert stage.orders() == [fx.StartEngine(SETUP)]
    stage.engine(Ready(model="demo", load_s=1.0))
    assert stage.core.capacity.free == 1
