"""A whole service of real processes in a temporary home, and the ways to hurt it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.waiting import wait_until

FINAL = {"succeeded", "failed", "cancelled"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """Broker, workers and edge, each its own process group, each to be killed alone."""

    def __init__(self, home: Path, gpus: str = "cpu:2", model: str = "fake") -> None:
        self.home = home
        self.gpus = gpus
        self.model = model
        #: Further options of `python -m workers`.
        self.more_flags: list[str] = []
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def start(self, *names: str, through: Sequence[str] = ()) -> None:
        """Start these, or all. `through`: a script, and its arguments, that runs the process's module."""
        for name in names or ("broker", "workers", "edge"):
            with (self.home / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, *(through or ("-m",)), *self._command(name), "--home", str(self.home / "z")],
                    cwd=self.home,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )

    def _command(self, name: str) -> list[str]:
        return {
            "broker": ["broker"],
            "workers": ["workers", "--gpus", self.gpus, "--model", self.model, *self.more_flags],
            "edge": ["http_edge", "--port", str(self.port), "--host", "127.0.0.1"],
        }[name]

    def ready(self, workers: int) -> None:
        """Wait until the edge answers and this many workers are idle."""
        wait_until(lambda: self._idle() >= workers, 120, f"{workers} idle workers; logs:\n{self.tail()}")

    def _idle(self) -> int:
        try:
            data = self.http.get("/v1/workers").json()["data"]
        except (httpx.HTTPError, ValueError, KeyError):
            return -1
        return sum(1 for worker in data if worker["state"] == "idle")

    def tail(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.home.glob("*.log")))

    # jobs

    def post(self, **fields: Any) -> dict[str, Any]:
        """Submit through the native API, asking again while the service is away: the id makes that safe."""

        def attempt() -> dict[str, Any] | None:
            try:
                reply = self.http.post("/v1/jobs", json={"prompt": "a red circle moving right", **fields})
            except httpx.HTTPError:
                return None
            assert reply.status_code in (200, 503), reply.text
            return reply.json() if reply.status_code == 200 else None

        return wait_until(attempt, 60, "a submit that is accepted")

    def job(self, job_id: str) -> dict[str, Any]:
        def attempt() -> dict[str, Any] | None:
            try:
                reply = self.http.get(f"/v1/jobs/{job_id}")
            except httpx.HTTPError:
                return None
            return reply.json() if reply.status_code == 200 else None

        return wait_until(attempt, 60, f"an answer about {job_id}")

    def finished(self, job_id: str, deadline_s: float = 90) -> dict[str, Any]:
        """The job, once it is final."""

        def final() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] in FINAL else None

        return wait_until(final, deadline_s, f"{job_id} to be final; logs:\n{self.tail()}")

    # hurting it

    def agents(self) -> list[psutil.Process]:
        return self._children(self.processes["workers"].pid, "workers.agent")

    def engines(self) -> list[psutil.Process]:
        return [engine for agent in self.agents() for engine in self._children(agent.pid, "workers.engine.loop")]

    @staticmethod
    def _children(pid: int, module: str) -> list[psutil.Process]:
        found = []
        try:
            for child in psutil.Process(pid).children():
                if module in child.cmdline():
                    found.append(child)
        except psutil.NoSuchProcess:
            pass
        return found

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal one of the three and wait for its end."""
        process = self.processes[name]
        process.send_signal(number)
        process.wait(60)

    def everybody(self) -> list[psutil.Process]:
        """All processes of this service, children included."""
        found = []
        for process in self.processes.values():
            try:
                top = psutil.Process(process.pid)
                found += [top, *top.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        return found

    def close(self) -> None:
        everybody = self.everybody()
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        _, alive = psutil.wait_procs(everybody, timeout=60)
        for process in alive:
            process.kill()
        for popen in self.processes.values():
            popen.wait(5)
        self.http.close()
        assert not alive, f"left behind after SIGTERM: {alive}\n{self.tail()}"
