"""A worker that says its device is broken gets no more jobs, whoever else is there."""

from __future__ import annotations

import math

from broker.core.effects import WorkerNoted
from broker.core.policy import Policy
from broker.testing import CoreHarness
from broker.wire import messages as m

BROKEN = m.DeviceHealth(xids={79: 1}, fault="Xid 79: the GPU has fallen off the bus")


def worker(desk: CoreHarness, name: str) -> m.WorkerView:
    return next(view for view in desk.core.snapshot().workers if view.name == name)


def notes(desk: CoreHarness) -> list[tuple[str, str, str]]:
    return [(note.worker, note.action, note.text) for note in desk.effects if isinstance(note, WorkerNoted)]


def test_a_broken_device_is_told_once_and_gets_no_job_even_as_the_last_one() -> None:
    desk = CoreHarness()
    desk.hello("w1")
    desk.beat("w1", free=1, health=BROKEN)
    [note] = notes(desk)
    assert note[:2] == ("w1", "device_fault")
    assert note[2] == "its device is broken, and it gets no more jobs: Xid 79: the GPU has fallen off the bus"
    desk.beat("w1", free=1, health=BROKEN)
    assert notes(desk) == []
    desk.submit("j1")
    assert (desk.state("j1"), worker(desk, "w1").state, worker(desk, "w1").free) == ("queued", "faulty", 0)
    assert worker(desk, "w1").health == BROKEN


def test_what_it_holds_runs_to_its_end() -> None:
    desk = CoreHarness()
    fence = desk.running("j1", "w1")
    held = (m.Held(job_id="j1", fence=fence, phase="denoise"),)
    desk.beat("w1", *held, seen=fence, free=0, health=BROKEN)
    assert desk.state("j1") == "running"
    desk.finish("w1", "j1")
    assert desk.state("j1") == "succeeded"
    desk.submit("j2")
    assert desk.state("j2") == "queued"


def test_a_new_process_is_taken_at_its_word() -> None:
    desk = CoreHarness()
    desk.hello("w1")
    desk.beat("w1", free=1, health=BROKEN)
    desk.submit("j1")
    desk.hello("w1", boot="after the reset")
    assert desk.state("j1") == "assigned"


def test_a_tripped_worker_comes_back_when_the_device_of_the_other_breaks() -> None:
    desk = CoreHarness(Policy(breaker_failures=1, breaker_s=60.0))
    desk.hello("w1")
    desk.hello("w2", free=0)
    desk.submit("a", pinned="w1")
    desk.start("w1", "a")
    desk.fail("w1", "a", "hung")
    assert worker(desk, "w1").state == "tripped"
    desk.beat("w2", free=0, health=BROKEN)
    assert worker(desk, "w1").state != "tripped"


def test_measurements_that_are_no_numbers_are_cut() -> None:
    desk = CoreHarness()
    desk.hello("w1")
    said = m.DeviceHealth(power_w=math.nan, power_limit_w=1e300, clock_mhz=-7.0, ecc_uncorrected=2**62)
    desk.beat("w1", free=1, health=said)
    health = worker(desk, "w1").health
    assert (health.power_w, health.power_limit_w, health.clock_mhz, health.clock_max_mhz) == (-1.0, 1e4, -1.0, -1.0)
    assert health.ecc_uncorrected == 10**9
