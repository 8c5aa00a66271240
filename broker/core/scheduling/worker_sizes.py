"""Sizes of workers, which are GPUs of each: of all that are there, and of those that could run a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from broker.core.scheduling import placement
from broker.core.scheduling.placement import Requirements

#: Kinds of jobs whose workers' sizes are remembered.
_MAX_KINDS = 1024


class Worker(placement.Candidate, Protocol):
    """The part of a worker that is read."""

    lost: bool


class WorkerSizes:
    """Sizes of these workers, lost ones left out."""

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        """`workers` by name: the pool's own, of which each change is noted here."""
        #: GPUs of each worker, where all have as many; else 0.
        self.one = 0
        self._workers = workers
        self._by_name: dict[str, int] = {}
        self._counts: Counter[int] = Counter()
        #: By model and GPUs of jobs, worked out on request.
        self._fitting: dict[tuple[str, int], tuple[tuple[int, int], ...]] = {}

    def note(self, name: str, gpus: int) -> None:
        """Note that a worker has so many GPUs from now on; 0: it is gone, or lost."""
        self._fitting.clear()
        counts = self._counts
        old = self._by_name.pop(name, 0)
        if old:
            counts[old] -= 1
            if not counts[old]:
                del counts[old]
        if gpus:
            self._by_name[name] = gpus
            counts[gpus] += 1
        self.one = next(iter(counts)) if len(counts) == 1 else 0

    def fitting(self, required: Requirements) -> tuple[tuple[int, int], ...]:
        """(GPUs, number of workers) of the workers that could run such a job, ascending."""
        if required.pinned:
            worker = self._workers.get(required.pinned)
            return ((worker.info.gpus, 1),) if worker is not None and _could_run(required, worker) else ()
        kind = required.model, required.gpus
        found = self._fitting.get(kind)
        if found is None:
            if len(self._fitting) >= _MAX_KINDS:
                self._fitting.clear()
            sizes = Counter(worker.info.gpus for worker in self._workers.values() if _could_run(required, worker))
            found = self._fitting[kind] = tuple(sorted(sizes.items()))
        return found


def _could_run(required: Requirements, worker: Worker) -> bool:
    return not worker.lost and placement.fits(required, worker)
