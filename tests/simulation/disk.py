"""The real journal on a file in memory, where the process can be killed at each of its boundaries, and what a new process would read."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Protocol

from broker.core.jobs import Job
from broker.shell import rows
from broker.shell.journal import Journal


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


class WatchedJournal(Journal):
    """The journal, with a fuse at its boundaries; every row is shown to the witness as another process reads it."""

    def __init__(self, path: Path, fuse: Fuse, witness: Witness) -> None:
        super().__init__(path)
        self._fuse = fuse
        self._witness = witness
        self._touched: dict[str, None] = {}

    def stage(self, job: Job, *, lazy: bool = False) -> None:
        self._touched[job.id] = None
        super().stage(job, lazy=lazy)

    def commit(self, *, lazy: bool = True) -> int:
        self._fuse.burn("before commit")
        count = super().commit(lazy=lazy)
        touched = list(self._touched)
        if lazy:
            self._touched.clear()
        # The file admits one connection alone. Between two transactions it sees what the next process would.
        assert not self._connection.in_transaction
        for job_id in touched:
            row = self._connection.execute(rows.SELECT + " WHERE job.id = ?", (job_id,)).fetchone()
            if row is not None:
                self._witness.committed(rows.decode(row))
        self._fuse.burn("after commit")
        return count


def read_all(path: Path) -> dict[str, Job]:
    """Every job on disk."""
    connection = sqlite3.connect(path)
    try:
        return {job.id: job for job in map(rows.decode, connection.execute(rows.SELECT))}
    finally:
        connection.close()


class Room:
    """Stands for `broker.shell.disk.Disk`."""

    def __init__(self) -> None:
        self.low = False
