"""A whole service of real processes in a temporary home, and the ways to hurt it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.harness.process import Process, end_all, free_port
from tests.support.waiting import wait_until

FINAL = {"succeeded", "failed", "cancelled"}


class Service:
    """Broker, workers and edge, each its own process group, each to be killed alone."""

    def __init__(self, home: Path, gpus: str = "cpu:2", model: str = "fake", *, depot: bool = False) -> None:
        """`depot`: results go to the edge, as from a machine that shares no disk with it."""
        self.home = home
        self.gpus = gpus
        self.model = model
        #: Further options of `python -m workers`.
        self.port = free_port()
        self.more_flags: list[str] = ["--depot", f"http://127.0.0.1:{self.port}"] if depot else []
        self.processes: dict[str, Process] = {}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def start(self, *names: str, through: Sequence[str] = ("-m",)) -> None:
        """Start these, or all. `through`: a script, and its arguments, that runs the process's module."""
        for name in names or ("broker", "workers", "edge"):
            self.processes[name] = Process(
                *self._command(name),
                "--home",
                str(self.home / "z"),
                log=self.home / f"{name}.log",
                environ={**os.environ, "PYTHONUNBUFFERED": "1", "ZOETROPE_CONTENT_CREDENTIALS": "off"},
                through=through,
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
        return self.processes["workers"].agents()

    def engines(self) -> list[psutil.Process]:
        return self.processes["workers"].engines()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Signal one of the three and wait for its end."""
        self.processes[name].end(number)

    def everybody(self) -> list[psutil.Process]:
        """All processes of this service, children included."""
        return [member for process in self.processes.values() for member in process.family()]

    def close(self) -> None:
        alive = end_all(list(self.processes.values()), 60)
        self.http.close()
        assert not alive, f"left behind after SIGTERM: {alive}\n{self.tail()}"
