"""Statistics of measured values, and the disk's speed now."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
from msgspec import Struct

#: One flush of a small commit's write-ahead frames.
PROBE_BYTES = 4096


class Summary(Struct, frozen=True, kw_only=True):
    """Count, mean and percentiles, in the unit of the values."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the ascending values lie, linear between the two closest ranks.

    Raises `ValueError` on no values or a share outside 0 to 1.
    """
    if not ordered:
        raise ValueError("no values")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share {share} must be 0 to 1")
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summarise(values: Iterable[float]) -> Summary | None:
    """None of no values: a mean of nothing is no zero."""
    ordered = sorted(values)
    if not ordered:
        return None
    return Summary(
        count=len(ordered),
        mean=statistics.fmean(ordered),
        p50=percentile(ordered, 0.50),
        p90=percentile(ordered, 0.90),
        p95=percentile(ordered, 0.95),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
    )


def median(values: Sequence[float]) -> float:
    """The middle of a few repeats."""
    return statistics.median(values)


def probe_fdatasync(directory: Path, count: int = 200) -> Summary:
    """Seconds that appending `PROBE_BYTES` and flushing them takes in this directory, now. Raises `OSError`."""
    # Darwin has no fdatasync.
    flush = getattr(os, "fdatasync", os.fsync)
    path = directory / f"fdatasync-probe-{os.getpid()}"
    block = b"\0" * PROBE_BYTES
    times = []
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for _ in range(count):
            begun = time.perf_counter()
            os.write(handle, block)
            flush(handle)
            times.append(time.perf_counter() - begun)
    finally:
        os.close(handle)
        path.unlink()
    summary = summarise(times)
    assert summary is not None
    return summary


def filesystem(directory: Path) -> str:
    """Type of the filesystem that holds the directory, such as `ext4`; on `tmpfs` a flush costs nothing and proves nothing."""
    here = directory.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    for parent in (here, *here.parents):
        if parent in mounts:
            return str(mounts[parent])
    return "unknown"
