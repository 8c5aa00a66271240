"""What device and engine use at the moment: NVIDIA's management library for a GPU, the process table for a CPU worker.

Numbers for people, never for decisions: whatever cannot be read is left at "not known" (-1, or 0 MB).
"""

from __future__ import annotations

from typing import Any, Protocol

import psutil
import pynvml

from workers.agent.effects import Stats

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
    """Memory, utilisation and temperature of a GPU; what the engine shows where the library does not answer."""

    def __init__(self, visible: str) -> None:
        self._handle: Any = None
        self.device = f"cuda:{visible}"
        try:
            pynvml.nvmlInit()
            if visible.isdecimal():
                self._handle = pynvml.nvmlDeviceGetHandleByIndex(int(visible))
            else:
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(visible)
            self.device = str(pynvml.nvmlDeviceGetName(self._handle))
        except pynvml.NVMLError:
            self._handle = None

    def sample(self, engine_pid: int, shown_mb: tuple[int, int]) -> Stats:
        """The numbers now."""
        used_mb, total_mb = float(shown_mb[0]), float(shown_mb[1])
        if self._handle is None:
            return Stats(memory_used_mb=used_mb, memory_total_mb=total_mb)
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
            used_mb, total_mb = memory.used / _MB, memory.total / _MB
        except pynvml.NVMLError:
            pass  # not every device reports it (unified memory); the engine's own view stands
        return Stats(
            memory_used_mb=used_mb,
            memory_total_mb=total_mb,
            utilisation=self._number(lambda: pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu),
            temperature_c=self._number(
                lambda: pynvml.nvmlDeviceGetTemperature(self._handle, pynvml.NVML_TEMPERATURE_GPU)
            ),
        )

    @staticmethod
    def _number(read: Any) -> float:
        try:
            return float(read())
        except pynvml.NVMLError:
            return -1.0


def sampler(device: str, visible: str) -> Sampler:
    """The sampler for a worker's device."""
    return GpuSampler(visible) if device == "cuda" else CpuSampler()
