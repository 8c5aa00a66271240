"""Check that the journal's indexes lead to every row: by an entry that the disk has changed, a job would not be found.

SQLite's own check at start reads the structure of every page, and compares no index with its table. So rows are walked, the newest first,
and each is looked up by every index that has to have it: for a while at start, before anything is read by them, and on from there in idle
moments. An index that misses a row is built anew.

A row that is damaged itself may be missed for that; it is reported as damaged, and no index is made to follow it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from msgspec import Struct

from broker.runtime.errors import JournalRefused
from broker.runtime.log_actions import Action
from broker.shell.journal.schema import UNSUCCESSFUL, repair_hint, structure_faults

logger = logging.getLogger(__name__)

#: Rows of one look: a millisecond.
LOOK_ROWS = 500
#: Time that a start checks for: some two hundred thousand rows, the newest; the others in idle moments, as a start over a million took
#: seconds.
START_S = 0.5
#: Idle checks between two walks: an hour and more.
_REST_CHECKS = 4 * 3600


class _Index(Struct, frozen=True):
    """One index of `table`, whose rows are numbered by `key`. Every row for which `where` holds has an entry."""

    name: str
    table: str
    key: str
    columns: tuple[str, ...]
    where: str = "TRUE"


INDEXES = (
    _Index("sqlite_autoindex_job_1", "job", "n", ("id",)),
    _Index("job_state", "job", "n", ("state",), f"{{row}}.state {UNSUCCESSFUL}"),
    _Index("job_alias", "job", "n", ("origin", "alias", "tenant"), "{row}.alias <> ''"),
    _Index("job_tenant", "job", "n", ("tenant",), "{row}.tenant <> 'default'"),
    _Index("outcome_state", "outcome", "n", ("state",), f"{{row}}.state {UNSUCCESSFUL}"),
    _Index("hook_job", "hook", "number", ("n", "event")),
    _Index("hook_due", "hook", "number", ("due_at",), "{row}.state = 'pending'"),
)


def _missed(index: _Index) -> str:
    """An expression that is true of a row `one` to which this index does not lead."""
    same = " AND ".join(f"led.{column} = one.{column}" for column in (*index.columns, index.key))
    here, there = index.where.format(row="one"), index.where.format(row="led")
    entry = f"SELECT 1 FROM {index.table} AS led INDEXED BY {index.name} WHERE {same} AND {there}"
    return f"({here}) AND NOT EXISTS ({entry})"


class _Table(Struct, frozen=True):
    """A table's walk."""

    name: str
    indexes: tuple[_Index, ...]
    #: Column by which its rows are numbered; `n`: they are of jobs.
    key: str
    #: (key, whether each index misses it) of so many rows below a key, in falling order.
    look: str


def _table(name: str) -> _Table:
    indexes = tuple(index for index in INDEXES if index.table == name)
    key = indexes[0].key
    missed = ", ".join(map(_missed, indexes))
    look = f"SELECT {key}, {missed} FROM {name} AS one NOT INDEXED WHERE {key} < ? ORDER BY {key} DESC LIMIT ?"
    return _Table(name, indexes, key, look)


_TABLES = (_table("job"), _table("outcome"), _table("hook"))


class IndexCheck:
    """Walks the tables, and repairs. SQLite's errors pass through to the journal."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        is_sound: Callable[[int], bool],
        guarded: Callable[[Callable[[], object]], object],
    ) -> None:
        """`is_sound`: whether the rows of a job are what was written; `guarded` runs a write."""
        self._connection = connection
        self._path = path
        self._is_sound = is_sound
        self._guarded = guarded
        #: Indexes that were built anew since the start.
        self.rebuilt: list[str] = []
        self._walk = self._steps()
        self._rest = 0

    def start(self, budget_s: float = START_S) -> None:
        """Look for so long. Raises `JournalRefused` where an index can't be built anew, as `look` does."""
        end = time.monotonic() + budget_s
        while time.monotonic() < end:
            if next(self._walk, None) is None:
                self._rest = _REST_CHECKS
                return

    def look(self) -> None:
        """Look at a few rows; nothing may be staged."""
        if self._rest:
            self._rest -= 1
            if not self._rest:
                self._walk = self._steps()
        elif next(self._walk, None) is None:
            self._rest = _REST_CHECKS

    def _steps(self) -> Iterator[bool]:
        """The walk, a look a step."""
        return chain.from_iterable(map(self._walk_table, _TABLES))

    def _walk_table(self, table: _Table) -> Iterator[bool]:
        below = 2**63 - 1
        while found := self._connection.execute(table.look, (below, LOOK_ROWS)).fetchall():
            below = found[-1][0]
            strays = [row for row in found if any(row[1:])]
            if strays:
                self._repair(table, strays)
            yield True

    def _repair(self, table: _Table, strays: list[tuple[int, ...]]) -> None:
        if table.key == "n":
            strays = [row for row in strays if self._is_sound(row[0])]
        damaged = [index.name for at, index in enumerate(table.indexes, 1) if any(row[at] for row in strays)]
        if not damaged:
            return
        # Where a page belongs to two trees, emptying one of them would empty the other.
        if faults := structure_faults(self._connection):
            raise JournalRefused(f"the journal {self._path} is damaged ({faults}); {repair_hint(self._path)}")
        for name in damaged:
            extra = {"action": Action.REINDEX, "index": name, "table": table.name, "row": strays[0][0]}
            logger.error("an index of the journal is damaged and is built anew", extra=extra)
            try:
                self._guarded(lambda name=name: self._connection.execute(f"REINDEX {name}"))  # type: ignore[misc]
            except sqlite3.IntegrityError as error:
                raise JournalRefused(
                    f"the journal {self._path} is damaged (index {name}: {error}); {repair_hint(self._path)}"
                ) from None
            self.rebuilt.append(name)
