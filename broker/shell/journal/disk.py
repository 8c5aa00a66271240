"""Room on the disk: submits are refused before it runs out, and a reserve is kept so that results still fit when it has.

Two lines of defence. Below `min_free` bytes new jobs are refused, while running ones go on and their results are recorded. Should the
disk fill up all the same (others write there too), the journal releases the ballast, a file of real blocks, and uses its room.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from broker.runtime.errors import JournalBroken
from broker.runtime.log_actions import Action

logger = logging.getLogger(__name__)

#: Below so many free inodes the disk is low, however many bytes it has: a job's files take a few.
MIN_FREE_INODES = 1000


class Disk:
    """State of the disk under the broker's home."""

    def __init__(self, home: Path, journal: Path, min_free: int, reserve: int) -> None:
        """`min_free` and `reserve` (the size of the ballast; 0: none) in bytes."""
        self._home = home
        self._journal = journal
        self._min_free = min_free
        self._reserve = reserve
        #: Files of the journal, with what they were when they were first looked at: device, inode, bytes.
        self._files: dict[Path, tuple[int, int, int]] = {}
        self._ballast = home / "ballast"
        #: Of what there is too little, in words; new jobs are refused then. "": there is room.
        self.shortage = ""

    def watch_journal(self) -> None:
        """From now on `check` and `check_journal` make sure that the journal's names still lead to these very files."""
        log = self._journal.with_name(self._journal.name + "-wal")
        self._files = {path: _identity(path) for path in (self._journal, log)}

    def check_journal(self) -> None:
        """Raises `JournalBroken` when a file of the journal was removed, replaced or cut: what is written to it would never be found.

        To be called between a commit and its acknowledgement.
        """
        for path, (device, inode, size) in self._files.items():
            now = _identity(path)
            if now[:2] != (device, inode):
                raise JournalBroken(f"{path}, of the journal, was removed or replaced while the broker was running")
            if now[2] < size:  # neither ever shrinks while it is open
                raise JournalBroken(f"{path}, of the journal, was cut from {size} to {now[2]} bytes by another program")
            if now[2] > size:
                self._files[path] = now

    def check(self) -> None:
        """Look at the journal's files, as `check_journal`, and at the free space. Raises `JournalBroken`."""
        self.check_journal()
        status = os.statvfs(self._home)
        free, shortage = status.f_bavail * status.f_frsize, ""
        if free < self._min_free:
            shortage = (
                f"{free >> 20} MB are free on the disk of {self._home}, fewer than min_free_mb, {self._min_free >> 20}"
            )
        elif status.f_files > 0 and status.f_favail < MIN_FREE_INODES:  # btrfs and others count none: 0 of 0
            shortage = f"{status.f_favail} inodes are free on the disk of {self._home}, fewer than {MIN_FREE_INODES}"
        if bool(shortage) != self.low:
            logger.warning(
                "disk is low, jobs are refused" if shortage else "disk has room again, jobs are taken",
                extra={
                    "action": Action.DISK,
                    "reason": shortage,
                    "free_mb": free >> 20,
                    "free_inodes": status.f_favail,
                },
            )
        self.shortage = shortage
        if self._reserve and not shortage and free > self._min_free + self._reserve:
            self._keep_ballast()

    @property
    def low(self) -> bool:
        """Whether new jobs are refused."""
        return bool(self.shortage)

    def release(self) -> bool:
        """Free the ballast for the journal; False when it is gone already. New jobs are refused until there is room again."""
        self.shortage = f"the disk of {self._home} is full"
        try:
            self._ballast.unlink()
        except OSError:
            return False
        logger.error("disk is full, reserve released, jobs are refused", extra={"action": Action.DISK})
        return True

    def _keep_ballast(self) -> None:
        try:
            if self._ballast.exists():
                if self._ballast.stat().st_size == self._reserve:
                    return
                # Its broker was killed before all of it was there, or had another reserve.
                self._ballast.unlink()
            fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            logger.warning("no reserve on the disk", extra={"action": Action.DISK, "error": str(error)})
            return
        try:
            _allocate(fd, self._reserve)
        except OSError as error:
            self._ballast.unlink(missing_ok=True)
            logger.warning("no reserve on the disk", extra={"action": Action.DISK, "error": str(error)})
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


def _identity(path: Path) -> tuple[int, int, int]:
    """Device, inode and size; zeros when it is not there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0, 0
    return status.st_dev, status.st_ino, status.st_size
