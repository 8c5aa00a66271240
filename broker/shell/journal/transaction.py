"""The one open transaction of SQLite: what it writes, in order, kept until it is on disk, so that it can be written again.

Any I/O error ends the process. A failed fsync is not retried: the kernel may have dropped the pages and report success the next time
("fsyncgate"). Only "disk full" found while *writing* is: the transaction is rolled back, the reserve released, and all of it written again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from broker.runtime.errors import IdTaken, JournalBroken, JournalConflict, JournalFull
from broker.shell.journal import statements as sql
from broker.shell.journal.rows import JobRow

T = TypeVar("T")

#: A statement, and the rows that it is run with.
Write = tuple[str, Sequence[Any]]

#: Statement -> description of a row that breaks a rule of its table.
_REFUSED = {
    sql.INSERT_JOB: "a job is in the journal already that the core takes for new",
    sql.PUT_DELIVERY: "a webhook delivery does not fit the journal",
}


class Transaction:
    """Begins with the first write and ends with `commit` or `roll_back`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, release_reserve: Callable[[], bool]) -> None:
        """`release_reserve` frees space on a full disk; False: there is none left."""
        self._connection = connection
        self._path = path
        self._release_reserve = release_reserve
        #: For what is done for every job, as making a cursor costs; whatever it selects is read to the end.
        self.cursor = connection.cursor()
        self._writes: list[Write] = []
        #: How many of them are written; the others are about to be.
        self._made = 0

    @property
    def open(self) -> bool:
        """Whether something is written that is not on disk yet."""
        return bool(self._writes)

    def write(self, writes: list[Write]) -> None:
        """Write, without making it durable. Raises `JournalConflict`, `JournalBroken` or `JournalFull`."""
        self._writes += writes
        self.guard(self._make)

    def commit(self, writes: list[Write]) -> None:
        """Write, and make everything durable. Raises as `write`."""
        self._writes += writes
        try:
            self._make(commit=True)
        except sqlite3.Error as error:
            self._after(error, partial(self._make, commit=True))
        self._writes, self._made = [], 0

    def roll_back(self) -> None:
        """Forget everything that is not durable. Raises as `write`."""
        self._writes, self._made = [], 0
        if self._connection.in_transaction:
            self.guard(lambda: self._connection.execute("ROLLBACK"))

    def guard(self, work: Callable[[], T]) -> T:
        """Do something that writes, and answer what it does; on a full disk again, with a new transaction. Raises as `write`."""
        try:
            return work()
        except sqlite3.Error as error:
            return self._after(error, work)

    def _after(self, error: sqlite3.Error, work: Callable[[], T]) -> T:
        """Do it again, if a full disk was why it could not be done."""
        if not _is_full(error):
            raise JournalBroken(f"the journal {self._path} cannot be written: {error}") from error
        if not self._release_reserve():
            raise JournalFull(f"the disk of {self._path} is full: {error}") from error
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._made = 0
        try:
            return work()
        except sqlite3.Error as again:
            if _is_full(again):
                raise JournalFull(f"the disk of {self._path} is full, and so is the reserve: {again}") from again
            raise JournalBroken(f"the journal {self._path} cannot be written: {again}") from again

    def _make(self, *, commit: bool = False) -> None:
        if not self._connection.in_transaction:
            self.cursor.execute("BEGIN IMMEDIATE")
        for statement, made in self._writes[self._made :]:
            self._made += 1
            try:
                changed = self.cursor.executemany(statement, made).rowcount
            except sqlite3.IntegrityError as error:
                if statement is sql.INSERT_JOB and (taken := self._taken(made)):
                    raise IdTaken(taken) from None
                raise JournalConflict(f"{_REFUSED.get(statement, 'a row was refused')}: {error}") from None
            if statement is sql.PUT_OUTCOME and changed != len(made):
                raise self._conflict(made)
        if commit:
            self.cursor.execute("COMMIT")

    def _taken(self, made: Sequence[JobRow]) -> list[str]:
        """Ids among these new rows that other rows bear; some of them may have been written."""
        taken = []
        for n, job_id, *_ in made:
            row = self.cursor.execute(sql.SELECT_NUMBER, (job_id,)).fetchone()
            if row is not None and row[0] != n:
                taken.append(job_id)
        return taken

    def _conflict(self, outcomes: Sequence[JobRow]) -> JournalConflict:
        """Which of these outcomes did not match, and why; the first of them is to blame."""
        found, job_ids = [], []
        for n, state, fence, _worker, _tail in outcomes:
            row = self.cursor.execute(sql.SELECT_FENCE, (n,)).fetchone()
            if row is None:
                found.append(f"row {n} is gone")
            elif row[1:] != (state, fence):
                there, here = f"{row[1]} with fence {row[2]}", f"{state} with fence {fence}"
                found.append(f"job {row[0]} is {there}, the core has it {here}")
                job_ids.append(row[0])
        return JournalConflict("; ".join(found[:3]) or "a final row was written again", job_ids[0] if job_ids else "")


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
