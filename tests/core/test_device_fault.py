"""A worker that says its device is broken gets no more jobs, whoever else is there."""

from __future__ import annotations

import math

from broker.core.effects import WorkerNoted
from broker.core.policy import Policy
from broker.testing import CoreHarness
from broker.wire import messages as m

BROKEN = m.DeviceHealth(xids={79: 1}, fault="Xid 79: the GPU has fallen off the bus")


def worker(harness: CoreHarness, name: str) -> m.WorkerView:
    return next(view for view in harness.core.snapshot().workers if view.name == name)


def notes(harness: CoreHarness) -> list[tuple[str, str, str]]:
    return [(note.worker, note.action, note.text) for note in harness.effects if isinstance(note, WorkerNoted)]


def test_a_broken_device_is_told_once_and_gets_no_job_even_as_the_last_one() -> None:
    harness = CoreHarness()
    harness.hello("w1")
    harness.beat("w1", free=1, health=BROKEN)
    [note] = notes(harness)
    assert note[:2] == ("w1", "device_fault")
    assert note[2] == "its device is broken, and it gets no more jobs: Xid 79: the GPU has fallen off the bus"
    harness.beat("w1", free=1, health=BROKEN)
    assert notes(harness) == []
    harness.submit("j1")
    assert (harness.state("j1"), worker(harness, "w1").state, worker(harness, "w1").free) == ("queued", "faulty", 0)
    assert worker(harness, "w1").health == BROKEN


def test_what_it_holds_runs_to_its_end() -> None:
    harness = CoreHarness()
    fence = harness.running("j1", "w1")
    held = (m.Held(job_id="j1", fence=fence, phase="denoise"),)
    harness.beat("w1", *held, seen=fence, free=0, health=BROKEN)
    assert harness.state("j1") == "running"
    harness.finish("w1", "j1")
    assert harness.state("j1") == "succeeded"
    harness.submit("j2")
    assert harness.state("j2") == "queued"


def test_a_new_process_is_taken_at_its_word() -> None:
    harness = CoreHarness()
    harness.hello("w1")
    harness.beat("w1", free=1, health=BROKEN)
    harness.submit("j1")
    harness.hello("w1", boot="after the reset")
    assert harness.state("j1") == "assigned"


def test_a_tripped_worker_comes_back_when_the_device_of_the_other_breaks() -> None:
    harness = CoreHarness(Policy(breaker_failures=1, breaker_s=60.0))
    harness.hello("w1")
    harness.hello("w2", free=0)
    harness.submit("a", pinned="w1")
    harness.start("w1", "a")
    harness.fail("w1", "a", "hung")
    assert worker(harness, "w1").state == "tripped"
    harness.beat("w2", free=0, health=BROKEN)
    assert worker(harness, "w1").state != "tripped"


def test_measurements_that_are_no_numbers_are_cut() -> None:
    harness = CoreHarness()
    harness.hello("w1")
    said = m.DeviceHealth(power_w=math.nan, power_limit_w=1e300, clock_mhz=-7.0, ecc_uncorrected=2**62)
    harness.beat("w1", free=1, health=said)
    health = worker(harness, "w1").health
    assert (health.power_w, health.power_limit_w, health.clock_mhz, health.clock_max_mhz) == (-1.0, 1e4, -1.0, -1.0)
    assert health.ecc_uncorrected == 10**9
