"""A whole broker in the test's event loop, and an agent that does what the test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import zmq

from broker.client.client import BrokerClient
from broker.core.machine import Core
from broker.core.policy import Policy
from broker.shell.clock import open_timeline
from broker.shell.journal.disk import Disk
from broker.shell.journal.journal import Journal
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.shell.net.sockets import Sockets
from broker.shell.router import Router
from broker.shell.server import Server
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard, Result
from tests.support.waiting import eventually

T = TypeVar("T", bound=m.Message)

INFO = m.WorkerInfo(device="cpu", models=(ModelCard(name="demo", engine="fake", output="image"),))


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
        self.journal = Journal(path, self.disk.release)
        self.disk.watch_journal()
        clock = open_timeline(self.journal.clock_record(), new=self.journal.empty)
        self.journal.stage_clock(clock.record())
        self.core = Core(self.journal.epoch, self.journal, self.policy, clock())
        self.core.restore(self.journal.live(), self.journal.rates(), clock())
        self.wires = self.open_wires()
        self.junk = PeerLimiter()
        self.metrics = Metrics(self.junk)
        self.router = Router(self.core, self.journal, self.wires, self.disk, self.metrics, self.junk, time.perf_counter)
        self.server = Server(
            self.core, self.journal, self.wires, self.router, self.disk, self.metrics, clock, self.home / "metrics"
        )
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


class Agent:
    """The broker's side of a worker, word by word. Keeps everything it was told."""

    def __init__(self, endpoint: str, name: str = "cpu-0") -> None:
        self.name = name
        self.heard: list[m.Message] = []
        self.probes = 0
        self.bodies: dict[int, bytes] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option in (zmq.IMMEDIATE, zmq.LINGER):
            self._socket.setsockopt(option, int(option == zmq.IMMEDIATE))
        self._socket.connect(endpoint)

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def say(self, message: m.Message, body: bytes | None = None) -> None:
        self.send(codec.encode(message, body))

    def send(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def listen(self) -> None:
        while self._socket.poll(0):
            decoded = codec.to_agent(self._socket.recv_multipart())
            if decoded is None:
                self.probes += 1
                continue
            message, body = decoded
            self.heard.append(message)
            if isinstance(message, m.Run):
                self.bodies[message.fence] = body

    def all(self, kind: type[T]) -> list[T]:
        self.listen()
        return [message for message in self.heard if isinstance(message, kind)]

    async def hear(self, kind: type[T], count: int = 1) -> T:
        """The `count`-th message of this kind."""
        return (await eventually(lambda: self.all(kind)[count - 1 : count], what=f"{kind.__name__} {count}"))[0]

    async def probed(self, count: int = 1) -> None:
        def enough() -> bool:
            self.listen()
            return self.probes >= count

        await eventually(enough, what=f"probe {count}")

    async def join(self, free: int = 1, **fields: Any) -> m.Welcome:
        """Wait for the broker's probe, then register."""
        await self.probed()
        return await self.hello(free=free, **fields)

    async def hello(self, free: int = 1, **fields: Any) -> m.Welcome:
        welcomes = len(self.all(m.Welcome))
        fields = {"boot": "boot", "seen": 0, **fields}
        self.say(m.Hello(name=self.name, free=free, **fields), codec.encode_body(INFO))
        return await self.hear(m.Welcome, welcomes + 1)

    def finish(self, run: m.Run, free: int = 1) -> None:
        result = codec.encode_body(Result(seed=7))
        self.say(m.Finished(job_id=run.job_id, fence=run.fence, free=free, run_s=0.5), result)


@asynccontextmanager
async def agent(service: Service, name: str = "cpu-0") -> AsyncIterator[Agent]:
    """An agent while the block runs; it has said nothing yet."""
    made = Agent(service.back, name)
    try:
        yield made
    finally:
        made.close()


def a_job(job_id: str, **fields: Any) -> m.Submit:
    return m.Submit(req=0, job_id=job_id, **{"model": "demo", "units": 1.0, **fields})
