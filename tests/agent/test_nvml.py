"""The port to NVIDIA's library: what each of its calls becomes, and what its errors become."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from workers.gpu.library import GpuLibraryError, GpuLostError, Nvml, PhysicalGpu, Reading, in_time

_MIB = 2**20


class Nvidia:
    """The library of a machine with two GPUs, the second divided into two slices. `fails`: call -> the error that it gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **fails: int) -> None:
        self._fails = fails
        self.event = SimpleNamespace(eventData=79, gpuInstanceId=0xFFFFFFFF)
        for name, answer in {
            "Init": lambda: None,
            "DeviceGetCount": lambda: 2,
            "DeviceGetHandleByIndex": lambda index: index,
            "DeviceGetHandleByUUID": lambda uuid: uuid,
            "DeviceGetUUID": lambda handle: handle if isinstance(handle, str) else f"GPU-{handle}",
            "DeviceGetName": lambda handle: "NVIDIA A100",
            "DeviceGetMigMode": lambda handle: [handle, handle],
            "DeviceGetMaxMigDeviceCount": lambda handle: 7,
            "DeviceGetMigDeviceHandleByIndex": self._slice,
            "DeviceGetDeviceHandleFromMigDeviceHandle": lambda handle: 1,
            "DeviceGetGpuInstanceId": lambda handle: 9,
            "DeviceGetMemoryInfo": lambda handle: SimpleNamespace(
                used=3 * _MIB, total=(10 if handle == "MIG-a" else 80) * _MIB
            ),
            "DeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=97),
            "DeviceGetTemperature": lambda handle, sensor: 61,
            "DeviceGetPowerUsage": lambda handle: 412_500,
            "DeviceGetEnforcedPowerLimit": lambda handle: 700_000,
            "DeviceGetClockInfo": lambda handle, clock: 1755,
            "DeviceGetMaxClockInfo": lambda handle, clock: 1980,
            "DeviceGetCurrentClocksEventReasons": lambda handle: 0x4,
            "DeviceGetTotalEccErrors": lambda handle, kind, counter: 2,
            "DeviceGetRemappedRows": lambda handle: (1, 1, 1, 0),
            "DeviceGetRetiredPagesPendingStatus": lambda handle: 1,
            "EventSetCreate": lambda: "events",
            "DeviceRegisterEvents": lambda handle, kinds, events: None,
            "EventSetWait_v2": lambda events, milliseconds: self.event,
        }.items():
            monkeypatch.setattr(pynvml, f"nvml{name}", self._call(name, answer))

    def _call(self, name: str, answer: object):
        def call(*args: object) -> object:
            if name in self._fails:
                raise pynvml.NVMLError(self._fails[name])
            return answer(*args)  # type: ignore[operator]

        return call

    @staticmethod
    def _slice(handle: int, index: int) -> str:
        if index not in (0, 2):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "MIG-a" if index == 0 else "MIG-c"


def test_gpus_and_the_slices_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    Nvidia(monkeypatch)
    assert Nvml().gpus() == (PhysicalGpu("GPU-0"), PhysicalGpu("GPU-1", ("MIG-a", "MIG-c")))


def test_a_gpu_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    Nvidia(monkeypatch)
    gpu = Nvml().open("0")
    assert gpu.name == "NVIDIA A100"
    assert gpu.read() == Reading(
        memory_used_mb=3.0,
        memory_total_mb=80.0,
        utilisation=97.0,
        temperature_c=61.0,
        power_w=412.5,
        power_limit_w=700.0,
        clock_mhz=1755.0,
        clock_max_mhz=1980.0,
        clock_reasons=4,
        ecc_uncorrected=2,
        remap_pending=True,
    )
    assert gpu.wait_for_xids(1.0) == (79,)


def test_a_slice_has_memory_of_its_own_and_no_power(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia = Nvidia(monkeypatch)
    gpu = Nvml().open("MIG-a")
    seen = gpu.read()
    assert (seen.memory_total_mb, seen.power_w, seen.utilisation, seen.temperature_c) == (10.0, -1.0, -1.0, 61.0)
    assert gpu.wait_for_xids(1.0) == (79,), "an error of the whole GPU is every slice's"
    nvidia.event = SimpleNamespace(eventData=31, gpuInstanceId=3)
    assert gpu.wait_for_xids(1.0) == (), "another slice's is not"
    nvidia.event = SimpleNamespace(eventData=31, gpuInstanceId=9)
    assert gpu.wait_for_xids(1.0) == (31,)


def test_what_a_device_has_not_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    unsupported = pynvml.NVML_ERROR_NOT_SUPPORTED
    Nvidia(
        monkeypatch,
        DeviceGetMemoryInfo=unsupported,
        DeviceGetPowerUsage=unsupported,
        DeviceGetRemappedRows=unsupported,
        DeviceGetTotalEccErrors=unsupported,
        EventSetCreate=unsupported,
        DeviceGetMigMode=unsupported,
    )
    assert Nvml().gpus() == (PhysicalGpu("GPU-0"), PhysicalGpu("GPU-1"))
    gpu = Nvml().open("0")
    seen = gpu.read()
    assert (seen.memory_total_mb, seen.power_w, seen.ecc_uncorrected, seen.power_limit_w) == (-1.0, -1.0, -1, 700.0)
    assert seen.remap_pending, "older GPUs retire pages in place of rows"
    assert gpu.wait_for_xids(0.0) == ()


def test_a_wait_in_which_nothing_happens_has_no_xids(monkeypatch: pytest.MonkeyPatch) -> None:
    Nvidia(monkeypatch, EventSetWait_v2=pynvml.NVML_ERROR_TIMEOUT)
    assert Nvml().open("0").wait_for_xids(0.0) == ()


def test_a_lost_gpu_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = pynvml.NVML_ERROR_GPU_IS_LOST
    Nvidia(monkeypatch, DeviceGetPowerUsage=lost, EventSetWait_v2=lost)
    gpu = Nvml().open("0")
    with pytest.raises(GpuLostError):
        gpu.read()
    with pytest.raises(GpuLostError):
        gpu.wait_for_xids(0.0)


def test_a_machine_without_the_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Nvidia(monkeypatch, Init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    with pytest.raises(GpuLibraryError):
        Nvml().gpus()
    with pytest.raises(GpuLibraryError):
        Nvml().open("0")


def test_an_error_of_the_asking_thread_is_the_caller_s() -> None:
    def lost() -> int:
        raise GpuLostError("gone")

    with pytest.raises(GpuLostError, match="gone"):
        in_time(lost, 30)
    assert in_time(lambda: 7, 30) == 7
