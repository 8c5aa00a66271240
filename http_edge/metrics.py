"""The edge's own metrics, and the pool's as gauges read at scrape time. Labels are route templates, never ids or raw paths."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from broker.wire.messages import PoolView
from http_edge.hub import Hub

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """One edge process's registry."""

    def __init__(self, hub: Hub) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "zoetrope_edge_requests",
            "Requests answered, by route template, method and status.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "zoetrope_edge_request_seconds",
            "From the request's head to the last byte of the answer; event streams and downloads included.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        #: Looking a label set up costs more than counting.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        listeners = Gauge("zoetrope_edge_listeners", "Event streams and waits now open.", registry=self._registry)
        listeners.set_function(lambda: hub.listeners)
        self._pool = _PoolCollector()
        self._registry.register(self._pool)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        key = (route, method, status)
        pair = self._children.get(key)
        if pair is None:
            pair = (self._requests.labels(route, method, str(status)), self._seconds.labels(route))
            self._children[key] = pair
        pair[0].inc()
        pair[1].observe(seconds)

    def exposition(self, accept: str, pool: PoolView | None) -> tuple[bytes, str]:
        """The page and its content type, for an Accept header; without the pool when the broker does not answer."""
        self._pool.view = pool
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _PoolCollector(Collector):
    """The broker's view of the pool, as of the scrape."""

    def __init__(self) -> None:
        self.view: PoolView | None = None

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("zoetrope_broker_up", "Whether the broker answered this scrape.")
        up.add_metric([], 0.0 if self.view is None else 1.0)
        yield up
        if self.view is None:
            return
        jobs = GaugeMetricFamily(
            "zoetrope_jobs", "Jobs by state: live ones now, final ones since the broker started.", labels=["state"]
        )
        for state, count in self.view.counts.items():
            jobs.add_metric([state], count)
        yield jobs
        workers = GaugeMetricFamily("zoetrope_workers", "Workers by state.", labels=["state"])
        states = [worker.state for worker in self.view.workers]
        for state_name in ("starting", "idle", "busy", "suspect", "draining", "lost"):
            workers.add_metric([state_name], states.count(state_name))
        yield workers
        backlog = GaugeMetricFamily("zoetrope_queue_backlog_seconds", "Predicted GPU-seconds of work that waits.")
        backlog.add_metric([], self.view.backlog_s)
        yield backlog
        wait = GaugeMetricFamily("zoetrope_queue_wait_seconds", "Predicted wait of a job that came now.")
        wait.add_metric([], self.view.wait_s)
        yield wait
