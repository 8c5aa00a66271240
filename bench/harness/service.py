"""A whole service of real processes in a home of its own: each started, found and killed apart."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil

import broker
from bench.harness.procs import clean_environ, pinned
from bench.report.errors import BenchError
from broker.client.client import BrokerClient
from broker.client.errors import BrokerError
from broker.runtime.settings import CommonSettings
from broker.wire import messages as m

READY_S = 180.0
_STOP_S = 15.0


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """Broker, workers and edge on one home. `gpus` and `model` are the workers' options, "" for their defaults."""

    def __init__(self, home: Path, gpus: str = "cpu:1", model: str = "", workers_options: Sequence[str] = ()) -> None:
        self.home = home
        self.settings = CommonSettings(home=str(home / "z"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._workers = ["workers", "--gpus", gpus, *(["--model", model] if model else []), *workers_options]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str, cores: set[int] | None = None) -> None:
        """Start `broker`, `workers` or `edge`, on these cores if any are named."""
        for name in names:
            command = {
                "broker": ["broker", "--queue-limit", "2000000"],
                "workers": self._workers,
                "edge": ["http_edge", "--host", "127.0.0.1", "--port", str(self.port)],
            }[name]
            # Started from the home: a zoetrope.toml where the caller stands must not reach it.
            with pinned(cores or set()), (self.home / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [sys.executable, "-m", *command, "--home", self.settings.home, "--log-level", "warning"],
                    cwd=self.home,
                    env=clean_environ(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def process(self, name: str) -> psutil.Process:
        """One of the three, to be looked at."""
        return psutil.Process(self._processes[name].pid)

    def cpu_s(self, name: str) -> float:
        """Seconds of processor time that one of the three has used, without its children."""
        times = self.process(name).cpu_times()
        return float(times.user + times.system)

    def kill(self, name: str) -> float:
        """SIGKILL one of the three; when that was, Unix seconds."""
        process = self._processes[name]
        at = time.time()
        process.send_signal(signal.SIGKILL)
        process.wait(_STOP_S)
        return at

    def agents(self) -> list[psutil.Process]:
        """The workers' agents that live now."""
        return _children(self._processes["workers"].pid, "workers.agent")

    def engines(self) -> list[psutil.Process]:
        """The engines that live now."""
        return [engine for agent in self.agents() for engine in _children(agent.pid, "workers.engine.loop")]

    async def idle(self, client: BrokerClient, workers: int = 1) -> m.PoolView:
        """The pool, once this many workers are idle. Raises `BenchError`."""
        give_up = time.monotonic() + READY_S
        while time.monotonic() < give_up:
            self.check()
            with contextlib.suppress(BrokerError):
                pool = await client.pool()
                if sum(worker.state == "idle" for worker in pool.workers) >= workers:
                    return pool
            await asyncio.sleep(0.05)
        raise BenchError(f"no {workers} idle workers after {READY_S:.0f} s: {self.last_words()}")

    async def answers(self) -> None:
        """Return once the edge says that a job could run. Raises `BenchError`."""
        give_up = time.monotonic() + READY_S
        async with httpx.AsyncClient(base_url=self.url, timeout=5, trust_env=False) as client:
            while time.monotonic() < give_up:
                self.check()
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("/health")).status_code == 200:
                        return
                await asyncio.sleep(0.05)
        raise BenchError(f"the edge is not ready after {READY_S:.0f} s: {self.last_words()}")

    def check(self) -> None:
        """Raises `BenchError` when one of the processes has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise BenchError(f"{name} ended with status {process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of each process's log."""
        words = []
        for path in sorted(self.home.glob("*.log")):
            lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            words.append(f"{path.stem}: {lines[-1][:300] if lines else 'it logged nothing'}")
        return "; ".join(words)

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to whoever is left."""
        everybody = []
        for process in self._processes.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                top = psutil.Process(process.pid)
                everybody += [top, *top.children(recursive=True)]
            if process.poll() is None:
                process.terminate()
        _, alive = psutil.wait_procs(everybody, timeout=_STOP_S)
        for left in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        for process in self._processes.values():
            process.wait(_STOP_S)


def _children(pid: int, module: str) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if module in child.cmdline():
                    found.append(child)
    return found


def demo_model() -> Path:
    """Directory of the demo model."""
    return Path(broker.__file__).resolve().parents[1] / "workers" / "demo_model"
