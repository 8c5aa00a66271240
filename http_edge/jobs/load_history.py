"""How busy the pool was over the last hour: samples of the broker's view of it, kept by each edge for itself, for people who look at it.

A few numbers every ten seconds, so that a page can draw them without a metrics server; what Prometheus scrapes is `metrics`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from msgspec import Struct

from broker.wire.messages import PoolView
from broker.wire.terms import FINAL_NAMES

#: Between two samples, seconds.
PERIOD_S = 10.0

_KEPT = 360

#: States in which a worker takes part in the work.
_AT_WORK = ("idle", "busy")


class LoadSample(Struct, frozen=True, kw_only=True):
    """The pool at one moment; `finished`, by how they ended, since the sample before."""

    at: float
    workers: int
    busy: int
    waiting: int
    running: int
    #: Predicted wait of a job that came then, seconds.
    wait_s: float
    finished: dict[str, int]


class LoadHistory:
    """The samples of the last hour, the oldest first."""

    def __init__(self) -> None:
        self.samples: deque[LoadSample] = deque(maxlen=_KEPT)
        #: Counts of jobs that ended since the broker started, and which start that was.
        self._ended: dict[str, int] = {}
        self._epoch = 0

    def add(self, pool: PoolView) -> None:
        """Take a sample. Jobs that ended before the first one, or before the broker started anew, are not counted."""
        counts = pool.counts
        states = [worker.state for worker in pool.workers]
        before = self._ended if pool.epoch == self._epoch else counts if not self._epoch else {}
        self.samples.append(
            LoadSample(
                at=round(pool.now, 3),
                workers=sum(state in _AT_WORK for state in states),
                busy=states.count("busy"),
                waiting=_sum(counts, "queued", "delayed"),
                running=_sum(counts, "assigned", "running"),
                wait_s=round(pool.wait_s, 3),
                finished={state: max(0, counts.get(state, 0) - before.get(state, 0)) for state in FINAL_NAMES},
            )
        )
        self._ended, self._epoch = dict(counts), pool.epoch


def _sum(counts: Mapping[str, int], *states: str) -> int:
    return sum(counts.get(state, 0) for state in states)
