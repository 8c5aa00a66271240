"""Whose fault an exception is, and whether the process survives it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.engine.conftest import spec_for
from workers.engine.arguments import call_arguments
from workers.engine.errors import DeviceLost, EngineError, InvalidInput, LoadError, OutOfMemory, WriteError
from workers.engine.failures import MAX_MESSAGE, classify
from workers.engine.video import VideoEngine
from workers.models.catalogue import card_for, default_model


class AcceleratorError(RuntimeError):
    """Named as torch's class, which cannot be made without a device."""


@pytest.mark.parametrize(
    ("error", "kind", "fatal"),
    [
        (InvalidInput("no"), "invalid_input", False),
        (OutOfMemory(), "out_of_memory", False),
        (LoadError(), "engine_error", False),
        (WriteError(), "engine_error", False),
        (DeviceLost(), "engine_crashed", True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory", False),
        (MemoryError(), "out_of_memory", False),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
            False,
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "out_of_memory",
            False,
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "engine_crashed", True),
        (RuntimeError("CUDA error: device-side assert triggered"), "engine_crashed", True),
        (RuntimeError("CUDA error: unspecified launch failure"), "engine_crashed", True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "engine_crashed", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "engine_crashed", True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:1691"), "engine_crashed", True),
        (AcceleratorError("something new"), "engine_crashed", True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), "engine_error", False),
        (ValueError("not from a check of arguments"), "engine_error", False),
        (KeyError("blocks.0.weight"), "engine_error", False),
    ],
    ids=lambda value: f"{type(value).__name__}: {value}"[:60] if isinstance(value, Exception) else None,
)
def test_verdicts(error: Exception, kind: str, fatal: bool) -> None:
    verdict = classify(error, "encode")

    assert (verdict.kind, verdict.fatal) == (kind, fatal)
    assert verdict.message


def _raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_check_of_arguments_blames_the_request_until_drawing_began(video_engine: VideoEngine) -> None:
    card = card_for(str(default_model()))
    pipe = video_engine.pipelines.get(card)
    error = _raised(lambda: pipe(**call_arguments(pipe, spec_for(card, height=40), 0)))

    assert classify(error, "encode").kind == "invalid_input"
    assert "divisible by 16" in classify(error, "encode").message
    assert classify(error, "denoise").kind == "engine_error"


def test_messages_are_short_and_say_what_it_was() -> None:
    verdict = classify(RuntimeError("x" * 5000), "denoise")

    assert len(verdict.message) == MAX_MESSAGE
    assert verdict.message.startswith("RuntimeError: xxx")
    assert classify(EngineError(), "denoise").message == "The engine could not draw this."
    assert classify(AssertionError(), "denoise").message == "AssertionError"
