"""What a GPU measures -> whether it is held back, whether it is broken, and what is said when it does not answer."""

from __future__ import annotations

import pytest

from tests.support.gpu_library import READING, FakeGpu, FakeLibrary
from workers.gpu import health
from workers.gpu.library import Reading
from workers.gpu.watch import GpuWatch


@pytest.mark.parametrize("xid", [48, 64, 74, 79, 94, 95, 119])
def test_errors_of_the_device_are_a_fault(xid: int) -> None:
    assert health.fault(READING, {xid: 1}).startswith(f"Xid {xid}: ")


@pytest.mark.parametrize("xid", [8, 13, 31, 32, 43, 45, 63, 68, 92])
def test_errors_of_a_program_are_none(xid: int) -> None:
    """63 is the record of a repair, and none either unless a reset is still to come."""
    assert health.fault(READING, {xid: 3}) == ""


def test_broken_memory_that_waits_for_a_reset_is_a_fault_with_and_without_its_xid() -> None:
    pending = Reading(remap_pending=True)
    text = "broken memory is to be replaced by spare rows, which needs a reset of the GPU"
    assert health.fault(pending, {}) == text
    assert health.fault(pending, {63: 1}) == f"Xid 63: {text}"
    assert "is to be replaced" in health.fault(Reading(remap_failed=True), {})


def test_the_first_error_that_is_known_is_the_one_that_is_told() -> None:
    assert (
        health.fault(Reading(remap_pending=True), {31: 2, 79: 1}, lost=True) == "Xid 79: the GPU has fallen off the bus"
    )
    assert health.fault(Reading(), {}, lost=True) == health.LOST


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        (0, ()),
        (0x1, ()),  # idle
        (0x2, ()),  # clocks set by somebody
        (0x4, ("power_cap",)),
        (0x8 | 0x40 | 0x80, ("hardware_slowdown", "thermal_hardware", "power_brake")),
        (0x20, ("thermal_software",)),
    ],
)
def test_reasons_of_low_clocks(reasons: int, words: tuple[str, ...]) -> None:
    assert health.throttling(reasons) == words


# ------------------------------------------------------------------ the thread that measures


class HandClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_xids_are_counted_and_a_fault_stays() -> None:
    gpu = FakeGpu()
    watch = GpuWatch(FakeLibrary(gpu), "0")
    gpu.taken_in()
    assert watch.latest().health.xids == {}
    for xid in (31, 31, 79, 43):
        gpu.xids.put(xid)
    gpu.taken_in(4)
    seen = watch.latest()
    assert (seen.health.xids, seen.health.fault) == ({31: 2, 43: 1, 79: 1}, "Xid 79: the GPU has fallen off the bus")
    assert seen.reading == READING


def test_a_gpu_that_is_lost_is_a_fault() -> None:
    gpu = FakeGpu()
    watch = GpuWatch(FakeLibrary(gpu), "0")
    gpu.taken_in()
    gpu.reading = None
    gpu.xids.put(31)
    watch.thread.join(30)
    seen = watch.latest()
    assert (seen.health.fault, seen.health.xids, seen.reading) == (health.LOST, {31: 1}, Reading())


def test_numbers_of_a_gpu_that_hangs_are_not_shown_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    gpu, clock = FakeGpu(), HandClock()
    watch = GpuWatch(FakeLibrary(gpu), "0", clock)
    gpu.taken_in()
    clock.now += 9.0
    assert watch.latest().reading == READING
    clock.now += 2000.0
    seen = watch.latest()
    assert (seen.reading, seen.health.power_w) == (Reading(), -1.0)
    watch.latest()
    assert [record.detail for record in caplog.records if record.action == "gpu_unread"] == ["no answer in 10 s"]
