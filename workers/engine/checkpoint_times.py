"""Times at which a state of a job is to be kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: After its last step a job is kept too, so that one which dies in its decoding decodes again and takes no step twice; but not for steps
#: that took less than this share of the time between two checkpoints: short jobs would write a file each.
_LAST_SHARE = 0.1

#: Two checkpoints are no closer than this share of the time between them, however long steps and writes take.
_LEAST_SHARE = 0.5


class CheckpointTimes:
    """Times of one attempt: no more than `every_s` of denoising lies between two checkpoints, until the later one is there."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._every_s = every_s
        #: Since when denoising is in no checkpoint; None: it has not begun.
        self._since: float | None = None
        #: When the last step ended, and what the next is expected to take; the same of a file.
        self._stepped_at: float | None = None
        self._step_s = self._write_s = 0.0
        #: Files are written by another thread.
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Denoising begins, or goes on with another output: time counts from the first of these."""
        self._stepped_at = self.clock()
        if self._since is None:
            self._since = self._stepped_at

    def stepped(self) -> None:
        """A step has ended."""
        now = self.clock()
        if self._stepped_at is not None:
            self._step_s = _next(now - self._stepped_at, self._step_s)
        self._stepped_at = now

    def kept(self) -> None:
        """The state after the last step is being kept."""
        self._since = self._stepped_at if self._stepped_at is not None else self.clock()

    def wrote(self, took_s: float) -> None:
        """A file took so long."""
        with self._lock:
            self._write_s = _next(took_s, self._write_s)

    def due(self) -> bool:
        """Whether a state is to be kept now: kept after one more step, it would be there later than `every_s` after the one before."""
        unkept_s = self._unkept_s()
        with self._lock:
            there_s = unkept_s + self._step_s + self._write_s
        return unkept_s >= _LEAST_SHARE * self._every_s and there_s >= self._every_s

    def last_due(self) -> bool:
        """The same after the last step of the last output."""
        return self._unkept_s() >= _LAST_SHARE * self._every_s

    def _unkept_s(self) -> float:
        """Seconds of denoising that are in no checkpoint; before it begins, less than none."""
        return self.clock() - self._since if self._since is not None else -1.0


def _next(took_s: float, expected_s: float) -> float:
    """The time that the next is expected to take: one that was slow, on a busy machine, is not forgotten with a quick one."""
    return max(took_s, (expected_s + took_s) / 2)
