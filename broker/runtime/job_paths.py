"""Files in the directories of jobs, where anything may lie under any name: only regular ones are read, all are removed."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """A regular file, open for reading. Raises `OSError`, also for a symbolic link, a directory, a device, a socket or a FIFO."""
    # A FIFO would keep the caller waiting for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{str(path)!r} is no regular file")
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file. Raises `OSError` as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def regular_names(directory: Path) -> list[str]:
    """Names of the regular files in a directory. Raises `OSError`."""
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]


def remove_path(path: Path) -> None:
    """Remove a directory with all that is in it, or what else lies under its name; a link, not what it leads to. Raises `OSError`."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.stat(follow_symlinks=False).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
