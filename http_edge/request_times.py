"""How many requests were answered, and in what time. Counted on the event loop alone, so without the locks of the client library's own
counters, which would cost more than many an answer."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_BOUNDS = (*map(floatToGoString, _BUCKETS), "+Inf")


class _Times:
    """The requests of one route, by how long they took."""

    def __init__(self) -> None:
        self.created_at = time.time()
        self.counts = [0] * len(_BOUNDS)
        self.sum_s = 0.0


class _Tally:
    """The requests of one route, method and status."""

    def __init__(self, times: _Times) -> None:
        self.created_at = time.time()
        self.count = 0
        self.times = times


class RequestTimes(Collector):
    """`zoetrope_edge_requests` and `zoetrope_edge_request_seconds`."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int], _Tally] = {}
        self._times: dict[str, _Times] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        tally = self._tallies.get((route, method, status))
        if tally is None:
            times = self._times.setdefault(route, _Times())
            tally = self._tallies[route, method, status] = _Tally(times)
        tally.count += 1
        times = tally.times
        times.counts[bisect_left(_BUCKETS, seconds)] += 1
        times.sum_s += seconds

    def collect(self) -> Iterator[Metric]:
        """Both families, as of now."""
        requests = CounterMetricFamily(
            "zoetrope_edge_requests",
            "Requests answered, by route template, method and status.",
            labels=["route", "method", "status"],
        )
        for (route, method, status), tally in self._tallies.items():
            requests.add_metric([route, method, str(status)], tally.count, created=tally.created_at)
        yield requests
        seconds = HistogramMetricFamily(
            "zoetrope_edge_request_seconds",
            "From the request's head to the last byte of the answer; event streams and downloads included.",
            labels=["route"],
        )
        for route, times in self._times.items():
            reached = list(zip(_BOUNDS, map(float, accumulate(times.counts)), strict=True))
            seconds.add_metric([route], reached, times.sum_s)
            seconds.add_sample("zoetrope_edge_request_seconds_created", {"route": route}, times.created_at)
        yield seconds
