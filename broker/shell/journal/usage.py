"""What was used of the pool, by day, tenant, API key and model: one row each, kept longer than the jobs that it counts.

A job is added in the transaction that writes its final state, which is written once; so it is counted once, whatever crashes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from broker.core.jobs import Job
from broker.core.usage import gpu_seconds
from broker.runtime.errors import JournalBroken
from broker.wire import messages as m
from broker.wire.terms import JobState
from broker.wire.usage import USAGE_GROUPS

#: `day`: days since 1970-01-01, UTC.
TABLE = """
    CREATE TABLE usage (
        day INTEGER NOT NULL,
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        model TEXT NOT NULL,
        succeeded INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        cancelled INTEGER NOT NULL,
        gpu_s REAL NOT NULL,
        lost_gpu_s REAL NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (day, tenant, key, model)
    ) WITHOUT ROWID
    """

_NUMBERS = ("succeeded", "failed", "cancelled", "gpu_s", "lost_gpu_s", "bytes")
PUT = (
    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, tenant, key, model) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _NUMBERS)
)
DELETE = "DELETE FROM usage WHERE day < ?"

#: Column that a query groups by -> what stands for it where it does not.
_GROUPS = {name: "0" if name == "day" else "''" for name in USAGE_GROUPS}

#: Number of the column in which a job of this state is counted.
_COLUMN = {JobState.SUCCEEDED: 4, JobState.FAILED: 5, JobState.CANCELLED: 6}


def day_at(at: float) -> int:
    """Return the day of a Unix time, in UTC."""
    return int(at // 86_400)


def rows_of(ended: Iterable[Job], ahead_s: float) -> list[Any]:
    """Make the parameters of `PUT` for these jobs, which are over. `ahead_s`: as `Calendar`'s."""
    found: dict[Any, list[Any]] = {}
    rows: list[Any] = []
    for job in ended:
        fixed, result = job.submission, job.result
        # Without a call: this is in every job's way. SQLite makes an integer of the day.
        key = ((job.finished_at + ahead_s) // 86_400, fixed.tenant, fixed.submitted_by, fixed.model)
        if key not in found:
            found[key] = [*key, 0, 0, 0, 0.0, 0.0, 0]
            rows += (found[key],)
        row = found[key]
        kept, lost = gpu_seconds(job)
        row[_COLUMN[job.state]] += 1
        row[7] += kept
        row[8] += lost
        if result is not None and job.state is JobState.SUCCEEDED:
            for artefact in result.artefacts:
                row[9] += artefact.size
    return rows


class UsageTable:
    """Reads the table, jobs that are staged included."""

    def __init__(self, cursor: sqlite3.Cursor, path: Path, write_staged: Callable[[], None]) -> None:
        self._cursor = cursor
        self._path = path
        self._write_staged = write_staged

    def rows(self, query: m.GetUsage) -> list[m.UsageRow]:
        """Return sums by what the query groups by, in its order; one more than its limit when there are more. Raises as `flush`."""
        self._write_staged()
        groups = [name if name in query.by else zero for name, zero in _GROUPS.items()]
        by = ", ".join(name for name in _GROUPS if name in query.by)
        statement = (
            f"SELECT {', '.join(groups)}, {', '.join(f'sum({name})' for name in _NUMBERS)} FROM usage"
            " WHERE day BETWEEN ? AND ? AND ? IN ('', tenant)"
            + (f" GROUP BY {by} ORDER BY {by}" if by else " HAVING count(*) > 0")
            + " LIMIT ?"
        )
        asked = (query.first_day, query.last_day, query.tenant, query.limit + 1)
        try:
            return [m.UsageRow(*row) for row in self._cursor.execute(statement, asked).fetchall()]
        except sqlite3.Error as error:
            raise JournalBroken(f"the journal {self._path} cannot be read: {error}") from error
