"""The same no-op jobs through other queues, those that are installed: Celery on Redis, NATS JetStream, Ray Serve.

The recipe, for each alike: 600 bytes a job, four worker processes on one core, driver and server on the other. Two runs: all jobs
handed in at once, timed to the last finish; one job at a time, timed from its submit to its worker. Each peer as it comes and, where it
has such a mode, flushing to disk before it acknowledges. `pip install .[peers]` brings the Python side.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bench import plot
from bench.errors import BadPlan, BenchError
from bench.peerkit import Done, Load, Outcome, Unavailable, drive, driver_cores
from bench.procs import pinned, temporary_home
from bench.report import Flush, Metric, Report, flush_of, progress
from bench.stats import median


class Peer(Struct, frozen=True, kw_only=True):
    """One queue: its adapter, the distribution that it needs, what people call it."""

    module: str
    needs: str
    label: str


OURS = "zoetrope"
PEERS: dict[str, Peer] = {
    OURS: Peer(module="bench.peer_ours", needs="zmq", label="this broker"),
    "celery": Peer(module="bench.peer_celery", needs="celery", label="Celery + Redis"),
    "jetstream": Peer(module="bench.peer_jetstream", needs="nats", label="NATS JetStream"),
    "ray": Peer(module="bench.peer_ray", needs="ray", label="Ray Serve"),
}
MODES = ("default", "durable")
BAR = 3.0


class PeersPlan(Struct, frozen=True, kw_only=True):
    """How much of each."""

    jobs: Annotated[int, Meta(description="jobs of the rate run", ge=1, le=1_000_000)] = 5_000
    seconds: Annotated[float, Meta(description="seconds of one job at a time", ge=0.5, le=300)] = 5.0
    repeats: Annotated[int, Meta(description="of each; medians", ge=1, le=20)] = 3
    only: Annotated[str, Meta(description=f"some of {', '.join(PEERS)}, comma-separated (default: all)")] = ""
    directory: Annotated[str, Meta(description="where queues keep their files")] = ""


class Row(Struct, frozen=True, kw_only=True):
    """One mode of one peer: what it did, or why it was left out."""

    peer: str
    mode: str
    label: str
    outcomes: list[Outcome]
    missing: str = ""


def run(plan: PeersPlan) -> Report:
    """Measure what is there. Raises `BenchError`."""
    names = [name.strip() for name in plan.only.split(",") if name.strip()] or list(PEERS)
    for name in names:
        if name not in PEERS:
            raise BadPlan(f"--only: {name!r} is not one of {', '.join(PEERS)}")
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        rows = [measure(plan, name, mode, home) for name in names for mode in MODES]
    return report_of(plan, rows, flush)


def measure(plan: PeersPlan, name: str, mode: str, home: Path) -> Row:
    """One mode of one peer, `repeats` times afresh."""
    peer = PEERS[name]
    if find_spec(peer.needs) is None:
        return Row(peer=name, mode=mode, label="", outcomes=[], missing="not installed: pip install .[peers]")
    module = importlib.import_module(peer.module)
    outcomes = []
    try:
        for number in range(plan.repeats):
            progress(f"{peer.label}, {mode}, {number + 1} of {plan.repeats}")
            room = home / f"{name}-{mode}-{number}"
            room.mkdir()
            done = Done(room / "done")
            try:
                with pinned(driver_cores()), module.opened(mode, room, done) as client:
                    outcomes.append(drive(client, done, Load(jobs=plan.jobs, seconds=plan.seconds)))
            finally:
                done.close()
    except Unavailable as error:
        return Row(peer=name, mode=mode, label="", outcomes=[], missing=str(error))
    except BenchError as error:
        return Row(peer=name, mode=mode, label="", outcomes=[], missing=f"failed: {error}")
    return Row(peer=name, mode=mode, label=module.MODES[mode], outcomes=outcomes)


def report_of(plan: PeersPlan, rows: list[Row], flush: Flush) -> Report:
    """Medians of each; ours over each of theirs."""
    metrics: list[Metric] = []
    rates = {(row.peer, row.mode): median([o.jobs_per_s for o in row.outcomes]) for row in rows if row.outcomes}
    ours = rates.get((OURS, "durable"))
    warnings = []
    for row in rows:
        label = f"{PEERS[row.peer].label}, {row.mode}"
        key = f"{row.peer}_{row.mode}"
        if row.missing:
            warnings.append(f"{label}: {row.missing}")
            continue
        rate = rates[row.peer, row.mode]
        metrics.append(Metric(f"{key}_per_s", label, rate, "jobs/s", row.label))
        for part in ("p50", "p99"):
            values = [getattr(o.latency, part) * 1e3 for o in row.outcomes if o.latency]
            value = median(values) if values else None
            metrics.append(Metric(f"{key}_{part}_ms", f"{label}, submit to worker, {part}", value, "ms"))
        if ours and row.peer != OURS:
            metrics.append(Metric(f"{key}_ratio", f"this broker over {label}", ours / rate, "x", f"bar: {BAR:g}"))
    return Report(
        bench="peers",
        title=f"peers: {plan.jobs:,} no-op jobs of 600 B, four workers, median of {plan.repeats}",
        settings=msgspec.to_builtins(plan),
        metrics=metrics + flush.metrics(),
        panels=[plot.bars("jobs a second", "1/s", {f"{peer}\n{mode}": rate for (peer, mode), rate in rates.items()})],
        warnings=warnings,
    )
