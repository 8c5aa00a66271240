"""Housekeeping between passes: lazy rows, free space, the wall clock, cut connections, the metrics file; and the loop's stalls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from broker.core.machine import Core
from broker.core.views import pool_totals
from broker.runtime.log_actions import Action
from broker.shell.clock import Timeline
from broker.shell.journal.disk import Disk
from broker.shell.journal.journal import Journal
from broker.shell.metrics import Metrics
from broker.shell.net.sockets import Sockets
from broker.shell.router import Router

logger = logging.getLogger(__name__)

#: A gap between two turns of the loop from which on the workers' silence is put down to the broker.
STALL_S = 0.5

DISK_CHECK_S = 1.0
METRICS_S = 5.0

#: How often the journal notes the time; after a reboot with a wall clock that is behind, the broker's goes on from there.
RECORD_S = 600.0


class MetricsFile:
    """The broker's numbers, written every few seconds; without a path they are not."""

    def __init__(self, path: Path | None, metrics: Metrics, core: Core, journal: Journal) -> None:
        self._path = path
        self._metrics = metrics
        self._core = core
        self._journal = journal
        self._next = 0.0

    def write(self, now: float) -> None:
        """Write them if that is due."""
        if self._path is None or now < self._next:
            return
        self._next = now + METRICS_S
        try:
            self._metrics.write(self._path, pool_totals(self._core.state), self._journal.counts())
        except Exception as error:  # a full disk, a bug that shows for one job: numbers are not worth the broker
            logger.warning("metrics not written", extra={"action": Action.METRICS, "error": str(error)})


class KeptFile(Protocol):
    """A file beside the journal that is looked at now and then."""

    def look(self, now: float) -> None:
        """Read or write it if that is due."""


class Housekeeping:
    """Work that is done a few times a second, whether messages come or not."""

    def __init__(
        self,
        core: Core,
        journal: Journal,
        wires: Sockets,
        router: Router,
        disk: Disk,
        metrics: Metrics,
        clock: Timeline,
        metrics_file: Path | None,
        files: Sequence[KeptFile] = (),
    ) -> None:
        self._core = core
        self._journal = journal
        self._wires = wires
        self._router = router
        self._disk = disk
        self._metrics = metrics
        self._clock = clock
        self._metrics_file = MetricsFile(metrics_file, metrics, core, journal)
        self._files = files
        self._last_run_at = clock()
        self._next_disk_check = 0.0
        self._next_record = clock() + RECORD_S

    def start(self) -> None:
        """Begin to measure the loop's gaps."""
        self._last_run_at = self._clock()

    def alive(self, now: float) -> None:
        """Note that the loop runs; a gap since the last call extends the workers' leases."""
        gap = now - self._last_run_at
        self._last_run_at = now
        if gap > STALL_S:
            self._metrics.stalls += 1
            logger.warning("the loop stood still", extra={"action": Action.STALL, "seconds": gap})
            self._core.stalled(gap, now)

    def run(self) -> None:
        """Do what is due. Raises `ShellError` when the broker cannot go on."""
        now = self._clock()
        self._router.commit(now)
        if now >= self._next_disk_check:
            self._next_disk_check = now + DISK_CHECK_S
            self._disk.check()
            self._keep_watch()
            self._look_at_clock(now)
        self._metrics_file.write(now)
        for one in self._files:
            one.look(now)
        self._journal.checkpoint()

    def _look_at_clock(self, now: float) -> None:
        if self._clock.look():
            self._core.set_calendar(self._clock.calendar)
        elif now < self._next_record:
            return
        self._next_record = now + RECORD_S
        self._journal.clock.stage(self._clock.record())

    def _keep_watch(self) -> None:
        endless = self._wires.keep_watch()
        if endless:
            self._metrics.oversized += endless
            logger.warning(
                "connections cut: messages without end",
                extra={"action": Action.OVERSIZED_MESSAGE, "connections": endless},
            )
        self._metrics.refused_keys = self._wires.refused
