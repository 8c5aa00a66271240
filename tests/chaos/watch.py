"""Is the service whole again? Asked from outside, as a load balancer would, and answered for each fault in its own way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import psutil
from msgspec import Struct

from tests.chaos.faults import Strike
from tests.chaos.harness import Service

_LOOK_S = 0.05
_TIMEOUT_S = 2.0
_WORKING = ("idle", "busy", "tripped")
_ENGINE_UP = ("ready", "busy")
#: A worker that was suspect or lost is back when it has reported since.
_BEAT_AGE_S = 1.5


class View(Struct, frozen=True, kw_only=True):
    """What one edge answered; it asked the broker at `asked_at` or later."""

    asked_at: float
    answered_at: float
    epoch: int
    workers: dict[str, dict[str, Any]]


class Watch:
    """Looks at every edge all the time, and notes when strikes have been recovered from."""

    def __init__(self, service: Service, clock: Callable[[], float], last_accept: Callable[[], float]) -> None:
        self._service = service
        self._clock = clock
        #: When a client was last told that its job is accepted.
        self._last_accept = last_accept
        self._views: list[View | None] = [None for _ in service.ports]
        self._open: list[Strike] = []
        self._nothing_open = asyncio.Event()
        self._nothing_open.set()
        self._epochs: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look."""
        for number, port in enumerate(self._service.ports):
            self._tasks.append(asyncio.create_task(self._look_at(number, port)))
        self._tasks.append(asyncio.create_task(self._judge()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def working(self) -> int:
        """Workers that could run a job, as the least informed edge sees it."""
        return min(
            sum(worker["state"] in _WORKING for worker in view.workers.values()) if view else 0 for view in self._views
        )

    def queue_line(self) -> str:
        """States of the workers, for people."""
        view = next((view for view in self._views if view), None)
        if view is None:
            return "no edge has answered"
        return " ".join(f"{name}:{worker['state']}" for name, worker in sorted(view.workers.items()))

    def struck(self, strike: Strike) -> None:
        """A fault begins."""
        for other in self._open:
            other.overlapped = True
        strike.overlapped = bool(self._open)
        self._nothing_open.clear()
        self._epochs[id(strike)] = max((view.epoch for view in self._views if view), default=0)
        self._open.append(strike)

    async def whole(self, timeout_s: float) -> None:
        """Return once nothing is left to recover from, or when that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._nothing_open.wait()

    async def _look_at(self, number: int, port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_TIMEOUT_S) as http:
            while True:
                asked_at = self._clock()
                try:
                    # A page is never answered from the edge's memory: whatever it says, the broker said just now.
                    page = await http.get("/v1/jobs", params={"limit": 1})
                    pool = await http.get("/v1/workers")
                    if page.status_code == pool.status_code == 200:
                        self._views[number] = self._view(asked_at, pool.json())
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(_LOOK_S)

    def _view(self, asked_at: float, pool: dict[str, Any]) -> View:
        return View(
            asked_at=asked_at,
            answered_at=self._clock(),
            epoch=pool["epoch"],
            workers={worker["name"]: worker for worker in pool["data"]},
        )

    async def _judge(self) -> None:
        while True:
            for strike in list(self._open):
                if strike.ended and self._is_over(strike):
                    strike.recovered = self._clock()
                    self._open.remove(strike)
            if not self._open:
                self._nothing_open.set()
            await asyncio.sleep(_LOOK_S)

    def _is_over(self, strike: Strike) -> bool:
        whom = strike.fault.whom
        if whom == "edge":
            return self._edge_is_back(strike)
        views = [view for view in self._views if view is not None and view.asked_at > strike.ended]
        if len(views) < len(self._views):
            return False
        if whom in ("disk", "flush"):
            return self._last_accept() > strike.ended
        if whom == "broker" and strike.killed:
            views = [view for view in views if view.epoch > self._epochs[id(strike)]]
        if len(views) < len(self._views) or (whom == "engine" and not self._engines_are_back(strike)):
            return False
        struck = strike.workers or self._service.worker_names
        # Once each is enough: the load has jobs that end engines, which is none of this fault's doing.
        strike.back |= {name for name in struck if all(self._is_back(view.workers.get(name), strike) for view in views)}
        return strike.back >= set(struck)

    def _edge_is_back(self, strike: Strike) -> bool:
        number = strike.fault.victim % len(self._views)
        view = self._views[number]
        if self._service.edges[number].pid in strike.killed or view is None:
            return False
        return view.asked_at > strike.ended

    def _is_back(self, worker: dict[str, Any] | None, strike: Strike) -> bool:
        if worker is None:
            return False
        if strike.fault.whom in ("broker", "front", "back", "store"):
            return worker["state"] not in ("suspect", "lost")
        return (
            worker["state"] in _WORKING
            and worker["engine"] in _ENGINE_UP
            and worker["pid"] not in strike.killed
            and worker["heartbeat_age_s"] < _BEAT_AGE_S
        )

    def _engines_are_back(self, strike: Strike) -> bool:
        there = {process.pid for process in self._service.engines()}
        return len(there) >= self._service.workers and not (there & strike.killed) and not _any_alive(strike.killed)


def _any_alive(pids: frozenset[int]) -> bool:
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            continue
    return False
