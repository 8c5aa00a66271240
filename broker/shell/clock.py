"""The broker's clock: a timeline that only elapsed time moves on, and how far the wall clock is ahead of it.

The timeline begins as Unix time in the first broker of a journal, and goes on in every later one: by the kernel's clock of elapsed time
while the machine is the same boot (suspend counts; it cannot be set), by the wall clock over a reboot, and back never. The journal keeps
what that takes, a `Record`. Leases, deadlines and ages are differences on it, so setting the wall clock changes none of them.

The wall clock is looked at every second. One that runs otherwise than elapsed time was set: what is shown follows at once; what deletes by
age waits until it has stood for `SETTLE_S`, and gets the step (`Calendar.steps`), as it may compare with times that others wrote.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from broker.core.calendar import Calendar, Step
from broker.runtime.log_actions import Action
from broker.shell.journal.clock_record import Record

logger = logging.getLogger(__name__)

Clock = Callable[[], float]

#: A wall clock further off than this was set. Below it, showing other times than before would not help.
FOLLOW_S = 1.0

#: One set by more than this is logged, and not trusted before it has stood for `SETTLE_S`.
STEP_S = 60.0

SETTLE_S = 600.0

#: Steps that are remembered.
_MOST_STEPS = 64

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Timeline:
    """The time now, when called."""

    def __init__(self, record: Record | None, *, wall: Clock, elapsed: Clock, boot: str, new: bool = True) -> None:
        """Go on from `record`. None: there is none; `new`: there are no jobs either, whose times another clock may have given."""
        self._wall, self._elapsed, self._boot = wall, elapsed, boot
        self.calendar = Calendar() if record is None else record.calendar
        running_s = elapsed()
        if record is None:
            now = wall()
        elif boot and record.boot == boot:
            now = max(record.offset_s + running_s, record.seen_at)
        else:
            now = max(wall() - self.calendar.ahead_s, record.seen_at)
        self._offset_s = now - running_s
        unseen_s = now - record.seen_at if record is not None and record.boot != boot else 0.0
        if unseen_s > STEP_S or (record is None and not new):
            # Only the wall clock measured that, and right after a boot it may not be set yet.
            self._settle_at(now + SETTLE_S)
        self.look()

    def __call__(self) -> float:
        return self._offset_s + self._elapsed()

    def record(self) -> Record:
        """For the journal."""
        return Record(self._boot, self._offset_s, self(), self.calendar)

    def look(self) -> bool:
        """Compare with the wall clock; whether it was set."""
        now = self()
        calendar = self.calendar
        by_s = self._wall() - now - calendar.ahead_s
        if abs(by_s) <= FOLLOW_S:
            return False
        steps = calendar.steps
        if abs(by_s) > STEP_S:
            steps = (*steps, Step(now, by_s))[-_MOST_STEPS:]
            logger.warning(
                "the wall clock was set", extra={"action": Action.CLOCK, "by_s": by_s, "settled_in_s": SETTLE_S}
            )
        self.calendar = Calendar(calendar.ahead_s + by_s, calendar.settled_at, steps)
        if abs(by_s) > STEP_S:
            self._settle_at(now + SETTLE_S)
        return True

    def _settle_at(self, at: float) -> None:
        self.calendar = Calendar(self.calendar.ahead_s, at, self.calendar.steps)


def open_timeline(record: Record | None, *, new: bool) -> Timeline:
    """This machine's."""
    return Timeline(record, wall=time.time, elapsed=_elapsed_clock(), boot=_boot(), new=new)


def _elapsed_clock() -> Clock:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:  # Linux has it; elsewhere the monotonic clock is the best there is
        return time.monotonic
    return lambda: time.clock_gettime(boottime)


def _boot() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""
