"""Long jobs make room for short ones: where that pays, within bounds, and once."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from msgspec.structs import replace

from broker.core.policy import Policy
from broker.core.scheduling.preemption import Bounds, Running, Waiting, choose, goes_on, look_again_s, spare_s
from broker.core.scheduling.promises import MAX_LEAD_S
from broker.testing import UNIT, CoreHarness, holding, peer_of, sent, worker_info
from broker.wire import messages as m
from broker.wire.promises import Promise

LONG = Running(job_id="long", left_s=100.0, whole_s=120.0)
SHORT = Waiting(cost_s=2.0, waits_s=100.0)
PROMISED = Waiting(cost_s=2.0, promised=True)
SHARE = 0.2
BOUNDS = Bounds()
STEPS = 100


@pytest.mark.parametrize(
    ("running", "waiting", "chosen"),
    [
        (LONG, SHORT, "long"),
        (replace(LONG, left_s=5.0), SHORT, ""),
        (replace(LONG, left_s=5.1), SHORT, "long"),
        (replace(LONG, left_s=21.0, whole_s=500.0), replace(SHORT, cost_s=10.0), ""),
        (replace(LONG, left_s=22.0, whole_s=500.0), replace(SHORT, cost_s=10.0), "long"),
        (replace(LONG, preemptions=BOUNDS.most, whole_s=1e6), SHORT, ""),
        (replace(LONG, preempted_s=22.0), SHORT, ""),
        (replace(LONG, preempted_s=21.0), SHORT, "long"),
        (replace(LONG, preempted_s=21.0, preemptions=1), SHORT, ""),
        (replace(LONG, preemptions=1, ran_s=0.9), SHORT, ""),
        (replace(LONG, preemptions=1, ran_s=1.0), SHORT, "long"),
        (replace(LONG, preemptions=1, ran_s=3.9), replace(SHORT, cost_s=10.0), ""),
        (replace(LONG, preemptions=1, ran_s=4.0), replace(SHORT, cost_s=10.0), "long"),
        (replace(LONG, spare_s=2.0), SHORT, ""),
        (replace(LONG, spare_s=3.0), SHORT, "long"),
        (LONG, replace(SHORT, cost_s=24.0), ""),
        (replace(LONG, reload_s=30.0), SHORT, ""),
        # It is served soon enough as it is; the line would outlast what the long job may wait.
        (LONG, replace(SHORT, waits_s=1.4), ""),
        (LONG, replace(SHORT, waits_s=1.5), "long"),
        (LONG, replace(SHORT, line_s=22.0), ""),
        # Of the 24 s that it may wait 7.2 s are for jobs of 15 s at most, and for promised ones.
        (LONG, replace(SHORT, cost_s=15.1), "long"),
        (LONG, replace(SHORT, cost_s=15.9), ""),
        (replace(LONG, preempted_s=8.0), replace(SHORT, cost_s=15.0), "long"),
        (LONG, replace(PROMISED, cost_s=15.9), "long"),
        # It can wait for the end of the next step, too, unless others that wait have that.
        (replace(LONG, park_s=1.0, step_s=2.0), replace(SHORT, start_in_s=3.5), ""),
        (replace(LONG, park_s=1.0, step_s=3.0), replace(SHORT, start_in_s=3.5), "long"),
        (replace(LONG, park_s=1.0, step_s=2.0), replace(SHORT, start_in_s=3.5, behind=1), "long"),
        (replace(LONG, park_s=4.0, step_s=9.0), replace(SHORT, start_in_s=3.5), "long"),
        (replace(LONG, left_s=10.0), PROMISED, "long"),
        (replace(LONG, left_s=2.0), PROMISED, ""),
        (replace(LONG, left_s=42.0, whole_s=500.0), replace(PROMISED, cost_s=10.0), "long"),
        (LONG, replace(PROMISED, line_s=22.0), "long"),
        (replace(LONG, preemptions=BOUNDS.most, whole_s=1e6), PROMISED, ""),
        (replace(LONG, preempted_s=22.0), PROMISED, ""),
        (replace(LONG, preemptions=1, ran_s=0.9), PROMISED, ""),
        (replace(LONG, spare_s=2.0), PROMISED, ""),
    ],
)
def test_who_makes_room(running: Running, waiting: Waiting, chosen: str) -> None:
    assert choose(waiting, [running], SHARE, BOUNDS) == chosen


def test_that_with_most_left_makes_room():
    other = replace(LONG, job_id="longer", left_s=110.0)
    assert choose(SHORT, [LONG, other], SHARE, BOUNDS) == "longer"
    assert choose(SHORT, [], SHARE, BOUNDS) == ""


@pytest.mark.parametrize(
    ("ends_s", "start_in_s", "chosen"),
    [
        ((1.0, 3.0), 4.0, "longer"),
        ((1.0, 5.0), 4.0, "long"),
        # Neither is in time: the sooner one.
        ((6.0, 5.0), 4.0, "longer"),
        ((5.0, 6.0), 4.0, "long"),
    ],
)
def test_it_is_one_whose_step_ends_in_time(ends_s: tuple[float, float], start_in_s: float, chosen: str) -> None:
    running = [
        replace(LONG, park_s=ends_s[0], step_s=9.0),
        replace(LONG, job_id="longer", left_s=110.0, park_s=ends_s[1], step_s=9.0),
    ]
    assert choose(replace(SHORT, start_in_s=start_in_s), running, SHARE, BOUNDS) == chosen


@pytest.mark.parametrize(
    ("left_s", "cost_s", "wait_s", "first"),
    [
        (50.0, 50.0, 90.0, True),
        (50.0, 49.0, 90.0, False),
        # It would have less than the reserve left to make room again.
        (50.0, 49.0, 78.0, True),
        (50.0, 49.0, 79.0, False),
        (90.0, 16.0, 45.0, True),
        (90.0, 16.0, 46.0, False),
        # A small one goes before it, whatever is left of that; but not once less is left of it.
        (50.0, 12.5, 0.0, False),
        (10.0, 12.5, 0.0, True),
    ],
)
def test_a_job_that_made_room_goes_on_before_others_are_begun(
    left_s: float, cost_s: float, wait_s: float, first: bool
) -> None:
    assert goes_on(left_s, 100.0, cost_s, wait_s, 1.0, BOUNDS) is first


@pytest.mark.parametrize(
    ("promise", "deadline_at", "spare"),
    [
        (None, 0.0, inf),
        (Promise(ready_by=150.0, confidence=0.5), 0.0, 10.0),
        (None, 150.0, 10.0 - 1.645 * 5.0),
        (Promise(ready_by=150.0, confidence=0.5), 145.0, 5.0 - 1.645 * 5.0),
    ],
)
def test_what_a_job_may_be_delayed_by(promise: Promise | None, deadline_at: float, spare: float) -> None:
    assert spare_s(promise, deadline_at, 40.0, 5.0, now=100.0) == pytest.approx(spare, abs=0.01)


def busy(*, resumes: bool = True, preempt: bool = True, **of_long: Any) -> CoreHarness:
    """A core that knows its model's pace, with one worker that is in the middle of a long job."""
    desk = CoreHarness(Policy(preempt=preempt, preempt_delay=SHARE))
    rates = [("demo", 10 * UNIT * (1 + number % 3), 20.0 * (1 + number % 3), 1) for number in range(60)]
    desk.core.restore([], rates, desk.now)
    desk.hello("w1", body=worker_info(resumes=resumes))
    desk.beat("w1", free=1, model="demo", engine="ready")
    assert isinstance(desk.submit("long", units=100 * UNIT, steps=STEPS, **of_long), m.Accepted)
    desk.start("w1", "long")
    wait(desk, 6)
    return desk


def wait(desk: CoreHarness, seconds: int) -> None:
    """Let time pass, while the worker tells of the long job, if it has it."""
    for _ in range(seconds):
        desk.tick(1)
        beat(desk, "long")


def beat(desk: CoreHarness, name: str) -> None:
    """Let the worker that has this job tell of it; it takes as long as predicted."""
    job = desk.job(name)
    if job.held:
        step_s = 2 * job.submission.units / UNIT / STEPS
        step = job.goes_on_from + int((desk.now - job.started_at) / step_s)
        held = m.Held(job_id=name, fence=job.fence, phase="denoise", step=step, total=STEPS)
        desk.feed(peer_of(job.worker), m.Heartbeat(seen=job.fence, free=0, held=(held,), model="demo", engine="busy"))


def test_a_short_job_goes_first_and_the_long_one_goes_on_after_it():
    desk = busy()
    desk.submit("short", units=UNIT)
    wait(desk, 6)
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
    wait(desk, 6)
    desk.cancel("short")
    effects = desk.hand_back("w1", "long", kept=11)
    assert [run.job_id for run in sent(effects, m.Run)] == ["long"]


def test_two_jobs_never_wait_for_each_other():
    desk = busy()
    desk.submit("short", units=UNIT)
    wait(desk, 6)
    desk.fail("w1", "long", "engine_error", free=0)
    state = desk.core.state
    desk.job("short").yields_to = "long"
    desk.tick(2)
    effects = desk.beat("w1", seen=state.last_fence, free=1)
    assert len(sent(effects, m.Run)) == 1


def test_a_job_of_higher_priority_is_not_disturbed():
    desk = busy()
    desk.submit("short", units=UNIT, priority=4)
    wait(desk, 6)
    assert desk.job("long").park == ""


@pytest.mark.parametrize(("resumes", "preempt", "units"), [(False, True, 1), (True, False, 1), (True, True, 50)])
def test_nobody_makes_room_where_that_is_not_wanted(resumes: bool, preempt: bool, units: int) -> None:
    desk = busy(resumes=resumes, preempt=preempt)
    desk.submit("other", units=units * UNIT)
    wait(desk, 6)
    assert desk.job("long").park == ""


def test_a_job_is_delayed_by_a_share_of_its_time_at_most_and_then_left_alone():
    desk = busy()
    began = desk.now
    for number in range(BOUNDS.most + 1):
        wait(desk, 10)
        desk.submit(f"short{number}", units=UNIT)
        wait(desk, 6)
        if desk.job("long").park != "preempt":
            break
        desk.hand_back("w1", "long", kept=desk.job("long").step + 1)
        desk.start("w1", f"short{number}")
        desk.tick(2)
        desk.finish("w1", f"short{number}")
        desk.start("w1", "long")
    job = desk.job("long")
    assert 1 < job.preemptions <= BOUNDS.most
    assert 0 < job.preempted_s + job.preemptions * BOUNDS.overhead_s <= 0.2 * 200
    assert desk.now - began < 200
    assert job.park == ""


@pytest.mark.parametrize(
    ("running", "waiting", "again_s"),
    [
        # The step that ends last before it must start begins then.
        (replace(LONG, step_s=2.0), replace(SHORT, start_in_s=5.0), 3.0),
        (replace(LONG, step_s=2.0), replace(SHORT, start_in_s=1.0), inf),
        (replace(LONG, preemptions=1, ran_s=0.25, step_s=2.0), SHORT, 0.75),
        (replace(LONG, preemptions=1, ran_s=0.25, step_s=2.0), PROMISED, 0.75),
        (replace(LONG, preemptions=1, ran_s=0.25, step_s=2.0), replace(SHORT, start_in_s=5.0), 3.0),
        (replace(LONG, preemptions=1, ran_s=5.0), PROMISED, inf),
    ],
)
def test_it_is_looked_again_when_time_alone_may_change_the_choice(
    running: Running, waiting: Waiting, again_s: float
) -> None:
    assert look_again_s(waiting, [running], BOUNDS) == pytest.approx(again_s)


def test_a_short_job_that_comes_and_must_start_at_once_has_room_made_at_once():
    desk = busy()
    desk.submit("waits", units=UNIT)
    # The looks are some hundredths of a second apart at most when another job comes, not a quarter of a second.
    desk.tick(0.05)
    desk.submit("short", units=UNIT / 20)
    desk.tick(0.05)
    assert desk.job("long").park == "preempt"


def test_short_jobs_pass_one_that_made_room_for_as_long_as_it_may_wait():
    desk = busy()
    desk.submit("short", units=UNIT)
    wait(desk, 6)
    desk.hand_back("w1", "long", kept=11)
    order = ["short"]
    for number in range(30):
        desk.submit(f"later{number}", units=UNIT)
        desk.start("w1", order[-1])
        desk.tick(3)
        order.append(sent(desk.finish("w1", order[-1]), m.Run)[0].job_id)
        if order[-1] == "long":
            break
    assert 2 < len(order) < 20, order
    assert desk.job("long").preempted_s <= 0.2 * 200 + 3


def two_wait(**of_short: Any) -> CoreHarness:
    """A core whose worker is at a job of 20 s that makes no room, while a long job waits that came first, and 2 s later a short one of
    another tenant."""
    desk = CoreHarness(Policy(preempt=True))
    rates = [("demo", 10 * UNIT * (1 + number % 3), 20.0 * (1 + number % 3), 1) for number in range(60)]
    desk.core.restore([], rates, desk.now)
    desk.hello("w1", body=worker_info(resumes=True))
    desk.beat("w1", free=1, model="demo", engine="ready")
    desk.submit("first", units=10 * UNIT)
    desk.start("w1", "first")
    desk.submit("long", units=100 * UNIT, tenant="films")
    desk.tick(2)
    desk.submit("short", units=UNIT, **({"tenant": "pictures"} | of_short))
    return desk


def after_the_first(desk: CoreHarness) -> str:
    """The job that the worker is given when it is done."""
    return sent(desk.finish("w1", "first"), m.Run)[0].job_id


def test_a_short_job_that_must_start_goes_before_a_long_one_of_another_tenant():
    desk = two_wait()
    desk.tick(2)
    assert after_the_first(desk) == "short"


def test_it_does_so_however_long_that_one_has_waited():
    desk = two_wait()
    desk.cancel("short")
    for _ in range(150):
        desk.tick(1)
        beat(desk, "first")
    desk.submit("late", units=UNIT, tenant="pictures")
    desk.tick(2)
    assert after_the_first(desk) == "late"


def test_a_short_job_gets_the_worker_that_was_freed_for_it():
    desk = busy()
    desk.submit("other", units=60 * UNIT, tenant="films")
    wait(desk, 100)
    desk.submit("short", units=UNIT, tenant="pictures")
    wait(desk, 2)
    assert desk.job("long").park == "preempt"
    effects = desk.hand_back("w1", "long", kept=60)
    assert [run.job_id for run in sent(effects, m.Run)] == ["short"]


def test_long_jobs_that_wait_are_no_line_for_which_a_short_one_must_wait():
    desk = busy()
    for number in range(8):
        desk.submit(f"film{number}", units=100 * UNIT)
    desk.submit("short", units=UNIT)
    wait(desk, 3)
    assert desk.job("long").park == "preempt"


def test_a_job_that_made_room_goes_on_before_another_is_begun():
    desk = busy()
    desk.submit("short", units=UNIT)
    wait(desk, 3)
    desk.submit("other", units=50 * UNIT, tenant="films")
    desk.hand_back("w1", "long", kept=11)
    desk.start("w1", "short")
    desk.tick(2)
    effects = desk.finish("w1", "short")
    assert [(run.job_id, run.kept) for run in sent(effects, m.Run)] == [("long", 11)]


def test_one_that_has_waited_for_as_long_as_it_may_goes_on_before_one_with_less_left():
    desk = two_workers()
    desk.submit("film", units=60 * UNIT, steps=STEPS)
    desk.start("w2", "film")
    desk.submit("first", units=10 * UNIT, steps=STEPS)
    together(desk, 14)
    desk.hand_back("w1", "long", kept=11)
    desk.start("w1", "first")
    together(desk, 24)
    desk.submit("second", units=UNIT)
    together(desk, 3)
    desk.hand_back("w2", "film", kept=35)
    desk.start("w2", "second")
    waits_s = desk.now - desk.job("long").parked_at
    assert waits_s < SHARE * 200 - BOUNDS.overhead_s
    together(desk, 15)
    effects = desk.finish("w2", "second")
    assert [run.job_id for run in sent(effects, m.Run)] == ["long"]


def together(desk: CoreHarness, seconds: int) -> None:
    """`wait`, while both workers tell of what they have."""
    for _ in range(seconds):
        wait(desk, 1)
        for name in ("film", "first", "second"):
            if name in desk.core.state.jobs:
                beat(desk, name)


def test_a_job_yields_no_longer_once_the_room_that_it_made_is_taken():
    desk = busy()
    desk.submit("clip", units=13 * UNIT)
    wait(desk, 19)
    assert desk.job("long").yields_to == "clip"
    desk.submit("picture", units=UNIT)
    effects = desk.hand_back("w1", "long", kept=13)
    assert [run.job_id for run in sent(effects, m.Run)] == ["picture"]
    desk.start("w1", "picture")
    for _ in range(4):
        desk.tick(1)
        beat(desk, "picture")
    effects = desk.finish("w1", "picture")
    assert [run.job_id for run in sent(effects, m.Run)] == ["long"]


def test_that_whose_step_ends_in_time_makes_room():
    desk = two_workers()
    desk.submit("film", units=150 * UNIT, steps=10)
    desk.start("w2", "film")
    # A step of the one takes 2 s, of the other 30 s.
    wait(desk, 33)
    desk.feed(peer_of("w2"), holding("film", desk.job("film").fence, phase="denoise", step=1, total=10))
    desk.submit("short", units=UNIT)
    wait(desk, 3)
    assert (desk.job("long").park, desk.job("film").park) == ("preempt", "")


def test_one_that_is_late_by_far_waits_for_its_turn():
    desk = two_wait()
    for _ in range(int(BOUNDS.patience * 2 + BOUNDS.late_s) + 1):
        desk.tick(1)
        desk.feed(peer_of("w1"), holding("first", desk.job("first").fence))
    assert after_the_first(desk) == "long"


@pytest.mark.parametrize("priority", [4, 5])
def test_it_goes_before_none_of_higher_priority(priority: int) -> None:
    desk = two_wait(priority=priority)
    assert after_the_first(desk) == ("short" if priority == 5 else "long")


def test_a_tenant_that_was_given_much_more_than_others_presses_nobody():
    desk = two_wait(tenant="films2")
    desk.core.state.queue.where["short"][1].start += MAX_LEAD_S + 1.0
    assert after_the_first(desk) == "long"


# ---------------------------------------------------------------- promises


def promising(desk: CoreHarness, name: str, within_s: float, units: float = UNIT) -> m.Message:
    """Submit a job of this size with a promise, as it is answered."""
    return desk.submit(name, units=units, promise=m.PromiseWish(within_s=within_s, confidence=0.95))


def two_workers() -> CoreHarness:
    """`busy`, with a second worker that is free and has the model in memory."""
    desk = busy()
    desk.hello("w2", body=worker_info(resumes=True))
    desk.beat("w2", free=1, model="demo", engine="ready")
    return desk


def test_a_promised_job_whose_worker_died_takes_the_place_of_one_that_can_wait():
    desk = two_workers()
    assert isinstance(promising(desk, "promised", 25.0, units=5 * UNIT), m.Accepted)
    desk.start("w2", "promised")
    desk.feed(peer_of("w2"), m.Goodbye(reason="power"))
    wait(desk, 2)
    assert desk.job("long").park == "preempt"
    effects = desk.hand_back("w1", "long", kept=11)
    assert [run.job_id for run in sent(effects, m.Run)] == ["promised"]
    desk.start("w1", "promised")
    for _ in range(5):
        desk.tick(2)
        beat(desk, "promised")
    desk.finish("w1", "promised")
    assert desk.job("promised").promise.breaks == 0


def test_a_promise_that_is_lost_anyway_disturbs_nobody():
    desk = two_workers()
    assert isinstance(promising(desk, "promised", 130.0, units=50 * UNIT), m.Accepted)
    desk.start("w2", "promised")
    for _ in range(40):
        wait(desk, 1)
        beat(desk, "promised")
    desk.feed(peer_of("w2"), m.Goodbye(reason="power"))
    wait(desk, 2)
    assert desk.job("promised").promise.breaks == 1
    assert desk.job("long").park == ""


@pytest.mark.parametrize(("within_s", "parked"), [(219.0, False), (1000.0, True)])
def test_a_job_makes_room_only_within_what_was_promised_for_it(within_s: float, parked: bool) -> None:
    desk = busy(promise=m.PromiseWish(within_s=within_s, confidence=0.95))
    desk.submit("short", units=6 * UNIT)
    wait(desk, 10)
    assert (desk.job("long").park == "preempt") is parked


@pytest.mark.parametrize(("deadline_s", "parked"), [(208.0, False), (1000.0, True)])
def test_a_job_makes_room_only_within_its_deadline(deadline_s: float, parked: bool) -> None:
    desk = busy(deadline_s=deadline_s)
    desk.submit("short", units=6 * UNIT)
    wait(desk, 10)
    assert (desk.job("long").park == "preempt") is parked
