"""Memory use of an engine: of the process here; of a GPU in `device.py`, which needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import psutil

_MB = 1024 * 1024


class MemoryMeter(Protocol):
    """Reads the memory that jobs compete for: a GPU's, or the machine's."""

    def used_and_total_mb(self) -> tuple[int, int]:
        """(in use, all there is), in MB."""

    def reset_peak(self) -> None:
        """Forget the peak; it counts from here."""

    def peak_mb(self) -> float:
        """Most in use at once since `reset_peak`, in MB."""

    def held_mb(self) -> float:
        """Return the memory of this process, caches left out, MB."""

    def peak_held_mb(self) -> float:
        """Most of that since `reset_peak`, in MB."""

    def limit_mb(self) -> float:
        """Return the most memory that this process could have beside those that run now, MB."""


class ProcessMemory:
    """This process's resident size, of the machine's memory."""

    _STATUS = Path("/proc/self/status")
    _CLEAR = Path("/proc/self/clear_refs")

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._total_mb = psutil.virtual_memory().total // _MB
        self._highest = 0
        self._kernel_peak = False

    def used_and_total_mb(self) -> tuple[int, int]:
        return self._sample() // _MB, self._total_mb

    def reset_peak(self) -> None:
        self._highest = 0
        self._sample()
        try:
            # "5" sets VmHWM back to the present size (proc(5), Linux 4.0); elsewhere the peak is that of our samples.
            self._CLEAR.write_text("5")
            self._kernel_peak = True
        except OSError:
            self._kernel_peak = False

    def peak_mb(self) -> float:
        self._sample()
        return max(self._highest, self._kernel_high_water()) / _MB

    def held_mb(self) -> float:
        return self._sample() / _MB

    def peak_held_mb(self) -> float:
        return self.peak_mb()

    def limit_mb(self) -> float:
        return (int(psutil.virtual_memory().available) + self._sample()) / _MB

    def _sample(self) -> int:
        used = int(self._process.memory_info().rss)
        self._highest = max(self._highest, used)
        return used

    def _kernel_high_water(self) -> int:
        if not self._kernel_peak:
            return 0
        for line in self._STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return 0
