"""The plan of faults: the same for a seed, and complete; and what the table at the end makes of them."""

from __future__ import annotations

from itertools import islice

from tests.chaos.faults import Fault, Strike, kinds, plan
from tests.chaos.report import recoveries


def first(seed: int, count: int, *, disk: bool = True, preload: bool = True) -> list[Fault]:
    return list(islice(plan(seed, disk=disk, preload=preload), count))


def test_a_seed_always_gives_the_same_faults():
    assert first(7, 100) == first(7, 100)
    assert first(7, 100) != first(8, 100)


def test_every_kind_comes_before_any_comes_again():
    everything = kinds()
    faults = [fault.kind for fault in first(1, 2 * len(everything))]
    assert sorted(faults[: len(everything)]) == sorted(everything)
    assert sorted(faults[len(everything) :]) == sorted(everything)


def test_without_a_disk_of_its_own_none_is_filled():
    assert "fill disk" not in {fault.kind for fault in first(1, 200, disk=False)}
    assert "fill disk" in {fault.kind for fault in first(1, 200)}


def test_clocks_are_set_forwards_and_backwards_and_flushes_slow_and_fail_where_the_library_can_be_built():
    everything = first(1, 400)
    ahead = [fault.ahead_s for fault in everything if fault.kind == "set clock"]
    assert min(ahead) < 0 < max(ahead)
    assert 0 not in ahead
    assert all(fault.slow_ms for fault in everything if fault.kind == "slow flush")
    there = {fault.kind for fault in everything}
    assert there - {fault.kind for fault in first(1, 400, preload=False)} == {"set clock", "slow flush", "fail flush"}


def test_a_long_soak_has_longer_faults_of_the_same_kinds():
    usual = {fault.kind for fault in islice(plan(3), 50)}
    longest = max(fault.lasts_s for fault in islice(plan(3), 200))
    stretched = list(islice(plan(3, stretch=4.0), 200))
    assert {fault.kind for fault in stretched} == usual
    assert max(fault.lasts_s for fault in stretched) > 2 * longest


def test_recovery_times_are_those_of_faults_that_nothing_overlapped():
    kill = Fault(verb="kill", whom="broker", victim=0, lasts_s=0, alone=True, pause_s=0)
    strikes = [
        Strike(fault=kill, began=1, ended=1, recovered=2),
        Strike(fault=kill, began=5, ended=5, recovered=8),
        Strike(fault=kill, began=10, ended=10, recovered=19, overlapped=True),
        Strike(fault=kill, began=30, ended=30),
    ]
    (line,) = recoveries(strikes)
    assert (line.kind, line.strikes, line.median_s, line.max_s) == ("kill broker", 4, 2.0, 3.0)
    assert (line.overlapped, line.never) == (1, 1)
