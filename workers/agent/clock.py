"""A clock of awake time: it stands still while this process does."""

from __future__ import annotations

import time
from collections.abc import Callable

#: A wait may overrun by this much before it counts as a stall, in seconds.
_TOLERANCE_S = 0.5


class AwakeClock:
    """Monotonic seconds, less the time in which a wait overran: the process was stopped, or the machine slept.

    Without this, an agent that wakes after a pause would hold the pause against the engine (which was paused, too) and against the broker.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stalled_s = 0.0
        self._waited_from = clock()

    def now(self) -> float:
        """The time."""
        return self._clock() - self._stalled_s

    def waiting(self) -> None:
        """A wait begins."""
        self._waited_from = self._clock()

    def woke(self, timeout_s: float) -> float:
        """A wait that was to last `timeout_s` at most is over. Returns the stall in it, in seconds, which is not counted."""
        over = self._clock() - self._waited_from - timeout_s
        stall = over if over > _TOLERANCE_S else 0.0
        self._stalled_s += stall
        return stall
