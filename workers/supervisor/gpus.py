"""Which devices to run workers on: `--gpus` in words -> a list of devices, one worker each.

Asks NVIDIA's management library how many GPUs there are; torch is never imported here (it would cost seconds, and a CUDA context on GPU 0).
GPU numbers are those of `nvidia-smi`; where CUDA_VISIBLE_DEVICES narrows the machine down, they count within it, as in every CUDA program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pynvml
from msgspec import Struct

from broker.runtime.settings import SettingsError

#: No machine has more; keeps a typing error such as 0-77777 from making a list of it.
MAX_DEVICES = 256

_RULE = "write a list such as 0-7 or 0,2,5-7, or auto, cpu, cpu:2"
_RANGE = re.compile(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?")
_CPU = re.compile(r"cpu(?::(\d{1,9}))?")
_DEVICE_NODE = re.compile(r"nvidia\d+")


class Device(Struct, frozen=True):
    """One worker's device. `visible` is what CUDA_VISIBLE_DEVICES must be for it: an index or a UUID, "" for a CPU worker."""

    name: str
    kind: Literal["cuda", "cpu"]
    visible: str = ""


def resolve(text: str, visible: tuple[str, ...]) -> tuple[Device, ...]:
    """The devices that `text` names, in its order; `visible` are the GPUs there are. Raises `SettingsError`."""
    wanted = text.strip().lower()
    if wanted == "auto":
        gpus = tuple(Device(f"gpu-{index}", "cuda", gpu) for index, gpu in enumerate(visible))
        return gpus or _cpus(1)
    if cpu := _CPU.fullmatch(wanted):
        return _cpus(_cpu_count(text, cpu[1]))
    return tuple(Device(f"gpu-{index}", "cuda", visible[index]) for index in _indexes(text, wanted, visible))


def _cpus(count: int) -> tuple[Device, ...]:
    return tuple(Device(f"cpu-{index}", "cpu") for index in range(count))


def _cpu_count(text: str, digits: str | None) -> int:
    count = int(digits) if digits is not None else 1
    if not 1 <= count <= MAX_DEVICES:
        raise SettingsError(f"gpus: {text!r} asks for {count} CPU workers; 1 to {MAX_DEVICES} are possible")
    return count


def _indexes(text: str, wanted: str, visible: tuple[str, ...]) -> list[int]:
    indexes: list[int] = []
    for part in wanted.split(","):
        first, last = _range(text, part.strip())
        if last >= len(visible):
            raise SettingsError(f"gpus: {text!r} names GPU {last}, but {_there_is(len(visible))}")
        indexes.extend(range(first, last + 1))
    twice = next((index for index in indexes if indexes.count(index) > 1), None)
    if twice is not None:
        raise SettingsError(f"gpus: {text!r} names GPU {twice} twice")
    return indexes


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


def visible_gpus(environ: Mapping[str, str], count: int) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES leaves of `count` GPUs, as values for that variable; as CUDA does, stops at the first that is not there."""
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return tuple(str(index) for index in range(min(count, MAX_DEVICES)))
    gpus: list[str] = []
    for entry in (part.strip() for part in listed.split(",")):
        if not (entry.startswith(("GPU-", "MIG-")) or (entry.isdecimal() and int(entry) < count)):
            break
        gpus.append(entry)
    return tuple(gpus)


def count_gpus(dev: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs this machine has. Containers without the management library still have the device nodes."""
    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return sum(1 for node in dev.glob("nvidia*") if _DEVICE_NODE.fullmatch(node.name))
