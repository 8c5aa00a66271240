"""A process of the service: started, waited for, signalled, measured. The harness of measurements and tests."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

import broker
from bench.report.errors import BenchError
from broker.runtime.settings import ENV_PREFIX

#: Where the packages lie.
ROOT = Path(broker.__file__).resolve().parents[1]

_LOOK_S = 0.02
#: A measurement of an engine may take so long.
_CHILD_S = 3_600.0


#: Below those that Linux, macOS and the BSDs give to outgoing connections: of those, one could be taken before it is listened on.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A TCP port that no process has now, nor the one after it, drawn from those that the system never assigns by itself."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, socket.socket() as after, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            after.bind(("127.0.0.1", port + 1))
            return port


def clean_environ(**more: str) -> dict[str, str]:
    """The environment of a process under test: none of the caller's settings, the packages that this file is part of, and `more`.

    Nothing is signed: the extra for it need not be installed, and what is measured is the same with and without it.
    """
    environ = {key: value for key, value in os.environ.items() if not key.startswith(ENV_PREFIX)}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return environ | {ENV_PREFIX + "CONTENT_CREDENTIALS": "off"} | more


def run_child(module: str, order: Struct, *, takes_s: float = 0.0) -> bytes | None:
    """Give `python -m MODULE` an order as JSON; its answer, None when it failed and has printed why.

    `takes_s`: how long it is to do something by this order; it may take `_CHILD_S` beside that.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=msgspec.json.encode(order),
        env=clean_environ(OMP_WAIT_POLICY="PASSIVE"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=takes_s + _CHILD_S,
        check=False,
    )
    return None if done.returncode else done.stdout


class Process(subprocess.Popen[bytes]):
    """`python -m ARGUMENTS` in a group of its own, with its output appended to a log."""

    def __init__(
        self,
        *arguments: str,
        log: Path,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        through: Sequence[str] = ("-m",),
        group: bool = True,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`cwd`: the log's directory unless given, so that no zoetrope.toml where the caller stands reaches it. `environ`: all of it.

        `before`: a command that becomes the process. `through`: what stands between python and the arguments.
        """
        self.log = log
        with log.open("ab") as file:
            super().__init__(
                [*before, sys.executable, *through, *arguments],
                cwd=cwd or log.parent,
                env=clean_environ() if environ is None else environ,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=group,
                pass_fds=pass_fds,
            )
        self.stats = psutil.Process(self.pid)

    # ------------------------------------------------------------ waiting

    def logged(self) -> str:
        """Everything in its log, that of earlier processes with the same one included."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def last_lines(self) -> str:
        """The last line of its log."""
        lines = self.logged().strip().splitlines()
        return lines[-1][:300] if lines else "it logged nothing"

    def check(self) -> None:
        """Raises `BenchError` when it has ended."""
        code = self.poll()
        if code is not None:
            raise BenchError(f"the {self.log.stem} ended with status {code}: {self.last_lines()}")

    def await_ready(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        """Return once the condition holds. Raises `BenchError` when the process ends before, or after `limit_s`."""
        give_up = time.monotonic() + limit_s
        while not condition():
            self.check()
            if time.monotonic() > give_up:
                raise BenchError(f"the {self.log.stem} shows no {what} after {limit_s:.0f} s: {self.last_lines()}")
            time.sleep(_LOOK_S)

    # ------------------------------------------------------------ ending

    def end(self, number: int = signal.SIGKILL, limit_s: float = 60.0) -> int:
        """Signal it and wait for its end; the return code. Raises `subprocess.TimeoutExpired`."""
        self.send_signal(number)
        return self.wait(limit_s)

    def stop(self, limit_s: float = 10.0) -> int | None:
        """SIGTERM, also where it was stopped by SIGSTOP, then SIGKILL after `limit_s`; the return code, None when it had to be killed."""
        self.send_signal(signal.SIGCONT)
        try:
            return self.end(signal.SIGTERM, limit_s)
        except subprocess.TimeoutExpired:
            self.end()
            return None

    # ------------------------------------------------------------ looking

    def queued_s(self) -> float:
        """Seconds for which its first thread could have run and had no processor; 0 where the system gives none."""
        try:
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return 0.0

    def cpu_s(self) -> float:
        """Seconds of processor time used so far, in the kernel and out of it, without its children's."""
        return cpu_seconds(self.stats)

    def memory_bytes(self) -> int:
        """Resident memory now."""
        return int(self.stats.memory_info().rss)

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants, as far as they live."""
        try:
            return [self.stats, *self.stats.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def agents(self) -> list[psutil.Process]:
        """The agents of `python -m workers` that live now."""
        return children(self.pid, "workers.agent")

    def engines(self) -> list[psutil.Process]:
        """The engines of its agents that live now."""
        return [engine for agent in self.agents() for engine in children(agent.pid, "workers.engine.loop")]


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of all threads of a process so far, its children's left out. Raises `psutil.NoSuchProcess`."""
    if sys.platform == "linux":
        # clock_getcpuclockid(3), in nanoseconds: /proc counts ticks of 10 ms, which a measurement of a second is too short for.
        with contextlib.suppress(OSError):
            return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return float(times.user + times.system)


def children(pid: int, module: str) -> list[psutil.Process]:
    """Child processes that run this module; none of a process that is gone."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                if module in child.cmdline():
                    found.append(child)
    return found


def end_all(processes: Sequence[Process], limit_s: float) -> list[psutil.Process]:
    """SIGTERM to all, SIGKILL to each of their families that is left after `limit_s`; the processes that had to be killed."""
    everybody = [member for process in processes for member in process.family()]
    for process in processes:
        if process.poll() is None:
            process.terminate()
    _, left = psutil.wait_procs(everybody, timeout=limit_s)
    alive: list[psutil.Process] = list(left)
    for one in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    for process in processes:
        process.wait(limit_s)
    return alive
