"""The device that torch computes on: its dtype, its memory, when its queue is empty. One GPU or the CPU."""

from __future__ import annotations

import gc

import psutil
import torch

from workers.engine.errors import LoadError
from workers.engine.memory import MemoryMeter, ProcessMemory

_MB = 1024 * 1024


class GpuMemory:
    """The whole GPU, other processes included: what is full for one is full for all."""

    def used_and_total_mb(self) -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info()
        return (total - free) // _MB, total // _MB

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def peak_mb(self) -> float:
        """Most that torch held, its cache included: that is what others could not use."""
        return float(torch.cuda.max_memory_reserved()) / _MB


class Device:
    """`kind` is "cpu" or "cuda" (then the only GPU this process sees). Raises `LoadError` when it is not there, or has no such dtype."""

    def __init__(self, kind: str, dtype: str, threads: int) -> None:
        if kind not in ("cpu", "cuda"):
            raise LoadError(f"device {kind!r} is not one of cpu, cuda")
        if kind == "cuda" and not torch.cuda.is_available():
            raise LoadError("device cuda: torch sees no GPU (is this torch built for CUDA, is the driver loaded?)")
        if threads > 0:
            torch.set_num_threads(threads)
        self.kind = kind
        self.torch_device = torch.device(kind)
        self.dtype = _dtype(dtype, kind)
        self.meter: MemoryMeter = GpuMemory() if kind == "cuda" else ProcessMemory()

    def synchronise(self) -> None:
        """Wait until all that was asked of the GPU is done: it runs behind, and a step must not be reported before it is over."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def release(self) -> None:
        """Give unused memory back to the system or the GPU."""
        gc.collect()
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        """What a new model may take."""
        if self.kind == "cuda":
            return int(torch.cuda.mem_get_info()[0])
        return int(psutil.virtual_memory().available)


def _dtype(name: str, kind: str) -> torch.dtype:
    if name == "auto":
        # Emulated bfloat16 (before Ampere) is slower than float32.
        fast = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise LoadError(f"dtype {name!r} is not a floating-point type of torch, such as bfloat16")
    return dtype
