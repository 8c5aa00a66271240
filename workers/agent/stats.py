"""Measurements of device and engine: by NVIDIA's management library for a GPU, by the process table for a CPU worker.

Numbers for people: whatever cannot be read is left at "not known" (-1, or 0 MB). One decides: a device that is broken gets no more jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import psutil

from workers.agent.effects import Stats
from workers.gpu.health import together
from workers.gpu.library import GpuLibrary
from workers.gpu.watch import GpuWatch

_MB = 1024 * 1024


class Sampler(Protocol):
    """Reads the numbers of one worker."""

    #: Product name: "NVIDIA H100 80GB HBM3", "cpu".
    device: str

    def sample(self, engine_pids: Sequence[int], shown_mb: Sequence[tuple[int, int]]) -> Stats:
        """The numbers now, of all ranks together. None of either: no engine. `shown_mb`: (used, total) from each rank's shared counters."""


class CpuSampler:
    """Resident memory of the engine's processes, of the machine's memory."""

    device = "cpu"

    def __init__(self) -> None:
        self._total_mb = psutil.virtual_memory().total / _MB

    def sample(self, engine_pids: Sequence[int], shown_mb: Sequence[tuple[int, int]]) -> Stats:
        """The numbers now."""
        used = 0.0
        for pid, (shown, _) in zip(engine_pids, shown_mb, strict=True):
            try:
                used += psutil.Process(pid).memory_info().rss / _MB
            except psutil.Error:
                used += float(shown)
        return Stats(memory_used_mb=used, memory_total_mb=self._total_mb)


class GpuSampler:
    """Sampler of GPUs by the management library; their memory by the engine's own view where the library shows none."""

    def __init__(self, visible: Sequence[str], library: GpuLibrary) -> None:
        self._visible = visible
        self._watches = tuple(GpuWatch(library, one) for one in visible)
        names = dict.fromkeys(watch.name or f"cuda:{one}" for watch, one in zip(self._watches, visible, strict=True))
        self.device = " + ".join(names)

    def sample(self, engine_pids: Sequence[int], shown_mb: Sequence[tuple[int, int]]) -> Stats:
        """The numbers now."""
        latest = [watch.latest() for watch in self._watches]
        shown = shown_mb or [(0, 0)] * len(latest)
        # Not every device reports its memory (some share the machine's).
        memory = [
            (float(own[0]), float(own[1])) if seen.reading.memory_total_mb < 0
            else (seen.reading.memory_used_mb, seen.reading.memory_total_mb)
            for seen, own in zip(latest, shown, strict=True)
        ]  # fmt: skip
        used = [seen.reading.utilisation for seen in latest if seen.reading.utilisation >= 0]
        return Stats(
            memory_used_mb=sum(one for one, _ in memory),
            memory_total_mb=sum(total for _, total in memory),
            utilisation=sum(used) / len(used) if used else -1.0,
            temperature_c=max(seen.reading.temperature_c for seen in latest),
            health=together({one: seen.health for one, seen in zip(self._visible, latest, strict=True)}),
        )


def sampler(device: str, visible: Sequence[str], library: GpuLibrary) -> Sampler:
    """The sampler for a worker's device, or for all of its group."""
    return GpuSampler(visible, library) if device == "cuda" else CpuSampler()
