"""How many workers a pool wants, and which start and leave: tables, and a thousand random traces."""

from __future__ import annotations

import math
import random
import re

import pytest

from bench.harness.process import ROOT
from tests.support.formula import value
from workers.launchers import plan as launcher_plan
from workers.launchers.plan import Demand, Hold, Limits, Memory, held, needed, plan

LIMITS = Limits(min_workers=0, max_workers=8, target_wait_s=60, idle_s=300)
#: Long ago: the window lies behind.
OLD = Memory(since=-10_000)


def pool(**phases):
    """w0="idle" and so on."""
    return phases


@pytest.mark.parametrize(
    ("limits", "demand", "busy", "wanted"),
    [
        pytest.param({}, Demand(), 0, 0, id="nothing waits"),
        pytest.param({}, Demand(0, 1), 0, 1, id="a job without a prediction"),
        pytest.param({}, Demand(59, 3), 0, 1, id="less than a worker's share"),
        pytest.param({}, Demand(60, 3), 0, 1, id="just a share"),
        pytest.param({}, Demand(61, 3), 0, 2, id="more than a share"),
        pytest.param({}, Demand(120, 2), 3, 5, id="beside those that are busy"),
        pytest.param({}, Demand(1e9, 1000), 0, 8, id="no more than the most"),
        pytest.param({"min_workers": 2}, Demand(), 0, 2, id="no fewer than the least"),
        pytest.param({"min_workers": 2}, Demand(), 1, 2, id="the least counts the busy"),
        pytest.param({}, Demand(), 8, 8, id="all busy"),
    ],
)
def test_wanted(limits, demand, busy, wanted):
    base = {name: getattr(LIMITS, name) for name in LIMITS.__struct_fields__}
    assert needed(Limits(**{**base, **limits}), demand, busy) == wanted


def test_the_formula_that_is_documented_is_the_one_that_counts():
    (documented,) = re.findall(r"^wanted = (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert f"    wanted = {documented}\n" in launcher_plan.__doc__
    rng = random.Random(0)
    for _ in range(1000):
        least = rng.randint(0, 4)
        limits = Limits(
            min_workers=least,
            max_workers=rng.randint(max(least, 1), 12),
            target_wait_s=rng.choice((1.0, 60.0)),
            idle_s=0,
        )
        demand = Demand(rng.choice((0.0, rng.uniform(0, 900), 60.0 * rng.randint(0, 9))), rng.randint(0, 3))
        busy = rng.randint(0, 12)
        numbers = {name: getattr(limits, name) for name in limits.__struct_fields__}
        wanted = value(documented, busy=busy, backlog_s=demand.backlog_s, waiting=demand.waiting, **numbers)
        assert wanted == needed(limits, demand, busy)


@pytest.mark.parametrize(
    ("workers", "demand", "start"),
    [
        pytest.param({}, Demand(600, 10), ("w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"), id="all at once"),
        pytest.param(pool(w0="busy", w2="idle"), Demand(120, 2), ("w1",), id="the first free name"),
        pytest.param(pool(w0="placing", w1="starting"), Demand(120, 2), (), id="those on their way count"),
        pytest.param(pool(w0="lost"), Demand(60, 1), (), id="so does one that the broker may hear of again"),
        pytest.param(pool(w0="doomed"), Demand(0, 0), (), id="nothing to replace"),
        pytest.param(pool(w0="doomed", w1="busy"), Demand(60, 1), ("w2",), id="in place of a machine that goes away"),
    ],
)
def test_up_at_once(workers, demand, start):
    made, _ = plan(LIMITS, demand, workers, OLD, 0.0)
    assert made.start == start
    assert made.drain == made.withdraw == made.undrain == ()


def test_one_that_drains_is_kept_before_another_starts():
    made, _ = plan(LIMITS, Demand(180, 3), pool(w0="draining", w1="draining", w2="idle"), OLD, 0.0)
    assert (made.undrain, made.start) == (("w0", "w1"), ())


def test_those_that_drain_count_against_the_most_and_doomed_ones_do_not():
    workers = {f"w{n}": "draining" for n in range(6)} | {"w6": "doomed", "w7": "doomed"}
    made, _ = plan(LIMITS, Demand(1e6, 99), workers, OLD, 0.0)
    assert len(made.undrain) == 6
    assert made.start == ("w8", "w9")


def test_none_starts_while_the_pool_is_held():
    made, _ = plan(LIMITS, Demand(600, 9), pool(w0="draining"), OLD, 0.0, may_start=False)
    assert (made.wanted, made.start, made.undrain) == (8, (), ("w0",))


def test_down_after_the_window_only_and_never_a_busy_one():
    workers = pool(w0="idle", w1="busy", w2="starting", w3="placing", w4="idle")
    made, memory = plan(LIMITS, Demand(240, 4), workers, OLD, 0.0)
    for now in (2.0, 150.0, 299.0):
        made, memory = plan(LIMITS, Demand(), workers, memory, now)
        assert made.drain == made.withdraw == ()
    made, _ = plan(LIMITS, Demand(), workers, memory, 301.0)
    assert made.withdraw == ("w3",)
    assert set(made.drain) == {"w2", "w0", "w4"}


def test_the_longest_idle_leaves_first():
    _, memory = plan(LIMITS, Demand(60, 1), pool(w0="busy", w1="idle"), OLD, 0.0)
    _, memory = plan(LIMITS, Demand(60, 1), pool(w0="idle", w1="idle"), memory, 10.0)
    made, _ = plan(LIMITS, Demand(60, 1), pool(w0="idle", w1="idle"), memory, 400.0)
    assert made.drain == ("w1",)


def test_a_new_launcher_waits_a_window_before_it_takes_any_away():
    memory = Memory(since=0.0)
    made, memory = plan(LIMITS, Demand(), pool(w0="idle"), memory, 299.0)
    assert made.drain == ()
    made, memory = plan(LIMITS, Demand(), pool(w0="idle"), memory, 300.0)
    assert made.drain == ("w0",)


def test_a_pool_made_smaller_drains_busy_ones_at_once():
    smaller = Limits(min_workers=0, max_workers=1, target_wait_s=60, idle_s=300)
    made, _ = plan(smaller, Demand(600, 10), pool(w0="busy", w1="busy", w2="idle"), Memory(since=0.0), 0.0)
    assert made.drain == ("w2", "w1")
    stopped = Limits(min_workers=0, max_workers=0, target_wait_s=60, idle_s=300)
    made, _ = plan(stopped, Demand(600, 10), pool(w0="busy", w1="placing"), Memory(since=0.0), 0.0)
    assert (made.drain, made.withdraw, made.start) == (("w0",), ("w1",), ())


def test_two_pools_grow_by_their_own_backlogs():
    one, _ = plan(LIMITS, Demand(240, 4), {}, OLD, 0.0)
    other, _ = plan(LIMITS, Demand(), {}, OLD, 0.0)
    assert (len(one.start), len(other.start)) == (4, 0)


def test_holds_grow_and_one_for_good_has_no_end():
    hold, pauses = Hold(), []
    for _ in range(5):
        hold = held(hold, "exit code 4", 1000.0, for_good=False)
        pauses.append(hold.until - 1000.0)
    assert pauses == [60, 120, 300, 600, 600]
    assert held(Hold(), "exit code 2", 0.0, for_good=True).until == math.inf


@pytest.mark.parametrize("hundred", range(10))
def test_no_flapping_over_random_traces(hundred):
    """Bursts, pauses, machines that come late and go: nobody busy is taken, bounds hold, and whoever started stays for a window."""
    for seed in range(hundred * 100, hundred * 100 + 100):
        _Trace(random.Random(seed)).run()


class _Trace:
    """A pool that carries plans out: machines appear late, jobs begin and end, workers load and leave."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        least = rng.choice((0, 0, 1, 2))
        self.limits = Limits(min_workers=least, max_workers=rng.randint(least + 1, 8), target_wait_s=30, idle_s=60)
        self.workers: dict[str, str] = {}
        self.started_at: dict[str, float] = {}
        self.jobs: list[float] = []
        self.memory = Memory(since=0.0)

    def run(self) -> None:
        for step in range(150):
            now = step * 2.0
            self.arrive(step)
            demand = Demand(sum(self.jobs), len(self.jobs))
            made, self.memory = plan(self.limits, demand, self.workers, self.memory, now)
            self.check(made, now)
            self.carry_out(made, now)
            self.work()
        busy = sum(phase == "busy" for phase in self.workers.values())
        assert busy or not self.jobs or self.workers, "work waits, and nobody comes"

    def arrive(self, step: int) -> None:
        if step < 100 and self.rng.random() < 0.15:
            self.jobs += [self.rng.uniform(1, 40)] * self.rng.choice((1, 2, 6))

    def check(self, made, now: float) -> None:
        for name in made.drain:
            assert self.workers[name] in ("idle", "starting")
        for name in (*made.drain, *made.withdraw):
            assert now - self.started_at[name] >= self.limits.idle_s, "it had just come"
        if made.start:
            draining = {name for name, phase in self.workers.items() if phase == "draining"}
            assert draining == set(made.undrain), "one that leaves comes back before another is started"
        assert not set(made.start) & set(self.workers)
        leaving = sum(phase in ("draining", "doomed") for phase in self.workers.values())
        after = len(self.workers) - leaving - len(made.drain) - len(made.withdraw) + len(made.start) + len(made.undrain)
        assert after >= min(self.limits.min_workers, len(self.workers) - leaving)
        doomed = sum(phase == "doomed" for phase in self.workers.values())
        assert len(self.workers) - doomed + len(made.start) <= self.limits.max_workers

    def carry_out(self, made, now: float) -> None:
        for name in made.start:
            self.workers[name], self.started_at[name] = "placing", now
        for name in made.undrain:
            self.workers[name] = "idle"
        for name in made.drain:
            self.workers[name] = "draining"
        for name in made.withdraw:
            del self.workers[name]

    def work(self) -> None:
        moves = {"placing": ("starting", 0.3), "starting": ("idle", 0.4), "busy": ("idle", 0.2), "draining": ("", 0.3)}
        for name, phase in list(self.workers.items()):
            if phase == "idle" and self.jobs:
                self.jobs.pop()
                self.workers[name] = "busy"
            elif phase in moves and self.rng.random() < moves[phase][1]:
                self.workers[name] = moves[phase][0]
            elif self.rng.random() < 0.002:
                self.workers[name] = "doomed"
            if self.workers[name] == "" or (self.workers[name] == "doomed" and self.rng.random() < 0.2):
                del self.workers[name]
