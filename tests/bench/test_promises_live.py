"""Promises with real workers: what is sent, and what is made of what became of it. The run itself is `python -m bench promises --live`."""

from __future__ import annotations

import pytest
from msgspec import structs

from bench.suites import promises_live
from bench.suites.promises_live import LivePlan, Order, Pace
from broker.wire import messages as m
from broker.wire.promises import Promise

PLAN = LivePlan(seconds=3_000.0, load=0.9, long=0.3, asked=0.5, confidence=0.95, tenants=3, delay=0.2, seed=1)
PACE = Pace(0.5, 0.05)


def test_the_pace_is_the_line_through_what_jobs_took():
    pace = promises_live.pace_of([(10, 1.0), (10, 1.0), (110, 6.0), (210, 11.0)])
    assert (pace.fixed_s, pace.step_s) == (pytest.approx(0.5), pytest.approx(0.05))
    assert pace.steps(pace.alone_s(120)) == 120


def test_orders_keep_the_workers_as_busy_as_was_asked():
    orders = promises_live.draw_orders(PLAN, PACE)
    work = {long: sum(PACE.alone_s(order.steps) for order in orders if order.long is long) for long in (False, True)}
    assert sum(work.values()) / (2 * PLAN.seconds) == pytest.approx(0.9, rel=0.2)
    assert work[True] / sum(work.values()) == pytest.approx(0.3, rel=0.4)
    assert sum(order.within_s > 0 for order in orders) / len(orders) == pytest.approx(0.5, abs=0.1)


def test_so_many_of_the_jobs_are_long_where_that_is_asked_for():
    orders = promises_live.draw_orders(structs.replace(PLAN, by_jobs=True, seconds=30_000.0), PACE)
    assert sum(order.long for order in orders) / len(orders) == pytest.approx(0.3, abs=0.05)
    assert sum(PACE.alone_s(order.steps) for order in orders) / (2 * 30_000.0) == pytest.approx(0.9, rel=0.1)


def ended(number: int, took_s: float, promise: Promise | None = None) -> m.JobView:
    fixed = m.Submission(model="demo")
    return m.JobView(
        id=f"live-{number}",
        state="succeeded",
        submission=fixed,
        revision=1,
        submitted_at=100.0,
        finished_at=100.0 + took_s,
        promise=promise,
    )


def test_a_promise_is_kept_by_its_first_time_and_a_broken_one_is_told_or_not():
    order = Order(at_s=0.0, steps=30, long=False, tenant="a", within_s=5.0)
    late = Promise(ready_by=108.0, first_ready_by=104.0, broken_at=103.0)
    views = [
        ended(1, 4.0, Promise(ready_by=105.0)),
        ended(2, 6.0, late),
        ended(3, 6.0, Promise(ready_by=105.0)),
        ended(4, 2.0),
    ]
    to_end = [ended(number, took_s) for number, took_s in enumerate((9.0, 5.0, 3.0, 3.0), start=5)]
    report = promises_live.report_of(PLAN, [structs.replace(order, long=n == 1) for n in range(4)], views, to_end, PACE)
    found = {metric.key: metric.value for metric in report.metrics}
    assert (found["promised"], found["silent"]) == (3, 1)
    assert found["kept_pct"] == pytest.approx(100 / 3)
    assert found["long_lost_pct"] == pytest.approx(20.0)
    # 30 steps take two seconds alone.
    assert (found["long_mean_x"], found["short_p50_x"]) == (pytest.approx(3.0), pytest.approx(2.0))
