"""The same jobs through other queues, those that are installed: Celery on Redis, NATS JetStream, Ray Serve.

The recipe, for each alike: 600 bytes a job, four worker processes on one core, driver and server on the other; five runs (`scenarios`).
Each peer as it comes and, where it has such a mode, flushing to disk before it acknowledges. `pip install .[peers]` brings the Python
side and a nats-server; redis-server is a Debian package.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from bench.harness.procs import temporary_home
from bench.peers.peerrun import GROUPS, Line, Order, measure
from bench.peers.peertable import OURS, Row, report_of
from bench.peers.scenarios import PARTS, Sizes
from bench.report.errors import BadPlan
from bench.report.report import Report, flush_of, progress
from bench.report.stats import probe_fdatasync


class Peer(Struct, frozen=True, kw_only=True):
    """Queue to compare with: its adapter (MODULE:CLASS), the package that it needs, what people call it, and what its modes promise."""

    adapter: str
    needs: str
    label: str
    #: Mode -> when a job counts as acknowledged.
    modes: dict[str, str]
    #: Modes in which a worker's death is measured: one where durability changes nothing about it.
    crashes: tuple[str, ...] = ("default",)
    #: What is to be known of its figures.
    notes: tuple[str, ...] = ()


PEERS: dict[str, Peer] = {
    OURS: Peer(
        adapter="bench.peers.peer_ours:ZoetropeAdapter",
        needs="zmq",
        label="this broker",
        modes={"durable": "when flushed to disk (SQLite WAL, synchronous=FULL)"},
        crashes=("durable",),
        notes=(
            "this broker: a job counts as done only once its result is flushed to disk, too; there is no other mode",
        ),
    ),
    "celery": Peer(
        adapter="bench.peers.peer_celery:CeleryAdapter",
        needs="celery",
        label="Celery + Redis",
        modes={
            "default": "when in Redis's memory; snapshots now and then",
            "durable": "when flushed to disk (appendfsync always); task_reject_on_worker_lost",
        },
        crashes=("default", "durable"),
        notes=(
            "Celery: acks_late, prefetch 1; by default a task whose process is killed is acknowledged and gone,"
            " task_reject_on_worker_lost (here: durable) hands it in again; a whole worker's tasks come back after the"
            " visibility timeout, one hour by default",
        ),
    ),
    "jetstream": Peer(
        adapter="bench.peers.peer_jetstream:JetStreamAdapter",
        needs="nats",
        label="NATS JetStream",
        modes={
            "default": "when written to a file, unflushed; flushed every two minutes",
            "durable": "when flushed to disk (sync_interval: always)",
        },
        notes=("NATS JetStream: a killed worker's job comes back after the ack wait, 30 s by default",),
    ),
    "ray": Peer(
        adapter="bench.peers.peer_ray:RayAdapter",
        needs="ray",
        label="Ray Serve",
        modes={"default": "never; not durable, a call waits in its caller's memory"},
        notes=(
            "Ray Serve: it keeps no queue on disk, so there is no durable mode; 8 calls under way at once, more make it slower",
        ),
    ),
}


class PeersPlan(Struct, frozen=True, kw_only=True):
    """Sizes of the comparison."""

    jobs: Annotated[int, Meta(description="no-op jobs of a repeat of part a", ge=1, le=100_000)] = 3_000
    repeats: Annotated[int, Meta(description="repeats of part a; medians", ge=1, le=10)] = 2
    seconds: Annotated[float, Meta(description="seconds of parts b and c", ge=0.5, le=120)] = 5.0
    patience: Annotated[float, Meta(description="seconds to wait for a killed worker's job", ge=1, le=150)] = 32.0
    parts: Annotated[str, Meta(description=f"some of {', '.join(f'{k}: {v}' for k, v in PARTS.items())}")] = "a,b,c,d,e"
    only: Annotated[str, Meta(description=f"some of {', '.join(PEERS)}, comma-separated (default: all)")] = ""
    directory: Annotated[str, Meta(description="where queues keep their files")] = ""


def run(plan: PeersPlan) -> Report:
    """Measure what is there. Raises `BenchError`."""
    names = _some("--only", plan.only or ",".join(PEERS), tuple(PEERS))
    parts = "".join(_some("--parts", plan.parts, tuple(PARTS)))
    modes = [(name, mode) for name in names for mode in PEERS[name].modes]
    lines: dict[tuple[str, str], list[Line]] = {key: [] for key in modes}
    flushes: dict[tuple[str, str], float] = {}
    with temporary_home(plan.directory) as home:
        flush = flush_of(home)
        # Part by part and not peer by peer: what is compared is measured within a minute or two of one another.
        for group in GROUPS:
            for key in modes:
                flushes.setdefault(key, probe_fdatasync(home).p50)
                lines[key] += lines_of(plan, *key, "".join(part for part in group if part in parts), home)
    rows = [row(*key, lines[key], flushes[key]) for key in modes]
    return report_of(rows, flush, plan, [note for name in names for note in PEERS[name].notes])


def _some(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """The named ones, in their own order. Raises `BadPlan`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise BadPlan(f"{option}: {name!r} is not one of {', '.join(known)}")
    return [name for name in known if name in names]


def lines_of(plan: PeersPlan, name: str, mode: str, parts: str, home: Path) -> list[Line]:
    """Measure these parts of one mode of one peer."""
    peer = PEERS[name]
    if not parts:
        return []
    if find_spec(peer.needs) is None:
        return [Line(part=part, missing="not installed: pip install .[peers]") for part in parts]
    if parts == "d" and mode not in peer.crashes:
        return [Line(part="d", same=f"as {peer.crashes[0]}")]
    progress(f"{peer.label}, {mode}: {', '.join(PARTS[part] for part in parts)}")
    # Short: a socket's path has some hundred bytes.
    room = home / f"{name[0]}{mode[:2]}{parts[0]}"
    room.mkdir()
    sizes = Sizes(jobs=plan.jobs, repeats=plan.repeats, seconds=plan.seconds, patience_s=plan.patience)
    return measure(Order(adapter=peer.adapter, mode=mode, parts=parts, room=str(room), sizes=sizes))


def row(name: str, mode: str, lines: list[Line], flush_s: float | None = None) -> Row:
    """All that was measured of one mode of one peer."""
    peer = PEERS[name]
    return Row(peer=name, mode=mode, label=peer.label, promise=peer.modes[mode], lines=lines, flush_s=flush_s)
