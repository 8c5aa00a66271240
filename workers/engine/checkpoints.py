"""Checkpoints of a job: the state of its denoising after a step, on disk, from which a later attempt goes on.

A job's files lie together in one directory, `<output>-<step>.safetensors`, whichever attempt wrote them: the state after a step depends on
the job, the model and what computes it alone. Those stand in each file as its `Binding`; a file with another one is refused. So is one
that is not, byte for byte, what was written: each bears a digest of itself. Written beside the steps that follow, and the decoding, by a
thread, and flushed by another; a file that cannot be written costs the job nothing.

A file has its name before it is flushed: the death of a process loses nothing that was written, however long the disk takes. The death of
the machine may leave a newest file that is damaged, which its digest shows, and the one before it, which was flushed. So a job that is to
leave its engine waits for the name alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load, save

from broker.runtime.job_paths import read_regular, regular_names
from broker.runtime.log_actions import Action
from broker.wire.job_files import checkpoint_name, checkpoint_of
from workers.engine.checkpoint_times import CheckpointTimes

logger = logging.getLogger(__name__)

#: What a state is true of, in words by name: request, model, versions, device …
Binding = dict[str, str]

#: Name of that in it which is of one machine: "MACHINE\n" and what its files are like there. On another one it is not compared.
FILE = "file"

_VERSION = "3"

#: A file's digest in its header, and what stands there while it is taken. Within another text of the header the quotes are escaped.
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{64})"')
_NO_DIGEST = "0" * 64

_HEADER_LENGTH = struct.Struct("<Q")

#: What reading a file may raise, whatever its bytes are.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, SafetensorError)

#: Files kept of each output: the newest, and the one before it should that one be damaged.
_KEPT = 2

#: Files that may wait to be flushed, by a disk that does not answer for long.
_MOST_UNFLUSHED = 16


class State(Struct, frozen=True):
    """The state of one output after a step. `plain` is JSON; `denoise_s`: what it took to come here, in all attempts."""

    output: int
    step: int
    total: int
    tensors: dict[str, torch.Tensor]
    plain: dict[str, Any]
    denoise_s: float


class _Flushing:
    """Flushes files that have their names, one after another, in a thread."""

    def __init__(self, directory: Path, flush: Callable[[State, BinaryIO], None]) -> None:
        self._directory = directory
        self._flush = flush
        self._lock = threading.Lock()
        self._waiting: list[tuple[State, BinaryIO]] = []
        self._thread: threading.Thread | None = None

    def add(self, state: State, file: BinaryIO) -> None:
        """Flush this file beside what the caller does next; where too many wait for that, not the oldest of them."""
        with self._lock:
            if len(self._waiting) >= _MOST_UNFLUSHED:
                oldest, unflushed = self._waiting.pop(0)
                unflushed.close()
                # The file that stays beside the newest is to be one that was flushed.
                with suppress(OSError):
                    (self._directory / checkpoint_name(oldest.output, oldest.step)).unlink()
            self._waiting.append((state, file))
            if self._thread is None:
                self._thread = threading.Thread(target=self._flush_all, name="checkpoint flush", daemon=True)
                self._thread.start()

    def join(self) -> None:
        """Wait until none is left."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _flush_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                state, file = self._waiting.pop(0)
            self._flush(state, file)


class Checkpoints:
    """The checkpoints of one attempt: written every `every_s` seconds of denoising, read once for each output.

    `report` is called with how many denoising steps lie on disk whenever that changes, from the thread that writes, too.
    """

    def __init__(
        self,
        directory: Path,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[int], None] = lambda steps: None,
    ) -> None:
        #: Whether the last one could not be written.
        self.failed = False
        self.times = CheckpointTimes(every_s, clock)
        #: None: the job is left.
        self._report: Callable[[int], None] | None = report
        self._directory = directory
        #: States of outputs that are denoised and not on disk yet: they go there with the next.
        self._finished: list[tuple[State, Binding]] = []
        #: Guards what the writing thread shares: itself, and what it writes next.
        self._lock = threading.Lock()
        self._next: list[tuple[State, Binding]] = []
        self._writing: threading.Thread | None = None
        self._flushing = _Flushing(directory, self._flush)
        #: Held while states get their files: what is to be next and has no name yet is nowhere else.
        self._naming = threading.Lock()
        #: Files that were refused, of which a newer state of the same output makes waste.
        self._refused: set[Path] = set()
        #: The step of each output's newest file: as named until it is read.
        self._newest: dict[int, int] = {}
        for output, step, _ in self._all_files():
            self._newest[output] = max(step, self._newest.get(output, 0))

    @property
    def kept(self) -> int:
        """Denoising steps of all outputs that a later attempt would be spared."""
        with self._lock:
            return sum(self._newest.values())

    def keep_finished(self, state: State, binding: Binding) -> None:
        """The state of an output after its last step, while there are further ones: kept with the next that is due."""
        self._finished.append((state, binding))

    def keep(self, state: State, binding: Binding) -> None:
        """Write this state, and those of outputs before it, beside what the caller does next.

        While the disk keeps another one waiting, one alone waits behind it: the newest.
        """
        self.times.kept()
        with self._lock:
            self._next = self._due_with(state, binding)
            self._write_beside()

    def keep_now(self, state: State, binding: Binding) -> bool:
        """Write this state, and those of outputs before it, here and now; the disk is waited for beside what the caller does next.

        Whether their files are there: one of them may be lost with the machine, not with the process.
        """
        self.times.kept()
        with self._naming:
            with self._lock:
                due, self._next = self._due_with(state, binding), []
            for one, its in due:
                file = self._try_write(one, its)
                if file is None:
                    return False
                self._note(one.output, one.step)
                self._flushing.add(one, file)
        return True

    def let_go(self) -> None:
        """Leave the job: what is being written goes on by itself, `settle` does not wait for it, and `report` is not called any more."""
        with self._lock:
            self._report = None

    def _due_with(self, state: State, binding: Binding) -> list[tuple[State, Binding]]:
        """Take out the states to be written together with this one. The lock is held."""
        denoised = [one for one in self._next if one[0].output < state.output and one[0].step >= one[0].total]
        finished, self._finished = self._finished, []
        return [*denoised, *finished, (state, binding)]

    def _write_beside(self) -> None:
        """Have the thread do what there is to do. The lock is held."""
        if self._writing is None:
            self._writing = threading.Thread(target=self._write_all, name="checkpoint", daemon=True)
            self._writing.start()

    @property
    def pending(self) -> bool:
        """Whether a finished output is not on disk yet."""
        return bool(self._finished)

    def settle(self) -> None:
        """Wait until all that was to be kept is on disk."""
        with self._lock:
            writing = self._writing if self._report is not None else None
        if writing is not None:
            writing.join()
        if self._report is not None:
            self._flushing.join()

    def find(self, output: int, binding: Binding) -> tuple[State | None, str]:
        """(the newest state of this output that is whole and has this binding, why a newer one was refused or "")."""
        refused = ""
        for step, path in sorted(self._files(output), reverse=True):
            try:
                state = _read(path, output, step, binding)
            except _UNREADABLE as error:
                refused = refused or str(error)
                self._refused.add(path)
                logger.warning(
                    "a checkpoint is refused: %s", error, extra={"action": Action.CHECKPOINT, "file": path.name}
                )
                continue
            self._note(output, state.step)
            return state, refused
        with self._lock:
            # What is of no use for this output is of none for those after it.
            self._newest = {one: step for one, step in self._newest.items() if one < output}
        self._note(output, 0)
        return None, refused

    def _note(self, output: int, step: int) -> None:
        with self._lock:
            self._newest[output] = step
            # The attempt that comes next reports in the same place.
            if self._report is not None:
                self._report(sum(self._newest.values()))

    # ------------------------------------------------------------ files

    def _files(self, output: int) -> list[tuple[int, Path]]:
        """(step, file) of each checkpoint of an output."""
        return [(step, path) for of, step, path in self._all_files() if of == output]

    def _all_files(self) -> list[tuple[int, int, Path]]:
        """(output, step, file) of each checkpoint."""
        try:
            names = regular_names(self._directory)
        except OSError:
            return []
        found = [(place, name) for name in names if (place := checkpoint_of(name)) is not None]
        return [(*place, self._directory / name) for place, name in found]

    def _write_all(self) -> None:
        """Write what is to be next, until there is nothing. What the disk is slow to flush holds up none that follows."""
        while True:
            with self._naming:
                with self._lock:
                    todo, self._next = self._next, []
                    if not todo:
                        self._writing = None
                        return
                for state, binding in todo:
                    file = self._try_write(state, binding)
                    if file is not None:
                        self._flushing.add(state, file)

    def _flush(self, state: State, file: BinaryIO) -> None:
        if self._try_flush(state, file) and state.step > self._newest.get(state.output, 0):
            self._note(state.output, state.step)

    def _try_write(self, state: State, binding: Binding) -> BinaryIO | None:
        """Write the file of this state, under its name; None: it cannot be written."""
        try:
            file = self._write(state, binding)
        except Exception as error:  # the thread's outermost loop: no checkpoint is a reason to fail a job
            self._report_failure(error)
            return None
        self.failed = False
        return file

    def _try_flush(self, state: State, file: BinaryIO) -> bool:
        """Flush this file, and remove those before it but the newest, and those that were refused. Whether the disk has it."""
        try:
            with file:
                os.fsync(file.fileno())
            _flush_names(self._directory)
            whole = []
            for place in sorted(self._files(state.output), reverse=True):
                # Of a later step they would be taken for newer, by a depot and by the cleaner of this file.
                if place[1] in self._refused:
                    place[1].unlink(missing_ok=True)
                else:
                    whole.append(place)
            for step, old in whole[_KEPT:]:
                if step < state.step:  # later ones are not flushed yet
                    old.unlink(missing_ok=True)
        except Exception as error:  # as above
            self._report_failure(error)
            return False
        return True

    def _report_failure(self, error: Exception) -> None:
        self.failed = True
        logger.warning("a checkpoint cannot be written", extra={"action": Action.CHECKPOINT, "detail": str(error)})

    def _write(self, state: State, binding: Binding) -> BinaryIO:
        began = self.times.clock()
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = self._directory / checkpoint_name(state.output, state.step)
        temporary = self._directory / f".{path.name}.{os.getpid()}.part"
        content = sealed(state, binding)
        temporary.unlink(missing_ok=True)
        with ExitStack() as undone:
            undone.callback(temporary.unlink, missing_ok=True)
            file = undone.enter_context(open(temporary, "xb"))
            file.write(content)
            file.flush()
            temporary.rename(path)
            undone.pop_all()
        self._refused.discard(path)
        self.times.wrote(self.times.clock() - began)
        return file


def _flush_names(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # the job has ended since it was let go
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed(state: State, binding: Binding) -> bytearray:
    """The bytes of a checkpoint, with their digest in the header."""
    head = {
        "output": state.output,
        "step": state.step,
        "total": state.total,
        "denoise_s": state.denoise_s,
        "plain": state.plain,
    }
    texts = {"version": _VERSION, "digest": _NO_DIGEST, "binding": json.dumps(binding), "state": json.dumps(head)}
    content = bytearray(save(state.tensors, texts))
    place = _digest_place(content)
    assert place is not None
    content[place] = hashlib.blake2b(content, digest_size=32).hexdigest().encode()
    return content


def _digest_place(content: bytes | bytearray) -> slice | None:
    """Position of the digest in the header; None when there is none."""
    (length,) = _HEADER_LENGTH.unpack_from(content)
    found = _DIGEST.search(content, _HEADER_LENGTH.size, min(len(content), _HEADER_LENGTH.size + length))
    return slice(*found.span(1)) if found is not None else None


def _read(path: Path, output: int, step: int, binding: Binding) -> State:
    """Raises `ValueError` with the reason for a file that may not be used, else as the libraries do for one that is damaged."""
    state = unsealed(bytearray(read_regular(path)), binding)
    if (state.output, state.step) != (output, step):
        raise ValueError(f"it is of step {state.step} of output {state.output + 1}, and bears another's name")
    return state


def unsealed(content: bytearray, binding: Binding) -> State:
    """The state in these bytes, which are changed. Raises as `_read`."""
    place = _digest_place(content) if len(content) > _HEADER_LENGTH.size else None
    if place is None:
        raise ValueError("it is damaged, or of another version: it bears no digest")
    digest = bytes(content[place])
    content[place] = _NO_DIGEST.encode()
    if hashlib.blake2b(content, digest_size=32).hexdigest().encode() != digest:
        raise ValueError("it is damaged: its digest is another")
    (length,) = _HEADER_LENGTH.unpack_from(content)
    texts = json.loads(content[_HEADER_LENGTH.size : _HEADER_LENGTH.size + length])["__metadata__"]
    if texts["version"] != _VERSION:
        raise ValueError(f"it is of version {texts['version']}, not {_VERSION}")
    written: Binding = json.loads(texts["binding"])
    for name in sorted({*written, *binding}):
        here, there = binding.get(name, ""), written.get(name, "")
        if here != there and not (name == FILE and here.partition("\n")[0] != there.partition("\n")[0]):
            raise ValueError(f"it was made with another {name}")
    head = json.loads(texts["state"])
    return State(
        int(head["output"]),
        int(head["step"]),
        int(head["total"]),
        load(bytes(content)),
        dict(head["plain"]),
        float(head["denoise_s"]),
    )
