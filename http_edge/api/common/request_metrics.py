"""Counts of the requests that an edge answered, as metrics: plain numbers until they are read, as every request adds to them."""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_NAMES = (*map(floatToGoString, _BOUNDS), "+Inf")


class _Durations:
    """Durations of a route's requests, by the bounds of a histogram."""

    __slots__ = ("begun_at", "counts", "sum_s")

    def __init__(self) -> None:
        self.begun_at = time.time()
        #: Number of durations by the first bound that is not below them.
        self.counts = [0] * len(_NAMES)
        self.sum_s = 0.0


class _Count:
    """Number of requests with the same labels."""

    __slots__ = ("begun_at", "durations", "number")

    def __init__(self, durations: _Durations) -> None:
        self.begun_at = time.time()
        self.number = 0
        self.durations = durations


class RequestMetrics(Collector):
    """Requests answered, by the template of their route, method and status; their durations by route."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], _Count] = {}
        self._durations: dict[str, _Durations] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        key = (route, method, status)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(self._durations.setdefault(route, _Durations()))
        count.number += 1
        durations = count.durations
        durations.counts[bisect_left(_BOUNDS, seconds)] += 1
        durations.sum_s += seconds

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "zoetrope_edge_requests",
            "Requests answered, by route template, method and status.",
            labels=["route", "method", "status"],
        )
        for (route, method, status), count in self._counts.items():
            requests.add_metric([route, method, str(status)], count.number, created=count.begun_at)
        yield requests
        seconds = HistogramMetricFamily(
            "zoetrope_edge_request_seconds",
            "From the request's head to the last byte of the answer; event streams and downloads included.",
            labels=["route"],
        )
        for route, durations in self._durations.items():
            buckets = list(zip(_NAMES, map(float, itertools.accumulate(durations.counts)), strict=True))
            seconds.add_metric([route], buckets, durations.sum_s)
            seconds.add_sample(f"{seconds.name}_created", {"route": route}, durations.begun_at)
        yield seconds
