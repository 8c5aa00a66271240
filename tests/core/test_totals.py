"""The pool in numbers says what its view says, without a view of each worker; the view comes in pages."""

from __future__ import annotations

from collections import Counter

from broker.core.views import pool_totals
from broker.testing import CoreHarness, peer_of
from broker.wire import codec
from broker.wire import messages as m


def test_totals_are_those_of_the_view_whatever_states_workers_and_jobs_are_in() -> None:
    harness = CoreHarness()
    for name in ("busy", "faulty", "draining", "idle"):
        harness.hello(name)
    harness.running("j1", "busy")
    harness.beat("faulty", free=1, health=m.DeviceHealth(xids={79: 1}, fault="Xid 79"))
    harness.beat("draining", free=1, draining=True)
    harness.submit("j2")
    harness.submit("j3")

    view, totals = harness.core.snapshot(), pool_totals(harness.core.state)
    assert totals.workers == Counter(worker.state for worker in view.workers)
    assert (totals.jobs, totals.backlog_s) == (view.counts, view.backlog_s)
    assert {"busy", "faulty", "draining"} <= totals.workers.keys()


def test_workers_come_in_pages_by_name_and_the_totals_with_the_first() -> None:
    harness = CoreHarness()
    for number in range(7):
        harness.hello(f"w{number}")
    harness.submit("j1")

    def page(after: str, limit: int) -> m.PoolView:
        reply = harness.ask(m.GetPool(req=0, after=after, limit=limit), m.Pool)
        return codec.pool_view(reply.body)

    whole, first = page("", 0), page("", 3)
    assert (first.counts, first.more, whole.more) == (whole.counts, True, False)
    harness.feed(peer_of("w2"), m.Goodbye())  # the last that was shown is gone
    harness.hello("w22")
    second = page("w2", 3)
    assert ([worker.name for worker in second.workers], second.more) == (["w22", "w3", "w4"], True)
    last = page("w4", 3)
    assert ([worker.name for worker in last.workers], last.more) == (["w5", "w6"], False)
    assert page("w9", 3).workers == ()
