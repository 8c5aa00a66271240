"""Room on the disk: submits are refused before it runs out, and a reserve is kept so that results still fit when it has.

Two lines of defence. Below `min_free` bytes new jobs are refused, while running ones go on and their results are recorded. Should the
disk fill up all the same (others write there too), the journal releases the ballast, a file of real blocks, and uses its room.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from broker.shell.errors import JournalBroken

logger = logging.getLogger(__name__)


class Disk:
    """What the broker knows of the disk under its home."""

    def __init__(self, home: Path, journal: Path, min_free: int, reserve: int) -> None:
        """`min_free` and `reserve` (the size of the ballast; 0: none) in bytes."""
        self._home = home
        self._journal = journal
        self._min_free = min_free
        self._reserve = reserve
        self._identity: tuple[int, int] | None = None
        self._ballast = home / "ballast"
        #: Whether new jobs are refused for want of room.
        self.low = False

    def watch_journal(self) -> None:
        """From now on `check` makes sure that the journal's name still leads to this very file."""
        self._identity = _identity(self._journal)

    def check(self) -> None:
        """Look at the free space. Raises `JournalBroken` when the journal was removed or replaced: its rows would never be found."""
        if self._identity is not None and _identity(self._journal) != self._identity:
            raise JournalBroken(f"the journal {self._journal} was removed or replaced while the broker was running")
        free = self._free()
        low = free < self._min_free
        if low != self.low:
            self.low = low
            logger.warning(
                "disk is low, jobs are refused" if low else "disk has room again, jobs are taken",
                extra={"action": "disk", "free_mb": free >> 20, "min_free_mb": self._min_free >> 20},
            )
        if self._reserve and not low and free > self._min_free + self._reserve:
            self._keep_ballast()

    def release(self) -> bool:
        """Free the ballast for the journal; False when it is gone already. New jobs are refused until there is room again."""
        self.low = True
        try:
            self._ballast.unlink()
        except OSError:
            return False
        logger.error("disk is full, reserve released, jobs are refused", extra={"action": "disk"})
        return True

    def _free(self) -> int:
        status = os.statvfs(self._home)
        return status.f_bavail * status.f_frsize

    def _keep_ballast(self) -> None:
        try:
            if self._ballast.exists():
                if self._ballast.stat().st_size == self._reserve:
                    return
                # Its broker was killed before all of it was there, or had another reserve.
                self._ballast.unlink()
            fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            logger.warning("no reserve on the disk", extra={"action": "disk", "error": str(error)})
            return
        try:
            _allocate(fd, self._reserve)
        except OSError as error:
            self._ballast.unlink(missing_ok=True)
            logger.warning("no reserve on the disk", extra={"action": "disk", "error": str(error)})
        finally:
            os.close(fd)


def _allocate(fd: int, size: int) -> None:
    """Give the file real blocks: a sparse one would free nothing."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    chunk = os.urandom(1024 * 1024)
    for _ in range(size // len(chunk)):
        os.write(fd, chunk)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
