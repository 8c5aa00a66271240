"""Pages of jobs: first the numbers of the rows that match, then those rows, as long as they fit into one answer."""

from __future__ import annotations

import sqlite3
from heapq import merge
from itertools import islice
from typing import Any

from broker.shell.rows import SELECT, JobRow
from broker.wire import messages as m

#: Bytes of specs read for one page; a page with more ends there and says that more follow.
MAX_PAGE_BYTES = 8 * 1024 * 1024


def find_page(connection: sqlite3.Connection, query: m.ListJobs) -> tuple[list[JobRow], bool]:
    """(rows of `rows.SELECT`, whether more match) in the order of acceptance."""
    after = _after(connection, query)
    if after is None:
        return [], False
    numbers = _numbers(connection, query, after)
    page: list[JobRow] = []
    size = 0
    for n in numbers[: query.limit]:
        row = connection.execute(SELECT + " WHERE job.n = ?", (n,)).fetchone()
        size += len(row[11])
        if page and size > MAX_PAGE_BYTES:
            return page, True
        page.append(row)
    return page, len(numbers) > query.limit


def _after(connection: sqlite3.Connection, query: m.ListJobs) -> int | None:
    """The number the page starts behind; None when `after` is not a job."""
    if not query.after:
        return 2**63 - 1 if query.newest_first else 0
    row = connection.execute("SELECT n FROM job WHERE id = ?", (query.after,)).fetchone()
    if row is not None:
        return int(row[0])
    if not query.after_at:
        return None
    first = _first_since(connection, query.after_at)
    return first if query.newest_first else first - 1


def _first_since(connection: sqlite3.Connection, at: float) -> int:
    """The least number n such that every row below it was accepted before `at`; rows lie in the order of acceptance."""
    low, high = 0, connection.execute("SELECT coalesce(max(n), 0) + 1 FROM job").fetchone()[0]
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT n, submitted_at FROM job WHERE n >= ? ORDER BY n LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row[1] >= at:
            high = middle
        else:
            low = row[0] + 1
    return int(low)


def _numbers(connection: sqlite3.Connection, query: m.ListJobs, after: int) -> list[int]:
    """Up to limit + 1 row numbers that match, in order.

    States other than succeeded are few in a long history and have an index, in which the rows of one state lie in order: one query a state,
    merged. Succeeded ones are met soon enough by walking the table.
    """
    wanted = set(query.states)
    if not wanted or "succeeded" in wanted:
        condition = f"state IN ({','.join('?' * len(wanted))})" if wanted else ""
        return list(_select(connection, query, after, condition, sorted(wanted)))
    parts = [
        _select(connection, query, after, "state = ? AND state <> 'succeeded'", [state]) for state in sorted(wanted)
    ]
    return list(islice(merge(*parts, reverse=query.newest_first), query.limit + 1))


def _select(
    connection: sqlite3.Connection, query: m.ListJobs, after: int, condition: str, states: list[Any]
) -> list[int]:
    order, compare = ("DESC", "<") if query.newest_first else ("ASC", ">")
    where = [f"n {compare} ?"]
    parameters: list[Any] = [after]
    if condition:
        where.append(condition)
        parameters += states
    for column, value in (("origin", query.origin), ("model", query.model), ("tenant", query.tenant)):
        if value:
            where.append(f"{column} = ?")
            parameters.append(value)
    if query.tenant not in ("", "default"):  # lets the partial index serve
        where.append("tenant <> 'default'")
    if query.worker:  # a job that waits for this worker alone is its job too
        where.append("(worker = ? OR pinned = ?)")
        parameters += [query.worker, query.worker]
    sql = f"SELECT n FROM job WHERE {' AND '.join(where)} ORDER BY n {order} LIMIT ?"
    return [row[0] for row in connection.execute(sql, (*parameters, query.limit + 1))]
