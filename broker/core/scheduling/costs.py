"""Predicted run times: seconds = start-up + rate x units, both learned by model and GPUs of the worker; units = steps x latent tokens.

A least-squares fit of two numbers that drift (a Kalman filter): each finished job moves both, in the proportion in which they
are uncertain. Before jobs of different sizes have been measured the prior separates them: a start-up of some
seconds, and a rate no larger than `RATE_SD`, which is a hundred times that of the slowest machine measured. So a tiny job that took
long teaches a long start-up, and almost nothing about a large job.

How far each job was off is learned too, as the logarithm of its time over the prediction: a mean and a mean deviation, both exponential and
of clipped values, so that one odd job moves little. They give the time within which a job ends with a stated confidence.

A group of GPUs that has not finished a job of a model is taken to be as much faster than one that has, the nearest in size, as groups are
in general (`speed`); what it measures then takes the place of that.

30 % error costs the queue almost nothing, while knowing nothing costs it a factor of 2.6 to 6 in mean wait. A prediction orders the
queue, is shown, may refuse a deadline that cannot be met, and is what times are promised by; it never lengthens a limit that protects
something.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, log, log2, sqrt
from statistics import NormalDist

from broker.core.scheduling import bounds
from broker.wire.promises import CONFIDENCE

#: How much start-up and rate may change from one job to the next, as a share of themselves (one standard deviation): with the noise below,
#: a fifth of every surprise is taken over once the pace is known.
DRIFT = 0.02
#: Weight of the newest job in the mean error.
ALPHA = 0.2

#: Prior before any job: both around 0, with these standard deviations (seconds, seconds per unit).
STARTUP_SD = 5.0
RATE_SD = 0.01
#: What is not explained by size: a share of the run time, and seconds.
NOISE_SHARE = 0.1
NOISE_S = 0.02

#: Seconds per unit until a model has finished a job. Only compares jobs with each other, so any constant would do.
UNKNOWN_RATE = 1e-5

#: A job this many times larger than the largest that was seen is not predicted: start-up and rate may still be mistaken for each other.
REACH = 64.0

#: Prior of the mean deviation of log(time / prediction), and its weight in jobs.
DEVIATION = 0.2
DEVIATION_JOBS = 4
#: No spread is taken for smaller: what was learned on a quiet machine is not all that can happen.
LEAST_SPREAD = 0.02
#: Weight of the newest job in the spread, once there were many; one further off than so many deviations counts as being so far off.
SPREAD_ALPHA = 0.05
CLIP_DEVIATIONS = 4.0
#: Standard deviation over mean deviation, of a normal distribution.
_SD = 1.2533


#: Speed of a group over that of one GPU, as a share of its GPUs, until that was measured: of two, less for each doubling, at least.
EFFICIENCY_OF_TWO, LESS_A_DOUBLING, LEAST_EFFICIENCY = 0.8, 0.05, 0.5
#: Standard deviation of that, as a share of a predicted time.
SPEED_SD = 0.2


@lru_cache(maxsize=64)
def speed(gpus: int) -> float:
    """Speed of so many GPUs over that of one, before a job of a model was seen on them: 1.6 of 2, 3.0 of 4, 5.6 of 8."""
    if gpus <= 1:
        return 1.0
    return gpus * max(LEAST_EFFICIENCY, EFFICIENCY_OF_TWO - LESS_A_DOUBLING * (log2(gpus) - 1.0))


@lru_cache(maxsize=256)
def deviations(confidence: float) -> float:
    """Standard deviations above the mean that a normal value stays below with this probability, between 0 and 1 (both excluded)."""
    return NormalDist().inv_cdf(confidence)


_DEVIATIONS = deviations(CONFIDENCE)
_LEAST_NOISE = NOISE_S**2


class _Fit:
    """Estimates and their covariance, of one model on workers of one size.

    No struct: every job writes a dozen of its fields, which cost half as much in slots.
    """

    __slots__ = (
        "bias",
        "covariance",
        "deviation",
        "judged",
        "largest",
        "longest",
        "rate",
        "startup",
        "var_rate",
        "var_startup",
    )

    def __init__(self) -> None:
        self.startup = self.rate = self.covariance = 0.0
        self.var_startup, self.var_rate = STARTUP_SD**2, RATE_SD**2
        #: Units of the largest job seen.
        self.largest = 0.0
        #: Of log(time / prediction): mean, mean deviation, and the number of jobs that taught them.
        self.bias, self.deviation, self.judged = 0.0, DEVIATION, 0
        #: How many times as long as predicted a job takes at most, with `CONFIDENCE`; worked out when it changes, as it is shown more.
        self.longest = exp(_DEVIATIONS * _SD * DEVIATION)

    def scaled(self, factor: float) -> _Fit:
        """Return a fit for workers on which the same takes `factor` times as long, less certain than this one."""
        fit = _Fit()
        startup, rate = self.startup * factor, self.rate * factor
        fit.startup, fit.rate = startup, rate
        both, square = SPEED_SD * SPEED_SD, factor * factor
        fit.var_startup = self.var_startup * square + both * startup * startup
        fit.var_rate = self.var_rate * square + both * rate * rate
        fit.covariance = self.covariance * square + both * startup * rate
        fit.largest, fit.bias, fit.deviation = self.largest, self.bias, self.deviation
        fit.longest = max(1.0, exp(self.bias + _DEVIATIONS * sqrt((_SD * self.deviation) ** 2 + both)))
        return fit

    def judge(self, ratio: float) -> None:
        """Learn the spread from a job that took `ratio` times as long as was predicted."""
        self.judged = judged = self.judged + 1
        bias, deviation = self.bias, self.deviation
        # Conditions in place of `max` and the like here and in `learn`: this is done for every job.
        alpha = 1.0 / (judged + DEVIATION_JOBS)
        if alpha < SPREAD_ALPHA:
            alpha = SPREAD_ALPHA
        reach = CLIP_DEVIATIONS * (deviation if deviation > LEAST_SPREAD else LEAST_SPREAD)
        off = log(ratio) - bias
        size = off if off >= 0.0 else -off
        if size > reach:
            off, size = (reach if off > 0.0 else -reach), reach
        self.bias = bias = bias + alpha * off
        self.deviation = deviation = deviation + alpha * (size - deviation)
        spread = _SD * deviation
        longest = exp(bias + _DEVIATIONS * (spread if spread > LEAST_SPREAD else LEAST_SPREAD))
        self.longest = longest if longest > 1.0 else 1.0

    def spread(self, units: float) -> float:
        """Standard deviation of log(time / prediction) of a job of this size: what was seen, and how sure start-up and rate are."""
        seen = max(LEAST_SPREAD, _SD * self.deviation)
        predicted = self.startup + self.rate * units
        variance = self.var_startup + 2.0 * self.covariance * units + self.var_rate * units * units
        unsure = min(1.0, sqrt(max(0.0, variance)) / max(predicted, NOISE_S))
        return sqrt(seen * seen + unsure * unsure)

    def learn(self, units: float, seconds: float) -> None:
        startup, rate, covariance = self.startup, self.rate, self.covariance
        drift_startup, drift_rate, noise = DRIFT * startup, DRIFT * rate, NOISE_SHARE * seconds
        var_startup = self.var_startup + drift_startup * drift_startup
        var_rate = self.var_rate + drift_rate * drift_rate
        # How the error of this prediction varies together with each of the two.
        with_startup = var_startup + covariance * units
        with_rate = covariance + var_rate * units
        variance = with_startup + with_rate * units + noise * noise + _LEAST_NOISE
        error = seconds - startup - rate * units
        # Neither is negative; a clamped one leaves its part of the error to the next jobs.
        startup += with_startup / variance * error
        rate += with_rate / variance * error
        self.startup = startup if 0.0 <= startup <= bounds.MAX_RUN_S else bounds.run_s(startup)
        self.rate = rate if 0.0 <= rate <= bounds.MAX_RUN_S else bounds.run_s(rate)
        var_startup -= with_startup * with_startup / variance
        var_rate -= with_rate * with_rate / variance
        self.var_startup = var_startup if var_startup > 0.0 else 0.0
        self.var_rate = var_rate if var_rate > 0.0 else 0.0
        self.covariance = covariance - with_startup * with_rate / variance
        if units > self.largest:
            self.largest = units


class Costs:
    """Fits by model and GPUs of a worker."""

    def __init__(self) -> None:
        self._fits: dict[tuple[str, int], _Fit] = {}
        #: By model: the sizes of workers that have finished a job, and that of the last one.
        self._sizes: dict[str, list[int]] = {}
        self.last_size: dict[str, int] = {}
        #: By model: how far predictions were off lately, as a share of what the job took; an exponential mean.
        self.errors: dict[str, float] = {}

    def learn(self, model: str, units: float, seconds: float, gpus: int = 1) -> None:
        """Learn from a job of this model and size that ran this long on so many GPUs. A size or time that is not positive, or out of range,
        is ignored."""
        if not (0.0 < units < inf and 0.0 < seconds <= bounds.MAX_RUN_S):
            return
        fit = self._fits.get((model, gpus))
        if fit is None:
            fit = self._fits[model, gpus] = self._scaled(model, gpus) or _Fit()
            self._sizes.setdefault(model, []).append(gpus)
        else:
            predicted = fit.startup + fit.rate * units
            error = (predicted - seconds if predicted > seconds else seconds - predicted) / seconds
            if error > bounds.MAX_ERROR:
                error = bounds.MAX_ERROR
            old = self.errors.get(model, error)
            self.errors[model] = old + ALPHA * (error - old)
            # A share too small for a number does not count.
            if predicted > 0.0 and units <= REACH * fit.largest and (ratio := seconds / predicted) > 0.0:
                fit.judge(ratio)
        fit.learn(units, seconds)
        self.last_size[model] = gpus

    def _fit(self, model: str, gpus: int) -> _Fit | None:
        fit = self._fits.get((model, gpus))
        return fit if fit is not None else self._scaled(model, gpus)

    def _scaled(self, model: str, gpus: int) -> _Fit | None:
        """The fit for workers of a size that has finished no job of this model, by that of the nearest one which has; None: none has."""
        sizes = self._sizes.get(model)
        if sizes is None:
            return None
        own = speed(gpus)
        nearest = min(sizes, key=lambda size: abs(log(speed(size) / own)))
        return self._fits[model, nearest].scaled(speed(nearest) / own)

    def pace(self, model: str, gpus: int) -> float:
        """Return seconds of a job of a size that is usual for this model: good for comparing workers of different sizes."""
        sizes = self._sizes.get(model)
        units = max((self._fits[model, size].largest for size in sizes), default=1.0) if sizes else 1.0
        return self.predict(model, units, gpus)

    def can_predict(self, model: str, units: float, gpus: int = 1) -> bool:
        """Whether a prediction for a job of this size is worth showing and acting on."""
        fit = self._fit(model, gpus)
        return fit is not None and units <= REACH * fit.largest

    def estimate(self, model: str, units: float, gpus: int = 1) -> float | None:
        """Seconds; None where a prediction is not worth showing: see `can_predict`."""
        fit = self._fit(model, gpus)
        if fit is None or units > REACH * fit.largest:
            return None
        seconds = fit.startup + fit.rate * units
        return seconds if seconds <= bounds.MAX_RUN_S else bounds.MAX_RUN_S

    def spread(self, model: str, units: float, gpus: int = 1) -> float:
        """Standard deviation of the logarithm of the run time over its prediction; the prior of an unknown model."""
        fit = self._fit(model, gpus)
        return _SD * DEVIATION if fit is None else fit.spread(units)

    def quantile(self, model: str, units: float, confidence: float, gpus: int = 1) -> float | None:
        """Seconds within which such a job ends with this probability; None where a prediction is not worth showing."""
        fit = self._fit(model, gpus)
        if fit is None or units > REACH * fit.largest:
            return None
        predicted = min(bounds.MAX_RUN_S, fit.startup + fit.rate * units)
        return bounds.run_s(predicted * exp(fit.bias + deviations(confidence) * fit.spread(units)))

    def outlook(self, model: str, units: float, gpus: int = 1) -> tuple[float, float] | None:
        """(seconds; how many times as long a job takes at most, with `CONFIDENCE`), for showing; None where neither is worth it."""
        fit = self._fit(model, gpus)
        if fit is None or units > REACH * fit.largest:
            return None
        seconds = fit.startup + fit.rate * units
        return seconds if seconds <= bounds.MAX_RUN_S else bounds.MAX_RUN_S, fit.longest

    def predict(self, model: str, units: float, gpus: int = 1) -> float:
        """Seconds; a guess, good for comparing jobs, when the model or such sizes are not known."""
        fit = self._fit(model, gpus)
        seconds = UNKNOWN_RATE * units / speed(gpus) if fit is None else fit.startup + fit.rate * units
        return seconds if seconds <= bounds.MAX_RUN_S else bounds.MAX_RUN_S


class Reloads:
    """Seconds that loading each model took, an exponential mean."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def learn(self, model: str, seconds: float) -> None:
        """Learn from a model that was loaded in this time; 0: it was there."""
        if seconds > 0:
            old = self._seconds.get(model, seconds)
            self._seconds[model] = bounds.run_s(old + ALPHA * (seconds - old))

    def predict(self, model: str, otherwise: float) -> float:
        """Seconds; `otherwise` when it has not been seen to load."""
        return self._seconds.get(model, otherwise)
