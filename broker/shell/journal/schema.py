"""The journal file: opening it safely, its schema, and how an older schema becomes this one.

One file, one connection, no other: `locking_mode=EXCLUSIVE` keeps every other connection out while the broker lives, because the
SQLite versions in use (3.7.0 to 3.51.2) can corrupt a WAL that two connections reset at once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from broker.runtime.errors import JournalBroken, JournalRefused
from broker.shell.journal.old_rows import renew_head
from broker.wire.jobspec import prompt_of

#: Raised with every change of the tables or of the packed columns that an older broker would misread.
SCHEMA = 7

#: "Zoet": marks our file among SQLite databases.
APPLICATION_ID = 0x5A6F6574

#: Pages of WAL after which a commit also checkpoints: bounds the WAL at 16 MB when there is never an idle moment.
_AUTOCHECKPOINT_PAGES = 4096

_ALIAS_INDEX = "CREATE INDEX job_alias ON job (origin, alias, tenant) WHERE alias <> ''"
_TENANT_INDEX = "CREATE INDEX job_tenant ON job (tenant) WHERE tenant <> 'default'"

#: What became of jobs since they were accepted, see `rows`: so a job costs an entry in each table, appended, and none is rewritten.
_OUTCOME_TABLE = """
    CREATE TABLE outcome (
        n INTEGER PRIMARY KEY,
        state TEXT NOT NULL,
        fence INTEGER NOT NULL,
        worker TEXT NOT NULL,
        tail BLOB NOT NULL
    )
    """
#: Succeeded jobs are most of a long history and are found by scanning, live ones are in memory: neither has an entry. A row of `job` has
#: one only if it was written before there were outcomes, or the job was over when it was accepted.
UNSUCCESSFUL = "IN ('failed', 'cancelled')"
_STATE_INDEXES = (
    f"CREATE INDEX job_state ON job (state) WHERE state {UNSUCCESSFUL}",
    f"CREATE INDEX outcome_state ON outcome (state) WHERE state {UNSUCCESSFUL}",
)

#: Webhook deliveries; they go with their job.
_DELIVERY_TABLES = (
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

#: Jobs that were set aside: marks beside rows that stay as they were last committed.
_ASIDE_TABLE = """
    CREATE TABLE aside (
        n INTEGER PRIMARY KEY,
        reason TEXT NOT NULL,
        at REAL NOT NULL,
        revision INTEGER NOT NULL,
        stop TEXT NOT NULL,
        readable INTEGER NOT NULL
    )
    """

#: What was used. `day`: days since 1970-01-01, UTC.
_USAGE_TABLE = """
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

#: One row, a packed `clock_record.Record`.
_CLOCK_TABLE = "CREATE TABLE clock (k INTEGER PRIMARY KEY CHECK (k = 1), record BLOB NOT NULL)"

#: n is the order of acceptance; pages are cut and names looked up in that order. Without `head` and `body`: the row has lost them.
_JOB_TABLE = """
    CREATE TABLE job (
        n INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        fence INTEGER NOT NULL,
        worker TEXT NOT NULL,
        tenant TEXT NOT NULL DEFAULT 'default',
        origin TEXT NOT NULL,
        alias TEXT NOT NULL,
        model TEXT NOT NULL,
        pinned TEXT NOT NULL,
        submitted_at REAL NOT NULL,
        tail BLOB NOT NULL,
        head BLOB,
        body BLOB
    )
    """

_TABLES = (
    _JOB_TABLE,
    _OUTCOME_TABLE,
    *_STATE_INDEXES,
    # Also serves reads without a tenant.
    _ALIAS_INDEX,
    # Without keys every job is of this tenant, and an index of it would be of no use.
    _TENANT_INDEX,
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta (key, value) VALUES ('epoch', 0)",
    *_DELIVERY_TABLES,
    _ASIDE_TABLE,
    _CLOCK_TABLE,
    _USAGE_TABLE,
)


def _add_tenants(connection: sqlite3.Connection) -> None:
    """1 -> 2: jobs can be found by their tenant. There were no keys before, so all are of one."""
    connection.execute("ALTER TABLE job ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default'")
    connection.execute("DROP INDEX job_alias")
    connection.execute(_ALIAS_INDEX)
    connection.execute(_TENANT_INDEX)


def _add_hooks(connection: sqlite3.Connection) -> None:
    """2 -> 3: webhook deliveries. Jobs of before have none."""
    for statement in _DELIVERY_TABLES:
        connection.execute(statement)


def _add_asides(connection: sqlite3.Connection) -> None:
    """3 -> 4: jobs can be set aside. None is."""
    connection.execute(_ASIDE_TABLE)


def _add_clock(connection: sqlite3.Connection) -> None:
    """4 -> 5: the broker's clock goes on over restarts. What it was so far is not known."""
    connection.execute(_CLOCK_TABLE)


def _add_outcomes(connection: sqlite3.Connection) -> None:
    """5 -> 6: the spec stands in the job's row, which is written once. Those of before have the outcome of their jobs themselves, and no
    row in `outcome`.
    """
    columns = "n, id, state, fence, worker, tenant, origin, alias, model, pinned, submitted_at, tail"
    connection.create_function("renewed", 7, renew_head)
    connection.execute("ALTER TABLE job RENAME TO job_5")
    for index in ("job_state", "job_alias", "job_tenant"):
        connection.execute(f"DROP INDEX {index}")
    connection.execute(_JOB_TABLE)
    connection.execute(
        f"INSERT INTO job ({columns}, head, body) SELECT job_5.{columns.replace(', ', ', job_5.')},"
        " renewed(job_5.n, spec.head, spec.body, model, origin, alias, pinned), spec.body"
        " FROM job_5 LEFT JOIN spec ON spec.n = job_5.n ORDER BY job_5.n"
    )
    for table in ("job_5", "spec"):
        connection.execute(f"DROP TABLE {table}")
    for statement in (_OUTCOME_TABLE, *_STATE_INDEXES, _ALIAS_INDEX, _TENANT_INDEX):
        connection.execute(statement)


def _add_usage(connection: sqlite3.Connection) -> None:
    """6 -> 7: what was used is counted, from now on."""
    connection.execute(_USAGE_TABLE)


#: schema n -> what turns a file of schema n into one of n + 1, inside the transaction that also stamps it.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: _add_tenants,
    2: _add_hooks,
    3: _add_asides,
    4: _add_clock,
    5: _add_outcomes,
    6: _add_usage,
}


def prompt_has(body: bytes | None, folded: str) -> bool:
    """Whether the prompt of a spec has this text, which is case-folded, in it. For SQL: what it raised would end the broker."""
    return folded in prompt_of(body).casefold()


def open_database(path: Path) -> sqlite3.Connection:
    """The only connection to the journal, checked and of this schema. Raises `JournalRefused` or `JournalBroken`."""
    try:
        _make_private(path)
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=64, timeout=0.0)
    except (OSError, sqlite3.Error) as error:
        raise JournalBroken(f"the journal {path} cannot be opened: {error}") from None
    try:
        connection.create_function("prompt_has", 2, prompt_has, deterministic=True)
        _configure(connection)
        _check(connection, path)
        _upgrade(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise refusal(path, error) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Prompts are in it: no other user may read it. SQLite gives the WAL the mode of the file."""
    fresh = not path.exists()
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if fresh:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a new name in this directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _configure(connection: sqlite3.Connection) -> None:
    # EXCLUSIVE first: WAL then lives without shared memory.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: every commit is on disk when it returns. NORMAL would lose the last ones in a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    set_autocheckpoint(connection, on=True)
    connection.execute("PRAGMA cache_size = -32000")
    connection.execute("PRAGMA temp_store = MEMORY")
    # A damaged text must be readable as damaged.
    connection.text_factory = _text


def set_autocheckpoint(connection: sqlite3.Connection, *, on: bool) -> None:
    """Let commits move a long log into the file, or not."""
    connection.execute(f"PRAGMA wal_autocheckpoint = {_AUTOCHECKPOINT_PAGES if on else 0}").fetchone()


def _text(stored: bytes) -> str:
    return str(stored, "utf-8", "replace")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if faults := structure_faults(connection):
        raise JournalRefused(f"the journal {path} is damaged ({faults}); {repair_hint(path)}")


def structure_faults(connection: sqlite3.Connection) -> str:
    """Faults that SQLite finds in pages and rows; "" for none. Reads the whole file, and compares no index with its table."""
    verdict = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    return "" if verdict == ["ok"] else "; ".join(verdict)


def repair_hint(path: Path) -> str:
    """Advice on a journal that SQLite cannot read."""
    return f"move it and {path.name}-wal away to start empty, or put a good copy in its place"


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if empty:
        _transaction(connection, _create)
        return
    if application != APPLICATION_ID:
        raise JournalRefused(f"{path} is an SQLite database, but not a journal of this program")
    if version > SCHEMA:
        raise JournalRefused(
            f"the journal {path} has schema {version}, this version reads up to {SCHEMA}: run the newer version that wrote it"
        )
    while version < SCHEMA:
        migrate = MIGRATIONS.get(version)
        if migrate is None:
            raise JournalRefused(f"the journal {path} has schema {version}, which this version can no longer upgrade")
        _transaction(connection, migrate, version + 1)
        version += 1


def _create(connection: sqlite3.Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _transaction(
    connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], None], version: int = SCHEMA
) -> None:
    """Do the work and stamp the schema it leaves, or neither."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        work(connection)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk rolls back by itself
            connection.execute("ROLLBACK")
        raise


_DAMAGED = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))


def refusal(path: Path, error: sqlite3.Error) -> JournalRefused | JournalBroken:
    """Reason why a journal is not opened, in SQLite's words."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        return JournalRefused(f"the journal {path} is damaged ({error}); {repair_hint(path)}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return JournalRefused(f"the journal {path} is open in another program: {error}")
    return JournalBroken(f"the journal {path} cannot be opened: {error}")
