"""`bench promises`: what it simulates, and that promises are kept there."""

from __future__ import annotations

import itertools

import pytest

from bench.harness.policies import Job, long_first, short_first, shortest_left
from bench.harness.promisepool import Group, Order, Outcome, PromisePool
from bench.suites import promises

SMALL = promises.PromisesPlan(jobs=300, workers=4)


def test_the_same_seed_draws_the_same_orders():
    assert promises.draw_orders(SMALL, 0.2, 0.9) == promises.draw_orders(SMALL, 0.2, 0.9)
    assert promises.draw_orders(SMALL, 0.2, 0.9) != promises.draw_orders(SMALL, 0.2, 0.7)


def test_so_much_of_the_work_is_in_long_jobs_as_the_plan_says():
    plan = promises.PromisesPlan(jobs=20_000, long=0.3)
    orders = promises.draw_orders(plan, 0.0, 0.9)
    long_s = sum(order.size_s for order in orders if order.size_s >= promises.LONG[0])
    assert long_s / sum(order.size_s for order in orders) == pytest.approx(0.3, abs=0.05)


def test_so_many_of_the_jobs_are_long_as_the_plan_says_where_it_counts_jobs():
    plan = promises.PromisesPlan(jobs=20_000, long=0.3, by_jobs=True, workers=8)
    orders = promises.draw_orders(plan, 0.0, 0.9)
    assert sum(order.size_s >= promises.LONG[0] for order in orders) / 20_000 == pytest.approx(0.3, abs=0.02)
    assert sum(order.size_s for order in orders) / orders[-1].at_s == pytest.approx(0.9 * 8, rel=0.05)


@pytest.mark.parametrize(
    ("jobs", "workers", "park_s", "ends"),
    [
        # Steps of the long one take 1 s.
        ([Job(0.0, 10.0, 1.0), Job(1.5, 2.0)], 1, 0.0, [12.0, 4.0]),
        ([Job(0.0, 10.0, 1.0), Job(1.5, 2.0)], 1, 0.5, [12.5, 4.5]),
        ([Job(0.0, 10.0, 1.0), Job(1.5, 2.0)], 2, 0.5, [10.0, 3.5]),
        # It is in its last step.
        ([Job(0.0, 10.0, 1.0), Job(9.5, 2.0)], 1, 0.0, [10.0, 12.0]),
        # That of 20 s ends a step at 2, that of 10 s at 2.5.
        ([Job(0.0, 20.0, 2.0), Job(0.5, 10.0, 1.0), Job(1.6, 2.0)], 2, 0.0, [22.0, 10.5, 4.0]),
    ],
)
def test_short_ones_first_parks_at_the_end_of_a_step(jobs, workers, park_s, ends):
    assert short_first(jobs, workers, 5.0, park_s) == pytest.approx(ends)


def test_pictures_among_clips_hardly_wait_and_clips_lose_nothing():
    plan = promises.PromisesPlan(jobs=400, by_jobs=True)
    orders = promises.draw_orders(plan, 0.2, 0.9)
    found = promises.run_one(plan, 0.2, 0.9)
    assert len(orders) == 400
    assert found.ours.kept >= 0.99
    assert found.silent == 0
    assert found.ours.short_p95 <= 2.0 < found.to_end.short_p95
    assert found.ours.long_mean <= 1.02 * found.to_end.long_mean


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_promises_are_kept_or_told_broken(noise):
    found = promises.run_one(SMALL, noise, 0.9)
    assert found.promised > 100
    assert found.to_end.kept >= 0.98
    assert found.ours.kept >= 0.98
    assert found.silent == 0


def test_short_jobs_gain_by_preemption_and_no_promise_is_lost_by_it():
    found = promises.run_one(promises.PromisesPlan(jobs=1_000), 0.0, 0.7)
    assert found.parks > 0
    assert found.ours.short_p95 < found.to_end.short_p95
    assert found.ours.kept >= found.to_end.kept
    assert found.ours.long_mean <= (1.0 + promises.PromisesPlan().delay) * found.to_end.long_mean


def test_a_long_job_goes_on_where_it_made_room_and_takes_a_bounded_time_longer():
    orders = [Order(0.0, 100.0, 100.0), *(Order(10.0 + 3.0 * n, 2.0, 2.0, tenant="other") for n in range(40))]
    outcomes = PromisePool(orders, 1, 0.0, 1, confidence=0.95, taught=[2.0, 50.0, 100.0] * 10, preempt_delay=0.2).run()
    long = outcomes[0]
    assert 1 <= long.parks == len(long.spans) - 1
    worked = sum(end - start for start, end in long.spans)
    assert 100.0 <= worked <= 100.0 + 3.0 * long.parks
    assert long.end_s <= 100.0 * 1.2 + 2.0 * 3.0
    others = sorted((span for outcome in outcomes for span in outcome.spans), key=lambda span: span[0])
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(others))


@pytest.mark.parametrize(
    ("stretch", "waived", "ends"),
    [
        # The short one of 2 s comes at 1: within 2 x, 3 x its length, or when the long one of 10 s is done.
        (1.0, 0, [12.0, 3.0]),
        (2.0, 0, [12.0, 5.0]),
        (3.0, 0, [12.0, 7.0]),
        (9.0, 0, [10.0, 12.0]),
        (1.0, 1, [10.0, 12.0]),
    ],
)
def test_long_ones_first_lets_a_short_one_go_when_it_must(stretch, waived, ends):
    assert long_first([Job(0.0, 10.0), Job(1.0, 2.0)], 1, 5.0, stretch, waived) == ends
    assert long_first([Job(0.0, 10.0), Job(1.0, 2.0)], 2, 5.0, stretch, waived) == [10.0, 3.0]


def test_shortest_left_first_parks_whatever_has_more_left():
    jobs = [Job(0.0, 10.0), Job(1.0, 2.0), Job(2.0, 20.0)]
    assert shortest_left(jobs, 1) == [12.0, 3.0, 32.0]
    assert shortest_left(jobs, 2) == [10.0, 3.0, 23.0]


def test_who_is_refused_takes_the_time_that_is_offered():
    orders = [Order(0.0, 10.0, 10.0), Order(0.0, 10.0, 10.0), Order(1.0, 5.0, 5.0, within_s=6.0)]
    outcomes = PromisePool(orders, 1, 0.0, 1, confidence=0.95, taught=[5.0, 10.0] * 10).run()
    assert outcomes[0].ready_by == 0.0
    assert outcomes[2].offered_s > 6.0
    assert outcomes[2].end_s <= outcomes[2].ready_by == pytest.approx(1.0 + outcomes[2].offered_s, rel=0.01)


def test_the_report_has_what_its_bars_are_judged_by():
    report = promises.run(promises.PromisesPlan(jobs=60, workers=2, draws=1))
    found = {metric.key: metric.value for metric in report.metrics}
    assert {"kept_pct", "silent", "share_error_pct", "short_p95_x", "long_mean_x", "long_lost_pct"} <= found.keys()
    assert {"pictures_kept_pct", "pictures_short_p95_x", "pictures_long_pct"} <= found.keys()
    assert found["silent"] == 0
    assert all(len(row) == len(report.grid.head) for row in report.grid.rows)
    pools = [
        row[0] for row in report.grid.rows if row[0].startswith(tuple(f"{count} workers" for count in promises.POOLS))
    ]
    assert len(pools) == 3 * len(promises.POOLS)


def test_what_parking_costs_long_jobs_is_told_apart_from_what_they_wait():
    orders = [Order(0.0, 100.0, 100.0), Order(10.0, 2.0, 2.0)]
    parked = [Outcome(end_s=110.0, spans=[(0.0, 12.0), (20.0, 110.0)]), Outcome(end_s=14.0, spans=[(12.0, 14.0)])]
    found = promises.own_figures(orders, parked)
    assert found.long_lost == pytest.approx(0.02)
    assert found.long_mean == pytest.approx(1.1)


def test_a_group_is_as_fast_as_it_is_said_to_be_and_its_promises_are_kept():
    orders = [Order(at_s=11.0 * number, size_s=10.0, length_s=10.0, within_s=60.0) for number in range(20)]
    groups = [Group(gpus=4, speed=2.0), Group()]
    outcomes = PromisePool(orders, 2, 0.0, 1, confidence=0.95, taught=[5.0, 10.0] * 10, groups=groups).run()
    took = {round(end - start, 3) for outcome in outcomes for start, end in outcome.spans}
    assert took == {10.0}, "the smallest worker that is free has each"
    crowded = [Order(at_s=0.0, size_s=10.0, length_s=10.0, within_s=60.0) for _ in range(6)]
    outcomes = PromisePool(crowded, 2, 0.0, 1, confidence=0.95, taught=[5.0, 10.0] * 10, groups=groups).run()
    assert {round(end - start, 3) for outcome in outcomes for start, end in outcome.spans} == {5.0, 10.0}
    assert all(outcome.end_s <= outcome.ready_by for outcome in outcomes)
