"""Plan of a pool: how many workers it is to have, and which of them start and leave: pure.

    wanted = min(max(busy + ceil(max(backlog_s / target_wait_s, min(waiting, 1))), min_workers), max_workers)

A pool grows to that at once: workers that drain are kept first, then new ones start. It shrinks to the most that was wanted over the last
`idle_s` seconds, so that a pause in the load ends no worker, and only by workers without a job: those without a place, those that load,
then the ones that have been idle for longest. One that started has therefore at least `idle_s` before it leaves. Only a pool whose
`max_workers` became smaller gives up more, at once: then busy ones drain, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

#: What a worker of the pool does. `placing`: no machine has room for it yet; `lost`: the broker has had no message from it for a while;
#: `doomed`: it drains because its machine goes away.
Phase = Literal["placing", "starting", "idle", "busy", "lost", "draining", "doomed"]

#: These leave, each as it is; all others can take a job, or will.
_LEAVING: tuple[Phase, ...] = ("draining", "doomed")

#: Without a job, in the order in which they are given up.
_SPARE: tuple[Phase, ...] = ("placing", "starting", "idle")


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of the number of workers of a pool."""

    min_workers: int
    max_workers: int
    #: Seconds in which the work that waits should have been done; and for how long fewer must have been wanted before workers leave.
    target_wait_s: float
    idle_s: float


class Demand(Struct, frozen=True):
    """Demand that waits for a pool: predicted GPU-seconds, and jobs."""

    backlog_s: float = 0.0
    waiting: int = 0


class Memory(Struct, frozen=True):
    """State that a plan takes from earlier ones. `since`: the clock at the first of them."""

    since: float
    #: (clock, workers wanted), later ones smaller: what the most that was wanted in any window up to now follows from.
    wanted: tuple[tuple[float, int], ...] = ()
    #: Worker -> since when it has been without a job.
    idle_since: dict[str, float] = field(default_factory=dict)


class Plan(Struct, frozen=True, kw_only=True):
    """Actions of now. `wanted`: how many workers the pool should have, those that leave not among them."""

    wanted: int
    start: tuple[str, ...] = ()
    undrain: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    #: Workers without a place, which need no request.
    withdraw: tuple[str, ...] = ()


def needed(limits: Limits, demand: Demand, busy: int) -> int:
    """Workers that the pool is to have by what waits now."""
    more = math.ceil(demand.backlog_s / limits.target_wait_s)
    if demand.waiting:
        # A job without a prediction counts for nothing in the backlog, and is to be drawn all the same.
        more = max(1, more)
    return min(max(busy + more, limits.min_workers), limits.max_workers)


def plan(
    limits: Limits, demand: Demand, workers: Mapping[str, Phase], memory: Memory, now: float, *, may_start: bool = True
) -> tuple[Plan, Memory]:
    """Plan the workers of the pool, by name. `may_start`: whether new ones have a chance (`held` says why not)."""
    memory = _with_wanted(memory, limits, needed(limits, demand, _count(workers, "busy")), workers, now)
    wanted = memory.wanted[-1][1]
    active = sum(phase not in _LEAVING for phase in workers.values())
    if active < wanted:
        undrain = tuple(_named(workers, "draining"))[: wanted - active]
        room = limits.max_workers - sum(phase != "doomed" for phase in workers.values())
        missing = min(wanted - active - len(undrain), room) if may_start else 0
        return Plan(wanted=wanted, undrain=undrain, start=_free_names(workers, missing)), memory
    over = active - limits.max_workers
    surplus = active - memory.wanted[0][1] if now - memory.since >= limits.idle_s else 0
    spare = _in_order(workers, _SPARE, memory, now)[: max(over, surplus, 0)]
    # Of a pool that was made smaller, busy ones leave as well, each after its job.
    spare += _in_order(workers, ("lost", "busy"), memory, now)[: max(over - len(spare), 0)]
    withdraw = tuple(name for name in spare if workers[name] == "placing")
    return Plan(wanted=wanted, withdraw=withdraw, drain=tuple(name for name in spare if name not in withdraw)), memory


def _in_order(workers: Mapping[str, Phase], phases: tuple[Phase, ...], memory: Memory, now: float) -> list[str]:
    """Workers in one of these phases, the first to leave first."""
    return sorted(
        (name for name, phase in workers.items() if phase in phases),
        key=lambda name: (phases.index(workers[name]), memory.idle_since.get(name, now), -_number(name)),
    )


def _with_wanted(memory: Memory, limits: Limits, wanted: int, workers: Mapping[str, Phase], now: float) -> Memory:
    # The last entry before the window still holds for its beginning; of equal ones the newest suffices.
    larger = tuple((at, count) for at, count in memory.wanted if count > wanted and now - at <= limits.idle_s)
    idle = {name: memory.idle_since.get(name, now) for name in _named(workers, "idle")}
    return replace(memory, wanted=(*larger, (now, wanted)), idle_since=idle)


def _count(workers: Mapping[str, Phase], phase: Phase) -> int:
    return sum(one == phase for one in workers.values())


def _named(workers: Mapping[str, Phase], phase: Phase) -> list[str]:
    return sorted((name for name, one in workers.items() if one == phase), key=_number)


def worker_name(number: int) -> str:
    """The name of a worker within its pool."""
    return f"w{number}"


def _number(name: str) -> int:
    return int(name[1:])


def _free_names(workers: Mapping[str, Phase], count: int) -> tuple[str, ...]:
    names: list[str] = []
    number = 0
    while len(names) < count:
        if (name := worker_name(number)) not in workers:
            names.append(name)
        number += 1
    return tuple(names)


#: Seconds that a pool starts no worker after one has ended with such a code, by how many did in a row.
_HOLDS_S = (60.0, 120.0, 300.0, 600.0)


class Hold(Struct, frozen=True):
    """Reason why a pool starts no workers, and until when by the clock; they would end as the last one did."""

    why: str = ""
    until: float = -math.inf
    failures: int = 0


def held(hold: Hold, why: str, now: float, *, for_good: bool) -> Hold:
    """The hold after a worker has ended so that starting it again would not help. `for_good`: until the launcher is called again."""
    pause_s = math.inf if for_good else _HOLDS_S[min(hold.failures, len(_HOLDS_S) - 1)]
    return Hold(why, now + pause_s, hold.failures + 1)
