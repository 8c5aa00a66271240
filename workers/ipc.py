"""Between an agent and its engine: length-prefixed msgpack messages on a socketpair, and a few shared words.

Messages carry what happens once (a job, its end). What changes all the time (step counter, liveness) and what must not queue behind
anything (cancel) are words in shared memory: an engine that floods or a full pipe cannot delay them. Each word is an aligned
unsigned 64-bit integer with exactly one writer, so a store is seen whole or not at all.

An engine holds at most two jobs: one that is drawn, and before it one whose *tail* (what is left when its last denoising step is done:
decode, encode, save) runs beside. Each has a *seat*, a row of words of its own; the agent gives a job the seat that is free.

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
    #: Whether a job's tail may run beside the next job.
    overlap: bool = True


class RunJob(Struct, frozen=True, kw_only=True, tag="run"):
    """Draw this. Answered by `JobFinished`, `JobFailed` or `JobCancelled` with the same fence, and perhaps by `TailBegun` before."""

    job_id: str
    fence: int
    #: The job spec's bytes, as the client's edge wrote them.
    body: bytes
    #: Existing empty directory for the files.
    out_dir: str
    profile: Literal["normal", "offload"] = "normal"
    #: Which row of the shared words is this job's.
    seat: Annotated[int, Meta(ge=0, lt=2)] = 0
    #: Begin when nothing else is going on, and let nothing else begin before its end.
    alone: bool = False


# ---------------------------------------------------------------- engine -> agent


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine can take a job; `model` is in memory."""

    model: str
    load_s: float = 0.0


class LoadFailed(Struct, frozen=True, kw_only=True, tag="load_failed"):
    """The model to preload cannot be loaded; the engine exits after this."""

    model: str
    message: Annotated[str, Meta(max_length=8192)]


class TailBegun(Struct, frozen=True, kw_only=True, tag="tail"):
    """What is left of this job runs beside the next one: the engine takes another. `model` is in memory."""

    fence: int
    model: str = ""


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
FromEngine = Ready | LoadFailed | TailBegun | JobFinished | JobFailed | JobCancelled


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

#: A seat's words, and behind those of all seats the memory's.
_CANCEL, _FENCE, _PROGRESS, _TICK = range(4)
_SEAT_WORDS = 4
SEATS = 2
_MEMORY_USED, _MEMORY_TOTAL = SEATS * _SEAT_WORDS, SEATS * _SEAT_WORDS + 1
_WORDS = SEATS * _SEAT_WORDS + 2
_STEP_BITS = 28
_STEP_MASK = (1 << _STEP_BITS) - 1


class Progress(Struct, frozen=True):
    """Where a job is. `tick` grows with every sign of life, also inside a step."""

    fence: int
    phase: str
    step: int
    total: int
    tick: int


class Words:
    """The shared words. The agent writes each seat's `cancel`; the engine writes everything else."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, mmap.PAGESIZE)
        self._words = memoryview(self._map).cast("Q")[:_WORDS]
        self.seats = tuple(Seat(self._words, number * _SEAT_WORDS) for number in range(SEATS))

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
        """Unmap, and close the descriptor."""
        self._words.release()
        self._map.close()
        os.close(self.fd)

    def progress(self) -> tuple[Progress, ...]:
        """What each seat shows."""
        return tuple(seat.progress() for seat in self.seats)

    def memory(self) -> tuple[int, int]:
        """(used, total) in MB as the engine last saw them: of the GPU, or the process's resident size and the machine's."""
        return self.seats[0].memory()


class Seat:
    """The words of one job."""

    def __init__(self, words: memoryview, first: int) -> None:
        self._words = words
        self._cancel, self._fence = first + _CANCEL, first + _FENCE
        self._progress, self._tick = first + _PROGRESS, first + _TICK

    def request_cancel(self, fence: int) -> None:
        """Ask the engine to stop the job of this fence, and only that one."""
        self._words[self._cancel] = fence

    def cancelled(self, fence: int) -> bool:
        """Whether the job of this fence is to stop."""
        return self._words[self._cancel] == fence

    def begin(self, fence: int) -> None:
        """The job of this fence has been taken up."""
        self._words[self._progress] = 0
        self._words[self._fence] = fence
        self.touch()

    def report(self, phase: str, step: int, total: int) -> None:
        """Set phase, step and total in one store: a reader never sees the step of one phase with the total of another."""
        packed = (PHASES.index(phase) + 1) << (2 * _STEP_BITS)
        self._words[self._progress] = packed | (min(step, _STEP_MASK) << _STEP_BITS) | min(total, _STEP_MASK)
        self.touch()

    def touch(self) -> None:
        """A sign of life inside a step."""
        self._words[self._tick] += 1

    def set_memory(self, used_mb: int, total_mb: int) -> None:
        """Show how much memory is in use: one pair for all seats."""
        self._words[_MEMORY_USED] = used_mb
        self._words[_MEMORY_TOTAL] = total_mb

    def memory(self) -> tuple[int, int]:
        """(used, total) as shown last, in MB."""
        return self._words[_MEMORY_USED], self._words[_MEMORY_TOTAL]

    def progress(self) -> Progress:
        """What the engine shows of its job."""
        packed = self._words[self._progress]
        phase = packed >> (2 * _STEP_BITS)
        return Progress(
            fence=self._words[self._fence],
            phase=PHASES[phase - 1] if 1 <= phase <= len(PHASES) else "",
            step=(packed >> _STEP_BITS) & _STEP_MASK,
            total=packed & _STEP_MASK,
            tick=self._words[self._tick],
        )
