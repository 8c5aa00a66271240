"""A few bytes beside the journal with its latest numbers, so that a start detects a journal which is shorter than it was.

SQLite takes a log that ends early for one that was never longer: a `-wal` that was deleted or has a damaged frame loses commits that were
acknowledged, unnoticed. The mark names the row that was written last and its revision, and counts the commits that deleted jobs: all of
them only grow. It is written after each commit of these and never flushed by itself: whatever a crash leaves of it is true of some commit
before, since the commit is on disk when it is written. So it can name fewer rows than there were, never more, and costs a system call a
commit. It does not cover webhook deliveries: those that are not known to have arrived are made again.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path
from zlib import crc32

from msgspec import Struct

from broker.runtime.errors import JournalBroken, JournalShort
from broker.runtime.log_actions import Action

logger = logging.getLogger(__name__)

#: Identity of the journal, epoch, number of a row, its revision, commits that deleted.
_FORMAT = struct.Struct("<4sqqqqq")
_MAGIC = b"ZoM2"
_SIZE = _FORMAT.size + 4


class Facts(Struct, frozen=True):
    """Facts that a journal is known to have held."""

    identity: int
    epoch: int
    #: A row that is there, or was deleted since, and its least revision; 0: no row is named.
    n: int = 0
    revision: int = 0
    #: Commits that deleted jobs.
    deletions: int = 0


class Mark:
    """The file."""

    def __init__(self, journal: Path) -> None:
        """`journal` is the journal's path. Raises `OSError`."""
        self._path = journal.with_name(journal.name + "-mark")
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> Facts | None:
        """Read it; None when it is empty or was damaged. Raises `OSError`."""
        data = os.pread(self._fd, _SIZE, 0)
        if not data:
            return None
        if len(data) != _SIZE or crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
            logger.error("the journal's mark is damaged", extra={"action": Action.MARK, "file": str(self._path)})
            return None
        _, *numbers = _FORMAT.unpack(data[:-4])
        return Facts(*numbers)

    def write(self, *facts: int) -> None:
        """Write these fields of `Facts`. Raises `JournalBroken`."""
        data = _FORMAT.pack(_MAGIC, *facts)
        try:
            os.pwrite(self._fd, data + crc32(data).to_bytes(4, "little"), 0)
        except OSError as error:
            raise JournalBroken(f"the journal's mark {self._path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_presence(journal: Path, *, accept_loss: bool) -> None:
    """Refuse a journal that is missing or empty although it held jobs, unless that is accepted.

    To be called before SQLite opens it: beside an empty file it removes the log, which may hold what was acknowledged. A journal that was
    moved away together with its log is no loss. Raises `JournalShort` or `OSError`.
    """
    if _size(journal):
        return
    log = journal.with_name(journal.name + "-wal")
    what = "empty" if journal.exists() else "missing"
    if _size(log):
        fault = f"the journal {journal} is {what}, but its log {log.name} is there"
        away = log.name
    elif what == "empty" and _named_row(journal):
        fault = f"the journal {journal} is empty, but has held jobs"
        away = journal.name
    else:
        return
    if not accept_loss:
        raise JournalShort(
            f"{fault}: put the journal back, or a copy of both, or move {away} away to start empty; or go on without what is gone:"
            " --accept-journal-loss"
        )
    logger.error("going on with a journal that is shorter", extra={"action": Action.LOSS, "reason": fault})


def _named_row(journal: Path) -> int:
    mark = Mark(journal)
    try:
        facts = mark.read()
    finally:
        mark.close()
    return facts.n if facts else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
