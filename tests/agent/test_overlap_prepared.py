"""A job that is prepared beside the last steps of another, and three in one engine."""

from __future__ import annotations

import pytest

from broker.wire import messages as m
from tests.agent.stage import FAR, WITH_INPUT, Stage, failed, fence, refused, run_job
from workers.agent import effects as fx
from workers.ipc.messages import JobCancelled

KILLED = "killed by SIGKILL"
SEGFAULT = "killed by SIGSEGV"
REPLACED = "the engine was replaced because of another job"


def in_engine(stage: Stage) -> list[int]:
    return [attempt.fence - fence(0) for attempt in stage.core.engine_slot.attempts]


def test_the_next_job_is_taken_shortly_before_the_last_step_of_the_one_before() -> None:
    stage = Stage().busy(1)
    stage.next_requested(1)
    assert [beat.free for beat in stage.sent(m.Heartbeat)] == [1], "the broker hears of the room at once"
    stage.run(2)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(2, slot=1))]
    stage.run(3)
    assert refused(stage) == {3: "the engine is busy"}
    stage.tail(1)
    stage.run(4)
    assert refused(stage) == {4: "the engine is busy"}, "the prepared one is drawn"
    stage.finish(1)
    stage.tail(2)
    stage.run(5)
    assert in_engine(stage) == [2, 5]


def three(*, alone: bool = False) -> Stage:
    """Job 1 in its tail, job 2 in its last steps, and job 3 prepared behind it."""
    stage = Stage().overlapped()
    stage.next_requested(2)
    stage.run(3, alone=alone)
    if not alone:
        stage.words(3, "encode")
    return stage


def test_a_job_is_taken_beside_last_steps_and_a_tail() -> None:
    stage = Stage().overlapped()
    stage.next_requested(2)
    assert [beat.free for beat in stage.sent(m.Heartbeat)] == [1], "the broker hears of the room at once"
    stage.run(3)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(3, slot=2))]
    stage.run(4)
    assert refused(stage) == {4: "the engine is busy"}
    stage.finish(1)
    assert [done.free for done in stage.sent(m.Finished)] == [0], "a tail's end makes no room"
    stage.tail(2)
    assert in_engine(stage) == [2, 3]
    stage.next_requested(3)
    stage.run(5)
    assert stage.effects(fx.StartJob) == [fx.StartJob(run_job(5, slot=0))]


@pytest.mark.parametrize("ended", [1, 2, 3])
def test_each_of_three_may_end_by_itself(ended: int) -> None:
    stage = three()
    stage.cancel(ended)
    assert stage.orders() == [fx.RequestCancel(ended - 1, fence(ended))]
    stage.engine(JobCancelled(fence=fence(ended)))
    assert in_engine(stage) == [number for number in (1, 2, 3) if number != ended]
    stage.run(4)
    assert refused(stage) == ({} if ended == 3 else {4: "the engine is busy"})


def test_all_three_crash_with_their_engine() -> None:
    stage = three()
    stage.exited(SEGFAULT)
    assert failed(stage) == {1: "engine_crashed", 2: "engine_crashed", 3: "engine_crashed"}


def test_the_third_that_has_not_begun_is_handed_back() -> None:
    stage = three(alone=True)
    stage.exited(SEGFAULT)
    assert failed(stage) == {1: "engine_crashed", 2: "engine_crashed"}
    assert list(refused(stage)) == [3]


def test_the_third_is_denoised_before_the_second_that_ran_out_of_memory() -> None:
    stage = three()
    stage.finish(1)
    stage.words(3, "denoise", 1, 2)
    stage.next_requested(3)
    assert in_engine(stage) == [3, 2]
    stage.run(4)
    assert refused(stage) == {4: "the engine is busy"}, "the second is what comes next"
    stage.tail(3)
    stage.next_requested(2)
    stage.run(5)
    assert in_engine(stage) == [3, 2, 5]


def test_an_engine_asks_once() -> None:
    stage = Stage().busy(1)
    stage.next_requested(1)
    stage.run(2)
    stage.next_requested(1)
    stage.run(3)
    assert refused(stage) == {3: "the engine is busy"}


def test_without_a_next_job_the_room_stays() -> None:
    stage = Stage().busy(1)
    stage.next_requested(1)
    stage.tail(1)
    assert stage.core.capacity.free == 1
    stage.finish(1)
    stage.run(2)
    assert in_engine(stage) == [2]


@pytest.mark.parametrize("ended", [1, 2])
def test_either_may_end_before_the_other_goes_on(ended: int) -> None:
    stage = Stage().busy(1)
    stage.next_requested(1)
    stage.run(2)
    stage.words(2, "encode")
    stage.cancel(ended)
    stage.engine(JobCancelled(fence=fence(ended)))
    assert in_engine(stage) == [3 - ended]
    stage.run(3)
    # The first still wants a next one; the second, which is drawn now, does not.
    assert refused(stage) == ({} if ended == 2 else {3: "the engine is busy"})


def test_a_prepared_job_may_ask_for_another_before_the_end_of_the_first_is_told() -> None:
    stage = Stage().busy(1)
    stage.next_requested(1)
    stage.run(2)
    stage.words(2, "denoise", 1, 2)
    stage.next_requested(2)
    stage.run(3)
    assert refused(stage) == {3: "the engine is busy"}
    stage.finish(1)
    assert [done.free for done in stage.sent(m.Finished)] == [1]
    stage.run(4)
    assert in_engine(stage) == [2, 4]


def test_a_prepared_job_may_come_to_its_tail_before_the_first_that_is_drawn_again() -> None:
    stage = Stage().busy(1)
    stage.next_requested(1)
    stage.run(2)
    stage.words(2, "denoise", 1, 2)
    stage.tail(2)
    stage.finish(2)
    stage.run(3)
    assert refused(stage) == {3: "the engine is busy"}, "the first is drawn"
    stage.tail(1)
    stage.run(4)
    assert in_engine(stage) == [1, 4]


def test_a_job_that_must_be_alone_does_not_overtake() -> None:
    stage = Stage().busy(1)
    stage.next_requested(1)
    stage.run(2, alone=True)
    stage.next_requested(2)
    assert in_engine(stage) == [1, 2]


def test_a_job_whose_inputs_are_on_their_way_asks_for_no_other() -> None:
    stage = Stage(dirs=FAR).idle()
    stage.run(1, body=WITH_INPUT)
    stage.next_requested(1)
    assert stage.core.capacity.free == 0


def test_a_prepared_job_of_an_engine_that_is_replaced_is_handed_back() -> None:
    stage = Stage().busy(1)
    stage.next_requested(1)
    stage.run(2)
    stage.words(2, "encode")
    stage.cancel(1, grace_s=1.0)
    stage.pass_time(2.0).tick()
    stage.exited(KILLED)
    assert refused(stage) == {2: REPLACED}
