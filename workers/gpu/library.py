"""The GPUs of this machine through NVIDIA's management library (NVML), behind a small port.

Everything here may raise `GpuLibraryError`, and any call may hang in the driver of a broken GPU: callers run them on a thread that no other
waits for without an end (`watch`, `in_time`). A single number that cannot be read is -1 in a `Reading`: not every device has every sensor.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import pynvml
from msgspec import Struct

_MB = 1024 * 1024

#: An event of the whole GPU, not of one slice of it.
_WHOLE_GPU = 0xFFFFFFFF

_Answer = TypeVar("_Answer")


class GpuLibraryError(Exception):
    """The management library is not there, or does not answer."""


class GpuLostError(GpuLibraryError):
    """The library reports that the GPU is not reachable any more."""


class PhysicalGpu(Struct, frozen=True):
    """GPU of the machine. `slices`: the UUIDs of its MIG slices; None when it is not divided, and then used as a whole."""

    uuid: str
    slices: tuple[str, ...] | None = None


class Reading(Struct, frozen=True, kw_only=True):
    """Measurements of a GPU now; -1 where it gives none. Of a MIG slice, all but its memory is the GPU's that it is part of."""

    memory_used_mb: float = -1.0
    memory_total_mb: float = -1.0
    #: Percent.
    utilisation: float = -1.0
    temperature_c: float = -1.0
    power_w: float = -1.0
    power_limit_w: float = -1.0
    clock_mhz: float = -1.0
    clock_max_mhz: float = -1.0
    #: Bits of `nvmlClocksEventReason…`.
    clock_reasons: int = 0
    #: Uncorrected memory errors since the driver was loaded.
    ecc_uncorrected: int = -1
    #: Rows of memory (pages on older GPUs) are to be replaced at the next reset; that has failed.
    remap_pending: bool = False
    remap_failed: bool = False


class Gpu(Protocol):
    """Opened GPU, or MIG slice."""

    #: Product name: "NVIDIA H100 80GB HBM3".
    name: str

    def read(self) -> Reading:
        """Measure now. Raises `GpuLostError`."""

    def wait_for_xids(self, seconds: float) -> tuple[int, ...]:
        """The Xids that the driver reports within this time, as soon as there is one; waits to the end where it reports none."""


class GpuLibrary(Protocol):
    """The management library."""

    def gpus(self) -> tuple[PhysicalGpu, ...]:
        """All GPUs, in the order of their PCI addresses, which is that of `nvidia-smi`."""

    def open(self, visible: str) -> Gpu:
        """The GPU that CUDA_VISIBLE_DEVICES names so: an index (in PCI order), or the UUID of a GPU or MIG slice."""


class Nvml:
    """The real library; initialised at the first use, for as long as the process lives."""

    def gpus(self) -> tuple[PhysicalGpu, ...]:
        try:
            pynvml.nvmlInit()
            return tuple(_physical(index) for index in range(int(pynvml.nvmlDeviceGetCount())))
        except pynvml.NVMLError as error:
            raise GpuLibraryError(str(error)) from None

    def open(self, visible: str) -> Gpu:
        try:
            pynvml.nvmlInit()
            if visible.isdecimal():
                return NvmlGpu(pynvml.nvmlDeviceGetHandleByIndex(int(visible)), is_slice=False)
            return NvmlGpu(pynvml.nvmlDeviceGetHandleByUUID(visible), is_slice=visible.startswith("MIG-"))
        except pynvml.NVMLError as error:
            raise GpuLibraryError(str(error)) from None


def _physical(index: int) -> PhysicalGpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    divided = _or(0, lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    if not divided:
        return PhysicalGpu(uuid)
    slices = []
    for number in range(_or(0, lambda: int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)))):
        # A place that no slice has is NotFound.
        with contextlib.suppress(pynvml.NVMLError):
            slices.append(str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))))
    return PhysicalGpu(uuid, tuple(slices))


class NvmlGpu:
    """A handle of the real library, with the handle of the whole GPU where it is a slice."""

    def __init__(self, handle: Any, *, is_slice: bool) -> None:
        self._handle = handle
        self._whole = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if is_slice else handle
        self._instance = _or(_WHOLE_GPU, lambda: int(pynvml.nvmlDeviceGetGpuInstanceId(handle))) if is_slice else None
        self.name = str(pynvml.nvmlDeviceGetName(self._whole)) + (" MIG" if is_slice else "")
        self._events = self._register()

    def _register(self) -> Any:
        try:
            events = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(self._whole, pynvml.nvmlEventTypeXidCriticalError, events)
        except pynvml.NVMLError:
            return None  # not on every system (WSL, some virtual GPUs): then no Xid is reported
        return events

    def read(self) -> Reading:
        whole = self._whole
        memory = _or(None, lambda: pynvml.nvmlDeviceGetMemoryInfo(self._handle))
        remapped = _or(None, lambda: pynvml.nvmlDeviceGetRemappedRows(whole))
        if remapped is None:
            # Before Ampere there are pages to retire in place of rows.
            remapped = (0, 0, _or(0, lambda: pynvml.nvmlDeviceGetRetiredPagesPendingStatus(whole)), 0)
        alone = self._instance is None
        return Reading(
            memory_used_mb=memory.used / _MB if memory else -1.0,
            memory_total_mb=memory.total / _MB if memory else -1.0,
            utilisation=_or(-1.0, lambda: float(pynvml.nvmlDeviceGetUtilizationRates(whole).gpu)) if alone else -1.0,
            temperature_c=_or(-1.0, lambda: float(pynvml.nvmlDeviceGetTemperature(whole, pynvml.NVML_TEMPERATURE_GPU))),
            # Each slice would report the power of the whole, and a sum over workers count it many times.
            power_w=_or(-1.0, lambda: pynvml.nvmlDeviceGetPowerUsage(whole) / 1000) if alone else -1.0,
            power_limit_w=_or(-1.0, lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(whole) / 1000) if alone else -1.0,
            clock_mhz=_or(-1.0, lambda: float(pynvml.nvmlDeviceGetClockInfo(whole, pynvml.NVML_CLOCK_SM))),
            clock_max_mhz=_or(-1.0, lambda: float(pynvml.nvmlDeviceGetMaxClockInfo(whole, pynvml.NVML_CLOCK_SM))),
            clock_reasons=_or(0, lambda: int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(whole))),
            ecc_uncorrected=_or(-1, lambda: _uncorrected(whole)),
            remap_pending=bool(remapped[2]),
            remap_failed=bool(remapped[3]),
        )

    def wait_for_xids(self, seconds: float) -> tuple[int, ...]:
        if self._events is None:
            time.sleep(seconds)
            return ()
        started = time.monotonic()
        try:
            data = pynvml.nvmlEventSetWait_v2(self._events, int(seconds * 1000))
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_TIMEOUT:
                _raise_if_lost(error)
            # What fails at once must not be tried again at once.
            time.sleep(max(0.0, seconds - (time.monotonic() - started)))
            return ()
        ours = self._instance is None or data.gpuInstanceId in (self._instance, _WHOLE_GPU)
        return (int(data.eventData),) if ours else ()


def _uncorrected(handle: Any) -> int:
    return int(
        pynvml.nvmlDeviceGetTotalEccErrors(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
    )


def _or(default: _Answer, read: Callable[[], _Answer]) -> _Answer:
    """Return `read()`, or `default` where the device, the driver or the library has no such thing. Raises `GpuLostError`."""
    try:
        return read()
    except pynvml.NVMLError as error:
        _raise_if_lost(error)
        return default


def _raise_if_lost(error: Any) -> None:
    if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
        raise GpuLostError(str(error)) from None


def in_time(call: Callable[[], _Answer], seconds: float) -> _Answer:
    """Call `call` on a thread of its own and return its result. Raises `GpuLibraryError` when it does, or has not answered in this time."""
    answers: list[_Answer] = []
    errors: list[GpuLibraryError] = []

    def run() -> None:
        try:
            answers.append(call())
        except GpuLibraryError as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="gpu-library", daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    raise errors[0] if errors else GpuLibraryError(f"no answer in {seconds:g} s")
