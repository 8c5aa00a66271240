"""Celery on Redis: `celery worker -P prefork -c 4 --prefetch-multiplier=1`, acknowledged late. The workers import this module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from celery import Celery

from bench.harness.process import free_port
from bench.peers.peerkit import (
    PAYLOAD_BYTES,
    SERVER_VARIABLE,
    WORKERS,
    Done,
    DoneNotifier,
    PeerAdapter,
    Unavailable,
    dotted,
    driver_cores,
    end,
    version_of,
    worker_cores,
)

app = Celery("bench", broker=os.environ.get(SERVER_VARIABLE) or "redis://127.0.0.1:1/0")
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1)
_REJECT_VARIABLE = "BENCH_REJECT_ON_WORKER_LOST"
#: Off as it comes: a task whose process dies is then acknowledged, and gone.
app.conf.update(task_reject_on_worker_lost=os.environ.get(_REJECT_VARIABLE) == "1")
_notifiers: list[DoneNotifier] = []


@app.task(name="bench.job")  # type: ignore[untyped-decorator]
def job(number: int, seconds: float, payload: str) -> None:
    """Take that long, and report it."""
    if not _notifiers:
        _notifiers.append(DoneNotifier())
    _notifiers[0].run(number, seconds)


class CeleryAdapter(PeerAdapter):
    """Submits one after the other: `send_task` returns when Redis has taken the job."""

    def __init__(self, mode: str, room: Path, done: Done) -> None:
        super().__init__(mode, room, done)
        self.kill_all_workers = self._kill_node
        self._server = shutil.which("redis-server") or ""
        if not self._server:
            raise Unavailable("redis-server is not installed (Debian: apt-get install redis-server)")
        os.environ[_REJECT_VARIABLE] = "1" if mode == "durable" else "0"
        self._port = free_port()
        self._url = f"redis://127.0.0.1:{self._port}/0"
        self._payload = "x" * PAYLOAD_BYTES
        self._redis: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._client = Celery("bench-client", broker=self._url)
        self._client.conf.update(task_ignore_result=True)

    @property
    def versions(self) -> str:
        return f"celery {metadata.version('celery')}, redis-server {dotted(version_of(self._server))}"

    def start_server(self) -> None:
        command = [self._server, "--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self.room)]
        if self.mode == "durable":
            command += ["--appendonly", "yes", "--appendfsync", "always"]
        self._redis = self.spawn(command, driver_cores())
        self.await_port(self._port, self._redis)

    def start_workers(self, count: int) -> None:
        command = [sys.executable, "-m", "celery", "-A", "bench.peers.peer_celery", "worker", "-P", "prefork"]
        command += ["-c", str(count), "--prefetch-multiplier=1", "--loglevel=error", "--without-gossip"]
        self._node = self.spawn([*command, "--without-mingle"], worker_cores(), self._url)

    def submit(self, number: int, seconds: float) -> None:
        self._client.send_task("bench.job", (number, seconds, self._payload))

    def submit_all(self, numbers: Iterable[int], seconds: float) -> None:
        for number in numbers:
            self.submit(number, seconds)

    def kill_server(self) -> None:
        assert self._redis is not None
        end(self._redis)
        self._client.pool.force_close_all()

    def _kill_node(self) -> None:
        if self._node is not None:
            end(self._node)
        self.start_workers(WORKERS)

    def close(self) -> None:
        self._client.close()
        super().close()
