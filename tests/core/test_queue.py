"""The order in which waiting jobs are given out, and where a new one would stand."""

from __future__ import annotations

from random import Random

import pytest

from broker.core.jobs import Job
from broker.core.scheduling.queue import COST_WEIGHT, FRONT_S, Lane, Queue, settle
from broker.testing import submission


def job(job_id: str, at: float = 0.0, cost: float = 1.0, **fields) -> Job:
    return Job(id=job_id, submission=submission(fields), body=b"", submitted_at=at, cost=cost, **fields)


def drain(queue: Queue) -> list[str]:
    order = []
    while (job_id := queue.first(lambda lane: True, lambda i, lane: True)) is not None:
        queue.serve(job_id)
        order.append(job_id)
    return order


def filled(*jobs: Job) -> Queue:
    queue = Queue()
    for each in jobs:
        queue.add(each)
    return queue


def test_equal_jobs_leave_in_order_of_arrival():
    assert drain(filled(job("a"), job("b"), job("c"))) == ["a", "b", "c"]


def test_a_short_job_passes_a_long_one_that_came_a_little_earlier():
    assert drain(filled(job("long", at=0, cost=100), job("short", at=50, cost=1))) == ["short", "long"]


def test_a_long_job_is_not_passed_by_what_comes_long_after_it():
    assert drain(filled(job("long", at=0, cost=100), job("short", at=250, cost=1))) == ["long", "short"]


def test_priorities_are_strict():
    queue = filled(job("low", priority=1), job("high", priority=9, cost=1000), job("mid", priority=5))
    assert drain(queue) == ["high", "mid", "low"]


def test_what_was_taken_back_from_a_lost_worker_goes_to_the_front():
    queue = filled(job("a", at=1), job("b", at=2))
    queue.add(job("back", at=3, cost=50), front=True)
    assert drain(queue)[0] == "back"


def test_a_tenant_that_dumps_many_jobs_delays_another_by_one():
    jobs = [job(f"dump{n}", tenant="a", cost=10) for n in range(50)]
    queue = filled(*jobs, job("mine", at=5, tenant="b", cost=10))
    assert drain(queue).index("mine") <= 1


def test_tenants_share_by_cost_not_by_number():
    queue = filled(
        *[job(f"big{n}", tenant="a", cost=100) for n in range(10)],
        *[job(f"small{n}", tenant="b", cost=10) for n in range(100)],
    )
    first = drain(queue)[:44]
    assert sum(1 for name in first if name.startswith("big")) == pytest.approx(4, abs=1)


def test_an_idle_tenant_saves_up_no_credit():
    queue = filled(*[job(f"a{n}", tenant="a", cost=10) for n in range(20)])
    for _ in range(10):
        queue.serve(queue.first(lambda lane: True, lambda i, lane: True))
    for n in range(10):
        queue.add(job(f"b{n}", tenant="b", cost=10))
    first = drain(queue)[:10]
    assert 4 <= sum(1 for name in first if name.startswith("b")) <= 6


def test_only_usable_lanes_are_looked_at():
    queue = filled(job("x", model="flux"), job("d"), job("pinned", pinned="w9"))
    assert queue.first(lambda lane: lane == Lane("demo", 1, ""), lambda i, lane: True) == "d"
    assert queue.first(lambda lane: lane.pinned == "w9", lambda i, lane: True) == "pinned"
    assert queue.first(lambda lane: lane.gpus == 4, lambda i, lane: True) is None


def test_a_job_that_is_not_allowed_does_not_hold_up_the_next():
    queue = filled(job("bad"), job("good"))
    assert queue.first(lambda lane: True, lambda job_id, lane: job_id != "bad") == "good"


def test_positions_count_what_will_be_given_out_before():
    queue = filled(job("a", at=1), job("b", at=2), job("c", at=3, cost=1), job("vip", at=9, priority=9))
    assert queue.ahead("vip")[0] == 0
    assert queue.ahead("a")[0] == 1
    assert queue.ahead("c") == (3, pytest.approx(3.0))


def test_positions_with_tenants_count_the_fair_share_of_the_others():
    queue = filled(*[job(f"dump{n}", tenant="a") for n in range(50)], job("mine", tenant="b"))
    assert queue.ahead("mine")[0] <= 1
    assert queue.ahead("dump49")[0] >= 50


def test_the_backlog_is_the_cost_of_what_waits():
    queue = filled(job("a", cost=3), job("b", cost=4))
    assert queue.backlog_s == 7
    queue.remove("a")
    assert queue.backlog_s == 4
    queue.serve("b")
    assert queue.backlog_s == 0
    assert len(queue) == 0


def test_tenants_that_left_are_forgotten():
    queue = Queue()
    for n in range(500):
        queue.add(job(f"j{n}", tenant=f"t{n}"))
        queue.add(job(f"k{n}", tenant="steady"))
        queue.serve(queue.first(lambda lane: True, lambda i, lane: True))
    drain(queue)
    assert all(not cls.tenants for cls in queue._classes.values())


def test_seconds_ahead_are_exact_near_the_front_and_a_mean_far_behind():
    queue = filled(job("image", cost=2), *[job(f"video{n}", at=1 + n / 100, cost=100) for n in range(40)])
    assert queue.ahead("video0") == (1, pytest.approx(2.0))
    assert queue.ahead("video5") == (6, pytest.approx(2.0 + 5 * 100))
    jobs, seconds = queue.ahead("video39")
    assert (jobs, seconds) == (40, pytest.approx(2.0 + 39 * 100, rel=0.05))


def test_seconds_ahead_hold_what_goes_first():
    queue = filled(
        job("urgent", priority=9, cost=50), job("other", priority=9, cost=30, tenant="b"), job("mine", cost=1)
    )
    assert queue.ahead("mine") == (2, pytest.approx(80.0))


def test_a_long_line_keeps_its_order_whatever_leaves_it():
    random = Random(7)
    queue, waiting = Queue(), {}
    for n in range(3000):
        made = job(f"j{n}", at=n / 10, cost=random.choice((0.1, 5, 60)))
        queue.add(made, front=(front := random.random() < 0.02))
        waiting[made.id] = (made.submitted_at - (FRONT_S if front else 0) + COST_WEIGHT * made.cost, n)
        if random.random() < 0.2:
            queue.remove(gone := random.choice(list(waiting)))
            del waiting[gone]
        if random.random() < (0.3 if n < 1500 else 0.9) and waiting:
            first = queue.first(lambda lane: True, lambda i, lane: True)
            assert first == min(waiting, key=waiting.__getitem__)
            queue.serve(first)
            del waiting[first]
        if n % 50 == 0 and waiting:
            asked = random.choice(list(waiting))
            assert queue.ahead(asked)[0] == sum(key < waiting[asked] for key in waiting.values())
    assert drain(queue) == sorted(waiting, key=waiting.__getitem__)
    assert queue.backlog_s == 0


def test_the_largest_is_looked_for_among_jobs_that_the_same_workers_run():
    queue = filled(job("a"), job("b", cost=9), job("flux", model="flux", cost=20), job("t", tenant="t", cost=30))
    sizes = {"a": 1.0, "b": 9.0, "flux": 20.0, "t": 30.0}
    assert queue.largest("a", sizes.__getitem__) == queue.largest("b", sizes.__getitem__) == "b"
    assert queue.largest("flux", sizes.__getitem__) == "flux"
    sizes["b"] = 1.0
    assert queue.largest("a", sizes.__getitem__) == "a", "what was predicted for equal jobs does not matter"


def test_what_waits_is_counted_by_lane():
    queue = filled(
        job("a", model="wan", cost=2.5),
        job("b", model="wan", tenant="red", cost=4),
        job("c", model="flux", priority=9, cost=7),
        job("d", model="wan", cost=1),
    )
    assert queue.by_lane() == {Lane("wan", 1, ""): (3, 7.5), Lane("flux", 1, ""): (1, 7)}
    queue.remove("c")
    queue.serve("a")
    assert queue.by_lane() == {Lane("wan", 1, ""): (2, 5)}


def test_a_tenant_is_charged_once_for_a_job_that_made_room():
    queue = filled(job("long", cost=100, tenant="a"), job("a1", at=1, tenant="a"), job("b1", at=1, tenant="b"))
    queue.serve("long")
    assert queue.lead_s("a1") == 100.0
    settle(queue, "long", 40.0)
    queue.add(job("long", cost=60, tenant="a"), yields_until=50.0)
    assert queue.lead_s("a1") == 40.0
    queue.serve("long")
    assert queue.lead_s("a1") == 100.0
