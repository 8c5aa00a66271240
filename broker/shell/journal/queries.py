"""Pages of jobs: first the numbers of the rows that match, then those rows, as long as they fit into one answer.

The broker's loop stands still meanwhile, so one answer reads `MAX_LOOKED` rows at most, however many there are and however few match;
it then has the place to go on from. That bounds every query, where an index a filter would cost every job its upkeep.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import merge
from typing import Any, NamedTuple

from broker.core.requests import MAX_PAGE_BYTES
from broker.shell.journal.rows import BODY, JobRow
from broker.shell.journal.schema import UNSUCCESSFUL
from broker.shell.journal.statements import JOBS, SELECT, SELECT_NEXT_NUMBER, SELECT_NUMBER, STATE, WORKER
from broker.shell.journal.store import RowPage
from broker.wire import messages as m
from broker.wire.terms import FINAL_NAMES

#: Rows of one answer, and rows looked at for it: a few milliseconds each. A longer page comes in several answers, others' requests between.
MAX_ROWS = 50
MAX_LOOKED = 2000


def find_page(connection: sqlite3.Connection, query: m.ListJobs, live: Sequence[int] | None) -> RowPage:
    """Rows that match, in the order of acceptance; fewer than requested, with `behind` set, when that took too long.

    `live`: the numbers of all live jobs, in order; None: they are not known.
    """
    after = query.behind or _after(connection, query)
    if after is None:
        return RowPage([], False, 0)
    limit = min(query.limit, MAX_ROWS)
    numbers, behind = _numbers(connection, query, live, _span(connection, query, after), limit + 1)
    page: list[JobRow] = []
    size = 0
    for n in numbers[:limit]:
        row = connection.execute(SELECT + " WHERE job.n = ?", (n,)).fetchone()
        if row is None:  # an index that names a row which is not there
            continue
        size += len(row[BODY]) if isinstance(row[BODY], bytes) else 0
        if page and size > MAX_PAGE_BYTES:
            return RowPage(page, True, 0)
        page.append(row)
    if len(numbers) > limit:
        return RowPage(page, True, 0 if limit == query.limit else numbers[limit - 1])
    return RowPage(page, False, behind, _accepted_at(connection, behind) if behind else 0.0)


def _accepted_at(connection: sqlite3.Connection, n: int) -> float:
    """Time at which the job of this number was accepted; 0 where that is not known."""
    row = connection.execute("SELECT submitted_at FROM job WHERE n = ?", (n,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], float) else 0.0


def _after(connection: sqlite3.Connection, query: m.ListJobs) -> int | None:
    """The number the page starts behind; None when `after` is not a job."""
    if not query.after:
        return 2**63 - 1 if query.newest_first else 0
    row = connection.execute(SELECT_NUMBER, (query.after,)).fetchone()
    if row is not None:
        return int(row[0])
    if not query.after_at:
        return None
    first = _first_since(connection, query.after_at)
    return first if query.newest_first else first - 1


def _first_since(connection: sqlite3.Connection, at: float) -> int:
    """The least number n such that every row below it was accepted before `at`; rows lie in the order of acceptance."""
    low, high = 0, connection.execute(SELECT_NEXT_NUMBER).fetchone()[0]
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT n, submitted_at FROM job WHERE n >= ? ORDER BY n LIMIT 1", (middle,)
        ).fetchone()
        if row is None or not isinstance(row[1], float) or row[1] >= at:
            high = middle
        else:
            low = row[0] + 1
    return int(low)


class _Span(NamedTuple):
    """Rows whose numbers are above the one and below the other."""

    above: int
    below: int


def _span(connection: sqlite3.Connection, query: m.ListJobs, after: int) -> _Span:
    """The rows that a page can have: behind where it starts, and of the times requested."""
    above = _first_since(connection, query.since) - 1 if query.since else 0
    below = _first_since(connection, query.until) if query.until else 2**63 - 1
    return _Span(above, min(below, after)) if query.newest_first else _Span(max(above, after), below)


class _Walk(NamedTuple):
    """Rows in order of their numbers: those of `tables` for which `where` holds, which an index serves."""

    tables: str
    key: str
    where: str
    parameters: list[Any]


def _numbers(
    connection: sqlite3.Connection, query: m.ListJobs, live: Sequence[int] | None, span: _Span, most: int
) -> tuple[list[int], int]:
    """(up to `most` numbers of rows that match, in order; the last number looked at when that was not all of them, else 0).

    Jobs that failed or were cancelled are found by indexes, in which the rows of one state lie in order, those of tenants other than the
    default one too, and live ones by their numbers: those are walked, merged. Otherwise the table is.
    """
    states = sorted(set(query.states))
    walks = [_Walk(JOBS, "job.n", "TRUE", [])]
    living: list[m.JobStateName] = []
    if live is not None and states and "succeeded" not in states:
        living = [state for state in states if state not in FINAL_NAMES]
        walks = [walk for state in states if state in FINAL_NAMES for walk in _walks_of_state(state)]
    elif query.tenant not in ("", "default"):
        walks = [_Walk(JOBS, "job.n", "tenant = ? AND tenant <> 'default'", [query.tenant])]
    order = "DESC" if query.newest_first else "ASC"
    hit, hit_parameters = _condition(query, states)
    streams: list[Iterator[tuple[int, int]]] = [
        connection.execute(
            f"SELECT {key}, {hit} FROM {tables} WHERE {where} AND {key} > ? AND {key} < ? ORDER BY {key} {order} LIMIT ?",
            (*hit_parameters, *parameters, *span, MAX_LOOKED),
        )
        for tables, key, where, parameters in walks
    ]
    if living:
        streams.append(_look_at(connection, query, living, live or (), span))
    merged: Iterator[tuple[int, int]] = merge(*streams, key=_number, reverse=query.newest_first)
    numbers: list[int] = []
    for looked, (n, matches) in enumerate(merged, 1):
        if matches:
            numbers.append(n)
            if len(numbers) == most:
                return numbers, 0
        if looked == MAX_LOOKED:
            return numbers, n
    return numbers, 0


def _walks_of_state(state: m.JobStateName) -> list[_Walk]:
    """A job is in the index of the table of its outcome."""
    ended_so = f"state = ? AND {{0}}.state {UNSUCCESSFUL}"
    # CROSS: the planner must not begin at the other table.
    return [
        _Walk(JOBS, "job.n", "job." + ended_so.format("job"), [state]),
        _Walk(
            "outcome CROSS JOIN job ON job.n = outcome.n", "outcome.n", "outcome." + ended_so.format("outcome"), [state]
        ),
    ]


def _look_at(
    connection: sqlite3.Connection,
    query: m.ListJobs,
    states: list[m.JobStateName],
    numbers: Sequence[int],
    span: _Span,
) -> Iterator[tuple[int, int]]:
    """(number, whether it matches and is in one of `states`) of these rows as far as the span has them, in order; `MAX_LOOKED` at most."""
    numbers = numbers[bisect_right(numbers, span.above) : bisect_left(numbers, span.below)]
    if query.newest_first:
        numbers = numbers[::-1]
    hit, parameters = _condition(query, states)
    for n in numbers[:MAX_LOOKED]:
        yield from connection.execute(f"SELECT job.n, {hit} FROM {JOBS} WHERE job.n = ?", (*parameters, n))


def _number(row: tuple[int, int]) -> int:
    return row[0]


def _condition(query: m.ListJobs, states: list[m.JobStateName]) -> tuple[str, list[Any]]:
    """(an expression that is true for rows that match, its parameters)."""
    terms: list[str] = []
    parameters: list[Any] = []
    if states:
        terms.append(f"{STATE} IN ({','.join('?' * len(states))})")
        parameters += states
    for column, value in (("origin", query.origin), ("model", query.model), ("tenant", query.tenant)):
        if value:
            terms.append(f"{column} = ?")
            parameters.append(value)
    if query.worker:  # a job that waits for this worker alone is its job too
        terms.append(f"({WORKER} = ? OR pinned = ?)")
        parameters += [query.worker, query.worker]
    if query.text:  # the last, as it reads the spec
        terms.append("prompt_has(job.body, ?)")
        parameters.append(query.text.casefold())
    return " AND ".join(terms) or "1", parameters
