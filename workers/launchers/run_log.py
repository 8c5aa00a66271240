"""The run of a pool as a file: a JSON object a line, one for each change of its numbers and one for each thing that was done.

`scripts/draw_pool.py` draws it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from broker.runtime.log_actions import Action

logger = logging.getLogger(__name__)

_MOST_BYTES = 16 * 2**20


class Sample(Struct, frozen=True):
    """The pool at a moment. `at`: Unix time; `phases`: workers by what they do."""

    at: float
    backlog_s: float
    waiting: int
    wanted: int
    phases: dict[str, int]


class Event(Struct, frozen=True):
    """Event of a worker."""

    at: float
    event: str
    worker: str
    detail: str = ""


class RunLog:
    """Appends to the file; one that cannot be written is reported once, and stops nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: Sample | None = None
        self._failed = False

    def sample(self, sample: Sample) -> None:
        """Write a sample unless it equals the last one."""
        if self._last is None or replace(sample, at=self._last.at) != self._last:
            self._write(sample)
        self._last = sample

    def event(self, at: float, event: str, worker: str, detail: str = "") -> None:
        """Write an event."""
        self._write(Event(at, event, worker, detail))

    def _write(self, line: Struct) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size > _MOST_BYTES:
                self.path.replace(self.path.with_suffix(".jsonl.1"))
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            if not self._failed:
                detail = f"{str(self.path)!r} cannot be written: {error.strerror}"
                logger.error("no log of the pool", extra={"action": Action.POOL, "detail": detail})
            self._failed = True
