"""Counters in shared memory: what changes all the time, and what must not queue behind anything (cancel, park).

Each word is an aligned unsigned 64-bit integer with exactly one writer, so a store is read whole or not at all. An engine holds at most
three jobs (one that is prepared, denoised, postprocessed); each has a slot, a row of words of its own.
"""

from __future__ import annotations

import mmap
import os
import tempfile

from msgspec import Struct

from broker.wire.jobspec import PHASES

#: A slot's words, and behind those of all slots the memory's.
_CANCEL, _FENCE, _PROGRESS, _TICK, _PARK, _KEPT = range(6)

_SLOT_WORDS = 6

SLOTS = 3

_MEMORY_USED, _MEMORY_TOTAL = SLOTS * _SLOT_WORDS, SLOTS * _SLOT_WORDS + 1

_WORDS = SLOTS * _SLOT_WORDS + 2

_STEP_BITS = 28

_STEP_MASK = (1 << _STEP_BITS) - 1


class Progress(Struct, frozen=True):
    """Progress of a job. `tick` grows with every sign of life, also inside a step; `kept`: its denoising steps in a checkpoint on disk."""

    fence: int
    phase: str
    step: int
    total: int
    tick: int
    kept: int = 0


class SharedCounters:
    """The shared counters. The agent writes each slot's `cancel` and `park`; the engine writes everything else."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, mmap.PAGESIZE)
        self._words = memoryview(self._map).cast("Q")[:_WORDS]
        self.slots = tuple(Slot(self._words, number * _SLOT_WORDS) for number in range(SLOTS))

    @classmethod
    def create(cls) -> SharedCounters:
        """New counters, all zero, in an unlinked file whose descriptor a child may inherit."""
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
        """Read the progress of each slot."""
        return tuple(slot.progress() for slot in self.slots)

    def memory(self) -> tuple[int, int]:
        """(used, total) in MB as the engine last read them: of the GPU, or the process's resident size and the machine's."""
        return self.slots[0].memory()


class Slot:
    """The counters of one job."""

    def __init__(self, words: memoryview, first: int) -> None:
        self._words = words
        self._cancel, self._fence = first + _CANCEL, first + _FENCE
        self._progress, self._tick = first + _PROGRESS, first + _TICK
        self._park, self._kept = first + _PARK, first + _KEPT

    def request_cancel(self, fence: int) -> None:
        """Request that the engine stop the job of this fence, and only that one."""
        self._words[self._cancel] = fence

    def cancelled(self, fence: int) -> bool:
        """Whether the job of this fence is to stop."""
        return self._words[self._cancel] == fence

    def request_park(self, fence: int) -> None:
        """Request that the engine write a checkpoint of the job of this fence after its next step, and hand it back."""
        self._words[self._park] = fence

    def park_requested(self, fence: int) -> bool:
        """Whether the job of this fence is to be handed back with a checkpoint."""
        return self._words[self._park] == fence

    def begin(self, fence: int, kept: int = 0) -> None:
        """The job of this fence has been taken up; `kept` as in `Progress`."""
        self._words[self._progress] = 0
        self._words[self._kept] = kept
        self._words[self._fence] = fence
        self.touch()

    def report(self, phase: str, step: int, total: int) -> None:
        """Set phase, step and total in one store: a reader never gets the step of one phase with the total of another."""
        packed = (PHASES.index(phase) + 1) << (2 * _STEP_BITS)
        self._words[self._progress] = packed | (min(step, _STEP_MASK) << _STEP_BITS) | min(total, _STEP_MASK)
        self.touch()

    def keep(self, steps: int) -> None:
        """So many denoising steps of the job lie in a checkpoint on disk."""
        self._words[self._kept] = steps

    def touch(self) -> None:
        """A sign of life inside a step."""
        self._words[self._tick] += 1

    def set_memory(self, used_mb: int, total_mb: int) -> None:
        """Show how much memory is in use: one pair for all slots."""
        self._words[_MEMORY_USED] = used_mb
        self._words[_MEMORY_TOTAL] = total_mb

    def memory(self) -> tuple[int, int]:
        """(used, total) as shown last, in MB."""
        return self._words[_MEMORY_USED], self._words[_MEMORY_TOTAL]

    def progress(self) -> Progress:
        """Read the progress of the engine's job."""
        packed = self._words[self._progress]
        phase = packed >> (2 * _STEP_BITS)
        return Progress(
            fence=self._words[self._fence],
            phase=PHASES[phase - 1] if 1 <= phase <= len(PHASES) else "",
            step=(packed >> _STEP_BITS) & _STEP_MASK,
            total=packed & _STEP_MASK,
            tick=self._words[self._tick],
            kept=self._words[self._kept],
        )
