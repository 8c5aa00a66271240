"""The pool in numbers says what its view says, without a view of each worker."""

from __future__ import annotations

from collections import Counter

from broker.core.views import pool_totals
from broker.testing import CoreHarness
from broker.wire import messages as m


def test_totals_are_those_of_the_view_whatever_states_workers_and_jobs_are_in() -> None:
    desk = CoreHarness()
    for name in ("busy", "faulty", "draining", "idle"):
        desk.hello(name)
    desk.running("j1", "busy")
    desk.beat("faulty", free=1, health=m.DeviceHealth(xids={79: 1}, fault="Xid 79"))
    desk.beat("draining", free=1, draining=True)
    desk.submit("j2")
    desk.submit("j3")

    view, totals = desk.core.snapshot(), pool_totals(desk.core.state)
    assert totals.workers == Counter(worker.state for worker in view.workers)
    assert (totals.jobs, totals.backlog_s) == (view.counts, view.backlog_s)
    assert {"busy", "faulty", "draining"} <= totals.workers.keys()
