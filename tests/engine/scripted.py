"""Shared words that act at a chosen point of a job: how a test cancels in an exact phase, block or step, without a clock."""

from __future__ import annotations

from workers.ipc import Words


class CancelAt(Words):
    """Asks for the cancel as soon as `phase` shows `step`, or, with `hits`, that many signs of life later (inside the step's blocks)."""

    _at: tuple[str, int]
    _hits: int
    _armed: bool

    @classmethod
    def at(cls, phase: str, step: int, hits: int = 0) -> CancelAt:
        words = Words.create.__func__(cls)  # type: ignore[attr-defined]
        words._at, words._hits, words._armed = (phase, step), hits, False
        words.begin(1)
        return words  # type: ignore[no-any-return]

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


class Recorder(Words):
    """Keeps all that was reported."""

    seen: list[tuple[str, int, int]]

    @classmethod
    def recording(cls) -> Recorder:
        words = Words.create.__func__(cls)  # type: ignore[attr-defined]
        words.seen = []
        words.begin(1)
        return words  # type: ignore[no-any-return]

    def report(self, phase: str, step: int, total: int) -> None:
        super().report(phase, step, total)
        self.seen.append((phase, step, total))
