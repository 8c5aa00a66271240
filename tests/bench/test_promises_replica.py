"""`bench promises --live --replica`: that it simulates what is sent live, and reports what its bars are judged by."""

from __future__ import annotations

from bench.suites import promises_live, promises_replica
from bench.suites.promises_live import LivePlan

PLAN = LivePlan(
    seconds=300.0, load=0.9, long=0.3, by_jobs=True, asked=0.5, confidence=0.95, tenants=3, delay=1.0, seed=5
)


def test_short_jobs_among_clips_hardly_wait_on_two_workers():
    found = promises_replica.draw(PLAN)
    sent = promises_live.draw_orders(PLAN, promises_replica.PACE)
    assert [len(found.short[1]), len(found.long[1])] == [
        sum(not order.long for order in sent),
        sum(order.long for order in sent),
    ]
    assert found.parks > 0
    assert found.silent == 0
    assert found.short_p95(1) <= 2.0 < found.short_p95(0)


def test_the_report_has_a_line_for_each_draw_and_the_figures_of_all():
    one = promises_replica.Draw(
        short=([1.0, 9.0], [1.0, 1.5], [1.0, 1.1]),
        long=([2.0], [2.2], [1.9]),
        kept=3,
        promised=4,
        silent=1,
        parks=2,
    )
    report = promises_replica.report_of(PLAN, [one, one])
    found = {metric.key: metric.value for metric in report.metrics}
    assert (found["kept_pct"], found["silent"], found["draws_met"]) == (75.0, 2, 2)
    assert round(found["long_lost_pct"], 6) == 10.0
    assert len(report.grid.rows) == 2
