"""Choice of devices: the text of `--gpus` -> a list of devices, one worker each. `/2` behind it makes groups of two.

Reads from NVIDIA's management library which GPUs there are; torch is never imported here (it would cost seconds, and a CUDA context on GPU
0). GPU numbers are those of `nvidia-smi`; where CUDA_VISIBLE_DEVICES narrows the machine down, they count within it, as in every CUDA
program. A GPU that is divided (MIG) cannot be used as a whole: its slices are devices, `3:1` is the second one of GPU 3, and `3` is all of
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct

from broker.runtime.settings import SettingsError
from broker.wire.submission import MAX_GPUS
from workers.gpu.library import GpuLibrary, GpuLibraryError, PhysicalGpu, in_time

#: No machine has more; keeps a typing error such as 0-77777 from making a list of it.
MAX_DEVICES = 256

#: A management library that has not answered after this (a broken GPU can hold it up for ever) is taken for none.
_ANSWER_S = 20.0

_RULE = "write a list such as 0-7 or 0,2,5-7, or auto, cpu, cpu:2, and /2 behind it for groups of two"
_RANGE = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?")
_SLICE = re.compile(r"(\d{1,9}):(\d{1,9})")
_CPU = re.compile(r"cpu(?::(\d{1,9}))?")
_UUID = re.compile(r"(?:gpu|mig)-[0-9a-f][0-9a-f/-]*")
_NUMBER = re.compile(r"\d{1,9}")
_DEVICE_NODE = re.compile(r"nvidia\d+")


class Device(Struct, frozen=True):
    """Device of a worker: one GPU or CPU share for each of its ranks.

    `visible` is what CUDA_VISIBLE_DEVICES must be for each: an index or a UUID, "" on the CPU.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    visible: tuple[str, ...] = ("",)


class VisibleGpu(Struct, frozen=True):
    """A GPU that may be used: how CUDA_VISIBLE_DEVICES names it, its own name, and its MIG slices where it is divided."""

    visible: str
    uuid: str = ""
    slices: tuple[str, ...] | None = None

    def devices(self, index: int) -> tuple[Device, ...]:
        """List the devices of this machine."""
        if self.slices is None:
            return (Device(f"gpu-{index}", "cuda", (self.visible,)),)
        return tuple(Device(f"gpu-{index}.{number}", "cuda", (uuid,)) for number, uuid in enumerate(self.slices))


def resolve(text: str, visible: tuple[VisibleGpu, ...]) -> tuple[Device, ...]:
    """The devices that `text` names, in its order; `visible` are the GPUs there are. Raises `SettingsError`."""
    listed, slash, digits = text.strip().lower().partition("/")
    size = _group_size(text, digits.strip()) if slash else 1
    devices = _listed(text, listed.strip(), visible)
    return devices if size == 1 else groups(text, devices, size)


def _group_size(text: str, digits: str) -> int:
    size = int(digits) if _NUMBER.fullmatch(digits) else 0
    if not 1 <= size <= MAX_GPUS:
        raise SettingsError(
            f"gpus: {text!r} must have the number of GPUs of a group behind the slash, 1 to {MAX_GPUS}, as in 0-3/2"
        )
    return size


def groups(text: str, devices: tuple[Device, ...], size: int) -> tuple[Device, ...]:
    """Make groups of `size` of these devices, in their order, which `text` names. Raises `SettingsError`."""
    if devices[0].kind == "cpu" and "cpu" not in text.lower():
        raise SettingsError(f"gpus: {text!r} makes groups of GPUs, but {_there_is(0)}:{size}/{size}")
    if len(devices) % size:
        what = "GPU" if devices[0].kind == "cuda" else "CPU worker"
        has = f"{len(devices)} {what}{'s' if len(devices) > 1 else ''}"
        raise SettingsError(f"gpus: {text!r} names {has}, which cannot be parted into groups of {size}")
    if sliced := next((device for device in devices if _is_slice(device)), None):
        raise SettingsError(
            f"gpus: {text!r} puts {sliced.name.replace('gpu-', 'the MIG slice ')} into a group; a group takes whole GPUs only"
        )
    return tuple(_group(devices[first : first + size]) for first in range(0, len(devices), size))


def _is_slice(device: Device) -> bool:
    return "." in device.name or any(visible.upper().startswith("MIG-") for visible in device.visible)


def _group(devices: tuple[Device, ...]) -> Device:
    """Make one device of several: `gpu-0-3` of neighbours, `gpu-0_2` of others."""
    kind, _, first = devices[0].name.partition("-")
    numbers = [int(device.name.rpartition("-")[2]) for device in devices]
    follow = numbers == [*range(int(first), int(first) + len(numbers))]
    label = f"{numbers[0]}-{numbers[-1]}" if follow else "_".join(map(str, numbers))
    return Device(f"{kind}-{label}", devices[0].kind, tuple(one for device in devices for one in device.visible))


def _listed(text: str, wanted: str, visible: tuple[VisibleGpu, ...]) -> tuple[Device, ...]:
    if wanted == "auto":
        return tuple(device for index, gpu in enumerate(visible) for device in gpu.devices(index)) or _cpus(1)
    if cpu := _CPU.fullmatch(wanted):
        return _cpus(_cpu_count(text, cpu[1]))
    devices = tuple(_named(text, wanted, visible))
    twice = next((device for device in devices if devices.count(device) > 1), None)
    if twice is not None:
        raise SettingsError(f"gpus: {text!r} names {twice.name.replace('gpu-', 'GPU ')} twice")
    return devices


def _cpus(count: int) -> tuple[Device, ...]:
    return tuple(Device(f"cpu-{index}", "cpu") for index in range(count))


def _cpu_count(text: str, digits: str | None) -> int:
    count = int(digits) if digits is not None else 1
    if not 1 <= count <= MAX_DEVICES:
        raise SettingsError(f"gpus: {text!r} asks for {count} CPU workers; 1 to {MAX_DEVICES} are possible")
    return count


def _named(text: str, wanted: str, visible: tuple[VisibleGpu, ...]) -> Iterator[Device]:
    for part in (part.strip() for part in wanted.split(",")):
        if _UUID.fullmatch(part):
            yield from _by_uuid(text, part, visible)
            continue
        if one := _SLICE.fullmatch(part):
            yield _slice(text, int(one[1]), int(one[2]), visible)
            continue
        first, last = _range(text, part)
        if last >= len(visible):
            raise SettingsError(f"gpus: {text!r} names GPU {last}, but {_there_is(len(visible))}")
        for index in range(first, last + 1):
            devices = visible[index].devices(index)
            if not devices:
                raise SettingsError(
                    f"gpus: {text!r} names GPU {index}, which is in MIG mode and has no slice; make one with nvidia-smi mig"
                )
            yield from devices


def _by_uuid(text: str, uuid: str, visible: tuple[VisibleGpu, ...]) -> Iterator[Device]:
    for index, gpu in enumerate(visible):
        if gpu.uuid.lower() == uuid or gpu.visible.lower() == uuid:
            yield from gpu.devices(index)
            return
        for device in gpu.devices(index):
            if device.visible[0].lower() == uuid:
                yield device
                return
    raise SettingsError(f"gpus: {text!r} names {uuid}, which is none of the GPUs here; nvidia-smi -L lists them")


def _slice(text: str, index: int, number: int, visible: tuple[VisibleGpu, ...]) -> Device:
    slices = visible[index].slices if index < len(visible) else None
    if index >= len(visible):
        raise SettingsError(f"gpus: {text!r} names GPU {index}, but {_there_is(len(visible))}")
    if slices is None:
        raise SettingsError(f"gpus: {text!r} names a slice of GPU {index}, which is not divided (MIG); write {index}")
    if number >= len(slices):
        raise SettingsError(f"gpus: {text!r} names slice {number} of GPU {index}, which has {len(slices)}")
    return visible[index].devices(index)[number]


def _range(text: str, part: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise SettingsError(f"gpus: {text!r} is not a list of GPUs ({part!r} is no number or range); {_RULE}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise SettingsError(f"gpus: {text!r} has a range that runs backwards ({part}); write {last}-{first}")
    return first, last


def _there_is(count: int) -> str:
    if count == 0:
        return "no NVIDIA GPU is visible here; use --gpus cpu"
    return "there is only GPU 0" if count == 1 else f"there are {count} (0-{count - 1})"


def visible_gpus(environ: Mapping[str, str], machine: tuple[PhysicalGpu, ...]) -> tuple[VisibleGpu, ...]:
    """Return the machine's GPUs that CUDA_VISIBLE_DEVICES leaves visible; as CUDA does, stops at the first that is not there."""
    everything = tuple(VisibleGpu(str(index), gpu.uuid, gpu.slices) for index, gpu in enumerate(machine[:MAX_DEVICES]))
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return everything
    gpus: list[VisibleGpu] = []
    for entry in (part.strip() for part in listed.split(",")):
        if entry.startswith("MIG-"):
            gpus.append(VisibleGpu(entry, entry))
        elif entry.startswith("GPU-"):
            known = next((gpu for gpu in everything if gpu.uuid.startswith(entry)), VisibleGpu(entry, entry))
            gpus.append(VisibleGpu(entry, known.uuid, known.slices))
        elif entry.isdecimal() and int(entry) < len(everything):
            gpus.append(everything[int(entry)])
        else:
            break
    return tuple(gpus)


def machine_gpus(library: GpuLibrary, dev: Path = Path("/dev")) -> tuple[PhysicalGpu, ...]:
    """The NVIDIA GPUs of this machine. Containers without the management library still have the device nodes."""
    try:
        return in_time(library.gpus, _ANSWER_S)
    except GpuLibraryError:
        return tuple(PhysicalGpu("") for node in dev.glob("nvidia*") if _DEVICE_NODE.fullmatch(node.name))
