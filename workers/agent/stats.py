"""Measurements of device and engine: by NVIDIA's management library for a GPU, by the process table for a CPU worker.

Numbers for people: whatever cannot be read is left at "not known" (-1, or 0 MB). One decides: a device that is broken gets no more jobs.
"""

from __future__ import annotations

from typing import Protocol

import psutil

from workers.agent.effects import Stats
from workers.gpu.library import GpuLibrary
from workers.gpu.watch import GpuWatch

_MB = 1024 * 1024


class Sampler(Protocol):
    """Reads the numbers of one worker."""

    #: As people know it: "NVIDIA H100 80GB HBM3", "cpu".
    device: str

    def sample(self, engine_pid: int, shown_mb: tuple[int, int]) -> Stats:
        """The numbers now. `engine_pid` 0: no engine. `shown_mb`: (used, total) as the engine's shared words say."""


class CpuSampler:
    """Resident memory of the engine's process, of the machine's memory."""

    device = "cpu"

    def __init__(self) -> None:
        self._total_mb = psutil.virtual_memory().total / _MB

    def sample(self, engine_pid: int, shown_mb: tuple[int, int]) -> Stats:
        """The numbers now."""
        used = 0.0
        if engine_pid:
            try:
                used = psutil.Process(engine_pid).memory_info().rss / _MB
            except psutil.Error:
                used = float(shown_mb[0])
        return Stats(memory_used_mb=used, memory_total_mb=self._total_mb)


class GpuSampler:
    """Sampler of a GPU by the management library; its memory by the engine's own view where the library shows none."""

    def __init__(self, visible: str, library: GpuLibrary) -> None:
        self._watch = GpuWatch(library, visible)
        self.device = self._watch.name or f"cuda:{visible}"

    def sample(self, engine_pid: int, shown_mb: tuple[int, int]) -> Stats:
        """The numbers now."""
        latest = self._watch.latest()
        seen = latest.reading
        # Not every device reports its memory (some share the machine's).
        own = seen.memory_total_mb < 0
        return Stats(
            memory_used_mb=float(shown_mb[0]) if own else seen.memory_used_mb,
            memory_total_mb=float(shown_mb[1]) if own else seen.memory_total_mb,
            utilisation=seen.utilisation,
            temperature_c=seen.temperature_c,
            health=latest.health,
        )


def sampler(device: str, visible: str, library: GpuLibrary) -> Sampler:
    """The sampler for a worker's device."""
    return GpuSampler(visible, library) if device == "cuda" else CpuSampler()
