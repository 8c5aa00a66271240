"""A stage of `ready`: the denoisers' repeated blocks are compiled, one compilation for all of a kind; and the warm-up that makes it happen.

Compiling takes tens of seconds, at the first call in a size. The warm-up makes these calls while the model is loaded: later, a job whose
steps take so long would be held for stuck. What is compiled is kept in a directory, and found there after a restart.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_shapes
from PIL import Image

from broker.wire.jobspec import ModelCard, first_call
from workers.engine.arguments import call_arguments
from workers.engine.attention import denoisers_of
from workers.engine.device import Device
from workers.engine.errors import LoadError
from workers.engine.instrumentation import COMPILED, call, call_parameters
from workers.engine.memory import ProcessMemory
from workers.engine.progress import Monitor
from workers.ipc.shared import Slot


def compile_blocks(where: str, pipe: Any, device: Device, backend: str, directory: str) -> None:
    """Let the repeated blocks be compiled when they are first called, and keep the code in `directory`. Raises `LoadError`."""
    if backend == "inductor" and (missing := _missing_compiler(device.kind)):
        raise LoadError(f"{where} speed.compile: {missing}")
    if directory:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = directory
        os.environ["TRITON_CACHE_DIR"] = str(Path(directory, "triton"))
    # Sizes that happen to be the same in the first call (tokens and a side of the model's, say) are not the same size: taken to be, the
    # next size of a picture would be compiled once more, within a job. Read when a graph is traced.
    symbolic_shapes.use_duck_shape = False
    compiler: Any = torch.compile
    for part in denoisers_of(pipe):
        for block in part.modules():
            if type(block).__name__ in part._repeated_blocks:
                # Not the block's call, as the library does: what hooks its call (a cancel, a step cache) would be compiled with it, or
                # keep it from being compiled. One graph for all sizes: with a graph each, a service of many would compile in every job.
                block.forward = compiler(block.forward, backend=backend, dynamic=True)
                setattr(block, COMPILED, True)


def _missing_compiler(kind: str) -> str:
    if kind == "cuda":
        found = importlib.util.find_spec("triton") is not None
        return "" if found else "on a GPU it needs the package triton, which is not installed: pip install triton"
    compiler = os.environ.get("CXX") or next((name for name in ("g++", "c++", "clang++") if shutil.which(name)), "")
    return "" if compiler else "on a CPU it needs a C++ compiler, and there is none: install g++"


def warm_up(pipe: Any, card: ModelCard, size: tuple[int, int, int], device: Device, outer: Monitor | None) -> None:
    """Call the pipeline once in this size: what is done at a first call is done. Raises `Cancelled`, and what the pipeline raises."""
    with tempfile.TemporaryDirectory() as place:
        picture = ""
        if card.needs_image:
            picture = str(Path(place, "grey.png"))
            Image.new("RGB", size[:2], (128, 128, 128)).save(picture)
        spec = first_call(card, size, picture)
        as_latents = {"output_type": "latent"} if "output_type" in call_parameters(pipe) else {}
        call(pipe, {**call_arguments(pipe, spec, 0), **as_latents}, _Unseen(outer), device)


class _Unseen(Monitor):
    """Follows a call that is no job's: nothing is shown; the cancel of the job that waits for it is obeyed."""

    def __init__(self, outer: Monitor | None) -> None:
        super().__init__(Slot(memoryview(bytearray(mmap.PAGESIZE)).cast("Q"), 0), 0, 1, ProcessMemory())
        self._outer = outer

    def check(self) -> None:
        if self._outer is not None:
            self._outer.check()
