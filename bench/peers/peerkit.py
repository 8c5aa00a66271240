"""Common equipment of the peers: the same payload, worker processes on one core, driver and server on another, one report of "done".

A worker reports to the driver by a datagram that it starts a job and that it has done it, with its pid and CLOCK_MONOTONIC; nothing of a
peer's own result store is in the figures. Ours reports "done" only once its result is committed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil
from msgspec import Struct

from bench.harness.process import clean_environ
from bench.harness.procs import cores, pinned
from bench.report.errors import BenchError

WORKERS = 4
PAYLOAD_BYTES = 600
#: A job's seconds: nothing to do and no report of its start, so that the rate is that of the queue and not of datagrams.
BARE = -1.0
#: Path of the driver's datagram socket, for the workers.
DONE_VARIABLE = "BENCH_DONE_SOCKET"
#: Where a peer's server is, for its workers.
SERVER_VARIABLE = "BENCH_PEER_SERVER"
#: Every process of one measurement has this in its environment, so that none of them is left.
MARK_VARIABLE = "BENCH_PEER_MARK"
_FORM = struct.Struct("=q?di")
_VERSION = re.compile(r"v=?(\d+)\.(\d+)\.(\d+)")
_START_S = 30.0


class Unavailable(Exception):
    """This peer, or this mode of it, cannot be measured here: one sentence on what is missing."""


class Start(Struct, frozen=True):
    """A worker began a job: when, and which process."""

    at: float
    pid: int


class Done:
    """Receives which jobs started and finished, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.at: dict[int, float] = {}
        self.starts: dict[int, list[Start]] = {}
        self._changed = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                datagram = self._socket.recv(_FORM.size)
                if len(datagram) != _FORM.size:
                    return  # shut down
                number, is_end, moment, pid = _FORM.unpack(datagram)
                with self._changed:
                    if is_end:
                        self.at[number] = moment
                    else:
                        self.starts.setdefault(number, []).append(Start(moment, pid))
                    self._changed.notify_all()

    def holds(self, true: Callable[[], bool], seconds: float) -> bool:
        """Whether this became so within these seconds."""
        with self._changed:
            return self._changed.wait_for(true, seconds)

    def wait(self, numbers: Sequence[int], seconds: float = 60.0) -> None:
        """Return once all of these are done. Raises `BenchError` when none was for so long."""
        for number in numbers:
            if not self.holds(lambda: number in self.at, seconds):  # noqa: B023  # called at once
                raise BenchError(f"job {number} was not done within {seconds:.0f} s")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join(timeout=1.0)
        self._socket.close()


class DoneNotifier:
    """The worker's end of `Done`."""

    def __init__(self, path: str = "") -> None:
        """`path`: the driver's socket, if the environment does not have it."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(path or os.environ[DONE_VARIABLE])

    def started(self, number: int, seconds: float) -> None:
        """This job begins, now."""
        if seconds != BARE:
            self._send(number, False)

    def done(self, number: int) -> None:
        """This job has been run, now."""
        self._send(number, True)

    def run(self, number: int, seconds: float) -> None:
        """A whole job of so many seconds."""
        self.started(number, seconds)
        if seconds > 0:
            time.sleep(seconds)
        self.done(number)

    def close(self) -> None:
        self._socket.close()

    def _send(self, number: int, is_end: bool) -> None:
        self._socket.send(_FORM.pack(number, is_end, time.monotonic(), os.getpid()))


class PeerAdapter(ABC):
    """Adapter of one peer in one mode, on a directory of its own. Its processes are gone after `close`."""

    #: What is to be known of its run with a killed queue.
    survival_note = ""
    #: Where the workers are children of one process that can die, too: SIGKILL to it and to them, and another in its place.
    kill_all_workers: Callable[[], None] | None = None

    def __init__(self, mode: str, room: Path, done: Done) -> None:
        """Raises `Unavailable`."""
        self.mode = mode
        self.room = room
        self.done = done
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    @abstractmethod
    def versions(self) -> str:
        """Return the peer's name with versions."""

    @abstractmethod
    def start_server(self) -> None:
        """The queue, on the same data as before, and a connection to it. Raises `Unavailable`."""

    @abstractmethod
    def start_workers(self, count: int) -> None:
        """This many worker processes, or slots of one."""

    @abstractmethod
    def submit(self, number: int, seconds: float) -> None:
        """Hand in one job."""

    @abstractmethod
    def submit_all(self, numbers: Iterable[int], seconds: float) -> None:
        """Hand in these as fast as the peer takes them, each acknowledged as the peer does."""

    def fill(self, numbers: range) -> None:
        """Hand in these before any worker is there."""
        self.submit_all(numbers, BARE)

    @abstractmethod
    def kill_server(self) -> None:
        """SIGKILL to what holds the queue."""

    def kill_worker(self, pid: int) -> None:
        """SIGKILL to the process that runs a job."""
        os.kill(pid, signal.SIGKILL)

    def given_up(self, number: int) -> str:
        """Return the reason why this job will not be started again, as far as the peer reports it; "" when it may be."""
        return ""

    def close(self) -> None:
        """End everything."""
        for process in self._processes:
            end(process)

    def spawn(self, command: Sequence[str], chosen: set[int], server: str = "") -> subprocess.Popen[bytes]:
        """A process group on these cores."""
        environ = {**clean_environ(), DONE_VARIABLE: str(self.done.path), SERVER_VARIABLE: server}
        with pinned(chosen), (self.room / "peer.log").open("ab") as log:
            process = subprocess.Popen(
                list(command),
                cwd=self.room,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def spawn_workers(self, module: str, count: int, server: str) -> None:
        """`count` processes of a module."""
        for number in range(count):
            self.spawn([sys.executable, "-m", module, str(number)], worker_cores(), server)

    def await_port(self, port: int, process: subprocess.Popen[bytes]) -> None:
        """Return once the port is listened on. Raises `Unavailable`."""
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.05)
        lines = (self.room / "peer.log").read_text(errors="replace").strip().splitlines()
        raise Unavailable(f"its server does not start: {lines[-1][:200] if lines else 'it said nothing'}")


#: Taken before the driver is pinned.
_USABLE = cores()


def driver_cores() -> set[int]:
    """All but the workers' core."""
    return set(_USABLE[:-1]) if len(_USABLE) > 1 else set()


def worker_cores() -> set[int]:
    """The one that all workers share."""
    return set(_USABLE[-1:]) if len(_USABLE) > 1 else set()


def version_in(text: str) -> tuple[int, ...]:
    """The numbers in `nats-server: v2.9.10` or `Redis server v=7.0.15 …`; empty where there are none."""
    found = _VERSION.search(text)
    return tuple(map(int, found.groups())) if found else ()


def version_of(server: str) -> tuple[int, ...]:
    """Return the version in a server's `--version`."""
    return version_in(subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout)


def dotted(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version)) or "of unknown version"


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process group that `PeerAdapter.spawn` made."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_marked(mark: str, root: psutil.Process | None = None) -> None:
    """SIGKILL to every process with this mark in its environment, and to all below `root`: some hide their environment."""
    doomed: set[psutil.Process] = set()
    if root is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            doomed.update([root, *root.children(recursive=True)])
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK_VARIABLE) == mark:
                doomed.add(process)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(doomed), timeout=5.0)
