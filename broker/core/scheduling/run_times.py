"""Run times of jobs on the workers that there are: `costs` by the sizes of those that could take a job.

A job that is in an engine takes what it takes on that worker. One that waits is taken to run as long as jobs do on the mean of the
workers that could run it, each counted as often as it would take one: so the work that waits, over the number of these workers, is the time
until it is done. A promise counts on the slowest of them, the smallest.

Fair shares and usage count GPU-seconds: all GPUs of the worker that has a job, whatever it requested, as no other job has them meanwhile.
"""

from __future__ import annotations

from broker.core.scheduling.costs import Costs
from broker.core.scheduling.placement import Requirements
from broker.core.scheduling.worker_sizes import WorkerSizes


class RunTimes:
    """Predictions for jobs that wait, by what they request."""

    def __init__(self, costs: Costs, sizes: WorkerSizes) -> None:
        self._costs = costs
        self._sizes = sizes

    def least_gpus(self, required: Requirements) -> int:
        """GPUs of the smallest worker that could run such a job; while there is none, of one like that which last did."""
        one = self._sizes.one
        if one and one >= required.gpus:
            return one
        sizes = self._sizes.fitting(required)
        return sizes[0][0] if sizes else max(required.gpus, self._costs.last_size.get(required.model, 1))

    def predict(self, required: Requirements, units: float) -> float:
        """Seconds; a guess, good for comparing jobs, where nothing is known: see `Costs.predict`."""
        one = self._sizes.one
        if one and one >= required.gpus:
            return self._costs.predict(required.model, units, one)
        return self._mean_s(required, units)

    def estimate(self, required: Requirements, units: float) -> float | None:
        """Seconds; None where a prediction is not worth showing."""
        return self.predict(required, units) if self.can_predict(required, units) else None

    def can_predict(self, required: Requirements, units: float) -> bool:
        """Whether a prediction for a job of this size is worth showing and acting on."""
        return self._costs.can_predict(required.model, units, self.least_gpus(required))

    def outlook(self, required: Requirements, units: float) -> tuple[float, float] | None:
        """(seconds; how many times as long a job takes at most), for showing; None where neither is worth it."""
        one = self._sizes.one
        if one and one >= required.gpus:
            return self._costs.outlook(required.model, units, one)
        slowest = self._costs.outlook(required.model, units, self.least_gpus(required))
        if slowest is None:
            return None
        mean_s = self._mean_s(required, units)
        return mean_s, slowest[1] * slowest[0] / mean_s if mean_s > 0.0 else slowest[1]

    def spread(self, required: Requirements, units: float) -> float:
        """As `Costs.spread`, on the slowest worker that could run it."""
        return self._costs.spread(required.model, units, self.least_gpus(required))

    def quantile(self, required: Requirements, units: float, confidence: float) -> float | None:
        """As `Costs.quantile`, on the slowest worker that could run it."""
        return self._costs.quantile(required.model, units, confidence, self.least_gpus(required))

    def gpu_seconds(self, required: Requirements, seconds: float) -> float:
        """GPU-seconds that a job of so many predicted seconds will likely be charged: on the mean of the workers that could run it."""
        one = self._sizes.one
        if one and one >= required.gpus:
            return seconds * one
        sizes = self._sizes.fitting(required)
        if not sizes:
            return seconds * self.least_gpus(required)
        return seconds * sum(gpus * count for gpus, count in sizes) / sum(count for _, count in sizes)

    def seconds_on(self, required: Requirements, seconds: float, gpus: int) -> float:
        """Convert seconds that were predicted for such jobs on the mean of the workers into those on workers of one size."""
        sizes = self._sizes.fitting(required)
        if not sizes or (len(sizes) == 1 and sizes[0][0] == gpus):
            return seconds
        paces = {size: self._costs.pace(required.model, size) for size, _ in sizes}
        rate = sum(count / max(paces[size], 1e-9) for size, count in sizes)
        mean_s = sum(count for _, count in sizes) / rate
        return seconds * self._costs.pace(required.model, gpus) / mean_s

    def by_size(self, required: Requirements, units: float) -> dict[int, tuple[float, float]]:
        """By GPUs of the workers that could run it: (seconds, their standard deviation)."""
        sizes = self._sizes.fitting(required) or ((self.least_gpus(required), 1),)
        found = {}
        for gpus, _ in sizes:
            takes_s = self._costs.predict(required.model, units, gpus)
            found[gpus] = takes_s, takes_s * self._costs.spread(required.model, units, gpus)
        return found

    def _mean_s(self, required: Requirements, units: float) -> float:
        sizes = self._sizes.fitting(required)
        if not sizes:
            return self._costs.predict(required.model, units, self.least_gpus(required))
        rate, workers = 0.0, 0
        for gpus, count in sizes:
            takes_s = self._costs.predict(required.model, units, gpus)
            if takes_s <= 0.0:
                return 0.0
            rate += count / takes_s
            workers += count
        return workers / rate
