"""One broker a home: an flock that dies with its process. A second bind on a live ipc path would succeed and steal it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from broker.runtime.errors import HomeInUse, HomeUnwritable

#: In the home: held by the broker that runs there.
BROKER_LOCK = "broker.lock"


class Lock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        """Take it. Raises `HomeInUse`, naming the process that has it; `HomeUnwritable`."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeUnwritable(f"the lock {path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise HomeInUse(f"another broker (process {holder(path) or 'unknown'}) uses {path.parent}") from None
        # For the message above alone: a full disk may have no room for it, and the lock is held all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next broker in. The file stays: removing it would let two brokers lock two files of one name."""
        os.close(self._fd)


def holder(path: Path) -> str:
    """Number of the process that took this lock last; "" where it is not known."""
    try:
        return path.read_bytes()[:32].decode("ascii", "replace").strip()
    except OSError:
        return ""
