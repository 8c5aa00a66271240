"""The real journal on a file in memory, where the process can be killed at each of its boundaries, and what a new process would read."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random
from typing import Protocol

from broker.core.deliveries import Delivery
from broker.core.jobs import Job
from broker.shell.journal import rows, statements
from broker.shell.journal.deliveries import DeliveryStore
from broker.shell.journal.journal import Journal
from broker.shell.journal.sqlite_store import SqliteStore

#: `PRAGMA synchronous`: every commit is synced.
_FULL = 2


class Killed(BaseException):
    """`kill -9` of the broker, at the boundary named."""


class Fuse:
    """Kills the process when it has passed a boundary of some kind for the n-th time."""

    def __init__(self) -> None:
        self.kind = ""
        self.left = 0

    def light(self, kind: str, passes: int) -> None:
        self.kind, self.left = kind, passes

    def burn(self, kind: str) -> None:
        """A boundary is passed. Raises `Killed`."""
        if kind == self.kind:
            self.left -= 1
            if self.left <= 0:
                self.kind = ""
                raise Killed(kind)


class Witness(Protocol):
    """Who is told of all that is on disk."""

    def committed(self, job: Job) -> None: ...

    def deleted(self, job_id: str, last: Job | None) -> None: ...

    def delivery_committed(self, delivery: Delivery) -> None: ...

    def reopened(self, jobs: dict[str, Job], deliveries: dict[int, Delivery]) -> None: ...


class WatchedJournal(Journal):
    """The journal, with a fuse at its boundaries; every row is shown to the witness as another process reads it."""

    def __init__(self, path: Path, fuse: Fuse, witness: Witness) -> None:
        store = SqliteStore(path)
        super().__init__(store)
        self._connection = store.connection
        self._path = path
        self._fuse = fuse
        self._witness = witness
        self._touched: dict[str, None] = {}
        #: Jobs to be deleted as they were at the end; deliveries staged since the last commit, every step of them.
        self._last: dict[str, Job | None] = {}
        self._hooks: list[Delivery] = []
        self.deliveries.stage = self._stage_hook  # type: ignore[method-assign]
        self._wal = path.with_name(path.name + "-wal")
        #: Whether a commit is synced, and how much of the log is.
        self._syncs = self._connection.execute("PRAGMA synchronous").fetchone()[0] >= _FULL
        self._synced = 0
        self._sync()
        jobs = {job.id: job for job in map(rows.decode, self._connection.execute(statements.SELECT))}
        witness.reopened(
            jobs, {delivery.number: delivery for job_id in jobs for delivery in self.deliveries.of_job(job_id)}
        )

    def stage(self, job: Job, *, lazy: bool = False) -> None:
        self._touched[job.id] = None
        super().stage(job, lazy=lazy)

    def forget(self, job_id: str) -> None:
        self._touched[job_id] = None
        self._last[job_id] = self.find(job_id)
        super().forget(job_id)

    def begins(self, job_id: str) -> bool:
        """Whether a new row of this job is to be written with the next commit, whatever the disk has of it."""
        return job_id in self.staged.new or job_id in self._last

    def discard(self) -> None:
        self._last.clear()
        self._hooks.clear()
        super().discard()
        self._sync()  # the epoch was raised

    def _stage_hook(self, delivery: Delivery) -> None:
        self._hooks.append(delivery)
        DeliveryStore.stage(self.deliveries, delivery)

    def _sync(self) -> None:
        if self._syncs:
            self._synced = self._wal.stat().st_size

    def lose_power(self, random: Random) -> None:
        """What was written and not synced is lost, or torn."""
        file, log = self._path.read_bytes(), self._wal.read_bytes()
        self.close()
        torn = bytearray(log[self._synced :][: random.randint(0, len(log) - self._synced)])
        if torn and random.random() < 0.5:
            torn[random.randrange(len(torn))] ^= 0xFF
        self._path.write_bytes(file)
        self._wal.write_bytes(log[: self._synced] + torn)

    def commit(self, *, lazy: bool = True) -> int:
        self._fuse.burn("before commit")
        deliveries, self._hooks = self._hooks, []
        count = super().commit(lazy=lazy)
        self._sync()
        touched = list(self._touched)
        if lazy:
            self._touched.clear()
        # The file admits one connection alone. Between two transactions it sees what the next process would.
        assert not self._connection.in_transaction
        for job_id in touched:
            row = self._connection.execute(statements.SELECT + " WHERE job.id = ?", (job_id,)).fetchone()
            if row is not None:
                if job_id in self._last:  # deleted, and its id taken anew before the commit
                    self._witness.deleted(job_id, self._last.pop(job_id))
                self._witness.committed(rows.decode(row))
            elif lazy or job_id not in self.staged.lazy:
                self._witness.deleted(job_id, self._last.pop(job_id, None))
        for delivery in deliveries:
            if self.deliveries.find(delivery.number) is not None:
                self._witness.delivery_committed(delivery)
        self._fuse.burn("after commit")
        return count


def read_all(path: Path) -> dict[str, Job]:
    """Every job on disk."""
    connection = sqlite3.connect(path)
    try:
        return {job.id: job for job in map(rows.decode, connection.execute(statements.SELECT))}
    finally:
        connection.close()


class Room:
    """Stands for `broker.shell.journal.disk.Disk`."""

    def __init__(self) -> None:
        self.shortage = ""

    def check_journal(self) -> None:
        """Nobody else is at the files."""
