"""Which worker runs a job: pure choices over what is known of the workers.

Late binding: a worker is chosen only when it has room, so no load statistics are needed. Among those with room, prefer one that has the
model in memory, then one with nothing in memory, then the smallest that fits, then the one that has waited longest.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.jobs import Job
from broker.core.pool import Worker
from broker.core.queue import Lane

#: Model affinity may put other work before a job for at most this many times the time its model takes to load.
SKIP_FACTOR = 4.0


def fits(lane: Lane, worker: Worker) -> bool:
    """Whether this worker could ever run jobs of this lane."""
    return (
        lane.model in worker.models
        and lane.gpus <= worker.info.gpus
        and (not lane.pinned or lane.pinned == worker.name)
    )


def choose(job: Job, candidates: Iterable[Worker]) -> Worker | None:
    """The best of the workers that have room and fit; None when there is none."""

    def rank(worker: Worker) -> tuple[int, int, float, str]:
        loaded = 0 if worker.model == job.model else 1 if not worker.model else 2
        return loaded, worker.info.gpus, worker.idle_since, worker.name

    return min(candidates, key=rank, default=None)


def may_skip(job: Job, other_cost_s: float, reload_s: float) -> bool:
    """Whether work of the model in memory may go before `job`, whose model is not: bounded by `SKIP_FACTOR` reloads in all."""
    return job.skipped_s + other_cost_s <= SKIP_FACTOR * reload_s
