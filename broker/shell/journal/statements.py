"""SQL that reads and writes rows, for SQLite, and the parameters that it takes where those are not the rows themselves."""

from __future__ import annotations

from typing import Any

from broker.core.deliveries import Delivery
from broker.core.jobs import SetAside
from broker.shell.journal.rows import COLUMNS
from broker.wire import messages as m
from broker.wire.terms import FINAL
from broker.wire.usage import USAGE_GROUPS

#: Every job, with what became of it since it was accepted; NULL: nothing.
JOBS = "job LEFT JOIN outcome ON outcome.n = job.n"
#: What SQL selects by of what changes.
STATE, WORKER = "coalesce(outcome.state, job.state)", "coalesce(outcome.worker, job.worker)"

#: What makes a job, as `rows.decode` takes it.
SELECT = (
    f"SELECT {', '.join(f'job.{column}' for column in COLUMNS)}, job.tail,"
    f" outcome.state, outcome.fence, outcome.worker, outcome.tail, job.head, job.body FROM {JOBS}"
)

#: The same without the bytes of the spec.
SELECT_EVICTED = SELECT.replace("job.body", "NULL")
#: Arguments of `rows.checked_body`.
SELECT_BODY = "SELECT n, head, body FROM job WHERE id = ?"
SELECT_NUMBER = "SELECT n FROM job WHERE id = ?"
#: The number of the next new job.
SELECT_NEXT_NUMBER = "SELECT coalesce(max(n), 0) + 1 FROM job"
#: (id, state, fence) of a job by its number.
SELECT_FENCE = f"SELECT job.id, {STATE}, coalesce(outcome.fence, job.fence) FROM {JOBS} WHERE job.n = ?"
SELECT_CLOCK = "SELECT record FROM clock"

#: Takes a `rows.job_row`.
INSERT_JOB = (
    f"INSERT INTO job ({', '.join(COLUMNS)}, tail, head, body) VALUES ({', '.join('?' * len(COLUMNS))}, ?, ?, ?)"
)
#: Every column of a row, whatever was in it; its parameters are those of `INSERT_JOB` and the row's number. It is for a job whose row in
#: `outcome` is deleted.
REWRITE_JOB = (
    f"UPDATE job SET {', '.join(f'{column} = ?' for column in COLUMNS)}, tail = ?, head = ?, body = ? WHERE n = ?"
)
DELETE_OUTCOME = "DELETE FROM outcome WHERE n = ?"

FINAL_LIST = ", ".join(f"'{state.value}'" for state in sorted(FINAL))

#: Takes a `rows.outcome_row`. The compare-and-set: it changes nothing where there is an outcome that is final, or bears a higher fence.
PUT_OUTCOME = (
    "INSERT INTO outcome (n, state, fence, worker, tail) VALUES (?1, ?2, ?3, ?4, ?5)"
    " ON CONFLICT (n) DO UPDATE SET state = ?2, fence = ?3, worker = ?4, tail = ?5"
    f" WHERE outcome.fence <= ?3 AND outcome.state NOT IN ({FINAL_LIST})"
)

PUT_DELIVERY = (
    "INSERT INTO hook (number, n, event, created_at, due_at, state, claim, attempts, status, note)"
    " VALUES (?1, (SELECT n FROM job WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    " ON CONFLICT (number) DO UPDATE SET due_at = ?5, state = ?6, claim = ?7, attempts = ?8, status = ?9, note = ?10"
)
SELECT_DELIVERY = (
    "SELECT hook.number, job.id, hook.event, hook.created_at, hook.due_at, hook.state, hook.claim, hook.attempts,"
    " hook.status, hook.note FROM hook JOIN job ON job.n = hook.n"
)

#: What deletes a job, what became of it, and its deliveries; each takes its number.
DELETE = ("DELETE FROM job WHERE n = ?", DELETE_OUTCOME, "DELETE FROM hook WHERE n = ?")

PUT_MARK = "INSERT OR REPLACE INTO aside (n, reason, at, revision, stop, readable) VALUES (?, ?, ?, ?, ?, ?)"
DELETE_MARK = "DELETE FROM aside WHERE n = ?"
SELECT_MARKS = (
    "SELECT job.id, aside.n, aside.reason, aside.at, aside.revision, aside.stop, aside.readable"
    " FROM aside JOIN job ON job.n = aside.n ORDER BY aside.n"
)

PUT_META = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"

PUT_CLOCK = "INSERT OR REPLACE INTO clock (k, record) VALUES (1, ?)"

_SUMS = ("succeeded", "failed", "cancelled", "gpu_s", "lost_gpu_s", "bytes")
#: Takes one of `usage.rows_of`.
PUT_USAGE = (
    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, tenant, key, model) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
)
DELETE_USAGE = "DELETE FROM usage WHERE day < ?"

#: Column that a query of usage groups by -> what stands for it where it does not.
_GROUPS = {name: "0" if name == "day" else "''" for name in USAGE_GROUPS}


def select_usage(query: m.GetUsage) -> tuple[str, tuple[Any, ...]]:
    """(statement, its parameters) for `wire.messages.UsageRow`s."""
    groups = [name if name in query.by else zero for name, zero in _GROUPS.items()]
    by = ", ".join(name for name in _GROUPS if name in query.by)
    statement = (
        f"SELECT {', '.join(groups)}, {', '.join(f'sum({name})' for name in _SUMS)} FROM usage"
        " WHERE day BETWEEN ? AND ? AND ? IN ('', tenant)"
        + (f" GROUP BY {by} ORDER BY {by}" if by else " HAVING count(*) > 0")
        + " LIMIT ?"
    )
    return statement, (query.first_day, query.last_day, query.tenant, query.limit + 1)


def delivery_row(delivery: Delivery) -> tuple[Any, ...]:
    """Parameters of `PUT_DELIVERY`."""
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


def delivery_of(row: tuple[Any, ...]) -> Delivery:
    """A delivery from a row of `SELECT_DELIVERY`."""
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


def mark_row(n: int, mark: SetAside) -> tuple[Any, ...]:
    """Parameters of `PUT_MARK`."""
    return n, mark.reason, mark.at, mark.revision, mark.stop, mark.readable
