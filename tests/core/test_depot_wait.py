"""A worker that takes no job because its results wait for the depot is told of once, and once more when it takes some again."""

from __future__ import annotations

from broker.core.effects import WorkerNoted
from broker.testing import CoreHarness
from broker.wire import messages as m

FULL = m.DepotWait(results=16, size_mb=12.4, age_s=30.0, fault="the edge cannot be reached", full=True)


def notes(harness: CoreHarness) -> list[tuple[str, str, str]]:
    return [(note.worker, note.action, note.text) for note in harness.effects if isinstance(note, WorkerNoted)]


def test_a_worker_that_is_full_is_told_of_once_and_again_when_it_has_room() -> None:
    harness = CoreHarness()
    harness.hello("w1")
    harness.beat("w1", free=1, depot=m.DepotWait(results=1, fault=FULL.fault))
    assert notes(harness) == []
    harness.beat("w1", free=0, depot=FULL)
    text = "it takes no job: 16 results (12 MB) wait to be put into the depot: the edge cannot be reached"
    assert notes(harness) == [("w1", "depot_full", text)]
    harness.beat("w1", free=0, depot=FULL)
    assert notes(harness) == []
    [view] = harness.core.snapshot().workers
    assert view.depot == FULL
    harness.beat("w1", free=1)
    assert notes(harness) == [("w1", "depot_room", "it takes jobs again: its results are in the depot")]
    [view] = harness.core.snapshot().workers
    assert view.depot is None


def test_a_new_process_of_the_name_has_nothing_that_waits() -> None:
    harness = CoreHarness()
    harness.hello("w1")
    harness.beat("w1", free=0, depot=FULL)
    harness.hello("w1", boot="after the machine died")
    harness.beat("w1", free=1)
    assert notes(harness) == []
