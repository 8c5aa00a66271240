"""The edge's own metrics, and the pool's as gauges read at scrape time. Labels are route templates, never ids or raw paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import get_args

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from broker.wire.messages import JobView, PoolView, WorkerView
from broker.wire.terms import FINAL_NAMES, OLD_WORKER_STATES, WorkerStateName
from http_edge.api.common.request_metrics import RequestMetrics
from http_edge.jobs.hub import Hub

_JOB_BUCKETS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)


class Metrics:
    """Registry of one edge process."""

    def __init__(self, hub: Hub) -> None:
        self._registry = CollectorRegistry()
        self._requests = RequestMetrics()
        self._registry.register(self._requests)
        #: Counts an answered request.
        self.observe = self._requests.observe
        self._waited = self._job_histogram(
            "zoetrope_job_wait_seconds", "Measured wait of finished jobs, from submit to last start."
        )
        self._ran = self._job_histogram("zoetrope_job_run_seconds", "From a finished job's last start to its end.")
        hub.when_changed(self._job_moved)
        listeners = Gauge("zoetrope_edge_listeners", "Event streams and waits now open.", registry=self._registry)
        listeners.set_function(lambda: hub.listeners)
        self._pool = _PoolCollector()
        self._registry.register(self._pool)

    def _job_histogram(self, name: str, about: str) -> Histogram:
        labels = ["model", "state"]
        return Histogram(name, about, labels, buckets=_JOB_BUCKETS, registry=self._registry)

    def _job_moved(self, view: JobView) -> None:
        """Count a job when it ends, if it ever began. Every edge gets every event: take one edge's numbers, not the sum of all."""
        if view.state in FINAL_NAMES and view.started_at:
            self._waited.labels(view.submission.model, view.state).observe(
                max(0.0, view.started_at - view.submitted_at)
            )
            self._ran.labels(view.submission.model, view.state).observe(max(0.0, view.finished_at - view.started_at))

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
        for state_name in get_args(WorkerStateName):
            for shown in filter(None, (state_name, OLD_WORKER_STATES.get(state_name))):
                workers.add_metric([shown], states.count(state_name))
        yield workers
        yield from _worker_families(self.view.workers)
        for name, about, field in _POOL_GAUGES:
            yield GaugeMetricFamily(name, about, value=getattr(self.view, field))
        labels = ["model", "class"]
        seconds = GaugeMetricFamily(
            "zoetrope_backlog_seconds",
            "Predicted seconds that workers need for what waits, by model and class of workers.",
            labels=labels,
        )
        waiting = GaugeMetricFamily(
            "zoetrope_waiting_jobs", "Jobs that are queued, by model and class of workers.", labels=labels
        )
        for one in self.view.backlog_by_class:
            seconds.add_metric([one.model, one.label], one.backlog_s)
            waiting.add_metric([one.model, one.label], one.jobs)
        yield from (seconds, waiting)
        errors = GaugeMetricFamily(
            "zoetrope_prediction_error_ratio",
            "How far predicted run times were off lately, as a share of what the jobs took.",
            labels=["model"],
        )
        for model, error in self.view.prediction_errors.items():
            errors.add_metric([model], error)
        yield errors


#: Gauge, help, attribute of `PoolView`.
_POOL_GAUGES = (
    ("zoetrope_queue_backlog_seconds", "Predicted seconds that workers need for what waits.", "backlog_s"),
    (
        "zoetrope_queue_wait_seconds",
        "Predicted wait of a job submitted now; measured ones are in zoetrope_job_wait_seconds.",
        "wait_s",
    ),
    ("zoetrope_set_aside", "Jobs that wait for the service's operator.", "set_aside"),
)

#: Gauge, factor of its unit, help, attribute of `WorkerView`; a negative value is not known.
_WORKER_GAUGES = (
    ("zoetrope_worker_gpus", 1.0, "GPUs that a worker draws each job with; 1 for one on the CPU.", "gpus"),
    ("zoetrope_worker_memory_used_bytes", 2**20, "Memory in use on a worker's device.", "memory_used_mb"),
    ("zoetrope_worker_memory_total_bytes", 2**20, "Memory of a worker's device.", "memory_total_mb"),
    ("zoetrope_worker_utilisation_ratio", 0.01, "How busy a worker's device is, 0 to 1.", "utilisation"),
    ("zoetrope_worker_temperature_celsius", 1.0, "Temperature of a worker's device.", "temperature_c"),
    ("zoetrope_worker_power_watts", 1.0, "Power that a worker's device draws.", "health.power_w"),
    ("zoetrope_worker_power_limit_watts", 1.0, "Power that a worker's device may draw.", "health.power_limit_w"),
    ("zoetrope_worker_clock_hertz", 1e6, "Clock of a device's multiprocessors.", "health.clock_mhz"),
    ("zoetrope_worker_clock_max_hertz", 1e6, "The highest clock that a device has.", "health.clock_max_mhz"),
    (
        "zoetrope_worker_ecc_uncorrected",
        1.0,
        "Memory errors that could not be corrected since the device's driver was loaded.",
        "health.ecc_uncorrected",
    ),
    ("zoetrope_worker_heartbeat_age_seconds", 1.0, "Since a worker's last message.", "heartbeat_age_s"),
)

#: Gauge, help, attribute of `WorkerView.depot`.
_DEPOT_GAUGES = (
    ("zoetrope_worker_depot_results", "Results on a worker's disk that are not in the depot yet.", "results"),
    ("zoetrope_worker_depot_wait_seconds", "Since the first job that waits for the depot was given out.", "age_s"),
    ("zoetrope_worker_depot_full", "1 while a worker takes no job because of these results.", "full"),
)


def _worker_families(workers: Sequence[WorkerView]) -> Iterator[Metric]:
    for name, factor, about, field in _WORKER_GAUGES:
        gauge = GaugeMetricFamily(name, about, labels=["worker"])
        read = attrgetter(field)
        for worker in workers:
            value = read(worker)
            if value >= 0:
                gauge.add_metric([worker.name], value * factor)
        yield gauge
    for name, about, field in _DEPOT_GAUGES:
        gauge = GaugeMetricFamily(name, about, labels=["worker"])
        for worker in workers:
            gauge.add_metric([worker.name], float(getattr(worker.depot, field)) if worker.depot is not None else 0.0)
        yield gauge
    attempts = CounterMetricFamily(
        "zoetrope_worker_attempts", "Attempts ended on a worker since the broker started.", labels=["worker", "outcome"]
    )
    for worker in workers:
        for outcome in FINAL_NAMES:
            attempts.add_metric([worker.name, outcome], getattr(worker, outcome))
    yield attempts
    throttled = GaugeMetricFamily(
        "zoetrope_worker_throttled",
        "1 while a device's clocks are held back for this reason.",
        labels=["worker", "reason"],
    )
    xids = CounterMetricFamily(
        "zoetrope_worker_xids",
        "Errors that a GPU's driver reported since its worker started.",
        labels=["worker", "xid"],
    )
    for worker in workers:
        for reason in worker.health.throttled:
            throttled.add_metric([worker.name, reason], 1)
        for xid, count in worker.health.xids.items():
            xids.add_metric([worker.name, str(xid)], count)
    yield throttled
    yield xids
