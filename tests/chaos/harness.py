"""A whole service as an operator runs it, and what plays the part of systemd: whatever dies is started again.

Broker, workers and each edge are processes of their own, started by the commands of the documentation. Between the broker's sockets and
everybody else are two `Proxy` cables: the edges' is a unix socket, the workers' tcp with CURVE, as from another machine, or a unix
socket too. The home lies on a small file system of its own where one can be mounted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import psutil

from bench.harness.process import ROOT, Process, children, clean_environ, free_port
from broker.depot.object_store import ObjectStore
from tests.chaos.proxy import Proxy, endpoint
from tests.support.faulty import Faults, Unbuildable
from tests.support.object_stores import BUCKET, LocalStore

#: As systemd's default `RestartSec`.
RESTART_S = 0.1
_WATCH_S = 0.02
#: From SIGTERM to SIGKILL at the end, as honcho; and what a process may take in all to answer a SIGTERM during the soak.
STOP_S = 5.0

#: Size of the file system under the home, MB; free space under which the broker refuses jobs, and its reserve.
DISK_MB, MIN_FREE_MB, RESERVE_MB = 96, 24, 8

#: Carried by every process of this service through its environment, children included.
MARK = "CHAOS_RUN"

#: Where results lie with `depot` "s3".
STORE_URL = f"s3://{BUCKET}/chaos"

#: Name of the workers' key where they come by tcp.
_KEY = "far"

_CLONE_NEWNS = 0x00020000


class Unit:
    """One process over all its lives."""

    def __init__(self, name: str, arguments: list[str], cwd: Path, environ: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.restarts = 0
        #: Ends that were not asked for: (seconds after the epoch, return code).
        self.faults: list[tuple[float, int]] = []
        #: Return codes after SIGTERM.
        self.stops: list[int] = []
        #: Codes that it may end with now, a full disk being the reason, and how many reasons there are.
        self.allowed: Counter[int] = Counter()
        self._arguments = arguments
        self._cwd = cwd
        self._environ = environ
        self._process: Process | None = None
        self._signalled: signal.Signals | None = None
        self._start_at: float | None = None

    @property
    def pid(self) -> int:
        """0 when it is not running."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    def start(self) -> None:
        """Start it; from now on it is started again whenever it ends."""
        self._signalled = None
        self._start_at = None
        self._process = Process(*self._arguments, log=self.log, cwd=self._cwd, environ=self._environ)

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it runs. What a lethal signal leads to is then no fault of its own."""
        if not self.pid:
            return
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._signalled = number
        os.kill(self.pid, number)

    def watch(self, now: float) -> None:
        """Notice an end, and start again when it is time."""
        if self._process is not None and self._process.poll() is not None:
            self._ended(self._process.returncode)
            self._process = None
            self._start_at = now + RESTART_S
        if self._start_at is not None and now >= self._start_at:
            self.restarts += 1
            self.start()

    def _ended(self, code: int) -> None:
        if self._signalled is signal.SIGTERM:
            self.stops.append(code)
        elif self._signalled is None and not self.allowed[code]:
            self.faults.append((time.time(), code))

    def stop(self) -> int | None:
        """SIGTERM and the code it ends with; None when it had to be killed. It is not started again."""
        self._start_at = None
        if self._process is None:
            return 0
        return self._process.stop(STOP_S)


class Service:
    """The units, the cables, the disk."""

    def __init__(self, workers: int, edges: int, *, tcp: bool, model: str = "fake", depot: str = "local") -> None:
        """`depot`: "edge" for workers that share nothing with the others but tcp, with a home of their own; "s3": and an object store for
        results. Raises `NoStore`."""
        self.workers = workers
        self._depot = depot
        self._model = model
        self.worker_names = tuple(f"{f'{_KEY}.' if tcp else ''}cpu-{number}" for number in range(workers))
        self.mark = uuid.uuid4().hex
        self.root = Path(tempfile.mkdtemp(prefix="zc-"))
        self.logs, self.start_dir, self.notes = self.root / "logs", self.root / "start", self.root / "notes"
        self._curve = self.root / "curve"
        for directory in (self.logs, self.start_dir, self.notes, self._curve, self.root / "run", self.root / "disk"):
            directory.mkdir(mode=0o700)
        self.disk_mounted = _mount(self.root / "disk")
        self.home = self.root / "disk" / "z"
        self.workers_home = self.home if depot == "local" else self.root / "far"
        #: The object store, and the port of the cable to it.
        self.store = LocalStore(self.root / "store", self.logs / "store.log") if depot == "s3" else None
        self._store_port = free_port()
        #: Sets the clock of all processes, and slows and fails flushes of the journal; None where it cannot be built.
        self.library = _library(self.root)
        self.ports = [free_port() for _ in range(edges)]
        self._back_port = free_port() if tcp else 0
        back = (free_port(), self._back_port) if tcp else (self.root / "run" / "back", self.home / "run" / "back.sock")
        self.cables = {
            "front": Proxy(self.root / "run" / "front", self.home / "run" / "front.sock"),
            "back": Proxy(*back),
        }
        if self.store is not None:
            self.cables["store"] = Proxy(self._store_port, self.store.port)
        self.units = {name: self._unit(name, arguments) for name, arguments in self._commands().items()}
        self._keeper: asyncio.Task[None] | None = None

    def _commands(self) -> dict[str, list[str]]:
        front, back = (endpoint(self.cables[side].address) for side in ("front", "back"))
        curve = ["--curve-dir", str(self._curve)] if self._back_port else []
        far = ["--back-tcp", endpoint(self._back_port), *curve] if self._back_port else []
        room = ["--min-free-mb", str(MIN_FREE_MB), "--reserve-mb", str(RESERVE_MB)] if self.disk_mounted else []
        # A stuck engine is found sooner than it would be in earnest, so that a short soak sees it happen.
        short = ["--step-floor-s", "3", "--first-step-budget-s", "4", "--save-budget-s", "5", "--decode-budget-s", "5"]
        if self._model != "fake":
            # What it computes takes its time on a busy machine. Its jobs are short, and have checkpoints all the same.
            short = ["--checkpoint-s", "0.1"]
        results = ["--results-store", STORE_URL] if self.store is not None else []
        edges = {
            f"edge-{n}": ["http_edge", "--host", "127.0.0.1", "--port", str(port), *results]
            for n, port in enumerate(self.ports)
        }
        return {
            "broker": ["broker", *room, *far],
            "workers": [
                "workers",
                "--gpus",
                f"cpu:{self.workers}",
                "--model",
                self._model,
                "--back",
                back,
                "--depot",
                f"http://127.0.0.1:{self.ports[0]}" if self._depot != "local" else "local",
                *results,
                *short,
                *curve,
            ],
            **{name: [*command, "--front", front, "--broker-timeout-s", "4"] for name, command in edges.items()},
        }

    def _unit(self, name: str, arguments: list[str]) -> Unit:
        preload = self.library.environ if self.library else {}
        stored = self.store.environ(self._store_port) if self.store is not None else {}
        environ = clean_environ(**{MARK: self.mark, "PYTHONUNBUFFERED": "1", **preload, **stored})
        home = self.workers_home if name == "workers" else self.home
        return Unit(name, [*arguments, "--home", str(home)], self.start_dir, environ, self.logs / f"{name}.log")

    @property
    def edges(self) -> list[Unit]:
        return [unit for name, unit in self.units.items() if name.startswith("edge-")]

    @property
    def objects(self) -> ObjectStore | None:
        """The store as the soak itself sees it, beside the cable."""
        if self.store is None:
            return None
        os.environ.update(self.store.environ())
        return ObjectStore.of(STORE_URL)

    async def start(self) -> None:
        """Start everything, and keep it running."""
        if self.store is not None:
            await asyncio.to_thread(self.store.start)
        for cable in self.cables.values():
            await cable.start()
        if self._back_port:
            for words in (["init"], ["add", _KEY, "--role", "worker", "--here"]):
                command = [sys.executable, "-m", "broker", "keys", *words, "--curve-dir", str(self._curve)]
                await asyncio.to_thread(subprocess.run, command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for unit in self.units.values():
            unit.start()
        self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            for unit in self.units.values():
                unit.watch(time.monotonic())
            await asyncio.sleep(_WATCH_S)

    async def stop(self) -> dict[str, int | None]:
        """SIGTERM to everything, the broker last; how each ended."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        units = sorted(self.units.values(), key=lambda unit: unit.name == "broker")
        codes = {unit.name: await asyncio.to_thread(unit.stop) for unit in units}
        for cable in self.cables.values():
            await cable.close()
        if self.store is not None:
            await asyncio.to_thread(self.store.kill)
        return codes

    def kill_everything(self) -> list[str]:
        """End what still runs of this service, found by its mark; command lines of what there was."""
        left = self.processes()
        lines = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                lines.append(f"{process.pid} {' '.join(process.cmdline())}")
                process.kill()
        psutil.wait_procs(left, timeout=5)
        return lines

    def processes(self) -> list[psutil.Process]:
        """Every living process of this service, whoever its parent is now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def agents(self) -> list[psutil.Process]:
        pid = self.units["workers"].pid
        return children(pid, "workers.agent") if pid else []

    def engines(self) -> list[psutil.Process]:
        return [engine for agent in self.agents() for engine in children(agent.pid, "workers.engine.loop")]

    def remove(self) -> None:
        """Take everything off the disk."""
        if self.disk_mounted:
            subprocess.run(["umount", "--lazy", str(self.root / "disk")], check=False)
        shutil.rmtree(self.root, ignore_errors=True)


def _library(directory: Path) -> Faults | None:
    try:
        return Faults(directory, path="jobs.sqlite")
    except Unbuildable:
        return None


def _mount(directory: Path) -> bool:
    """Mount a small file system there, in a mount namespace that dies with us; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or libc.unshare(_CLONE_NEWNS) != 0:
        return False
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0700", "chaos", str(directory)],
    ):
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            return False
    return True
