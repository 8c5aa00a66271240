"""`python -m workers`, or `python -m workers.rank`, as the child of a launcher's process: what it is started with, its log, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from workers.launchers.order import Order
from workers.supervisor.exit_codes import EXIT_LEFT, EXIT_NO_MODEL, EXIT_SETTINGS, EXIT_UNWANTED

#: Ends after which the same worker is not started again.
FINAL_CODES = (EXIT_LEFT, EXIT_SETTINGS, EXIT_UNWANTED, EXIT_NO_MODEL)

#: Bytes of a log from before, beyond which a start begins a new one, and keeps that as `.1`.
_LOG_BYTES = 16 * 2**20

#: Seconds for which a report holds whose sender does not answer.
_HOLDS_S = 30.0

#: Not for workers: one opens the cluster to any reader, one bounds threads that are not theirs, one names a file that several of them
#: would write.
_NOT_PASSED = ("RAY_AUTH_TOKEN", "OMP_NUM_THREADS", "ZOETROPE_HEARTBEAT_FILE")


class Report(Struct, frozen=True, kw_only=True):
    """State of a worker process, from its owner."""

    #: Of this process's owner, a new one each time it is started.
    boot: str
    name: str
    #: Machines that it is on, its own first.
    nodes: tuple[str, ...]
    #: Their names, separated by commas.
    host: str
    pid: int
    #: Exit code, one of `FINAL_CODES`; None: it runs.
    code: int | None = None
    #: It is drained, and its processes are ending.
    leaving: bool = False
    #: Last line of the log, when it has ended.
    why: str = ""
    log: str = ""


class LastReports:
    """Latest reports of workers' owners. A process on a busy machine may not answer in time, and runs all the same."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Report, float]] = {}

    def put(self, report: Report, now: float) -> None:
        """Keep this report."""
        self._last[report.name] = report, now

    def forget(self, name: str) -> None:
        """Drop this worker: it has ended, or its owner has."""
        self._last.pop(name, None)

    def of(self, name: str, now: float) -> Report | None:
        """Return the report of this worker; None: there is none that holds. That of an end is returned once."""
        report, at = self._last.get(name, (None, 0.0))
        if report is not None and (report.code is not None or now - at >= _HOLDS_S):
            self.forget(name)
        return report if report is not None and now - at < _HOLDS_S else None


def command(order: Order, name: str, endpoint: str = "") -> list[str]:
    """Command that starts the worker `name` of a pool. `endpoint`: where it waits for its processes on further machines, if it has such."""
    prefix = f"{order.prefix}{order.pool}.{name}."
    spread = ["--machines", str(order.machines_per_worker), "--rank-endpoint", endpoint] if endpoint else []
    return [order.python or sys.executable, "-m", "workers", *order.arguments, *spread, "--name-prefix", prefix]


def rank_command(order: Order, leader: str) -> list[str]:
    """Command that starts a worker's process on a further machine. `leader`: the endpoint of the first."""
    return [order.python or sys.executable, "-m", "workers.rank", *order.rank_arguments, "--leader", leader]


def surroundings(order: Order, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment of a worker: that of its owner, without what was meant for the owner alone."""
    passed = {name: value for name, value in environ.items() if name not in _NOT_PASSED}
    return passed | ({"OMP_NUM_THREADS": str(order.threads)} if order.threads else {})


class WorkerProcess:
    """One start of a worker, or of a part of it, with its output in a file."""

    def __init__(
        self, order: Order, name: str, command: Sequence[str], environ: Mapping[str, str] = os.environ
    ) -> None:
        """Start it. One that cannot be started has ended with `EXIT_SETTINGS`, and `why` is the reason."""
        self.boot = uuid.uuid4().hex
        self.log = Path(order.home) / "launcher" / f"{order.pool}.{name}.log"
        self.started_at = time.monotonic()
        self.pid = 0
        self._fault = ""
        self._terminated = False
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    env=surroundings(order, environ),
                    cwd=order.home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self.pid = self._process.pid
        except OSError as error:
            self._fault = f"the worker cannot be started: {error}"

    def poll(self) -> int | None:
        """Return the exit code; None while it runs. One that SIGTERM ended before it heeded signals has left, as was requested."""
        if self._process is None:
            return EXIT_SETTINGS
        code = self._process.poll()
        return EXIT_LEFT if self._terminated and code == -signal.SIGTERM else code

    def terminate(self) -> None:
        """SIGTERM: it hands its jobs back, within its grace, and ends with 0."""
        if self._process is not None:
            self._terminated = True
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def why(self) -> str:
        """The last line that it wrote, or why there is none."""
        if self._fault:
            return self._fault
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError as error:
            return f"its log cannot be read: {error}"
        return lines[-1] if lines else ""
