"""A heap of absolute times, one a key, that can be moved and taken back.

Moving or taking back leaves the old entry in the heap (lazy deletion); the heap is rebuilt when more than half of it is stale, so its
size stays within twice the number of keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

Key = tuple[str, str]


class Deadlines:
    """Times at which the core is to be woken."""

    def __init__(self) -> None:
        self._at: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: Key, at: float) -> None:
        """Wake for `key` at `at`, in place of any time set for it before."""
        self._at[key] = at
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._at) + 16:
            self._heap = [(when, kept) for kept, when in self._at.items()]
            heapq.heapify(self._heap)

    def clear(self, key: Key) -> None:
        """Forget `key`; unknown keys are fine."""
        self._at.pop(key, None)

    def has(self, key: Key) -> bool:
        return key in self._at

    def next(self) -> float | None:
        """The earliest time; None: there is none."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Key]:
        """Take out every key whose time has come, earliest first, each when it is requested.

        A key that was cleared or moved since this began is passed over; one that was set since then waits for the next call.
        """
        entries = []
        while self._heap and self._heap[0][0] <= now:
            entries.append(heapq.heappop(self._heap))
        for at, key in entries:
            if self._at.get(key) == at:
                del self._at[key]
                yield key

    def _drop_stale(self) -> None:
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
