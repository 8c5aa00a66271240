"""Two jobs in one engine: one is postprocessed while the next is denoised, and who is blamed when it goes wrong."""

from __future__ import annotations

import pytest

from broker.wire import messages as m
from tests.agent.stage import EPOCH, RESULT, SETUP, Stage, failed, fence, held, refused, run_job
from workers.agent import effects as fx
from workers.ipc.messages import JobFailed, JobFinished

KILLED = "killed by SIGKILL"
SEGFAULT = "killed by SIGSEGV"
REPLACED = "the engine was replaced because of another job"


def both_work(stage: Stage, tick: int) -> Stage:
    """Both jobs of `overlapped` show a sign of life."""
    stage.words(1, "decode", 1, 4, tick=tick)
    stage.words(2, "denoise", 1, 10, tick=tick)
    return stage


# ------------------------------------------------------------------ room


def test_a_tail_makes_room_and_the_next_job_has_a_slot_of_its_own() -> None:
    stage = Stage().busy(1)
    stage.run(2)
    assert refused(stage) == {2: "the engine is busy"}
    stage.tail(1)
    stage.run(3)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(3, slot=1))]
    stage.run(4)
    assert refused(stage) == {4: "the engine is busy"}
    assert held(stage) == [1, 3]


def test_there_are_three_jobs_at_most_even_if_all_are_in_their_tails() -> None:
    stage = Stage().overlapped()
    stage.tail(2)
    stage.run(3)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(3, slot=2))]
    stage.tail(3)
    stage.run(4)
    assert refused(stage) == {4: "the engine has 3 jobs"}
    assert stage.core.capacity.free == 0
    stage.finish(1)
    stage.run(5)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(5, slot=0))]


@pytest.mark.parametrize("heartbeat_s", [0.5, 1.0])
def test_room_beside_a_tail_is_said_at_once(heartbeat_s: float) -> None:
    stage = Stage().busy(1)
    stage.broker(m.Welcome(epoch=EPOCH, heartbeat_s=heartbeat_s))
    stage.pass_time(0.313).words(1, "denoise", 1, 10)
    assert stage.sent(m.Heartbeat)
    stage.pass_time(0.003).words(1, "denoise", 2, 10)
    assert not stage.sent(m.Heartbeat)  # two are not to be that close
    stage.pass_time(0.003).tail(1)
    [beat] = stage.sent(m.Heartbeat)
    assert (beat.free, beat.engine, [item.fence for item in beat.held]) == (1, "busy", [fence(1)])


def test_a_tail_without_room_waits_for_its_heartbeat() -> None:
    stage = Stage().busy(1)
    stage.broker(m.Drain())
    stage.pass_time(0.3).tick()
    stage.pass_time(0.01).tail(1)
    assert stage.out == []


def test_a_tail_that_is_said_twice_or_of_another_job_is_a_line_in_the_log() -> None:
    stage = Stage().busy(1)
    stage.tail(7)
    assert [note.action for note in stage.effects(fx.Note)] == ["stray_engine_message"]
    assert stage.core.capacity.free == 0
    stage.tail(1)
    stage.run(2)
    stage.tail(1)
    assert [note.action for note in stage.effects(fx.Note)] == ["stray_engine_message"]
    assert stage.core.capacity.free == 0


def test_each_job_shows_its_own_progress() -> None:
    stage = Stage().overlapped()
    stage.pass_time(1.0).words(1, "decode", 2, 5, tick=9)
    assert stage.core.capacity.held(stage.now) == (
        m.Held(job_id="j1", fence=fence(1), phase="decode", step=2, total=5, age_s=1.0),
        m.Held(job_id="j2", fence=fence(2), phase="denoise", step=1, total=10, age_s=1.0),
    )


def test_a_job_given_beside_a_tail_that_cannot_have_a_directory_fails_by_itself() -> None:
    stage = Stage().overlapped(begun=False)
    stage.begin_failed(2, "No space left on device")
    assert failed(stage) == {2: "engine_error"}
    assert (held(stage), stage.core.capacity.free) == ([1, 2], 1)
    stage.finish(1)
    assert stage.sent(m.Finished)


def test_an_agent_that_drains_leaves_after_both() -> None:
    stage = Stage().overlapped()
    stage.broker(m.Drain())
    stage.finish(2)
    stage.ack(2)
    assert not stage.effects(fx.KillEngine)
    stage.finish(1)
    stage.ack(1)
    assert [note.detail for note in stage.effects(fx.Note) if note.action == "leaving"] == ["drained"]


# ------------------------------------------------------------------ alone


def test_a_job_that_must_be_alone_is_given_beside_a_tail_and_nothing_after_it() -> None:
    stage = Stage().overlapped(begun=False, alone=True)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(2, slot=1, alone=True))]
    stage.finish(1)
    assert stage.core.capacity.free == 0
    stage.words(2, "denoise", 1, 10)
    stage.tail(2)  # an engine that forgets itself
    assert stage.core.capacity.free == 0
    stage.run(3)
    assert refused(stage) == {3: "the engine has a job that must be alone"}
    stage.finish(2)
    stage.run(4)
    assert stage.effects(fx.StartJob)


# ------------------------------------------------------------------ ends


@pytest.mark.parametrize("first", [1, 2])
def test_the_two_may_end_in_either_order(first: int) -> None:
    stage = Stage().overlapped()
    for counter in (first, 3 - first):
        stage.finish(counter)
        assert [message.fence for message in stage.sent(m.Finished)] == [fence(counter)]
    assert stage.core.capacity.free == 1


def test_the_end_of_a_tail_leaves_the_engine_to_the_job_that_is_drawn() -> None:
    stage = Stage().overlapped()
    stage.finish(1)
    assert [message.free for message in stage.sent(m.Finished)] == [0]
    stage.run(3)
    assert refused(stage) == {3: "the engine is busy"}
    stage.tail(2)
    stage.run(4)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(4, slot=0))]


def test_the_end_of_the_drawn_job_makes_room_while_the_tail_goes_on() -> None:
    stage = Stage().overlapped()
    stage.fail(2)
    assert [(message.fence, message.free) for message in stage.sent(m.Failed)] == [(fence(2), 1)]
    assert stage.core.engine_slot.shown == "busy"
    stage.run(3)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(3, slot=1))]
    assert held(stage)[:2] == [1, 3]


def test_the_model_in_memory_is_what_tail_and_front_say_and_not_the_end_of_a_tail() -> None:
    stage = Stage().busy(1)
    stage.tail(1, model="wan")
    assert stage.core.engine_slot.engine.model == "wan"
    stage.run(2)
    stage.engine(JobFinished(fence=fence(1), result=RESULT, run_s=1.0, model="demo"))
    assert stage.core.engine_slot.engine.model == "wan"
    stage.engine(JobFailed(fence=fence(2), kind="engine_error", model="other"))
    assert stage.core.engine_slot.engine.model == "other"


def test_a_finished_tail_proves_the_engine() -> None:
    stage = Stage().registered()
    for _ in range(2):
        stage.exited()
    stage.tick(1.0)
    stage.idle_again()
    stage.run(1)
    stage.words(1, "denoise", 1, 10)
    stage.tail(1)
    stage.run(2)
    stage.finish(1)
    stage.exited(SEGFAULT)
    assert stage.effects(fx.StartEngine)  # at once


# ------------------------------------------------------------------ cancel


@pytest.mark.parametrize("counter", [1, 2])
def test_a_cancel_is_for_the_slot_of_its_job(counter: int) -> None:
    stage = Stage().overlapped()
    stage.cancel(counter)
    assert stage.orders() == [fx.RequestCancel(counter - 1, fence(counter))]
    stage.stop(counter)
    assert stage.sent(m.Cancelled) == [
        m.Cancelled(job_id=f"j{counter}", fence=fence(counter), free=1 if counter == 2 else 0)
    ]
    stage.finish(3 - counter)
    assert [message.fence for message in stage.sent(m.Finished)] == [fence(3 - counter)]


def test_a_job_that_waits_for_the_tail_can_be_cancelled() -> None:
    stage = Stage().overlapped(begun=False)
    stage.cancel(2)
    assert stage.orders() == [fx.RequestCancel(1, fence(2))]
    stage.stop(2)
    assert stage.sent(m.Cancelled) == [m.Cancelled(job_id="j2", fence=fence(2), free=1)]


@pytest.mark.parametrize("counter", [1, 2])
def test_a_deaf_job_is_killed_and_the_other_is_handed_back(counter: int) -> None:
    stage = Stage().overlapped()
    stage.cancel(counter)
    stage.pass_time(2.0).tick()
    [kill] = stage.effects(fx.KillEngine)
    assert "the cancel had no effect" in kill.reason
    stage.exited(KILLED)
    other = 3 - counter
    assert [message.fence for message in stage.sent(m.Cancelled)] == [fence(counter)]
    assert refused(stage) == {other: REPLACED}
    assert not failed(stage)
    assert all(fx.RemoveDir(f"j{number}", fence(number)) in stage.orders() for number in (1, 2))
    assert fx.StartEngine(SETUP) in stage.orders()  # at once: it was no fault of the engine
    assert held(stage) == [counter]


def test_both_cancelled_and_deaf_neither_is_blamed() -> None:
    stage = Stage().overlapped()
    for counter in (1, 2):
        stage.cancel(counter)
    stage.pass_time(2.0).tick()
    assert len(stage.effects(fx.KillEngine)) == 1
    stage.exited(KILLED)
    assert [message.fence for message in stage.sent(m.Cancelled)] == [fence(1)]
    assert refused(stage) == {2: REPLACED}


def test_a_result_that_is_said_before_the_kill_takes_effect_leaves_nobody_to_blame() -> None:
    stage = Stage().overlapped()
    stage.cancel(1)
    stage.pass_time(2.0).tick()
    stage.finish(1)  # it had been in its last breath
    assert stage.sent(m.Finished)
    stage.exited(KILLED)
    assert refused(stage) == {2: REPLACED}
    assert not failed(stage)


def test_who_is_to_blame_for_one_engine_is_not_for_the_next() -> None:
    stage = Stage().overlapped()
    stage.cancel(1)
    stage.pass_time(2.0).tick()
    stage.finish(1)
    stage.exited(KILLED)
    stage.idle_again()
    stage.run(3)
    stage.words(3, "denoise", 1, 10)
    stage.exited(SEGFAULT)
    assert failed(stage) == {3: "engine_crashed"}


def test_a_bystander_that_ends_before_the_kill_takes_effect_has_its_result() -> None:
    stage = Stage().overlapped()
    stage.cancel(1)
    stage.pass_time(2.0).tick()
    stage.finish(2)
    assert [(message.fence, message.free) for message in stage.sent(m.Finished)] == [(fence(2), 0)]
    stage.exited(KILLED)
    assert not refused(stage)
    assert [message.fence for message in stage.sent(m.Cancelled)] == [fence(1)]


# ------------------------------------------------------------------ silence


def silent(stage: Stage, counter: int, seconds: float) -> Stage:
    """Only the other job shows signs of life for so long, or until the engine is killed."""
    end = stage.now + seconds
    tick = 100
    while stage.now < end and stage.core.engine_slot.engine.life.state != "stopping":
        tick += 1
        if counter == 1:
            stage.words(2, "denoise", 1, 10, tick=tick)
        else:
            stage.words(1, "decode", 1, 4, tick=tick)
        stage.silence(5.0, every=5.0)
    return stage


@pytest.mark.parametrize(("counter", "budget_s"), [(1, 600), (2, 30)])
def test_who_hangs_is_blamed_and_the_other_is_handed_back(counter: int, budget_s: float) -> None:
    stage = both_work(Stage().overlapped(), tick=50)
    began_at = stage.now
    silent(stage, counter, 2000)
    assert stage.now - began_at == budget_s
    stage.exited(KILLED)
    assert failed(stage) == {counter: "hung"}
    assert refused(stage) == {3 - counter: REPLACED}


def test_the_silence_of_a_job_that_has_not_begun_counts_from_the_end_of_the_tail() -> None:
    stage = Stage(encode_budget_s=20.0).overlapped(begun=False)
    silent(stage, 2, 100.0)
    assert stage.core.engine_slot.engine.life.state == "busy"
    stage.finish(1)
    stage.ack(1)
    stage.silence(19.0, every=1.0)
    assert not stage.effects(fx.KillEngine)
    stage.silence(1.0)
    assert stage.effects(fx.KillEngine)
    stage.exited(KILLED)
    assert failed(stage) == {2: "hung"}


def test_a_process_that_stands_still_is_the_fault_of_either_job() -> None:
    """The tail holds the interpreter lock: the job in its steps, whose budget is shorter, cannot be the only suspect."""
    stage = both_work(Stage().overlapped(), 2)
    while not stage.effects(fx.KillEngine):
        stage.silence(1.0)
    stage.exited(KILLED)
    assert failed(stage) == {1: "hung", 2: "hung"}
    assert refused(stage) == {}


def test_the_end_of_a_tail_is_no_sign_of_life_of_a_job_that_has_begun() -> None:
    stage = both_work(Stage().overlapped(), tick=50)
    stage.silence(29.0, every=1.0)
    stage.finish(1)
    stage.ack(1)
    stage.silence(1.0)
    assert stage.effects(fx.KillEngine)


def test_a_tail_that_hangs_hands_back_the_job_that_waits_for_it() -> None:
    stage = Stage(decode_budget_s=20.0).overlapped(begun=False)
    stage.words(1, "decode", 1, 4, tick=9)
    stage.silence(20.0)
    assert stage.effects(fx.KillEngine)
    stage.exited(KILLED)
    assert failed(stage) == {1: "hung"}
    assert list(refused(stage)) == [2]


# ------------------------------------------------------------------ death


def test_an_engine_that_dies_has_crashed_under_both() -> None:
    stage = Stage().overlapped()
    stage.exited(SEGFAULT)
    assert failed(stage) == {1: "engine_crashed", 2: "engine_crashed"}
    assert not refused(stage)
    assert stage.orders() == [
        fx.RemoveDir("j1", fence(1)),
        fx.RemoveDir("j2", fence(2)),
        fx.StartEngine(SETUP),
    ]


def test_an_engine_that_dies_has_not_crashed_under_a_job_that_waits() -> None:
    stage = Stage().overlapped(begun=False)
    stage.exited(SEGFAULT)
    assert failed(stage) == {1: "engine_crashed"}
    assert refused(stage) == {2: f"the engine ended before it began: {SEGFAULT}"}
    assert fx.RemoveDir("j2", fence(2)) in stage.orders()


def test_a_broken_protocol_has_crashed_under_both() -> None:
    stage = Stage().overlapped()
    stage.core.engine_closed(stage.now, "message of 4000000000 bytes")
    stage.exited(KILLED)
    assert failed(stage) == {1: "engine_crashed", 2: "engine_crashed"}


@pytest.mark.parametrize("counter", [1, 2])
def test_a_fatal_failure_ends_the_engine_under_the_other(counter: int) -> None:
    stage = Stage().overlapped()
    stage.fail(counter, kind="engine_crashed", message="illegal address", fatal=True)
    assert [(message.fence, message.free) for message in stage.sent(m.Failed)] == [(fence(counter), 0)]
    stage.run(3)
    assert refused(stage) == {3: "the engine is restarting"}
    stage.exited("exit code 66")
    assert failed(stage) == {3 - counter: "engine_crashed"}
    assert stage.effects(fx.StartEngine)


def test_a_fatal_failure_hands_back_the_job_that_waits() -> None:
    stage = Stage().overlapped(begun=False)
    stage.fail(1, kind="engine_crashed", fatal=True)
    stage.exited("exit code 66")
    assert not failed(stage)
    assert list(refused(stage)) == [2]


def test_a_closed_socket_is_the_end_of_both() -> None:
    stage = Stage().overlapped()
    stage.closed()
    stage.silence(5.0)
    assert stage.effects(fx.KillEngine)
    stage.exited(KILLED)
    assert failed(stage) == {1: "engine_crashed", 2: "engine_crashed"}


def test_a_process_that_survives_sigkill_gives_up_both() -> None:
    stage = both_work(Stage().overlapped(), tick=50)
    stage.cancel(1)
    stage.pass_time(2.0).tick()
    for _ in range(60):
        stage.silence(0.5)
        if stage.sent(m.Cancelled):
            break
    assert [message.fence for message in stage.sent(m.Cancelled)] == [fence(1)]
    assert refused(stage) == {2: REPLACED}
    assert stage.core.capacity.free == 0


def test_both_are_given_up_when_the_broker_is_gone_for_good() -> None:
    stage = both_work(Stage(detached_s=10.0).overlapped(), tick=50)
    stage.pass_time(10.0).tick()
    assert stage.effects(fx.KillEngine)
    stage.exited(KILLED)
    assert held(stage) == []
    assert not stage.sent(m.Failed)
    assert not stage.sent(m.Refused)
    assert all(fx.RemoveDir(f"j{number}", fence(number)) in stage.orders() for number in (1, 2))


def test_an_agent_that_leaves_drops_both() -> None:
    stage = Stage().overlapped()
    stage.leave()
    stage.exited(KILLED)
    assert stage.orders() == [fx.RemoveDir("j1", fence(1)), fx.RemoveDir("j2", fence(2)), fx.Exit(0)]
