"""Load of the pool over the last hour: a few numbers every ten seconds, so that a page can draw them without a metrics server.

Kept here and not by edges: all of them show the same, and one that is started again too. A broker that is started again begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from broker.wire.load import LoadSample
from broker.wire.terms import FINAL, JobState

_KEPT = 360


class LoadHistory:
    """The samples of the last hour, the oldest first."""

    def __init__(self) -> None:
        self.samples: deque[LoadSample] = deque(maxlen=_KEPT)
        self._ended: dict[JobState, int] = {}

    def ended_since(self, counts: Mapping[JobState, int]) -> dict[str, int]:
        """Number of jobs that ended since the newest sample, by how they did; `counts`, of all that are known, fall with deleted ones."""
        return {ending.value: max(0, counts[ending] - self._ended.get(ending, 0)) for ending in sorted(FINAL)}

    def add(self, sample: LoadSample, counts: Mapping[JobState, int]) -> None:
        """Keep a sample that was taken with these counts."""
        self.samples.append(sample)
        self._ended = {ending: counts[ending] for ending in FINAL}
