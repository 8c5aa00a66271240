"""Workers in a process of their own, by which a measurement of many has the view of one worker.

One thread that plays thousands of workers reads each of them late. A few beside it, alone in their process, are read at once: how long
they wait from a result to the next job is the broker's own part, and what their process itself was late by is reported beside it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from bench.harness.crowd import WorkerCrowd
from bench.harness.process import ROOT, clean_environ
from bench.report.errors import BenchError

#: Beyond the run, until the child has ended.
_END_S = 30.0


class ProbeOrder(Struct, frozen=True, kw_only=True):
    """So many workers, for so long."""

    endpoint: str
    count: int
    hold_s: float
    seconds: float
    seed: int


class Probed(Struct, frozen=True, kw_only=True):
    """Seconds from each result to the next job, and by which the process was late where it only waited for time to pass."""

    dispatches: list[float]
    late: list[float]


class Probes:
    """The process, from its start to its answer."""

    def __init__(self, order: ProbeOrder) -> None:
        self._limit_s = order.seconds + _END_S
        # Not a pipe: the answer may be more than one holds, and is read once the process has ended.
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=self._answer,
            env=clean_environ(),
            cwd=ROOT,
        )
        assert self._child.stdin is not None
        with self._child.stdin as stdin:
            stdin.write(msgspec.json.encode(order))

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child.poll() is not None

    def result(self) -> Probed:
        """Wait for its end. Raises `BenchError` when it failed."""
        if self._child.wait(self._limit_s):
            raise BenchError(f"the probes ended with status {self._child.returncode}")
        self._answer.seek(0)
        return msgspec.json.decode(self._answer.read(), type=Probed)

    def close(self) -> None:
        """End it, if it runs."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self._answer.close()


@contextlib.contextmanager
def probing(order: ProbeOrder) -> Iterator[Probes]:
    """Probes while the block runs."""
    probes = Probes(order)
    try:
        yield probes
    finally:
        probes.close()


def main() -> None:
    """Do what is requested on stdin, and answer on stdout."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=ProbeOrder)
    crowd = WorkerCrowd(order.endpoint, order.count, order.hold_s, order.seed, lambda: None, name="probe")
    with contextlib.closing(crowd):
        crowd.serve(order.seconds)
        probed = Probed(dispatches=crowd.dispatches, late=crowd.late)
    sys.stdout.buffer.write(msgspec.json.encode(probed))


if __name__ == "__main__":
    main()
