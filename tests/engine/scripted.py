"""A slot of the shared counters that acts at a chosen point of a job: how a test cancels or parks it at an exact step, without a clock."""

from __future__ import annotations

import mmap

from workers.ipc.shared import Slot


def blank() -> memoryview:
    """Words that nobody shares."""
    return memoryview(bytearray(mmap.PAGESIZE)).cast("Q")


class CancelAt(Slot):
    """Asks for the cancel as soon as `phase` shows `step`, or, with `hits`, that many signs of life later (inside the step's blocks)."""

    _at: tuple[str, int]
    _hits: int
    _armed: bool

    @classmethod
    def at(cls, phase: str, step: int, hits: int = 0) -> CancelAt:
        slot = cls(blank(), 0)
        slot._at, slot._hits, slot._armed = (phase, step), hits, False
        slot.begin(1)
        return slot

    def report(self, phase: str, step: int, total: int) -> None:
        super().report(phase, step, total)
        if (phase, step) == self._at:
            self._armed = True
            self._count(0)

    def touch(self) -> None:
        super().touch()
        if self._armed:
            self._count(1)

    def _count(self, by: int) -> None:
        self._hits -= by
        if self._hits <= 0:
            self.request_cancel(1)


class ParkAt(Slot):
    """Asks to be parked as soon as `phase` shows `step`."""

    _at: tuple[str, int]

    @classmethod
    def at(cls, phase: str, step: int) -> ParkAt:
        slot = cls(blank(), 0)
        slot._at = (phase, step)
        slot.begin(1)
        return slot

    def report(self, phase: str, step: int, total: int) -> None:
        super().report(phase, step, total)
        if (phase, step) == self._at:
            self.request_park(1)


class Recorder(Slot):
    """Keeps all that was reported."""

    seen: list[tuple[str, int, int]]

    @classmethod
    def recording(cls) -> Recorder:
        slot = cls(blank(), 0)
        slot.seen = []
        slot.begin(1)
        return slot

    def report(self, phase: str, step: int, total: int) -> None:
        super().report(phase, step, total)
        self.seen.append((phase, step, total))
