"""Copies of the journal: the rest of its file while it is copied, the copying, and how a copy becomes the journal again.

No second connection may open the journal while the broker lives, and the broker may not open its file once more: closing that would drop
SQLite's locks. But a commit writes to the log alone, and the file changes only when the log is moved into it. So the process that copies
takes the lock of `backup.lock`, the broker moves the log and then leaves the file alone until that lock is free again, and what was
committed by then is the copy. In `backup.lock` stands `wanted TOKEN`, then `held TOKEN PROCESS` and, if it ends early, `over TOKEN REASON`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from broker.runtime.errors import HomeInUse, ShellError
from broker.runtime.log_actions import Action
from broker.shell.journal.lock import BROKER_LOCK, Lock, holder
from broker.shell.journal.mark import Mark
from broker.shell.journal.schema import APPLICATION_ID, SCHEMA, structure_faults, sync_directory
from broker.shell.journal.sqlite_store import SqliteStore
from broker.shell.journal.statements import PUT_META

logger = logging.getLogger(__name__)

LOCK_NAME = "backup.lock"

#: The broker polls the lock this often: how long a backup waits, and how long the log is kept after it.
LOOK_S = 1.0

#: After so long the file changes again, under any copy: the log has grown meanwhile.
LONGEST_HOLD_S = 900.0

#: How long to wait for a broker to answer.
_ANSWER_S = 30.0

#: A restored journal goes on so many epochs after all that is known: the one that it replaces may have been opened since the copy, and no
#: fence is given twice.
_EPOCH_LEAP = 1000

_CHUNK = 4 << 20
_MESSAGE_BYTES = 256

Progress = Callable[[int, int], None]


class BackupFailed(ShellError):
    """No copy was made, or it cannot be used."""

    exit_code = 1


class Copy(Struct, frozen=True):
    """Contents of a copy of the journal."""

    bytes: int
    jobs: int
    schema: int
    epoch: int


class LogHold:
    """The broker's side: leaves the journal's file alone while a process that copies it has the lock."""

    def __init__(self, home: Path, store: SqliteStore) -> None:
        self._path = home / LOCK_NAME
        self._store = store
        #: Since when, and for which copy; "": for none.
        self._since = 0.0
        self._token = ""
        self._next_look = 0.0

    def look(self, now: float) -> None:
        """Begin or end leaving the file alone, as a backup requests. Raises as `Store.write`."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._end("")
            return
        try:
            self._answer(fd, now)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Note that the file is about to change."""
        with suppress(OSError):
            if self._token:
                fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
                _write(fd, f"over {self._token} the broker stops")
                os.close(fd)

    def _answer(self, fd: int, now: float) -> None:
        if not _is_taken(fd):
            self._end("")
            return
        word, token, _ = _read(fd)
        if token == self._token and now - self._since > LONGEST_HOLD_S:
            _write(fd, f"over {token} it took longer than {LONGEST_HOLD_S:.0f} s")
            self._end("it took too long")
        elif word == "wanted" and token != self._token and self._store.hold_file():
            self._token, self._since = token, now
            _write(fd, f"held {token} {os.getpid()}")
            logger.info("the journal is being copied", extra={"action": Action.BACKUP, "detail": "begun"})

    def _end(self, why: str) -> None:
        if self._token:
            self._token = ""
            self._store.release_file()
            logger.info("the journal is copied no more", extra={"action": Action.BACKUP, "detail": why or "ended"})


def back_up(home: Path, journal: Path, target: Path, progress: Progress = lambda done, total: None) -> Copy:
    """Copy the journal to a new file, whether a broker runs or not, and check the copy. `progress` gets bytes.

    Raises `BackupFailed`, and leaves nothing behind then.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists():
            raise BackupFailed(f"{target} exists already; name a file that does not")
        if not journal.exists():
            raise BackupFailed(f"there is no journal {journal}")
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            lock = Lock(home / BROKER_LOCK)
        except HomeInUse:
            with _held_file(home) as still_held:
                _copy(journal, part, progress)
                still_held()
        else:
            try:
                _copy_at_rest(journal, part, progress)
            finally:
                lock.release()
        copy = inspect(part)
        _sync(part)
        os.link(part, target)  # never over a file that came meanwhile
        sync_directory(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise BackupFailed(f"the journal {journal} cannot be copied to {target}: {error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return copy


def inspect(path: Path) -> Copy:
    """Contents of a copy that is not written to; reads all of it. Raises `BackupFailed`: no journal, damaged, or of a newer version."""
    try:
        # It has the mode WAL and no log: unless it is opened as immutable, SQLite would make one.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise BackupFailed(f"{path} is no journal of this program")
            schema = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if schema > SCHEMA:
                raise BackupFailed(f"{path} has schema {schema}, this version reads up to {SCHEMA}")
            if faults := structure_faults(connection):
                raise BackupFailed(f"{path} is damaged: {faults}")
            jobs = int(connection.execute("SELECT count(*) FROM job").fetchone()[0])
            return Copy(bytes=path.stat().st_size, jobs=jobs, schema=schema, epoch=_epoch(connection))
    except (OSError, sqlite3.Error) as error:
        raise BackupFailed(f"{path} cannot be read as a journal: {error}") from None


def restore(home: Path, journal: Path, source: Path, name: str) -> tuple[Copy, Path | None]:
    """Put a copy in the place of the journal, which is kept in the directory `name` of the home; what it holds, and that directory.

    No broker may run. Killed at any moment, it leaves either journal whole. Raises `BackupFailed` or `HomeInUse`.
    """
    copy = inspect(source)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = Lock(home / BROKER_LOCK)
    fresh = journal.with_name(f"{journal.name}-restored")
    try:
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _copy(source, fresh, lambda done, total: None)
        _make_another(fresh, max(copy.epoch, _known_epoch(journal)) + _EPOCH_LEAP)
        kept = _put_away(journal, home / name) if journal.exists() else None
        os.replace(fresh, journal)
        sync_directory(journal.parent)
    except (OSError, sqlite3.Error) as error:
        raise BackupFailed(f"{source} cannot be put in the place of {journal}: {error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        lock.release()
    return copy, kept


def _make_another(path: Path, epoch: int) -> None:
    """Let a copy be a journal of its own, of this epoch, in one file without a log."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN IMMEDIATE")
        pairs = [("epoch", epoch), ("epoch_again", epoch), ("identity", secrets.randbits(62))]
        connection.executemany(PUT_META, pairs)
        connection.execute("COMMIT")
    _sync(path)


def _known_epoch(journal: Path) -> int:
    """Highest epoch in the journal to be replaced, or in its mark; 0: neither can be read."""
    found = [0]
    if journal.exists():
        with suppress(sqlite3.Error), closing(sqlite3.connect(journal)) as connection:
            # Its end moves the log into the file, which is about to be put away in one piece.
            found.append(_epoch(connection))
    if journal.with_name(journal.name + "-mark").exists():
        with closing(Mark(journal)) as mark:
            facts = mark.read()
        found.append(facts.epoch if facts else 0)
    return max(found)


def _put_away(journal: Path, directory: Path) -> Path:
    """Keep the journal under another name as well, and its log and mark there alone: neither may stand beside another journal."""
    directory.mkdir(mode=0o700)
    os.link(journal, directory / journal.name)
    for suffix in ("-wal", "-mark"):
        beside = journal.with_name(journal.name + suffix)
        if beside.exists():
            os.rename(beside, directory / beside.name)
    sync_directory(directory)
    sync_directory(journal.parent)
    return directory


def _epoch(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT max(value) FROM meta WHERE key IN ('epoch', 'epoch_again')").fetchone()
    return row[0] if isinstance(row[0], int) else 0


def _copy(source: Path, target: Path, progress: Progress) -> None:
    with source.open("rb") as old, target.open("r+b") as new:
        total, done = os.fstat(old.fileno()).st_size, 0
        while block := old.read(min(_CHUNK, total - done)):
            new.write(block)
            done += len(block)
            progress(done, total)


def _copy_at_rest(source: Path, target: Path, progress: Progress) -> None:
    """Copy a journal that no process uses, with what is still in its log."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        size = int(old.execute("PRAGMA page_size").fetchone()[0])
        old.backup(
            new, pages=_CHUNK // size, progress=lambda _, left, total: progress((total - left) * size, total * size)
        )


@contextmanager
def _held_file(home: Path) -> Iterator[Callable[[], None]]:
    """Have the running broker leave the journal's file alone; what is given raises `BackupFailed` unless it did so until then."""
    fd = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(fd)
        token = secrets.token_hex(8)
        _write(fd, f"wanted {token}")
        process = _wait_until_held(fd, token)

        def still_held() -> None:
            word, _, rest = _read(fd)
            if word != "held":
                raise BackupFailed(f"the broker took the journal's file back: {rest}")
            if holder(home / BROKER_LOCK) != process:
                raise BackupFailed("the broker ended while its journal was copied; try again")

        yield still_held
    finally:
        os.close(fd)


def _take(fd: int) -> None:
    for _ in range(20):
        if not _is_taken(fd):
            return
        time.sleep(0.05)  # the broker may just have looked whether it is free
    raise BackupFailed("another backup of this journal is being made")


def _wait_until_held(fd: int, token: str) -> str:
    deadline = time.monotonic() + _ANSWER_S
    while time.monotonic() < deadline:
        word, answered, rest = _read(fd)
        if answered == token and word == "held":
            return rest
        if answered == token and word == "over":
            raise BackupFailed(rest)
        time.sleep(0.05)
    raise BackupFailed(f"the broker of this home does not answer within {_ANSWER_S:.0f} s")


def _is_taken(fd: int) -> bool:
    """Whether another process has the lock of this file; if not, this file has it until it is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _read(fd: int) -> tuple[str, str, str]:
    word, _, rest = os.pread(fd, _MESSAGE_BYTES, 0).decode("utf-8", "replace").partition(" ")
    token, _, rest = rest.strip().partition(" ")
    return word, token, rest


def _write(fd: int, text: str) -> None:
    # Of one length, in one call: a reader gets the one before or this one.
    os.pwrite(fd, text.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES), 0)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
