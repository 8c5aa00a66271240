"""`--gpus` in words -> devices."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from broker.runtime.settings import SettingsError
from workers.supervisor import gpus
from workers.supervisor.gpus import Device, resolve, visible_gpus

EIGHT = tuple(str(index) for index in range(8))


@pytest.mark.parametrize(
    ("text", "visible", "names"),
    [
        ("0-7", EIGHT, [f"gpu-{index}" for index in range(8)]),
        ("0,2,5-7", EIGHT, ["gpu-0", "gpu-2", "gpu-5", "gpu-6", "gpu-7"]),
        (" 3 , 1 - 2 ", EIGHT, ["gpu-3", "gpu-1", "gpu-2"]),
        ("4-4", EIGHT, ["gpu-4"]),
        ("auto", EIGHT, [f"gpu-{index}" for index in range(8)]),
        ("AUTO", ("0",), ["gpu-0"]),
        ("auto", (), ["cpu-0"]),
        ("cpu", EIGHT, ["cpu-0"]),
        ("cpu:3", (), ["cpu-0", "cpu-1", "cpu-2"]),
    ],
)
def test_lists(text: str, visible: tuple[str, ...], names: list[str]) -> None:
    assert [device.name for device in resolve(text, visible)] == names


def test_a_gpu_worker_sees_its_gpu_and_a_cpu_worker_sees_none() -> None:
    assert resolve("1", ("5", "GPU-abc")) == (Device("gpu-1", "cuda", "GPU-abc"),)
    assert resolve("cpu", EIGHT) == (Device("cpu-0", "cpu", ""),)


@pytest.mark.parametrize(
    ("text", "visible", "message"),
    [
        ("0-7", EIGHT[:4], "gpus: '0-7' names GPU 7, but there are 4 (0-3)"),
        ("1", ("0",), "gpus: '1' names GPU 1, but there is only GPU 0"),
        ("0", (), "gpus: '0' names GPU 0, but no NVIDIA GPU is visible here; use --gpus cpu"),
        ("0-999999999", EIGHT, "gpus: '0-999999999' names GPU 999999999, but there are 8 (0-7)"),
        ("0,1,0", EIGHT, "gpus: '0,1,0' names GPU 0 twice"),
        ("0-3,2", EIGHT, "gpus: '0-3,2' names GPU 2 twice"),
        ("7-0", EIGHT, "gpus: '7-0' has a range that runs backwards (7-0); write 0-7"),
        ("cpu:0", EIGHT, "gpus: 'cpu:0' asks for 0 CPU workers; 1 to 256 are possible"),
        ("cpu:9999", EIGHT, "gpus: 'cpu:9999' asks for 9999 CPU workers; 1 to 256 are possible"),
    ],
)
def test_refusals(text: str, visible: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        resolve(text, visible)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "text", ["", "x", "0,", ",0", "0-", "-1", "0--3", "1.5", "cpu:", "cpu:x", "cpu-2", "gpu:0", "all", "0 1"]
)
def test_what_is_no_list_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"is not a list of GPUs .* write a list such as 0-7 or 0,2,5-7, or auto, cpu, cpu:2"
    ):
        resolve(text, EIGHT)


@pytest.mark.parametrize(
    ("variable", "count", "visible"),
    [
        (None, 2, ("0", "1")),
        ("3,1", 4, ("3", "1")),
        (" 0 , 1 ", 2, ("0", "1")),
        ("", 4, ()),
        ("-1", 4, ()),
        ("1,9,0", 4, ("1",)),
        ("GPU-1b,MIG-2c", 4, ("GPU-1b", "MIG-2c")),
        ("NoDevFiles", 4, ()),
    ],
)
def test_cuda_visible_devices_narrows_the_machine(variable: str | None, count: int, visible: tuple[str, ...]) -> None:
    environ = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert visible_gpus(environ, count) == visible


def test_without_the_management_library_device_nodes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / node).touch()
    assert gpus.count_gpus(tmp_path) == 2


def test_the_management_library_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: calls.append("init"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 8)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: calls.append("shutdown"))
    assert gpus.count_gpus(tmp_path) == 8
    assert calls == ["init", "shutdown"]
