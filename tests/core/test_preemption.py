"""Long jobs make room for short ones: where that pays, within bounds, and once."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from broker.core.policy import Policy
from broker.core.scheduling.preemption import MOST, Running, choose
from broker.testing import UNIT, CoreHarness, holding, peer_of, sent, worker_info
from broker.wire import messages as m

LONG = Running(job_id="long", left_s=100.0, whole_s=120.0)
STEPS = 100


@pytest.mark.parametrize(
    ("running", "cost_s", "chosen"),
    [
        (LONG, 2.0, "long"),
        (replace(LONG, left_s=19.0), 2.0, ""),
        (replace(LONG, left_s=42.0, whole_s=500.0), 10.0, ""),
        (replace(LONG, left_s=43.0, whole_s=500.0), 10.0, "long"),
        (replace(LONG, preemptions=MOST), 2.0, ""),
        (replace(LONG, preempted_s=21.0), 2.0, ""),
        (replace(LONG, preempted_s=19.0), 2.0, "long"),
        (LONG, 23.0, ""),
        (replace(LONG, reload_s=30.0), 2.0, ""),
    ],
)
def test_who_makes_room(running: Running, cost_s: float, chosen: str) -> None:
    assert choose(cost_s, [running]) == chosen


def test_that_with_most_left_makes_room():
    other = replace(LONG, job_id="longer", left_s=110.0)
    assert choose(2.0, [LONG, other]) == "longer"
    assert choose(2.0, []) == ""


def busy(*, resumes: bool = True, preempt: bool = True) -> CoreHarness:
    """A core that knows its model's pace, with one worker that is in the middle of a long job."""
    desk = CoreHarness(Policy(preempt=preempt))
    desk.hello("w1", body=worker_info(resumes=resumes))
    for number in range(3):
        desk.submit(f"known{number}", units=10 * UNIT)
        desk.start("w1", f"known{number}")
        fence = desk.job(f"known{number}").fence
        result = m.Finished(job_id=f"known{number}", fence=fence, free=1, run_s=20.0, body=b"\x80")
        desk.feed(peer_of("w1"), result)
    desk.submit("long", units=100 * UNIT, steps=STEPS)
    desk.start("w1", "long")
    tick(desk)
    return desk


def tick(desk: CoreHarness, step: int = 10) -> None:
    """Let two seconds pass, and the worker tell of its job."""
    desk.tick(2)
    desk.feed(peer_of("w1"), holding("long", desk.job("long").fence, phase="denoise", step=step, total=STEPS))


def test_a_short_job_goes_first_and_the_long_one_goes_on_after_it():
    desk = busy()
    desk.submit("short", units=UNIT)
    tick(desk)
    assert desk.job("long").park == "preempt"
    effects = desk.hand_back("w1", "long", kept=11)
    assert [run.job_id for run in sent(effects, m.Run)] == ["short"]
    desk.start("w1", "short")
    effects = desk.finish("w1", "short")
    assert [(run.job_id, run.kept) for run in sent(effects, m.Run)] == [("long", 11)]
    assert desk.job("long").losses == 0


def test_a_job_that_is_cancelled_meanwhile_holds_nobody_up():
    desk = busy()
    desk.submit("short", units=UNIT)
    tick(desk)
    desk.cancel("short")
    effects = desk.hand_back("w1", "long", kept=11)
    assert [run.job_id for run in sent(effects, m.Run)] == ["long"]


def test_two_jobs_never_wait_for_each_other():
    desk = busy()
    desk.submit("short", units=UNIT)
    tick(desk)
    desk.fail("w1", "long", "engine_error", free=0)
    state = desk.core.state
    desk.job("short").yields_to = "long"
    desk.tick(2)
    effects = desk.beat("w1", seen=state.last_fence, free=1)
    assert len(sent(effects, m.Run)) == 1


def test_a_job_of_higher_priority_is_not_disturbed():
    desk = busy()
    desk.submit("short", units=UNIT, priority=4)
    tick(desk)
    assert desk.job("long").park == ""


@pytest.mark.parametrize(("resumes", "preempt", "units"), [(False, True, 1), (True, False, 1), (True, True, 50)])
def test_nobody_makes_room_where_that_is_not_wanted(resumes: bool, preempt: bool, units: int) -> None:
    desk = busy(resumes=resumes, preempt=preempt)
    desk.submit("other", units=units * UNIT)
    tick(desk)
    assert desk.job("long").park == ""


def test_a_job_makes_room_so_often_at_most():
    desk = busy()
    for number in range(MOST + 1):
        desk.submit(f"short{number}", units=UNIT)
        tick(desk, step=10 + number)
        if desk.job("long").park != "preempt":
            break
        desk.hand_back("w1", "long", kept=10 + number)
        desk.start("w1", f"short{number}")
        desk.finish("w1", f"short{number}")
        desk.start("w1", "long")
    assert desk.job("long").preemptions == MOST
    assert desk.state(f"short{MOST}") == "queued"
