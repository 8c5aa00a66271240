"""Waiting jobs by the time at which they must start, lest they wait for more than so many times what they take.

The order of the queue is fair between tenants and ages; this one has only the jobs that must not wait any longer for a long one. A job that
leaves the queue leaves its entry behind, which is dropped when it is met.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator

#: Entries there may be, beside twice as many as there were jobs that waited when they were last gone through.
_SLACK = 64


class Urgency:
    """Jobs and their latest starts, the soonest first."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, str]] = []
        self._most = _SLACK
        #: Whether one was noted since this was last set to False.
        self.grown = False

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, job_id: str, start_by: float) -> None:
        """Note a job that waits from now on."""
        insort(self._entries, (start_by, job_id))
        self.grown = True

    def soonest(self, waits: Callable[[str], bool], since: float, until: float) -> Iterator[tuple[float, str]]:
        """(latest start, job) of those that wait and must start in this time, the soonest first; earlier ones are dropped.

        Not to be gone on with once the queue has changed.
        """
        entries = self._entries
        gone = 0
        while gone < len(entries) and (entries[gone][0] < since or not waits(entries[gone][1])):
            gone += 1
        del entries[:gone]
        if len(entries) > self._most:
            self._entries = entries = [entry for entry in entries if waits(entry[1])]
            self._most = 2 * len(entries) + _SLACK
        for entry in entries:
            if entry[0] > until:
                return
            if waits(entry[1]):
                yield entry
