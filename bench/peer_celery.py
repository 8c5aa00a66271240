"""Celery on Redis: `celery worker -P prefork -c 4 --prefetch-multiplier=1`, acknowledged late. The workers import this module."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from celery import Celery

from bench.peerkit import (
    DONE_VARIABLE,
    PAYLOAD_BYTES,
    SERVER_VARIABLE,
    WORKERS,
    Done,
    Teller,
    Unavailable,
    await_port,
    driver_cores,
    started,
    worker_cores,
)
from bench.service import free_port

MODES = {
    "default": "Redis as it comes: snapshots now and then, what is acknowledged can be lost",
    "durable": "Redis with appendfsync always",
}

app = Celery("bench", broker=os.environ.get(SERVER_VARIABLE, "redis://127.0.0.1:1/0"))
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1)
_tellers: list[Teller] = []


@app.task(name="bench.noop")  # type: ignore[untyped-decorator]
def noop(number: int, payload: str) -> None:
    """Do nothing, and say so."""
    if not _tellers:
        _tellers.append(Teller())
    _tellers[0].done(number)


class CeleryClient:
    """Submits one after the other: `send_task` returns when Redis has taken the job."""

    def __init__(self, url: str) -> None:
        self._payload = "x" * PAYLOAD_BYTES
        self._app = Celery("bench-client", broker=url)
        self._app.conf.update(task_ignore_result=True)

    def submit(self, number: int) -> None:
        self._app.send_task("bench.noop", (number, self._payload))

    def submit_all(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.submit(number)

    def close(self) -> None:
        self._app.close()


@contextlib.contextmanager
def opened(mode: str, home: Path, done: Done) -> Iterator[CeleryClient]:
    """Server, workers and client. Raises `Unavailable`."""
    server = shutil.which("redis-server")
    if server is None:
        raise Unavailable("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
    if mode == "durable":
        command += ["--appendonly", "yes", "--appendfsync", "always"]
    url = f"redis://127.0.0.1:{port}/0"
    environ = {SERVER_VARIABLE: url, DONE_VARIABLE: str(done.path)}
    worker = [sys.executable, "-m", "celery", "-A", "bench.peer_celery", "worker", "-P", "prefork", "-c", str(WORKERS)]
    worker += ["--prefetch-multiplier=1", "--loglevel=error", "--without-gossip", "--without-mingle"]
    with started(command, home, driver_cores(), {}) as process:
        await_port(port, process, home)
        with started(worker, home, worker_cores(), environ):
            client = CeleryClient(url)
            with contextlib.closing(client):
                yield client
