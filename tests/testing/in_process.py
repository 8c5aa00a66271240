"""A whole broker in the test's event loop, and clients and agents of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from broker.client.client import BrokerClient
from broker.core.machine import Core
from broker.core.policy import Policy
from broker.shell.clock import open_timeline
from broker.shell.housekeeping import Housekeeping
from broker.shell.journal.disk import Disk
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.shell.net.sockets import Sockets
from broker.shell.router import Router
from broker.shell.server import Server
from broker.testing import FakeAgent, submit_message
from broker.wire import messages as m


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in a loop of its own, with a limit."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 180))

    return run


class Service:
    """One home; brokers that come and go over it."""

    def __init__(self, home: Path, run_dir: str, policy: Policy | None = None) -> None:
        self.home = home
        self.front = f"ipc://{run_dir}/front.sock"
        self.back = f"ipc://{run_dir}/back.sock"
        self.policy = policy or Policy(rejoin_s=0.2)

    async def start(self) -> None:
        """A new broker, as after an exec."""
        path = self.home / "jobs.sqlite"
        self.disk = Disk(self.home, path, min_free=0, reserve=0)
        self.journal = sqlite_journal(path, self.disk.release)
        self.disk.watch_journal()
        clock = open_timeline(self.journal.clock.record(), new=self.journal.empty)
        self.journal.clock.stage(clock.record())
        self.core = Core(self.journal.epoch, self.policy, clock())
        self.core.restore(self.journal.live(), self.journal.rates(), clock())
        self.wires = self.open_wires()
        self.limiter = PeerLimiter()
        self.metrics = Metrics(self.limiter)
        self.router = Router(
            self.core, self.journal, self.wires, self.disk, self.metrics, self.limiter, time.perf_counter
        )
        house = Housekeeping(
            self.core, self.journal, self.wires, self.router, self.disk, self.metrics, clock, self.home / "metrics"
        )
        self.server = Server(self.core, self.wires, self.router, clock, house)
        self.running = asyncio.create_task(self.server.run())
        await asyncio.sleep(0)

    def open_wires(self) -> Sockets:
        return Sockets(self.front, self.back)

    async def kill(self) -> None:
        """End it where it stands: nothing more is committed or said."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.wires.close()
        self.journal.close()

    async def restart(self) -> None:
        await self.kill()
        await self.start()


@asynccontextmanager
async def serving(home: Path, run_dir: str, policy: Policy | None = None) -> AsyncIterator[Service]:
    """A broker while the block runs."""
    service = Service(home, run_dir, policy)
    await service.start()
    try:
        yield service
    finally:
        await service.kill()


@asynccontextmanager
async def connected(service: Service, **options: Any) -> AsyncIterator[BrokerClient]:
    """A client while the block runs."""
    async with BrokerClient(service.front, **options) as client:
        yield client


@asynccontextmanager
async def agent(service: Service, name: str = "cpu-0") -> AsyncIterator[FakeAgent]:
    """An agent while the block runs; it has said nothing yet."""
    made = FakeAgent(service.back, name)
    try:
        yield made
    finally:
        made.close()


def a_job(job_id: str, **fields: Any) -> m.Submit:
    return submit_message(job_id, **fields)
