"""A real broker in a home of its own, on a core of its own."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

import broker
from bench.report.errors import BenchError
from broker.runtime.settings import ENV_PREFIX, CommonSettings

_COMMITS = re.compile(r"^zoetrope_commit_seconds_count (\S+)$", re.MULTILINE)

START_S = 20.0
STOP_S = 10.0


@contextlib.contextmanager
def temporary_home(directory: str) -> Iterator[Path]:
    """A new directory below `directory` ("" for the system's), gone afterwards. Raises `BenchError`."""
    try:
        home = Path(tempfile.mkdtemp(prefix="zoetrope-bench-", dir=directory or None))
    except OSError as error:
        raise BenchError(f"--directory: {directory!r} cannot hold a temporary home: {error.strerror}") from None
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def cores() -> list[int]:
    """The cores this process may use; empty where the system cannot say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextlib.contextmanager
def pinned(chosen: set[int]) -> Iterator[None]:
    """Run this thread, and all threads and processes it starts meanwhile, on these cores; on any when none are named."""
    if not chosen:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def clean_environ() -> dict[str, str]:
    """The environment of a process under test: nothing of the caller's settings, and the packages that this bench is part of."""
    root = str(Path(broker.__file__).resolve().parents[1])
    environ = {key: value for key, value in os.environ.items() if not key.startswith(ENV_PREFIX)}
    environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return environ


def raise_file_limit() -> None:
    """As many descriptors as the system lets this process, and those it starts, have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class BrokerProcess:
    """`python -m broker` with nothing from the caller's settings. Raises `BenchError` when it does not come up."""

    def __init__(self, home: Path, broker_cores: set[int], options: Sequence[str] = ()) -> None:
        self.settings = CommonSettings(home=str(home))
        self._log = home / "broker.log"
        self._metrics = home / "metrics.prom"
        command = [sys.executable, "-m", "broker", "--home", str(home), "--log-level", "warning"]
        command += ["--metrics-file", str(self._metrics), *options]
        with pinned(broker_cores), self._log.open("wb") as log:
            # Started from its home: a zoetrope.toml where the caller stands must not reach it.
            self._process = subprocess.Popen(
                command, cwd=home, env=clean_environ(), stdout=log, stderr=subprocess.STDOUT
            )
        self._stats = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_sockets(self) -> None:
        """Return once both sockets are there."""
        files = [
            Path(end.removeprefix("ipc://")) for end in (self.settings.front_endpoint, self.settings.back_endpoint)
        ]
        give_up = time.monotonic() + START_S
        while not all(file.exists() for file in files):
            self.check()
            if time.monotonic() > give_up:
                raise BenchError(f"the broker has not bound its sockets after {START_S:.0f} s: {self.last_words()}")
            time.sleep(0.02)

    def check(self) -> None:
        """Raises `BenchError` when the broker has ended."""
        code = self._process.poll()
        if code is not None:
            raise BenchError(f"the broker ended with status {code}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line it logged."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it logged nothing"

    def cpu_s(self) -> float:
        """Seconds of processor time used so far, in the kernel and out of it."""
        times = self._stats.cpu_times()
        return float(times.user + times.system)

    def memory_mb(self) -> float:
        """Resident memory now."""
        return float(self._stats.memory_info().rss / 2**20)

    def commits(self, since: float) -> int | None:
        """Commits of the journal so far, once the broker has written its metrics after `since` (Unix seconds); else None."""
        try:
            if self._metrics.stat().st_mtime <= since:
                return None
            found = _COMMITS.search(self._metrics.read_text(encoding="utf-8"))
        except OSError:
            return None
        return int(float(found[1])) if found else None

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after `STOP_S`."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
