"""The journal in one SQLite file: a `store.Store`, with what a file and its log need beside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from broker.runtime.errors import JournalBroken
from broker.shell.journal import statements as sql
from broker.shell.journal.epochs import Epochs
from broker.shell.journal.indexes import IndexCheck
from broker.shell.journal.journal import Journal
from broker.shell.journal.mark import check_presence
from broker.shell.journal.schema import open_database, refusal, set_autocheckpoint
from broker.shell.journal.sqlite_rows import SqliteDeliveries, SqliteRows, failure
from broker.shell.journal.store import Batch
from broker.shell.journal.transaction import Transaction, Write

#: Calls of `Log.due` after which the log is moved although there is no idle moment.
_CHECKPOINT_CALLS = 40


class Log:
    """Schedule of checkpoints of SQLite's log into the file: should the log be removed by hand, a row in it alone would be gone."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        #: Rows committed since the log was moved, and how many of them `due` has seen.
        self.waiting = 0
        self._seen = 0
        self._calls = 0
        #: Whether another process copies the file, so that nothing may be moved into it.
        self._held = False

    def due(self) -> tuple[bool, bool]:
        """(whether nothing was committed since the last call, whether the log is to be moved: then too, or after many calls)."""
        idle = self.waiting == self._seen
        self._seen = self.waiting
        self._calls += 1
        return idle, bool(self.waiting) and not self._held and (idle or self._calls >= _CHECKPOINT_CALLS)

    def move(self) -> bool:
        """Move the log into the file; whether all of it is there."""
        self.waiting = self._seen = self._calls = 0
        _, pages, moved = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return bool(pages == moved)

    def hold(self) -> bool:
        """Move the log, and write to the log alone from then on; False: not all of it could be moved."""
        set_autocheckpoint(self._connection, on=False)
        self._held = self.move()
        return self._held

    def release(self) -> None:
        """Move the log again, from the next time on that it is due."""
        self._held = False
        set_autocheckpoint(self._connection, on=True)


class SqliteStore:
    """One file, one connection. See `store.Store`."""

    def __init__(
        self, path: Path, release_reserve: Callable[[], bool] = lambda: False, *, accept_loss: bool = False
    ) -> None:
        """Open or create the file. `release_reserve` frees space on a full disk; False: there is none left. `accept_loss`: go on with a
        journal that is shorter than it was. Raises `JournalRefused` or `JournalBroken`."""
        self.path = path
        try:
            check_presence(path, accept_loss=accept_loss)
        except OSError as error:
            raise JournalBroken(f"the journal {path} cannot be opened: {error}") from None
        self.connection = open_database(path)
        self._accept_loss = accept_loss
        self._transaction = Transaction(self.connection, path, release_reserve)
        self._epochs = Epochs(self.connection, path)
        self.jobs = SqliteRows(self.connection, self._transaction.cursor, path)
        self.deliveries = SqliteDeliveries(self.connection, path)
        self._log = Log(self.connection)
        self._indexes: IndexCheck | None = None
        #: Jobs and deliveries that are written and not committed, and the newest job among them.
        self._count = 0
        self._newest = (0, 0)

    def close(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # closed before
            self._transaction.cursor.close()  # else it would keep the file locked
        self.connection.close()
        self._epochs.close()

    # ------------------------------------------------------------ epochs

    def begin(self, is_sound: Callable[[int], bool]) -> int:
        guard = self._transaction.guard
        try:
            epoch = self._epochs.begin(self._accept_loss, guard)
            self.jobs.first_live = self._epochs.first_live
            # The epoch, and which journal this is, shall not live in the log alone.
            guard(self._log.move)
            self._indexes = IndexCheck(self.connection, self.path, is_sound, guard)
            self._indexes.start()
        except sqlite3.Error as error:
            raise refusal(self.path, error) from error
        return epoch

    def discard(self) -> int:
        self._transaction.roll_back()
        self._count, self._newest = 0, (0, 0)
        return self._epochs.raise_again(self._transaction.guard)

    # ------------------------------------------------------------ writing

    @property
    def uncommitted(self) -> bool:
        return self._transaction.open

    def write(self, batch: Batch) -> None:
        self._transaction.write(self._writes(batch))

    def commit(self, batch: Batch) -> int:
        self._transaction.commit(self._writes(batch))
        count, newest = self._count, self._newest
        self._count, self._newest = 0, (0, 0)
        self._epochs.committed(*newest)
        self._log.waiting += count
        return count

    def _writes(self, batch: Batch) -> list[Write]:
        """Return the batch's statements with their rows, in the order in which they are carried out."""
        writes: list[Write] = []
        if batch.forgotten:
            numbers = [(n,) for n in batch.forgotten]
            writes += [(statement, numbers) for statement in sql.DELETE]
            writes.append(self._epochs.deletion(self._newest[1]))
        if batch.rewritten:
            writes.append((sql.DELETE_OUTCOME, [row[:1] for row in batch.rewritten]))
            writes.append((sql.REWRITE_JOB, [(*row, row[0]) for row in batch.rewritten]))
        if batch.jobs:
            writes += ((sql.INSERT_JOB, batch.jobs),)
        if batch.outcomes:
            writes += ((sql.PUT_OUTCOME, batch.outcomes),)
        if batch.usage:
            writes += ((sql.PUT_USAGE, batch.usage),)
        if batch.first_usage_day:
            writes.append((sql.DELETE_USAGE, [(batch.first_usage_day,)]))
        if batch.deliveries:
            writes.append((sql.PUT_DELIVERY, [sql.delivery_row(delivery) for delivery in batch.deliveries]))
        if batch.marks:
            put = [sql.mark_row(n, mark) for n, mark in batch.marks if mark is not None]
            gone = [(n,) for n, mark in batch.marks if mark is None]
            writes += [(sql.PUT_MARK, put), (sql.DELETE_MARK, gone)]
        if batch.clock:
            writes.append((sql.PUT_CLOCK, [(batch.clock,)]))
        self._count += batch.count
        if batch.newest[0] and batch.newest[1] >= self._newest[1]:
            self._newest = batch.newest
        return writes

    # ------------------------------------------------------------ between

    def rest(self, first_live: Callable[[], int | None]) -> None:
        """Move the log into the file, when that is due; when nothing is under way, look at a few entries of the indexes."""
        idle, due = self._log.due()
        if due:
            guard, first = self._transaction.guard, first_live()
            if first is not None:
                self._epochs.note_first_live(first, guard)
            guard(self._log.move)
        if idle and self._indexes is not None:
            try:
                self._indexes.look()
            except sqlite3.Error as error:
                raise failure(self.path, error) from error

    @property
    def rebuilt_indexes(self) -> int:
        return 0 if self._indexes is None else len(self._indexes.rebuilt)

    def hold_file(self) -> bool:
        """Move the log into the file, and write to the log alone from then on; False: not now. Raises as `write`."""
        if self._transaction.open:
            return False
        held = self._transaction.guard(self._log.hold)
        if not held:
            self.release_file()
        return held

    def release_file(self) -> None:
        """Move the log into the file again, from the next time on that it is due."""
        self._transaction.guard(self._log.release)


def sqlite_journal(
    path: Path,
    release_reserve: Callable[[], bool] = lambda: False,
    *,
    accept_loss: bool = False,
    usage_keep_days: int = 0,
) -> Journal:
    """A journal in this file: see `SqliteStore` and `Journal`. Raises `JournalFull` and `JournalShort` too."""
    return Journal(SqliteStore(path, release_reserve, accept_loss=accept_loss), usage_keep_days=usage_keep_days)
