"""What goes wrong, and in which order: drawn from the seed alone, before anything has started.

Every kind comes once before any comes again. How long a fault lasts, whom it strikes, and whether the next one waits until the service
has recovered or strikes on top of it, is in the plan too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from tests.chaos.harness import Service, Unit
from tests.support.waiting import eventually

#: (verb, whom), and how long it lasts in seconds: from, to.
_TABLE: dict[tuple[str, str], tuple[float, float]] = {
    ("kill", "broker"): (0, 0),
    ("storm", "broker"): (0, 0),
    ("term", "broker"): (0, 0),
    ("pause", "broker"): (0.5, 4),
    ("kill", "agent"): (0, 0),
    ("pause", "agent"): (1, 9),
    ("kill", "engine"): (0, 0),
    ("pause", "engine"): (1, 6),
    ("kill", "workers"): (0, 0),
    ("term", "workers"): (0, 0),
    ("pause", "workers"): (0.5, 4),
    ("kill", "edge"): (0, 0),
    ("term", "edge"): (0, 0),
    ("pause", "edge"): (0.5, 3),
    ("cut", "back"): (0, 0),
    ("hold", "back"): (1, 9),
    ("cut", "front"): (0, 0),
    ("hold", "front"): (0.5, 4),
    ("fill", "disk"): (2, 4),
    ("slow", "flush"): (1, 4),
    ("fail", "flush"): (0.2, 1),
    ("set", "clock"): (2, 8),
    ("cut", "store"): (0, 0),
    ("hold", "store"): (1, 9),
    ("kill", "store"): (0.5, 4),
}

#: What a kind needs: a file system of its own; the library that stands before libc (`tests/support/faulty.c`); an object store.
_OWN_DISK, _PRELOADED, _STORED = ("disk",), ("flush", "clock"), ("store",)

#: Seconds by which the machine's clock is set ahead, and set back when the fault is over.
_AHEAD_S = (-30 * 86_400, -7_200, -600, -2, 2, 600, 7_200, 30 * 86_400)
#: How much longer a slow flush takes, milliseconds.
_SLOW_MS = (200, 1_500)

#: Kills of a storm, and the pause between two: a broker that has just begun to start, or just begun to serve.
_STORM = (3, 5)
_STORM_PAUSE_S = (0.1, 1.2)
#: How many of all faults wait for a whole service: they tell how long a recovery takes, the others whether it always comes.
_ALONE = 0.35
#: Exit codes of a broker that has no room left, and of one whose journal cannot be written; how long it may take to end.
_DISK_FULL, _DISK_BROKEN = 5, 4
_END_S = 1.0
#: Longest that a failing disk waits for a flush that it can fail.
_FLUSH_S = 15.0
#: Before the next fault, where that does not wait.
_PAUSE_S = (0.2, 1.5)


class Fault(Struct, frozen=True, kw_only=True):
    """One entry of the plan."""

    verb: str
    whom: str
    #: Which of several, modulo their number.
    victim: int
    lasts_s: float
    #: Pauses between the kills of a storm.
    storm_s: tuple[float, ...] = ()
    #: How far the clock is set ahead.
    ahead_s: int = 0
    #: How much longer a flush takes.
    slow_ms: int = 0
    #: What a held cable held arrives late (or is lost).
    deliver: bool = True
    #: It waits until the service is whole, and the next fault until it is whole again; else it strikes on top of what there is.
    alone: bool
    #: Before the next fault, seconds.
    pause_s: float

    @property
    def kind(self) -> str:
        return f"{self.verb} {self.whom}"


def _possible(*, disk: bool, preload: bool, store: bool) -> list[tuple[str, str]]:
    lacking = (*(() if disk else _OWN_DISK), *(() if preload else _PRELOADED), *(() if store else _STORED))
    return [pair for pair in _TABLE if pair[1] not in lacking]


def kinds(*, disk: bool = True, preload: bool = True, store: bool = False) -> list[str]:
    """All kinds, in the order of the table."""
    return [f"{verb} {whom}" for verb, whom in _possible(disk=disk, preload=preload, store=store)]


def plan(
    seed: int, *, disk: bool = True, preload: bool = True, store: bool = False, stretch: float = 1.0
) -> Iterator[Fault]:
    """Faults without an end; the same for the same arguments. `stretch`: how much longer than usual they may last."""
    rng = random.Random(seed)
    table = _possible(disk=disk, preload=preload, store=store)
    while True:
        for verb, whom in rng.sample(table, len(table)):
            low, high = _TABLE[verb, whom]
            storm = [rng.uniform(*_STORM_PAUSE_S) for _ in range(rng.randint(*_STORM))] if verb == "storm" else []
            yield Fault(
                verb=verb,
                whom=whom,
                victim=rng.randrange(1000),
                lasts_s=rng.uniform(low, high * stretch),
                storm_s=tuple(storm),
                ahead_s=rng.choice(_AHEAD_S) if whom == "clock" else 0,
                slow_ms=rng.randint(*_SLOW_MS) if verb == "slow" else 0,
                deliver=rng.random() < 0.5,
                alone=rng.random() < _ALONE,
                pause_s=rng.uniform(*_PAUSE_S),
            )


class Strike(Struct, kw_only=True):
    """A fault that was carried out."""

    fault: Fault
    began: float
    #: When it was over (the process killed or let go on, the cable whole, the disk empty); 0: not yet.
    ended: float = 0.0
    #: Processes that it ended.
    killed: frozenset[int] = frozenset()
    #: Names of the workers it struck.
    workers: tuple[str, ...] = ()
    #: Workers that were seen at work since it ended.
    back: set[str] = msgspec.field(default_factory=set)
    #: When the service was whole again; 0: not yet.
    recovered: float = 0.0
    #: Another fault struck before it had recovered.
    overlapped: bool = False


class Injector:
    """Carries faults out on a service."""

    def __init__(self, service: Service, clock: Callable[[], float]) -> None:
        self._service = service
        self._clock = clock

    async def strike(self, strike: Strike) -> None:
        """Do it, and undo what can be undone; always undone, also when cancelled."""
        fault = strike.fault
        try:
            match fault.whom:
                case "store" if fault.verb == "kill":
                    await self._on_store(fault)
                case "front" | "back" | "store":
                    await self._on_cable(fault)
                case "disk":
                    await self._fill_disk(fault.lasts_s)
                case "flush" | "clock":
                    await self._on_library(fault)
                case "agent" | "engine":
                    await self._on_child(fault, strike)
                case _:
                    await self._on_unit(fault, self._unit(fault), strike)
        finally:
            strike.ended = self._clock()

    def _unit(self, fault: Fault) -> Unit:
        edges = self._service.edges
        return edges[fault.victim % len(edges)] if fault.whom == "edge" else self._service.units[fault.whom]

    async def _on_unit(self, fault: Fault, unit: Unit, strike: Strike) -> None:
        if fault.whom == "workers":
            strike.workers = self._service.worker_names
        pid = unit.pid
        match fault.verb:
            case "kill":
                unit.send(signal.SIGKILL)
                strike.killed = frozenset((pid,))
            case "term":
                unit.send(signal.SIGTERM)
                strike.killed = frozenset((pid,))
                await _gone(pid)
            case "storm":
                for pause_s in fault.storm_s:
                    strike.killed |= {unit.pid}
                    unit.send(signal.SIGKILL)
                    await asyncio.sleep(pause_s)
                strike.killed |= {unit.pid}
                unit.send(signal.SIGKILL)
            case "pause":
                await _paused(pid, fault.lasts_s)

    async def _on_child(self, fault: Fault, strike: Strike) -> None:
        service = self._service
        found = service.agents() if fault.whom == "agent" else service.engines()
        if not found:
            return
        victim = found[fault.victim % len(found)]
        with contextlib.suppress(psutil.Error):
            agent = victim if fault.whom == "agent" else victim.parent()
            strike.workers = (_worker_name(agent),) if agent else ()
            if fault.verb == "kill":
                strike.killed = frozenset((victim.pid,))
                victim.kill()
            else:
                await _paused(victim.pid, fault.lasts_s)

    async def _on_cable(self, fault: Fault) -> None:
        cable = self._service.cables[fault.whom]
        if fault.verb == "cut":
            cable.cut()
            return
        cable.hold()
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            cable.release(deliver=fault.deliver)

    async def _on_store(self, fault: Fault) -> None:
        store = self._service.store
        assert store is not None, f"{fault.kind} is planned without a store"
        if not store.durable:
            # It would forget what it took: it is only not to be reached.
            await self._on_cable(msgspec.structs.replace(fault, verb="hold", deliver=False))
            return
        store.kill()
        await asyncio.sleep(fault.lasts_s)
        await asyncio.to_thread(store.start)

    async def _on_library(self, fault: Fault) -> None:
        library = self._service.library
        assert library is not None, f"{fault.kind} is planned without the library"
        broker = self._service.units["broker"]
        name, value = {
            "slow": ("slow_ms", fault.slow_ms),
            "fail": ("sync_errno", errno.EIO),
            "set": ("ahead_ms", fault.ahead_s * 1000),
        }[fault.verb]
        ends = fault.verb == "fail"
        broker.allowed[_DISK_BROKEN] += ends
        library.set(**{name: value})
        try:
            if ends:
                await self._flush_failed()
            await asyncio.sleep(fault.lasts_s)
        finally:
            library.set(**{name: 0})
            if ends:
                # It may have been told of the failure just now.
                await asyncio.sleep(_END_S)
                broker.allowed[_DISK_BROKEN] -= 1

    async def _flush_failed(self) -> None:
        """Until one has: a broker that is down or paused flushes nothing."""
        library = self._service.library
        assert library is not None
        before = library.failed
        with contextlib.suppress(AssertionError):
            await eventually(lambda: library.failed > before, _FLUSH_S)

    async def _fill_disk(self, lasts_s: float) -> None:
        """Take every block there is, and every one that is given back meanwhile."""
        broker = self._service.units["broker"]
        broker.allowed[_DISK_FULL] += 1
        filler = self._service.root / "disk" / "filler"
        try:
            end = self._clock() + lasts_s
            while self._clock() < end:
                _grow(filler)
                await asyncio.sleep(0.02)
        finally:
            filler.unlink(missing_ok=True)
            # It may have been told of the full disk just now.
            await asyncio.sleep(0.3)
            broker.allowed[_DISK_FULL] -= 1


def _grow(path: Path) -> None:
    block = bytes(1024 * 1024)
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(block) == len(block):
            pass


async def _paused(pid: int, lasts_s: float) -> None:
    """SIGSTOP, and SIGCONT after so long."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        process.suspend()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            with contextlib.suppress(psutil.Error):
                process.resume()


async def _gone(pid: int) -> None:
    """Until this process has ended; a SIGTERM that is not obeyed shows as a recovery that never comes."""
    give_up = time.monotonic() + 6.0
    while pid and time.monotonic() < give_up:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(0.02)


def _worker_name(agent: psutil.Process) -> str:
    words = agent.cmdline()
    return words[words.index("--name") + 1] if "--name" in words else ""
