"""Checkpoints of a job: the state of its denoising after a step, on disk, from which a later attempt goes on.

A job's files lie together in one directory, `<output>-<step>.safetensors`, whichever attempt wrote them: the state after a step depends on
the job, the model and what computes it alone. Those stand in each file as its `Binding`; a file with another one is refused, and so is one
that cannot be read. Written beside the steps that follow, by a thread; a file that cannot be written costs the job nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from broker.runtime.log_actions import Action

logger = logging.getLogger(__name__)

#: What a state is true of, in words by name: request, model, versions, device …
Binding = dict[str, str]

_VERSION = "1"
_NAME = re.compile(r"(\d{1,6})-(\d{1,9})\.safetensors")

#: Files kept of each output: the newest, and the one before it should that one be damaged.
_KEPT = 2


class State(Struct, frozen=True):
    """The state of one output after a step. `plain` is JSON; `denoise_s`: what it took to come here, in all attempts."""

    output: int
    step: int
    total: int
    tensors: dict[str, torch.Tensor]
    plain: dict[str, Any]
    denoise_s: float


class Checkpoints:
    """The checkpoints of one attempt: written every `every_s` seconds of denoising, read once for each output."""

    def __init__(self, directory: Path, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._every_s = every_s
        self._clock = clock
        self._since: float | None = None
        #: States of outputs that are denoised and not on disk yet: they go there with the next.
        self._finished: list[tuple[State, Binding]] = []
        self._writing: threading.Thread | None = None

    def begin(self) -> None:
        """Denoising begins, or goes on with another output: time counts from the first of these."""
        if self._since is None:
            self._since = self._clock()

    def due(self) -> bool:
        """Whether a state is to be kept now."""
        return self._since is not None and self._clock() - self._since >= self._every_s and not self._busy()

    def keep_finished(self, state: State, binding: Binding) -> None:
        """The state of an output after its last step, while there are further ones: kept with the next that is due."""
        self._finished.append((state, binding))

    def keep(self, state: State, binding: Binding) -> None:
        """Write this state, and those of outputs before it, beside what the caller does next."""
        self._since = self._clock()
        todo, self._finished = [*self._finished, (state, binding)], []
        self._writing = threading.Thread(target=self._write_all, args=(todo,), name="checkpoint", daemon=True)
        self._writing.start()

    def settle(self) -> None:
        """Wait for what is being written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def find(self, output: int, binding: Binding) -> tuple[State | None, str]:
        """(the newest state of this output that is whole and has this binding, why a newer one was refused or "")."""
        refused = ""
        for _, path in sorted(self._files(output), reverse=True):
            try:
                state = _read(path, output, binding)
            except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
                refused = refused or str(error)
                logger.warning(
                    "a checkpoint is refused: %s", error, extra={"action": Action.CHECKPOINT, "file": path.name}
                )
                continue
            return state, refused
        return None, refused

    # ------------------------------------------------------------ files

    def _busy(self) -> bool:
        return self._writing is not None and self._writing.is_alive()

    def _files(self, output: int) -> list[tuple[int, Path]]:
        """(step, file) of each checkpoint of an output."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return []
        found = [(match, name) for name in names if (match := _NAME.fullmatch(name)) is not None]
        return [(int(match[2]), self._directory / name) for match, name in found if int(match[1]) == output]

    def _write_all(self, todo: list[tuple[State, Binding]]) -> None:
        for state, binding in todo:
            try:
                self._write(state, binding)
            except (OSError, SafetensorError, ValueError, RuntimeError) as error:
                logger.warning(
                    "a checkpoint cannot be written", extra={"action": Action.CHECKPOINT, "detail": str(error)}
                )

    def _write(self, state: State, binding: Binding) -> None:
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = self._directory / f"{state.output}-{state.step}.safetensors"
        temporary = self._directory / f".{path.name}.{os.getpid()}.part"
        head = {"step": state.step, "total": state.total, "denoise_s": state.denoise_s, "plain": state.plain}
        try:
            save_file(
                state.tensors,
                temporary,
                {"version": _VERSION, "binding": json.dumps(binding), "state": json.dumps(head)},
            )
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for _, old in sorted(self._files(state.output), reverse=True)[_KEPT:]:
            old.unlink(missing_ok=True)


def _read(path: Path, output: int, binding: Binding) -> State:
    """Raises `ValueError` with the reason for a file that may not be used, else as the libraries do for one that is damaged."""
    with safe_open(path, framework="pt") as file:
        head = file.metadata() or {}
        if head.get("version") != _VERSION:
            raise ValueError(f"it is of version {head.get('version')}, not {_VERSION}")
        written: Binding = json.loads(head["binding"])
        for name in sorted({*written, *binding}):
            if written.get(name) != binding.get(name):
                raise ValueError(f"it was made with another {name}")
        told = json.loads(head["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    return State(output, int(told["step"]), int(told["total"]), tensors, dict(told["plain"]), float(told["denoise_s"]))
