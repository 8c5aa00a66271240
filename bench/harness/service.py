"""A whole service of real processes in a home of its own: each started, found and killed apart."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

from bench.harness.process import ROOT, Process, end_all, free_port
from bench.harness.procs import pinned
from bench.report.errors import BenchError
from broker.client.client import BrokerClient
from broker.client.errors import BrokerError
from broker.runtime.settings import CommonSettings
from broker.wire import messages as m

READY_S = 180.0
_STOP_S = 15.0


class Service:
    """Broker, workers and edge on one home. `gpus` and `model` are the workers' options, "" for their defaults.

    `supervisors`: how many `python -m workers` it may have, each with workers of its own: `workers`, `workers-2` …
    """

    def __init__(
        self,
        home: Path,
        gpus: str = "cpu:1",
        model: str = "",
        workers_options: Sequence[str] = (),
        broker_options: Sequence[str] = (),
        supervisors: int = 1,
    ) -> None:
        self.home = home
        self.settings = CommonSettings(home=str(home / "z"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        workers = ["workers", "--gpus", gpus, *(["--model", model] if model else []), *workers_options]
        #: Names of the supervisors.
        self.supervisors = ("workers", *(f"workers-{number}" for number in range(2, supervisors + 1)))
        self._commands = {
            "broker": ["broker", "--queue-limit", "2000000", *broker_options],
            "edge": ["http_edge", "--host", "127.0.0.1", "--port", str(self.port)],
            "workers": workers,
            **{name: [*workers, "--name-prefix", f"{name}."] for name in self.supervisors[1:]},
        }
        self.processes: dict[str, Process] = {}

    def start(self, *names: str, cores: set[int] | None = None) -> None:
        """Start `broker`, `edge` or supervisors, on these cores if any are named."""
        for name in names:
            options = "--home", self.settings.home, "--log-level", "warning"
            with pinned(cores or set()):
                self.processes[name] = Process(*self._commands[name], *options, log=self.home / f"{name}.log")

    def kill(self, name: str) -> float:
        """SIGKILL one of these; when that was, Unix seconds."""
        at = time.time()
        self.processes[name].end(limit_s=_STOP_S)
        return at

    async def idle(self, client: BrokerClient, workers: int = 1) -> m.PoolView:
        """The pool, once this many workers are idle. Raises `BenchError`."""
        give_up = time.monotonic() + READY_S
        while time.monotonic() < give_up:
            self.check()
            with contextlib.suppress(BrokerError):
                pool = await client.worker_requests.pool()
                if sum(worker.state == "idle" for worker in pool.workers) >= workers:
                    return pool
            await asyncio.sleep(0.05)
        raise BenchError(f"no {workers} idle workers after {READY_S:.0f} s: {self.last_lines()}")

    async def answers(self) -> None:
        """Return once the edge reports that a job could run. Raises `BenchError`."""
        give_up = time.monotonic() + READY_S
        async with httpx.AsyncClient(base_url=self.url, timeout=5, trust_env=False) as client:
            while time.monotonic() < give_up:
                self.check()
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("/health")).status_code == 200:
                        return
                await asyncio.sleep(0.05)
        raise BenchError(f"the edge is not ready after {READY_S:.0f} s: {self.last_lines()}")

    def agents(self) -> list[tuple[str, psutil.Process]]:
        """(its supervisor, the agent) of all agents that live now."""
        return [(name, agent) for name in self.supervisors for agent in self.processes[name].agents()]

    def check(self) -> None:
        """Raises `BenchError` when one of the processes has ended."""
        for process in self.processes.values():
            process.check()

    def last_lines(self) -> str:
        """The last line of each process's log."""
        return "; ".join(f"{name}: {process.last_lines()}" for name, process in sorted(self.processes.items()))

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to what is left."""
        end_all(list(self.processes.values()), _STOP_S)


def demo_model() -> Path:
    """Directory of the demo model."""
    return ROOT / "workers" / "demo_model"
