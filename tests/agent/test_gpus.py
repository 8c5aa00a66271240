"""`--gpus` in words -> devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.runtime.settings import SettingsError
from tests.support.gpu_library import FakeLibrary
from workers.gpu.library import PhysicalGpu
from workers.supervisor import gpus
from workers.supervisor.gpus import Device, VisibleGpu, resolve, visible_gpus

EIGHT = tuple(VisibleGpu(str(index), f"GPU-{index}{index}") for index in range(8))
ONE = EIGHT[:1]
#: GPU 0 is whole, GPU 1 has two slices, GPU 2 is in MIG mode without any.
DIVIDED = (
    VisibleGpu("0", "GPU-00"),
    VisibleGpu("1", "GPU-11", ("MIG-a1", "MIG-b2")),
    VisibleGpu("2", "GPU-22", ()),
)


@pytest.mark.parametrize(
    ("text", "visible", "names"),
    [
        ("0-7", EIGHT, [f"gpu-{index}" for index in range(8)]),
        ("0,2,5-7", EIGHT, ["gpu-0", "gpu-2", "gpu-5", "gpu-6", "gpu-7"]),
        (" 3 , 1 - 2 ", EIGHT, ["gpu-3", "gpu-1", "gpu-2"]),
        ("4-4", EIGHT, ["gpu-4"]),
        ("auto", EIGHT, [f"gpu-{index}" for index in range(8)]),
        ("AUTO", ONE, ["gpu-0"]),
        ("auto", (), ["cpu-0"]),
        ("cpu", EIGHT, ["cpu-0"]),
        ("cpu:3", (), ["cpu-0", "cpu-1", "cpu-2"]),
        ("auto", DIVIDED, ["gpu-0", "gpu-1.0", "gpu-1.1"]),
        ("1,0", DIVIDED, ["gpu-1.0", "gpu-1.1", "gpu-0"]),
        ("1:1,0", DIVIDED, ["gpu-1.1", "gpu-0"]),
        ("MIG-b2, GPU-00", DIVIDED, ["gpu-1.1", "gpu-0"]),
        ("GPU-11", DIVIDED, ["gpu-1.0", "gpu-1.1"]),
        ("0-3/2", EIGHT, ["gpu-0-1", "gpu-2-3"]),
        ("0,2,5,4 / 2", EIGHT, ["gpu-0_2", "gpu-5_4"]),
        ("auto/4", EIGHT, ["gpu-0-3", "gpu-4-7"]),
        ("0,1/1", EIGHT, ["gpu-0", "gpu-1"]),
        ("cpu:4/2", EIGHT, ["cpu-0-1", "cpu-2-3"]),
    ],
)
def test_lists(text: str, visible: tuple[VisibleGpu, ...], names: list[str]) -> None:
    assert [device.name for device in resolve(text, visible)] == names


def test_a_worker_of_a_slice_sees_that_slice_alone() -> None:
    assert resolve("auto", DIVIDED)[2] == Device("gpu-1.1", "cuda", ("MIG-b2",))


def test_a_gpu_worker_sees_its_gpu_and_a_cpu_worker_sees_none() -> None:
    assert resolve("1", (VisibleGpu("5"), VisibleGpu("GPU-abc"))) == (Device("gpu-1", "cuda", ("GPU-abc",)),)
    assert resolve("cpu", EIGHT) == (Device("cpu-0", "cpu", ("",)),)


def test_a_group_sees_each_of_its_gpus_in_a_process_of_its_own() -> None:
    assert resolve("0,2/2", EIGHT) == (Device("gpu-0_2", "cuda", ("0", "2")),)
    assert resolve("cpu:3/3", ()) == (Device("cpu-0-2", "cpu", ("", "", "")),)


@pytest.mark.parametrize(
    ("text", "visible", "message"),
    [
        ("0-7", EIGHT[:4], "gpus: '0-7' names GPU 7, but there are 4 (0-3)"),
        ("1", ONE, "gpus: '1' names GPU 1, but there is only GPU 0"),
        ("0", (), "gpus: '0' names GPU 0, but no NVIDIA GPU is visible here; use --gpus cpu"),
        ("0-999999999", EIGHT, "gpus: '0-999999999' names GPU 999999999, but there are 8 (0-7)"),
        ("0,1,0", EIGHT, "gpus: '0,1,0' names GPU 0 twice"),
        ("0-3,2", EIGHT, "gpus: '0-3,2' names GPU 2 twice"),
        ("7-0", EIGHT, "gpus: '7-0' has a range that runs backwards (7-0); write 0-7"),
        ("1,MIG-a1", DIVIDED, "gpus: '1,MIG-a1' names GPU 1.0 twice"),
        ("2", DIVIDED, "gpus: '2' names GPU 2, which is in MIG mode and has no slice; make one with nvidia-smi mig"),
        ("0:0", DIVIDED, "gpus: '0:0' names a slice of GPU 0, which is not divided (MIG); write 0"),
        ("1:2", DIVIDED, "gpus: '1:2' names slice 2 of GPU 1, which has 2"),
        ("9:0", DIVIDED, "gpus: '9:0' names GPU 9, but there are 3 (0-2)"),
        ("mig-ff", DIVIDED, "gpus: 'mig-ff' names mig-ff, which is none of the GPUs here; nvidia-smi -L lists them"),
        ("cpu:0", EIGHT, "gpus: 'cpu:0' asks for 0 CPU workers; 1 to 256 are possible"),
        ("0-6/2", EIGHT, "gpus: '0-6/2' names 7 GPUs, which cannot be parted into groups of 2"),
        ("0/2", EIGHT, "gpus: '0/2' names 1 GPU, which cannot be parted into groups of 2"),
        ("cpu:3/2", EIGHT, "gpus: 'cpu:3/2' names 3 CPU workers, which cannot be parted into groups of 2"),
        (
            "auto/4",
            (),
            "gpus: 'auto/4' makes groups of GPUs, but no NVIDIA GPU is visible here; use --gpus cpu:4/4",
        ),
        (
            "1/2",
            DIVIDED,
            "gpus: '1/2' puts the MIG slice 1.0 into a group; a group takes whole GPUs only",
        ),
        *(
            (
                text,
                EIGHT,
                f"gpus: '{text}' must have the number of GPUs of a group behind the slash, 1 to 64, as in 0-3/2",
            )
            for text in ("0-3/", "0-3/0", "0-3/x", "0-3/65", "0-3/2/2", "0-3/-2")
        ),
        ("cpu:9999", EIGHT, "gpus: 'cpu:9999' asks for 9999 CPU workers; 1 to 256 are possible"),
    ],
)
def test_refusals(text: str, visible: tuple[VisibleGpu, ...], message: str) -> None:
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


MACHINE = (
    PhysicalGpu("GPU-00aa"),
    PhysicalGpu("GPU-11bb", ("MIG-a1",)),
    PhysicalGpu("GPU-22cc"),
    PhysicalGpu("GPU-33dd"),
)


@pytest.mark.parametrize(
    ("variable", "count", "visible"),
    [
        (None, 2, ["0", "1"]),
        ("3,1", 4, ["3", "1"]),
        (" 0 , 1 ", 2, ["0", "1"]),
        ("", 4, []),
        ("-1", 4, []),
        ("1,9,0", 4, ["1"]),
        ("GPU-1b,MIG-2c", 4, ["GPU-1b", "MIG-2c"]),
        ("NoDevFiles", 4, []),
    ],
)
def test_cuda_visible_devices_narrows_the_machine(variable: str | None, count: int, visible: list[str]) -> None:
    environ = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert [gpu.visible for gpu in visible_gpus(environ, MACHINE[:count])] == visible


@pytest.mark.parametrize(
    ("variable", "workers"),
    [("1", ["gpu-0.0"]), ("GPU-11", ["gpu-0.0"]), ("MIG-a1,0", ["gpu-0", "gpu-1"]), ("0,1", ["gpu-0", "gpu-1.0"])],
)
def test_a_divided_gpu_is_its_slices_however_it_is_named(variable: str, workers: list[str]) -> None:
    visible = visible_gpus({"CUDA_VISIBLE_DEVICES": variable}, MACHINE)
    assert [device.name for device in resolve("auto", visible)] == workers


@pytest.mark.parametrize("library", [FakeLibrary(), FakeLibrary(hangs=True)], ids=["none", "hangs"])
def test_without_the_management_library_device_nodes_count(
    library: FakeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "_ANSWER_S", 0.1)
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / node).touch()
    assert len(gpus.machine_gpus(library, tmp_path)) == 2


def test_the_management_library_counts(tmp_path: Path) -> None:
    assert gpus.machine_gpus(FakeLibrary(machine=MACHINE), tmp_path) == MACHINE
