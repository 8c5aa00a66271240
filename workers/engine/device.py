"""The device that torch computes on: its dtype, its memory, when its queue is empty. One GPU or the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from workers.engine.errors import LoadError
from workers.engine.memory import MemoryMeter, ProcessMemory

_MB = 1024 * 1024

#: Typed as a whole, which the library is not.
_Stream: Any = torch.cuda.Stream


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

    def held_mb(self) -> float:
        """Memory of tensors, without torch's cache, MB."""
        return float(torch.cuda.memory_allocated()) / _MB

    def peak_held_mb(self) -> float:
        return float(torch.cuda.max_memory_allocated()) / _MB

    def limit_mb(self) -> float:
        """Free memory, and that reserved by torch, MB."""
        return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / _MB


class Device:
    """`kind` is "cpu" or "cuda" (then the only GPU visible to this process). Raises `LoadError` when it is not there, or has no such
    dtype.
    """

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
        self._side: Any = _Stream() if kind == "cuda" else None
        self._ahead: Any = _Stream() if kind == "cuda" else None

    @property
    def name(self) -> str:
        """The device class, as "NVIDIA H100 80GB HBM3", or the instruction set of a CPU: what the last bits of a result depend on."""
        if self.kind == "cuda":
            return str(torch.cuda.get_device_name())
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"

    def synchronise(self) -> None:
        """Wait until all that this thread gave to the GPU is done: it runs behind, and a step must not be reported before it is over."""
        if self.kind == "cuda":
            # Not the device's: the decoding of the job before has a stream of its own, and is not waited for.
            torch.cuda.current_stream().synchronize()

    def seed(self, seed: int) -> None:
        """Seed the generators that this process draws from; `torch.manual_seed` looks up every kind of device meanwhile."""
        torch.default_generator.manual_seed(seed)
        if self.kind == "cuda":
            torch.cuda.manual_seed(seed)

    @contextmanager
    def beside(self, *tensors: torch.Tensor) -> Iterator[None]:
        """Run what is given to the GPU inside beside the other thread's work, after what made `tensors`; it is done on leaving."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            for tensor in tensors:
                # Their memory belongs to the stream that made them, and must not be given out again before this one is done.
                tensor.record_stream(self._side)
            try:
                yield
            finally:
                self._side.synchronize()

    @contextmanager
    def aside(self, at_turn: Callable[[Callable[[], None]], None]) -> Iterator[None]:
        """Run what this thread gives to the GPU inside beside the other thread's steps, until its own turn comes.

        `at_turn` takes what is to be done then. Steps run on the stream of all others: memory of their size is kept once.
        """
        if self._ahead is None:
            yield
            return

        def join() -> None:
            self._ahead.synchronize()
            torch.cuda.set_stream(torch.cuda.default_stream())

        torch.cuda.set_stream(self._ahead)
        at_turn(join)
        try:
            yield
        finally:
            torch.cuda.set_stream(torch.cuda.default_stream())

    def release(self) -> None:
        """Give unused memory back to the system or the GPU."""
        gc.collect()
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        """Return the bytes that a new model may take."""
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
