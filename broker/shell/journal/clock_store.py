"""The record of the broker's clock, staged, written and committed with the rows of jobs."""

from __future__ import annotations

import logging

from msgspec.msgpack import decode

from broker.runtime.log_actions import Action
from broker.shell.journal.clock_record import Record
from broker.shell.journal.staged import Staged
from broker.shell.journal.store import JobRows
from broker.shell.journal.usage import day_at

logger = logging.getLogger(__name__)


class ClockStore:
    """Stages and reads the record."""

    def __init__(self, stored: JobRows, staged: Staged, usage_keep_days: int) -> None:
        """`usage_keep_days`: days of usage that are kept; 0: all."""
        self._stored = stored
        self._staged = staged
        self._usage_keep_days = usage_keep_days
        self._last: Record | None = None

    def stage(self, record: Record) -> None:
        """Keep this of the clock, from the next commit on, and by it no usage of days that are too long ago."""
        staged, calendar, now = self._staged, record.calendar, record.seen_at
        self._last = staged.clock = record
        staged.ahead_s = calendar.ahead_s
        if self._usage_keep_days and calendar.settled_at <= now:
            staged.first_usage_day = max(0, day_at(calendar.shown(now)) - self._usage_keep_days)

    def stage_again(self) -> None:
        """Stage what was staged last, if anything was: it may not have been committed."""
        self._staged.clock = self._last

    def record(self) -> Record | None:
        """Record of the clock of a broker before; None when there is none, or it cannot be read."""
        packed = self._stored.clock()
        try:
            return None if packed is None else decode(packed, type=Record)
        except (ValueError, TypeError) as error:
            logger.error("the clock's record cannot be read", extra={"action": Action.CLOCK, "error": str(error)})
            return None
