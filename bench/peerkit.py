"""What every peer is measured with: the same payload, four worker processes on one core, the driver on another, one way of saying "done".

A worker tells the driver of each job it has run by a datagram with the job's number and the moment, CLOCK_MONOTONIC; nothing of a
peer's own result store is in the figures. Ours says so only once its result is committed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from bench.errors import BenchError
from bench.procs import clean_environ, cores, pinned
from bench.stats import Summary, summarise

WORKERS = 4
PAYLOAD_BYTES = 600
#: Path of the driver's datagram socket, for the workers.
DONE_VARIABLE = "BENCH_DONE_SOCKET"
#: Where a peer's server is, for its workers.
SERVER_VARIABLE = "BENCH_PEER_SERVER"
_FORM = struct.Struct("=qd")
_STALL_S = 120.0


class Unavailable(Exception):
    """This peer, or this mode of it, cannot be measured here: one sentence on what is missing."""


class Load(Struct, frozen=True, kw_only=True):
    """Jobs of the rate run, and seconds of the run with one job outstanding."""

    jobs: int
    seconds: float


class Outcome(Struct, frozen=True, kw_only=True):
    """What one mode of one peer did; latencies from submit to the worker, seconds."""

    jobs_per_s: float
    latency: Summary | None
    label: str = ""


class Client(Protocol):
    """A peer's driver."""

    def submit_all(self, numbers: Sequence[int]) -> None:
        """Hand in these jobs as fast as the peer takes them, each acknowledged as the peer does."""

    def submit(self, number: int) -> None:
        """Hand in one job."""


class Done:
    """Hears of finished jobs, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.at: dict[int, float] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                number, moment = _FORM.unpack(self._socket.recv(_FORM.size))
                with self._changed:
                    self.at[number] = moment
                    self._changed.notify_all()

    def wait(self, numbers: Sequence[int]) -> None:
        """Return once all of these are done. Raises `BenchError`."""
        give_up = time.monotonic() + _STALL_S
        for number in numbers:
            with self._changed:
                while number not in self.at:
                    if not self._changed.wait(1.0) and time.monotonic() > give_up:
                        raise BenchError(f"job {number} was not done within {_STALL_S:.0f} s")

    def close(self) -> None:
        self._socket.close()


class Teller:
    """The worker's end of `Done`."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(os.environ[DONE_VARIABLE])

    def done(self, number: int) -> None:
        """This job has been run, now."""
        self._socket.send(_FORM.pack(number, time.monotonic()))


def drive(client: Client, done: Done, load: Load) -> Outcome:
    """Both runs. Raises `BenchError`."""
    warm = list(range(50))
    client.submit_all(warm)
    done.wait(warm)
    numbers = list(range(1_000_000, 1_000_000 + load.jobs))
    begun = time.monotonic()
    client.submit_all(numbers)
    done.wait(numbers)
    took = max(done.at[number] for number in numbers) - begun
    latencies: list[float] = []
    number, end = 2_000_000, time.monotonic() + load.seconds
    while time.monotonic() < end:
        number += 1
        begun = time.monotonic()
        client.submit(number)
        done.wait([number])
        latencies.append(done.at[number] - begun)
    return Outcome(jobs_per_s=load.jobs / took, latency=summarise(latencies))


#: Taken before the driver is pinned.
_USABLE = cores()


def driver_cores() -> set[int]:
    """All but the workers' core."""
    return set(_USABLE[:-1]) if len(_USABLE) > 1 else set()


def worker_cores() -> set[int]:
    """The one that all workers share."""
    return set(_USABLE[-1:]) if len(_USABLE) > 1 else set()


@contextlib.contextmanager
def started(
    command: Sequence[str], home: Path, chosen: set[int], environ: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process group on these cores, killed afterwards."""
    with pinned(chosen), (home / "peer.log").open("ab") as log:
        process = subprocess.Popen(
            list(command),
            cwd=home,
            env={**clean_environ(), **environ},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def workers(module: str, home: Path, environ: dict[str, str]) -> Iterator[None]:
    """`WORKERS` processes of a module."""
    with contextlib.ExitStack() as stack:
        for number in range(WORKERS):
            command = [sys.executable, "-m", module, str(number)]
            stack.enter_context(started(command, home, worker_cores(), environ))
        yield


def await_port(port: int, process: subprocess.Popen[bytes], home: Path) -> None:
    """Return once somebody listens. Raises `Unavailable`."""
    give_up = time.monotonic() + 20.0
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    lines = (home / "peer.log").read_text(errors="replace").strip().splitlines()
    raise Unavailable(f"its server does not start: {lines[-1][:200] if lines else 'it said nothing'}")
