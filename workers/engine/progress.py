"""Progress of one attempt: what it reports to the agent (phase, step, signs of life, memory) and what it reads (cancel, park).

Phases only move forward for a reader, in the order of `PHASES`, and so do the steps within a phase, although a job of several
outputs goes through encode..save once for each. The rules:

- Steps of all outputs are one count: output `i` of `n` with `total` steps each shows `i * total + step` of `n * total`.
- A phase behind the one shown is timed but not shown.
- A phase beyond the `ceiling` is timed but not shown: the last output lifts it.

Times are those of the phase that was entered last; `aside` takes work of another phase out (frames encoded while others are decoded).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct, field

from broker.runtime.content_credentials import Signer
from broker.wire.jobspec import MAX_USED, MAX_USED_CHARS, MAX_WARNING_CHARS, MAX_WARNINGS, PHASES, Phase
from workers.engine.memory import MemoryMeter
from workers.ipc.shared import Slot

_RANK: dict[str, int] = {phase: rank for rank, phase in enumerate(PHASES)}

#: Reading memory costs up to a millisecond on some drivers; small models take steps faster than that.
_MEMORY_PERIOD_S = 0.5

#: How long before its last step a job requests the next: the broker's answer and an encoded prompt, of which the job's own is the measure.
_LEAD_S, _LEAD_ENCODES = 0.06, 2.0


class Cancelled(BaseException):
    """The job is to stop. Not an Exception: no `except Exception` of a library may swallow it."""


class Parked(BaseException):
    """The job is to be handed back, and `kept` of its denoising steps lie in a checkpoint. No Exception, as `Cancelled`."""

    def __init__(self, kept: int) -> None:
        super().__init__(kept)
        self.kept = kept


class DraftKept(BaseException):
    """The draft of an output is drawn, and its state on disk; the job goes on with the next output. No Exception, as `Cancelled`."""


def _settled() -> None:
    """Nothing is being written."""


class Keeping(Struct):
    """Settings of a job's checkpoints: their directory, seconds of denoising between two, and the digest of its request.

    `park_at`: after how many steps, shared evenly by its outputs, the job ends as `Parked`; 0: never. `settle` waits for checkpoints that
    are being written: to be called before the job's end is reported, as its files are removed then.
    """

    directory: str
    every_s: float
    request: str
    park_at: int = 0
    settle: Callable[[], None] = _settled


class _Place(Struct):
    """Output that is drawn, the last phase that is shown of it, and (phase, step, total) as shown."""

    index: int = 0
    ceiling: int = _RANK["save"]
    shown: tuple[int, int, int] = (-1, 0, 0)


class _Notes(Struct):
    """Notes about an attempt: warnings for the client, in the order found, and what the job is drawn with."""

    warnings: dict[str, None] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)


class StageTimes:
    """Seconds by phase of one attempt; those of the phase that was entered last run on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.phase: Phase = ""
        self.clock = self._clock = clock
        self._since = self._started = clock()
        self._durations: dict[str, float] = {}

    def enter(self, phase: Phase) -> None:
        """Count the time from now on as this phase's."""
        self._account()
        self.phase = phase

    @contextmanager
    def aside(self, phase: Phase) -> Iterator[None]:
        """Count the time spent inside as `phase`'s, without showing it."""
        self._account()
        outer, self.phase = self.phase, phase
        try:
            yield
        finally:
            self._account()
            self.phase = outer

    def durations(self) -> dict[str, float]:
        """Seconds by phase until now."""
        self._account()
        return {phase: round(seconds, 6) for phase, seconds in self._durations.items()}

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The time spent inside is no phase's, and none of the attempt's."""
        self._account()
        phase, self.phase = self.phase, ""
        begun = self._clock()
        try:
            yield
        finally:
            self._account()
            self.phase = phase
            self._started += self._clock() - begun

    def of(self, phase: Phase) -> float:
        """Seconds of a phase that has ended."""
        return self._durations.get(phase, 0.0)

    def credit(self, phase: Phase, seconds: float) -> None:
        """Count what an earlier attempt took, and this one need not."""
        self._durations[phase] = self._durations.get(phase, 0.0) + seconds
        self._started -= seconds

    def run_s(self) -> float:
        """Seconds since the attempt began, and those of earlier ones that it goes on from."""
        return self._clock() - self._started

    def _account(self) -> None:
        now = self._clock()
        if self.phase:
            self._durations[self.phase] = self._durations.get(self.phase, 0.0) + now - self._since
        self._since = now


class Turn:
    """Wait of a job that is prepared beside another, before its first denoising step. Of all others there is none."""

    def __init__(self, times: StageTimes) -> None:
        self._times = times
        self._wait: Callable[[], object] | None = None
        self._begun: Callable[[], None] | None = None
        self._acts: list[Callable[[], None]] = []

    def wait_by(self, wait: Callable[[], object] | None, begun: Callable[[], None] | None = None) -> None:
        """Let the job call `wait`, which returns when it may go on, and `begun` at its first step; None: it need not wait."""
        self._wait, self._begun, self._acts = wait, begun, []

    @property
    def waits(self) -> bool:
        """Whether the job is to wait, and has not yet."""
        return self._wait is not None

    def then(self, act: Callable[[], None]) -> None:
        """Call `act` when the job's turn has come: now, if it need not wait."""
        if self._wait is None:
            act()
        else:
            self._acts.append(act)

    def take(self) -> None:
        """Wait, where the job is to. The time is no phase's, and none of the job's. Raises what the waiting raises."""
        wait, self._wait = self._wait, None
        if wait is None:
            return
        with self._times.stopped():
            wait()
        for act in self._acts:
            act()

    def begin(self) -> None:
        """The denoiser is about to compute: take the turn, if that has not been done."""
        self.take()
        begun, self._begun = self._begun, None
        if begun is not None:
            begun()


class Ends:
    """Signals that a job's denoising is about to end, a step before or sooner where steps are short, and that it has."""

    def __init__(self, times: StageTimes) -> None:
        self._times = times
        self._stepped_at = times.clock()
        #: Called once when the last output's denoising is about to end, and when it has, with what its decoding needs.
        self.on_nearly: Callable[[], None] | None = None
        self.on_denoised: Callable[[Literal["device", "whole"]], None] | None = None

    def begin(self) -> None:
        """A phase begins."""
        self._stepped_at = self._times.clock()

    def stepped(self, left: int) -> None:
        """A step of the last output has ended, and so many are left."""
        now = self._times.clock()
        step_s, self._stepped_at = now - self._stepped_at, now
        if self.on_nearly is None or self._times.phase != "denoise" or left < 1:
            return
        if left == 1 or left * step_s <= _LEAD_S + _LEAD_ENCODES * self._times.of("encode"):
            act, self.on_nearly = self.on_nearly, None
            act()

    def denoised(self, where: Literal["device", "whole"]) -> None:
        """The last output's denoising has ended; its decoding needs memory on the device, or all of the device."""
        if self.on_denoised is not None:
            self.on_denoised(where)


class MemoryReport:
    """Memory in use while one attempt runs: reported to the agent twice a second, and its peak kept."""

    def __init__(self, slot: Slot, meter: MemoryMeter, clock: Callable[[], float]) -> None:
        self._counters = slot
        self._meter = meter
        self._clock = clock
        self._reported_at = clock()
        self._peak_mb = 0.0
        meter.reset_peak()

    def report(self) -> None:
        """Report how much memory is in use now."""
        self._reported_at = self._clock()
        self._counters.set_memory(*self._meter.used_and_total_mb())

    def report_if_due(self) -> None:
        """The same, unless that was a moment ago."""
        if self._clock() - self._reported_at >= _MEMORY_PERIOD_S:
            self.report()

    def note_peak(self) -> None:
        """To be called before the meter's peak is reset while this attempt goes on."""
        self._peak_mb = max(self._peak_mb, self._meter.peak_mb())

    def peak_mb(self) -> float:
        """Most memory in use at once since the attempt began, by whatever ran in that time."""
        self.note_peak()
        return self._peak_mb


class Monitor:
    """Follows one attempt of `outputs` artefacts, reporting into its `slot` under `fence`. For one thread at a time."""

    def __init__(
        self, slot: Slot, fence: int, outputs: int, meter: MemoryMeter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counters = slot
        self._fence = fence
        self._outputs = outputs
        #: Seconds by phase, those not shown among them.
        self.times = StageTimes(clock)
        self.memory = MemoryReport(slot, meter, clock)
        self._place = _Place()
        self._notes = _Notes()
        #: Whether and where the state of its job is kept.
        self.keeping: Keeping | None = None
        #: Signs the files of its job; None: they are not signed.
        self.signer: Signer | None = None
        #: Whether steps that an earlier attempt took are passed over.
        self.passing_over = False
        #: What it has to do with the job before and the job after it.
        self.turn = Turn(self.times)
        self.ends = Ends(self.times)

    @property
    def fence(self) -> int:
        """Of the attempt."""
        return self._fence

    @property
    def phase(self) -> Phase:
        """The phase entered last."""
        return self.times.phase

    def check(self) -> None:
        """A sign of life; raises `Cancelled` when the job is to stop."""
        self._counters.touch()
        if self._counters.cancelled(self._fence):
            raise Cancelled

    def park_requested(self) -> bool:
        """Whether the job is to be handed back with a checkpoint."""
        return self._counters.park_requested(self._fence)

    @property
    def draft_at(self) -> int:
        """After how many steps of an output its draft is drawn; 0: never."""
        return self.keeping.park_at // self._outputs if self.keeping is not None else 0

    def park_due(self, done: int) -> bool:
        """Whether an output is to be left after `done` steps of it: the job is to be handed back, or its draft is drawn."""
        return self.park_requested() or 0 < self.draft_at <= done

    def keep(self, steps: int) -> None:
        """So many steps of all outputs lie in a checkpoint on disk. From whichever thread."""
        self._counters.keep(steps)

    def warn(self, text: str) -> None:
        """Add one sentence for the client about what was drawn: what was requested and had no effect. The same sentence counts once."""
        if len(self._notes.warnings) < MAX_WARNINGS:
            self._notes.warnings[text[:MAX_WARNING_CHARS]] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the client, in the order found."""
        return tuple(self._notes.warnings)

    def use(self, name: str, text: str) -> None:
        """Note what the job is drawn with, for its record. A later value of the same name takes its place."""
        if name in self._notes.used or len(self._notes.used) < MAX_USED:
            self._notes.used[name] = text[:MAX_USED_CHARS]

    @property
    def used(self) -> dict[str, str]:
        """Settings that the job is drawn with, in words."""
        return dict(self._notes.used)

    def output(self, index: int, ceiling: Phase) -> None:
        """Begin output `index` (from 0); no phase beyond `ceiling` is shown."""
        self._place.index = index
        self._place.ceiling = _RANK[ceiling]

    def enter(self, phase: Phase, total: int = 0) -> None:
        """A new phase begins, of `total` steps (0: not known). Raises `Cancelled`."""
        self.times.enter(phase)
        self.ends.begin()
        self._show(0, total)
        self.check()

    def step(self, done: int, total: int) -> None:
        """`done` of the `total` steps of this phase and output are done. Raises `Cancelled`."""
        self._show(done, total)
        self.memory.report_if_due()
        if self._place.index == self._outputs - 1 and not self.passing_over:
            self.ends.stepped(total - done)
        self.check()

    def _show(self, done: int, total: int) -> None:
        rank = _RANK[self.times.phase]
        if rank > self._place.ceiling:
            return
        # A model is made ready once for all outputs.
        whole = total * (self._outputs if self.times.phase not in ("load", "warm_up") else 1)
        place = (rank, min(self._place.index * total + done, whole), whole)
        shown_rank, shown_step, shown_total = self._place.shown
        if rank < shown_rank or (rank == shown_rank and (place[1] < shown_step or whole < shown_total)):
            return
        self._place.shown = place
        self._counters.report(self.times.phase, place[1], place[2])
