"""Jobs that were held when the broker started, whose workers have not come back yet."""

from __future__ import annotations

from collections.abc import Iterator


class Orphans:
    """Ids of these jobs, and by worker: ten thousand workers come back at once, and each requests its own."""

    def __init__(self) -> None:
        self._workers: dict[str, str] = {}
        self._jobs: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._workers

    def __iter__(self) -> Iterator[str]:
        return iter(self._workers)

    def add(self, job_id: str, worker: str) -> None:
        """Add a job that this worker held."""
        self._workers[job_id] = worker
        self._jobs.setdefault(worker, set()).add(job_id)

    def discard(self, job_id: str) -> None:
        """Remove a job, if it is there."""
        worker = self._workers.pop(job_id, None)
        if worker is not None:
            jobs = self._jobs[worker]
            jobs.discard(job_id)
            if not jobs:
                del self._jobs[worker]

    def of(self, worker: str) -> list[str]:
        """Jobs that this worker held, sorted."""
        return sorted(self._jobs.get(worker, ()))
