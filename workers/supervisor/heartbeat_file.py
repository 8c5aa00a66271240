"""Heartbeat file of a supervisor: what a probe without a port reads, and `python -m workers healthy`, which reads it.

The file is replaced with each beat, so that a reader gets a whole one, and removed at the end. It is *alive* while its time is recent, and
*ready* when the engine of at least one worker has its model in memory.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from broker.runtime.log_actions import Action

logger = logging.getLogger(__name__)

#: Seconds between two beats, and the age at which a probe takes the supervisor for dead.
BEAT_S = 5.0
DEAD_S = 30.0

#: Exit codes of the probe: 2 is for its options, as everywhere.
EXIT_HEALTHY, EXIT_UNHEALTHY = 0, 1

_DESCRIPTION = """\
Look at the heartbeat file of a running `python -m workers --heartbeat-file FILE`: for exec probes of containers, which need no port.
Exit codes: 0 it is alive (with --ready: and a worker has its model in memory); 1 it is not; 2 an option is wrong.
"""


class WorkerBeat(Struct, frozen=True):
    """One worker of a beat."""

    name: str
    #: Process id of its agent; 0: there is none now.
    pid: int
    #: Whether its engine has a model in memory.
    ready: bool


class Beat(Struct, frozen=True):
    """Content of the file. `at`: Unix time."""

    pid: int
    at: float
    workers: tuple[WorkerBeat, ...]


class HeartbeatFile:
    """Writer of the file; without a path it writes nothing."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._due_at = 0.0
        self._written: tuple[WorkerBeat, ...] | None = None
        self._failed = False

    @property
    def due_at(self) -> float | None:
        """Time of the next beat, by the supervisor's clock; None: never."""
        return self._due_at if self._path is not None else None

    def beat(self, workers: tuple[WorkerBeat, ...], now: float) -> None:
        """Write a beat if one is due or a worker has changed. A file that cannot be written is logged once, and stops nothing."""
        if self._path is None or (now < self._due_at and workers == self._written):
            return
        self._due_at, self._written = now + BEAT_S, workers
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(msgspec.json.encode(Beat(os.getpid(), time.time(), workers)))
            os.replace(temporary, self._path)
        except OSError as error:
            if not self._failed:
                detail = f"the heartbeat file {str(self._path)!r} cannot be written: {error.strerror}"
                logger.error("no heartbeat file", extra={"action": Action.HEARTBEAT_FILE, "detail": detail})
            self._failed = True
        else:
            self._failed = False

    def remove(self) -> None:
        """Remove the file: the supervisor ends."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Judge the file named in `argv`, else in the environment; prints why it is unhealthy, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers healthy", description=_DESCRIPTION)
    named = environ.get("ZOETROPE_HEARTBEAT_FILE", "")
    parser.add_argument("--heartbeat-file", default=named, help="the file (ZOETROPE_HEARTBEAT_FILE)")
    parser.add_argument("--max-age-s", type=float, default=DEAD_S, help=f"oldest beat that counts ({DEAD_S:g})")
    parser.add_argument("--ready", action="store_true", help="a worker must have its model in memory, too")
    options = parser.parse_args(argv)
    if not options.heartbeat_file:
        parser.error("--heartbeat-file: name the file that `python -m workers --heartbeat-file FILE` writes")
    fault = fault_of(Path(options.heartbeat_file), time.time(), max_age_s=options.max_age_s, ready=options.ready)
    if fault:
        print(f"workers healthy: {fault}", file=sys.stderr)
        return EXIT_UNHEALTHY
    return EXIT_HEALTHY


def fault_of(path: Path, now: float, *, max_age_s: float, ready: bool) -> str:
    """Fault of the supervisor that writes this file, at this Unix time; "": none."""
    try:
        beat = msgspec.json.decode(path.read_bytes(), type=Beat)
    except FileNotFoundError:
        return f"{str(path)!r} does not exist: nothing runs that writes it"
    except (OSError, ValueError) as error:
        return f"{str(path)!r} cannot be read: {error}"
    if (age_s := now - beat.at) > max_age_s:
        return f"the last beat is {age_s:.0f} s old, at most {max_age_s:g} s is alive"
    if ready and not any(worker.ready for worker in beat.workers):
        return f"none of {len(beat.workers)} workers has its model in memory"
    return ""
