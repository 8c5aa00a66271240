"""Between an agent and its engine: length-prefixed msgpack messages on a socketpair, and eight shared words.

Messages carry what happens once (a job, its end). What changes all the time (step counter, liveness) and what must not queue behind
anything (cancel) are words in shared memory: an engine that floods or a full pipe cannot delay them. Each word is an aligned
unsigned 64-bit integer with exactly one writer, so a store is seen whole or not at all.

The engine is a child: `python -m workers.engine.loop --socket FD --words FD`. Closing the socketpair tells it to leave.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import tempfile
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from broker.wire.jobspec import PHASES, ModelCard, Result
from broker.wire.messages import FailureKind

MAX_MESSAGE = 1024 * 1024

_LENGTH = struct.Struct(">I")


class IpcError(ValueError):
    """What arrived is not a message of this protocol."""


# ---------------------------------------------------------------- agent -> engine


class Setup(Struct, frozen=True, kw_only=True, tag="setup"):
    """First message: the models this engine may load, and the one to load now. Answered by `Ready` or `LoadFailed`."""

    models: tuple[ModelCard, ...]
    preload: str
    #: "cpu" or "cuda"; the process sees only its own GPU.
    device: str
    #: torch CPU threads; 0 leaves torch's default.
    threads: int = 0
    #: "auto" (bf16 on a GPU that has it, else float32), or a torch dtype name.
    dtype: str = "auto"


class RunJob(Struct, frozen=True, kw_only=True, tag="run"):
    """Draw this. Answered by `JobFinished`, `JobFailed` or `JobCancelled` with the same fence."""

    job_id: str
    fence: int
    #: The job spec's bytes, as the client's edge wrote them.
    body: bytes
    #: Existing empty directory for the files.
    out_dir: str
    profile: Literal["normal", "offload"] = "normal"


# ---------------------------------------------------------------- engine -> agent


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine can take a job; `model` is in memory."""

    model: str
    load_s: float = 0.0


class LoadFailed(Struct, frozen=True, kw_only=True, tag="load_failed"):
    """The model to preload cannot be loaded; the engine exits after this."""

    model: str
    message: Annotated[str, Meta(max_length=8192)]


class JobFinished(Struct, frozen=True, kw_only=True, tag="finished"):
    """All files are written, fsynced and hashed."""

    fence: int
    result: Result
    run_s: float
    #: The model now in memory.
    model: str = ""


class JobFailed(Struct, frozen=True, kw_only=True, tag="failed"):
    """The job failed. `fatal`: the process is not to be trusted any more (poisoned CUDA context) and exits after this."""

    fence: int
    kind: FailureKind
    message: Annotated[str, Meta(max_length=8192)] = ""
    fatal: bool = False
    model: str = ""


class JobCancelled(Struct, frozen=True, kw_only=True, tag="cancelled"):
    """The job stopped where the cancel word reached it; the engine is clean and can take the next."""

    fence: int
    model: str = ""


ToEngine = Setup | RunJob
FromEngine = Ready | LoadFailed | JobFinished | JobFailed | JobCancelled


def pack(message: Struct) -> bytes:
    """The message as it goes over the stream. Raises `IpcError` when it is too long."""
    data = msgspec.msgpack.encode(message)
    if len(data) > MAX_MESSAGE:
        raise IpcError(f"message of {len(data)} bytes, at most {MAX_MESSAGE}")
    return _LENGTH.pack(len(data)) + data


class Channel:
    """One end of the socketpair. Blocking sends; receives either block (engine) or take what is there (agent)."""

    def __init__(self, sock: socket.socket, incoming: object) -> None:
        self.sock = sock
        self._decode = msgspec.msgpack.Decoder(incoming).decode
        self._buffer = bytearray()

    def send(self, message: Struct) -> None:
        """Raises `OSError` when the other side is gone."""
        self.sock.sendall(pack(message))

    def receive(self) -> Struct | None:
        """The next message, waiting for it; None at the end of the stream."""
        while True:
            message = self._next()
            if message is not None:
                return message
            if not self._fill():
                return None

    def drain(self) -> tuple[list[Struct], bool]:
        """(all messages that have arrived, whether the stream has ended), without waiting on a non-blocking socket."""
        ended = False
        try:
            while self._fill():
                pass
            ended = True
        except BlockingIOError:
            pass
        except ConnectionError:
            ended = True
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages, ended

    def _fill(self) -> bool:
        data = self.sock.recv(65_536)
        self._buffer += data
        return bool(data)

    def _next(self) -> Struct | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise IpcError(f"message of {length} bytes, at most {MAX_MESSAGE}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        try:
            return self._decode(data)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise IpcError(str(error)[:200]) from None


# ---------------------------------------------------------------- shared words

_CANCEL, _FENCE, _PROGRESS, _TICK, _MEMORY_USED, _MEMORY_TOTAL = range(6)
_WORDS = 8
_STEP_BITS = 28
_STEP_MASK = (1 << _STEP_BITS) - 1


class Progress(Struct, frozen=True):
    """Where the engine is. `tick` grows with every sign of life, also inside a step."""

    fence: int
    phase: str
    step: int
    total: int
    tick: int


class Words:
    """The shared words. The agent writes `cancel`; the engine writes everything else."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, mmap.PAGESIZE)
        self._words = memoryview(self._map).cast("Q")[:_WORDS]

    @classmethod
    def create(cls) -> Words:
        """New words, all zero, in an unlinked file whose descriptor a child may inherit."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("zoetrope-words", 0)
        else:  # macOS has no memfd
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, mmap.PAGESIZE)
        return cls(fd)

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self.fd)

    def request_cancel(self, fence: int) -> None:
        """Ask the engine to stop the job of this fence, and only that one."""
        self._words[_CANCEL] = fence

    def cancelled(self, fence: int) -> bool:
        """Whether the job of this fence is to stop."""
        return self._words[_CANCEL] == fence

    def begin(self, fence: int) -> None:
        self._words[_PROGRESS] = 0
        self._words[_FENCE] = fence
        self._words[_TICK] += 1

    def report(self, phase: str, step: int, total: int) -> None:
        """Set phase, step and total in one store: a reader never sees the step of one phase with the total of another."""
        packed = (PHASES.index(phase) + 1) << (2 * _STEP_BITS)
        self._words[_PROGRESS] = packed | (min(step, _STEP_MASK) << _STEP_BITS) | min(total, _STEP_MASK)
        self._words[_TICK] += 1

    def touch(self) -> None:
        """A sign of life inside a step."""
        self._words[_TICK] += 1

    def progress(self) -> Progress:
        packed = self._words[_PROGRESS]
        phase = packed >> (2 * _STEP_BITS)
        return Progress(
            fence=self._words[_FENCE],
            phase=PHASES[phase - 1] if 1 <= phase <= len(PHASES) else "",
            step=(packed >> _STEP_BITS) & _STEP_MASK,
            total=packed & _STEP_MASK,
            tick=self._words[_TICK],
        )

    def set_memory(self, used_mb: int, total_mb: int) -> None:
        self._words[_MEMORY_USED] = used_mb
        self._words[_MEMORY_TOTAL] = total_mb

    def memory(self) -> tuple[int, int]:
        """(used, total) in MB as the engine last saw them: of the GPU, or the process's resident size and the machine's."""
        return self._words[_MEMORY_USED], self._words[_MEMORY_TOTAL]
