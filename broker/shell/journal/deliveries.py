"""The journal's table of webhook deliveries: staged, written and committed with the rows of the jobs that cause them.

A row may be written again and again (claimed, tried, settled), so there is no compare-and-set: the core is the only writer, and a
delivery's number is never given twice. Rows go with their job's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker.core.deliveries import Delivery
from broker.runtime.errors import JournalBroken

TABLES = (
    """
    CREATE TABLE hook (
        number INTEGER PRIMARY KEY,
        n INTEGER NOT NULL,
        event TEXT NOT NULL,
        created_at REAL NOT NULL,
        due_at REAL NOT NULL,
        state TEXT NOT NULL,
        claim INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        status INTEGER NOT NULL,
        note TEXT NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX hook_job ON hook (n, event)",
    "CREATE INDEX hook_due ON hook (due_at, number) WHERE state = 'pending'",
)

PUT = (
    "INSERT INTO hook (number, n, event, created_at, due_at, state, claim, attempts, status, note)"
    " VALUES (?1, (SELECT n FROM job WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    " ON CONFLICT (number) DO UPDATE SET due_at = ?5, state = ?6, claim = ?7, attempts = ?8, status = ?9, note = ?10"
)

#: Deletes the deliveries of the job of a row.
DELETE = "DELETE FROM hook WHERE n = ?"

_SELECT = (
    "SELECT hook.number, job.id, hook.event, hook.created_at, hook.due_at, hook.state, hook.claim, hook.attempts,"
    " hook.status, hook.note FROM hook JOIN job ON job.n = hook.n"
)


class DeliveryStore:
    """Reads deliveries, staged ones included."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, staged: dict[int, Delivery], write_staged: Callable[[], None]
    ) -> None:
        """`staged` by number; `write_staged` writes it, jobs first, into the open transaction."""
        self._connection = connection
        self._path = path
        self._staged = staged
        self._write_staged = write_staged

    def stage(self, delivery: Delivery) -> None:
        """Write this delivery with the next commit. Its job is staged or on disk."""
        self._staged[delivery.number] = delivery

    # ------------------------------------------------------------ reading

    def of_job(self, job_id: str) -> list[Delivery]:
        """The deliveries of a job, oldest first."""
        found = {delivery.number: delivery for delivery in self._read(" WHERE job.id = ?", job_id)}
        found |= {number: delivery for number, delivery in self._staged.items() if delivery.job_id == job_id}
        return [found[number] for number in sorted(found)]

    def find(self, number: int) -> Delivery | None:
        """The delivery of this number."""
        staged = self._staged.get(number)
        if staged is not None:
            return staged
        found = self._read(" WHERE hook.number = ?", number)
        return found[0] if found else None

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        """Pending deliveries that are due, the longest due first, and when the next one behind them is."""
        if self._staged:
            self._write_staged()
        # The literal state lets the partial index serve.
        where = " WHERE hook.state = 'pending' ORDER BY hook.due_at, hook.number LIMIT ?"
        first = self._read(where, limit + 1)
        due = [delivery for delivery in first[:limit] if delivery.due_at <= now]
        return due, first[len(due)].due_at if len(first) > len(due) else None

    def _read(self, where: str, parameter: str | int) -> list[Delivery]:
        try:
            return [_delivery(row) for row in self._connection.execute(_SELECT + where, (parameter,))]
        except sqlite3.Error as error:
            raise JournalBroken(f"the journal {self._path} cannot be read: {error}") from error


def row(delivery: Delivery) -> tuple[Any, ...]:
    """Parameters of `PUT`."""
    return (
        delivery.number,
        delivery.job_id,
        delivery.event,
        delivery.created_at,
        delivery.due_at,
        delivery.state,
        delivery.claim,
        delivery.attempts,
        delivery.status,
        delivery.note,
    )


def _delivery(row: tuple[Any, ...]) -> Delivery:
    return Delivery(
        number=row[0],
        job_id=row[1],
        event=row[2],
        created_at=row[3],
        due_at=row[4],
        state=row[5],
        claim=row[6],
        attempts=row[7],
        status=row[8],
        note=row[9],
    )
