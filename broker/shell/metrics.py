"""Numbers of the broker in Prometheus' text format, written to a file for a node exporter's textfile collector or a person.

The hot path counts in plain dicts (to write a `Counter` costs two and a half times as much, a labelled prometheus counter ten times); the
collector turns them into families when they are read.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from broker.core.lookups import RecordCounts
from broker.core.views import PoolTotals
from broker.shell.net.peer_limits import PeerLimiter
from broker.wire.terms import OLD_WORKER_STATES

#: Upper bounds of commit times, seconds: an fsync takes 0.1 ms on a quiet disk and seconds on a broken one.
COMMIT_BOUNDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)

#: Metric -> its name in 0.1.0, and values of labels likewise; both are exported until the next version.
OLD_NAMES = {
    "zoetrope_job_transitions": "zoetrope_moves",
    "zoetrope_invalid_messages": "zoetrope_junk",
    "zoetrope_connections_cut": "zoetrope_cut_off",
    "zoetrope_worker_events": "zoetrope_worker_notes",
    "zoetrope_queue_backlog_seconds": "zoetrope_backlog_seconds",
}
_OLD_LABELS = {
    "invalid_messages": "junk",
    "oversized_message": "hoard",
    "worker_tripped": "benched",
    "worker_restored": "back_from_bench",
}


class Commits:
    """Commits of the journal: how long each took, and how many rows there were."""

    def __init__(self) -> None:
        self._buckets = [0] * (len(COMMIT_BOUNDS) + 1)
        self._seconds = 0.0
        self._rows = 0

    def add(self, seconds: float, rows: int) -> None:
        """One commit."""
        self._buckets[bisect_left(COMMIT_BOUNDS, seconds)] += 1
        self._seconds += seconds
        self._rows += rows

    def families(self) -> Iterator[Metric]:
        """A histogram of the times, and the rows."""
        total = 0
        buckets = []
        for bound, count in zip((*map(str, COMMIT_BOUNDS), "+Inf"), self._buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family = HistogramMetricFamily("zoetrope_commit_seconds", "Time of a journal commit")
        family.add_metric((), buckets, sum_value=self._seconds)
        yield family
        yield CounterMetricFamily("zoetrope_journal_rows", "Rows committed", value=self._rows)


class Metrics:
    """Counts since the broker started."""

    def __init__(self, limiter: PeerLimiter) -> None:
        self._limiter = limiter
        #: By new state and cause.
        self.transitions: defaultdict[tuple[str, str], int] = defaultdict(int)
        #: By direction ("in", "out") and message class.
        self.received: defaultdict[type, int] = defaultdict(int)
        self.sent: defaultdict[type, int] = defaultdict(int)
        self.unsent = 0
        self.notes: defaultdict[str, int] = defaultdict(int)
        self.stalls = 0
        #: Exceptions out of the core that the broker has gone on after.
        self.failures = 0
        #: Connections refused for their key, and cut because they sent without end.
        self.refused_keys = 0
        self.oversized = 0
        self.commits = Commits()

    def text(self, pool: PoolTotals, records: RecordCounts = RecordCounts()) -> bytes:  # noqa: B008 - frozen
        """All metrics, in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(lambda: self._families(pool, records)))
        return generate_latest(registry)

    def write(self, path: Path, pool: PoolTotals, records: RecordCounts) -> None:
        """Replace the file whole, so that a reader never gets half of it. Raises `OSError`."""
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(self.text(pool, records))
        os.replace(temporary, path)

    def _families(self, pool: PoolTotals, records: RecordCounts) -> Iterator[Metric]:
        yield from self._job_families(pool, records)
        messages = CounterMetricFamily("zoetrope_messages", "Messages by direction and kind", labels=("way", "message"))
        for way, counts in (("in", self.received), ("out", self.sent)):
            for kind, count in counts.items():
                messages.add_metric((way, kind.__name__), count)
        yield messages
        invalid = CounterMetricFamily(
            "zoetrope_invalid_messages", "Dropped: no message of this protocol", labels=("kind",)
        )
        for reason, count in self._limiter.by_kind.items():
            invalid.add_metric((reason,), count)
        yield invalid
        cut = CounterMetricFamily("zoetrope_connections_cut", "Connections ended by the broker", labels=("reason",))
        cut.add_metric(("invalid_messages",), self._limiter.cut)
        cut.add_metric(("oversized_message",), self.oversized)
        yield cut
        yield CounterMetricFamily(
            "zoetrope_refused_keys", "tcp connections refused for their key", value=self.refused_keys
        )
        yield CounterMetricFamily("zoetrope_unsent", "Messages whose peer could not be reached", value=self.unsent)
        yield CounterMetricFamily(
            "zoetrope_stalls", "Times the loop stood still for more than 0.5 s", value=self.stalls
        )
        yield CounterMetricFamily(
            "zoetrope_core_failures", "Exceptions that the broker has gone on after", value=self.failures
        )
        yield from self.commits.families()

    def _job_families(self, pool: PoolTotals, records: RecordCounts) -> Iterator[Metric]:
        transitions = CounterMetricFamily(
            "zoetrope_job_transitions", "Transitions of jobs by new state and cause", labels=("state", "cause")
        )
        for (state, cause), count in self.transitions.items():
            transitions.add_metric((state, cause), count)
        yield transitions
        jobs = GaugeMetricFamily("zoetrope_jobs", "Jobs in memory by state", labels=("state",))
        for name, count in pool.jobs.items():
            jobs.add_metric((name,), count)
        yield jobs
        workers = GaugeMetricFamily("zoetrope_workers", "Workers by state", labels=("state",))
        for name, count in pool.workers.items():
            for shown in filter(None, (name, OLD_WORKER_STATES.get(name))):
                workers.add_metric((shown,), count)
        yield workers
        events = CounterMetricFamily(
            "zoetrope_worker_events",
            "Workers tripped, restored, asked to drain and to stay, with a broken device",
            labels=("action",),
        )
        for action, count in self.notes.items():
            events.add_metric((action,), count)
        yield events
        yield GaugeMetricFamily("zoetrope_set_aside", "Jobs that wait for their operator", value=records.kept_aside)
        yield GaugeMetricFamily(
            "zoetrope_damaged_records", "Records found damaged on disk", value=records.damaged_records
        )
        yield GaugeMetricFamily(
            "zoetrope_queue_backlog_seconds", "Predicted seconds that workers need for what waits", value=pool.backlog_s
        )


class _Collector:
    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families():
            yield family
            if family.name in OLD_NAMES:
                yield _under_old_name(family)


def _under_old_name(family: Metric) -> Metric:
    old = OLD_NAMES[family.name]
    copy = Metric(old, f"As {family.name}, its name from 0.2.0 on; goes with the next version", family.type)
    for sample in family.samples:
        labels = {name: _OLD_LABELS.get(value, value) for name, value in sample.labels.items()}
        copy.add_sample(sample.name.replace(family.name, old, 1), labels, sample.value)
    return copy
