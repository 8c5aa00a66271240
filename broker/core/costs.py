"""How long a job will run: seconds = (learned seconds per unit of this model) x units, units = steps x latent tokens.

An exponential mean over finished jobs. One number a model is enough: 30 % error costs the queue almost nothing, while knowing nothing
costs it a factor of 2.6 to 6 in mean wait.
"""

from __future__ import annotations

#: Weight of the newest job in the mean.
ALPHA = 0.2

#: Seconds per unit until a model has finished a job. Only compares jobs with each other, so any constant would do.
UNKNOWN_RATE = 1e-5


class Costs:
    """Learned rates by model."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        #: By model: how far predictions were off lately, as a share of what the job took; an exponential mean too.
        self.errors: dict[str, float] = {}

    def learn(self, model: str, units: float, run_s: float) -> None:
        """A job of this model and size took this long."""
        if units <= 0 or run_s <= 0:
            return
        rate = run_s / units
        old = self._rates.get(model)
        if old is None:
            self._rates[model] = rate
            return
        self._rates[model] = old + ALPHA * (rate - old)
        error = abs(old - rate) / rate
        self.errors[model] = (
            error if model not in self.errors else self.errors[model] + ALPHA * (error - self.errors[model])
        )

    def knows(self, model: str) -> bool:
        return model in self._rates

    def predict(self, model: str, units: float) -> float:
        """Seconds; a guess when nothing is known of the model."""
        return self._rates.get(model, UNKNOWN_RATE) * units
