"""What an attempt tells its agent: phases and steps that only move forward, and where the time went."""

from __future__ import annotations

import pytest

from workers.engine.progress import Cancelled, Monitor
from workers.ipc.shared import Slot


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Meter:
    """A machine with a fixed use."""

    def __init__(self) -> None:
        self.reads = 0

    def used_and_total_mb(self) -> tuple[int, int]:
        self.reads += 1
        return 300, 1000

    def reset_peak(self) -> None:
        """Nothing to forget."""

    def peak_mb(self) -> float:
        return 400.0


def _shown(slot: Slot) -> tuple[str, int, int]:
    progress = slot.progress()
    return progress.phase, progress.step, progress.total


def _monitor(slot: Slot, outputs: int = 1, clock: Clock | None = None) -> Monitor:
    slot.begin(5)
    return Monitor(slot, 5, outputs, Meter(), clock or Clock())


def test_phases_and_steps_are_shown(slot: Slot) -> None:
    monitor = _monitor(slot)

    monitor.enter("denoise", 10)
    assert _shown(slot) == ("denoise", 0, 10)
    monitor.step(4, 10)
    assert _shown(slot) == ("denoise", 4, 10)
    monitor.enter("decode", 5)
    assert _shown(slot) == ("decode", 0, 5)


def test_nothing_moves_backwards(slot: Slot) -> None:
    monitor = _monitor(slot)
    monitor.enter("denoise", 10)
    monitor.step(4, 10)

    monitor.step(3, 10)
    assert _shown(slot) == ("denoise", 4, 10)
    monitor.enter("encode")
    assert _shown(slot) == ("denoise", 4, 10)
    assert monitor.phase == "encode"


def test_steps_of_all_outputs_are_one_count(slot: Slot) -> None:
    monitor = _monitor(slot, outputs=2)
    seen = []
    for index in range(2):
        monitor.output(index, "save" if index == 1 else "denoise")
        for phase in ("encode", "denoise", "decode", "save"):
            monitor.enter(phase, 2)  # type: ignore[arg-type]
            monitor.step(2, 2)
            seen.append(_shown(slot))

    assert seen == [
        ("encode", 2, 4),
        ("denoise", 2, 4),
        ("denoise", 2, 4),
        ("denoise", 2, 4),
        ("denoise", 2, 4),
        ("denoise", 4, 4),
        ("decode", 4, 4),
        ("save", 4, 4),
    ]


def test_time_goes_to_the_phase_it_was_spent_in(slot: Slot) -> None:
    clock = Clock()
    monitor = _monitor(slot, clock=clock)
    clock.now += 1  # before the first phase: nobody's

    monitor.enter("denoise", 2)
    clock.now += 2
    monitor.enter("decode")
    clock.now += 4
    with monitor.times.aside("save"):
        clock.now += 8
    clock.now += 16
    monitor.enter("save")
    clock.now += 32

    assert monitor.times.durations() == {"denoise": 2, "decode": 20, "save": 40}
    assert monitor.times.run_s() == 63
    assert monitor.memory.peak_mb() == 400


def test_every_report_is_a_sign_of_life(slot: Slot) -> None:
    monitor = _monitor(slot)
    ticks = [slot.progress().tick]
    for call in (lambda: monitor.enter("denoise", 3), lambda: monitor.step(1, 3), monitor.check):
        call()
        ticks.append(slot.progress().tick)

    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize("act", [lambda m: m.enter("decode"), lambda m: m.step(1, 3), lambda m: m.check()])
def test_cancel_is_heard_at_every_report(slot: Slot, act: object) -> None:
    monitor = _monitor(slot)
    monitor.enter("denoise", 3)
    slot.request_cancel(5)

    with pytest.raises(Cancelled):
        act(monitor)  # type: ignore[operator]


def test_cancel_of_another_job_is_not_ours(slot: Slot) -> None:
    monitor = _monitor(slot)
    slot.request_cancel(4)

    monitor.check()
    assert slot.progress().fence == 5


def test_memory_is_read_now_and_then(slot: Slot) -> None:
    clock = Clock()
    slot.begin(5)
    meter = Meter()
    monitor = Monitor(slot, 5, 1, meter, clock)
    monitor.enter("denoise", 3)
    monitor.step(1, 3)
    assert meter.reads == 0

    clock.now += 1
    monitor.step(2, 3)
    monitor.step(3, 3)

    assert meter.reads == 1
    assert slot.memory() == (300, 1000)


def test_what_a_job_is_drawn_with_is_one_word_a_name(slot: Slot) -> None:
    monitor = _monitor(slot)

    monitor.use("sampler", "euler")
    monitor.use("loras", "x" * 1000)
    monitor.use("sampler", "unipc")

    assert monitor.used == {"sampler": "unipc", "loras": "x" * 500}
