"""A real broker in a home of its own, on a core of its own."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.harness.process import Process
from bench.report.errors import BenchError
from broker.runtime.settings import CommonSettings

_COMMITS = re.compile(r"^zoetrope_commit_seconds_count (\S+)$", re.MULTILINE)

START_S = 20.0


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
    """The cores this process may use; empty where the system gives none."""
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


def raise_file_limit() -> int:
    """Raise the limit of descriptors of this process and its children as far as the system allows; that limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class BrokerProcess(Process):
    """`python -m broker` with nothing from the caller's settings, on these cores."""

    def __init__(self, home: Path, broker_cores: set[int], options: Sequence[str] = ()) -> None:
        self.settings = CommonSettings(home=str(home))
        self._metrics = home / "metrics.prom"
        arguments = ["broker", "--home", str(home), "--log-level", "warning", "--metrics-file", str(self._metrics)]
        with pinned(broker_cores):
            super().__init__(*arguments, *options, log=home / "broker.log", group=False)

    def await_sockets(self) -> None:
        """Return once both sockets are there. Raises `BenchError`."""
        ends = self.settings.front_endpoint, self.settings.back_endpoint
        files = [Path(end.removeprefix("ipc://")) for end in ends]
        self.await_ready(lambda: all(file.exists() for file in files), START_S, "bound sockets")

    def memory_mb(self) -> float:
        """Resident memory now."""
        return self.memory_bytes() / 2**20

    def commits(self, since: float) -> int | None:
        """Commits of the journal so far, once the broker has written its metrics after `since` (Unix seconds); else None."""
        try:
            if self._metrics.stat().st_mtime <= since:
                return None
            found = _COMMITS.search(self._metrics.read_text(encoding="utf-8"))
        except OSError:
            return None
        return int(float(found[1])) if found else None
