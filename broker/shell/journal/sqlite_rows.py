"""Reads the journal's rows from SQLite, as `store` has it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from broker.core.deliveries import Delivery
from broker.core.jobs import SetAside
from broker.runtime.errors import JournalBroken, JournalRefused
from broker.shell.journal import statements as sql
from broker.shell.journal.queries import find_page
from broker.shell.journal.rows import JobRow, as_text
from broker.shell.journal.schema import repair_hint
from broker.shell.journal.store import RowPage
from broker.wire import messages as m


def failure(path: Path, error: sqlite3.Error) -> JournalRefused | JournalBroken:
    """Error by which the broker ends: a damaged page takes rows of any job with it, and reading on would hide which."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
        return JournalRefused(f"the journal {path} is damaged ({error}); {repair_hint(path)}")
    return JournalBroken(f"the journal {path} cannot be read: {error}")


class SqliteRows:
    """Rows of jobs: a `store.JobRows`."""

    def __init__(self, connection: sqlite3.Connection, cursor: sqlite3.Cursor, path: Path) -> None:
        """`cursor` is for what is requested every job, as making one costs."""
        self._connection = connection
        self._cursor = cursor
        self._path = path
        #: No job with a lower number is live.
        self.first_live = 0

    def _rows(self, query: str, parameters: tuple[Any, ...]) -> list[JobRow]:
        try:
            return self._cursor.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise failure(self._path, error) from error

    def _row(self, query: str, *parameters: Any) -> JobRow | None:
        """The row that the query finds: one at most."""
        found = self._rows(query, parameters)
        return found[0] if found else None

    def next_number(self) -> int:
        row = self._row(sql.SELECT_NEXT_NUMBER)
        return 1 if row is None else int(row[0])

    def number(self, job_id: str) -> int | None:
        row = self._row(sql.SELECT_NUMBER, job_id)  # this needs the index alone
        return None if row is None else row[0]

    def row(self, n: int, *, spec: bool = True) -> JobRow | None:
        return self._row((sql.SELECT if spec else sql.SELECT_EVICTED) + " WHERE job.n = ?", n)

    def spec(self, job_id: str) -> tuple[int, bytes, bytes] | None:
        return self._row(sql.SELECT_BODY, job_id)

    def newest(self, origin: str, alias: str, tenant: str) -> int:
        query = "SELECT max(n) FROM job WHERE origin = ? AND alias = ? AND alias <> '' AND tenant = ?"
        found = [self._row(query, origin, alias, one) for one in self._tenants(origin, alias, tenant)]
        return max((int(row[0]) for row in found if row is not None and row[0] is not None), default=0)

    def _tenants(self, origin: str, alias: str, tenant: str) -> Iterator[str]:
        """This tenant, else all that have a job of this name: a step in the index each, however many jobs they have."""
        if tenant:
            yield tenant
            return
        query = "SELECT min(tenant) FROM job WHERE origin = ? AND alias = ? AND alias <> '' AND tenant > ?"
        row = self._row(query, origin, alias, "")
        while row is not None and row[0] is not None:
            yield row[0]
            row = self._row(query, origin, alias, row[0])

    def page(self, query: m.ListJobs, live: Sequence[int] | None) -> RowPage:
        try:
            return find_page(self._connection, query, live)
        except sqlite3.Error as error:
            raise failure(self._path, error) from error

    def live(self) -> list[JobRow]:
        """Also those whose state is none."""
        where = f" WHERE job.n >= ? AND {sql.STATE} NOT IN ({sql.FINAL_LIST}) ORDER BY job.n"
        return self._rows(sql.SELECT_EVICTED + where, (self.first_live,))

    def succeeded(self, above: int, limit: int) -> list[JobRow]:
        where = f" WHERE {sql.STATE} = 'succeeded' AND job.n > ? ORDER BY job.n DESC LIMIT ?"
        return self._rows(sql.SELECT_EVICTED + where, (above, limit))

    def marks(self) -> list[tuple[str, int, SetAside]]:
        return [
            (
                as_text(job_id),
                n,
                SetAside(reason=reason, at=at, revision=revision, stop=stop, readable=bool(readable)),
            )
            for job_id, n, reason, at, revision, stop, readable in self._rows(sql.SELECT_MARKS, ())
        ]

    def clock(self) -> bytes | None:
        row = self._row(sql.SELECT_CLOCK)
        return None if row is None else row[0]

    def usage(self, query: m.GetUsage) -> list[m.UsageRow]:
        return [m.UsageRow(*row) for row in self._rows(*sql.select_usage(query))]


class SqliteDeliveries:
    """Webhook deliveries: a `store.DeliveryRows`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def of_job(self, job_id: str) -> list[Delivery]:
        return self._read(" WHERE job.id = ?", job_id)

    def find(self, number: int) -> Delivery | None:
        found = self._read(" WHERE hook.number = ?", number)
        return found[0] if found else None

    def due(self, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        # The literal state lets the partial index serve.
        where = " WHERE hook.state = 'pending' ORDER BY hook.due_at, hook.number LIMIT ?"
        first = self._read(where, limit + 1)
        due = [delivery for delivery in first[:limit] if delivery.due_at <= now]
        return due, first[len(due)].due_at if len(first) > len(due) else None

    def _read(self, where: str, parameter: str | int) -> list[Delivery]:
        try:
            return [sql.delivery_of(row) for row in self._connection.execute(sql.SELECT_DELIVERY + where, (parameter,))]
        except sqlite3.Error as error:
            raise failure(self._path, error) from error
