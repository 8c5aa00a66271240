"""Virtual time: a heap of things to do, and a clock that jumps from one to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable

START = 1_000_000.0

#: More than this within a second, and nobody waits for anything any more.
_SPIN = 20_000


class Spinning(AssertionError):
    """Time stands still: two sides answer each other without end."""


class Timeline:
    """What will happen, in order; things of one moment happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = START
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0

    def clock(self) -> float:
        return self.now

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do this then; at once if that is past."""
        self._planned += 1
        heapq.heappush(self._heap, (max(when, self.now), self._planned, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def run(self, until: float) -> None:
        """Let time pass."""
        heap = self._heap
        begun_at, actions = self.now, 0
        while heap and heap[0][0] <= until:
            self.now, _, action = heapq.heappop(heap)
            action()
            actions += 1
            if actions == _SPIN:
                if self.now - begun_at < 1.0:
                    raise Spinning(f"{_SPIN} things happen at {self.now:.3f}")
                begun_at, actions = self.now, 0
        self.now = until


class Alarm:
    """One wish to be woken, which each new wish replaces."""

    def __init__(self, timeline: Timeline, action: Callable[[], None]) -> None:
        self._timeline = timeline
        self._action = action
        self._at: float | None = None

    def set(self, when: float | None) -> None:
        """Wake then, and not as wished before; None: not at all."""
        if when is not None:
            when = max(when, self._timeline.now)
            if when != self._at:
                self._timeline.at(when, lambda: self._ring(when))
        self._at = when

    def _ring(self, when: float) -> None:
        if self._at == when:
            self._at = None
            self._action()
