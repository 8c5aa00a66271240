"""Classification of exceptions in an engine: the failure's kind, whether the process can go on, and a short message.

Torch is not imported here (the fake engine has none), so its errors are known by the names of their classes and by what CUDA and
its libraries say. CUDA has two kinds: out of memory fails the job, all else leaves a context in which every later call fails too.
"""

from __future__ import annotations

import re
import traceback
from types import TracebackType

from msgspec import Struct

from broker.wire.failures import FailureKind
from workers.engine.errors import EngineError

MAX_MESSAGE = 2000

_OUT_OF_MEMORY_CLASSES = {"OutOfMemoryError", "MemoryError"}
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_POISONED_CLASSES = {"AcceleratorError", "DistBackendError"}
_POISONED = re.compile(
    r"CUDA (driver )?error|CUDA kernel errors|illegal memory access|device-side assert|unspecified launch failure"
    r"|misaligned address|uncorrectable ECC|CUBLAS_STATUS_EXECUTION_FAILED|CUBLAS_STATUS_INTERNAL_ERROR"
    r"|CUDNN_STATUS_EXECUTION_FAILED|CUDNN_STATUS_INTERNAL_ERROR|NCCL"
)

#: Where pipelines check their arguments: a ValueError or TypeError raised there, before the first step, is about the request.
_ARGUMENT_CHECKS = re.compile(
    r"[/\\]diffusers[/\\](pipelines|schedulers)[/\\]|[/\\]diffusers[/\\](image|video)_processor\.py$"
)


class Verdict(Struct, frozen=True):
    """Report of a failed job."""

    kind: FailureKind
    message: str
    #: Whether the process must end.
    fatal: bool = False


def classify(error: BaseException, phase: str) -> Verdict:
    """The verdict on what a job raised while in `phase`."""
    text = str(error).strip()
    if isinstance(error, EngineError):
        return Verdict(error.kind, _short(text), error.fatal)
    classes = {kind.__name__ for kind in type(error).__mro__}
    named = _short(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    if classes & _OUT_OF_MEMORY_CLASSES or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(text)):
        return Verdict(FailureKind.OUT_OF_MEMORY, named)
    if classes & _POISONED_CLASSES or (isinstance(error, RuntimeError) and _POISONED.search(text)):
        return Verdict(FailureKind.ENGINE_CRASHED, named, fatal=True)
    if (
        phase in ("", "load", "warm_up", "encode")
        and isinstance(error, ValueError | TypeError)
        and _from_check(error.__traceback__)
    ):
        return Verdict(FailureKind.INVALID_INPUT, _short(text))
    return Verdict(FailureKind.ENGINE_ERROR, named)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is a lack of memory, wherever it was raised."""
    return classify(error, "load").kind is FailureKind.OUT_OF_MEMORY


def forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of a traceback hold: their tensors fill the memory that the next job needs."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _from_check(trace: TracebackType | None) -> bool:
    frames = traceback.extract_tb(trace)
    return bool(frames) and _ARGUMENT_CHECKS.search(frames[-1].filename) is not None


def _short(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
