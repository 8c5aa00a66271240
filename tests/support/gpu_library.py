"""A management library of GPUs that are what a test says."""

from __future__ import annotations

import queue
import threading

from workers.gpu.library import Gpu, GpuLibraryError, GpuLostError, PhysicalGpu, Reading

READING = Reading(
    memory_used_mb=3.0,
    memory_total_mb=80.0,
    utilisation=97.0,
    temperature_c=61.0,
    power_w=412.5,
    power_limit_w=700.0,
    clock_mhz=1755.0,
    clock_max_mhz=1980.0,
    clock_reasons=0x4,
    ecc_uncorrected=0,
)


class FakeGpu:
    """One GPU. `reading` None: it is lost. A wait ends with the next of `xids`, and without one never: so does a
    driver that hangs."""

    def __init__(self, reading: Reading | None = READING, name: str = "NVIDIA H100") -> None:
        self.name = name
        self.reading = reading
        self.xids: queue.SimpleQueue[int] = queue.SimpleQueue()
        #: Set by each wait: everything before has been taken in.
        self.waits = threading.Semaphore(0)

    def read(self) -> Reading:
        if self.reading is None:
            raise GpuLostError("GPU is lost")
        return self.reading

    def wait_for_xids(self, seconds: float) -> tuple[int, ...]:
        self.waits.release()
        return (self.xids.get(),)

    def taken_in(self, times: int = 1) -> None:
        """Wait until so many measurements have been made."""
        for _ in range(times):
            assert self.waits.acquire(timeout=30), "no measurement"


class FakeLibrary:
    """A machine with these GPUs. Without any, it is a machine without the library; one that `hangs` does not answer."""

    def __init__(self, *gpus: FakeGpu, machine: tuple[PhysicalGpu, ...] = (), hangs: bool = False) -> None:
        self._gpus = gpus
        self._machine = machine
        self._hangs = hangs
        self.opened: list[str] = []

    def gpus(self) -> tuple[PhysicalGpu, ...]:
        self._answer()
        return self._machine

    def open(self, visible: str) -> Gpu:
        self._answer()
        self.opened.append(visible)
        return self._gpus[int(visible) if visible in ("0", "1") and len(self._gpus) > 1 else 0]

    def _answer(self) -> None:
        if self._hangs:
            threading.Event().wait()
        if not self._gpus and not self._machine:
            raise GpuLibraryError("NVML Shared Library Not Found")
