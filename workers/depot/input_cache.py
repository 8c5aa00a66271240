"""Cache of inputs on a worker's machine, by the SHA-256 of their bytes; all workers of the machine share it.

A file that was used within the last hour stays, even where the budget is spent: the job that it was fetched for reads it when its turn
in the engine comes.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from broker.wire.inputs import INPUT_FILE

#: A file used since then is not removed, seconds.
_IN_USE_S = 3600.0


class InputCache:
    """Directory of inputs, at most `budget_bytes` but for those in use."""

    def __init__(self, directory: Path, budget_bytes: int) -> None:
        self._directory = directory
        self._budget_bytes = budget_bytes

    def path(self, name: str) -> Path:
        """Path of this input, whether it is there or not."""
        return self._directory / name

    def holds(self, name: str, now: float) -> bool:
        """Whether it is here; noted as used at this Unix time."""
        try:
            os.utime(self.path(name), (now, now))
        except FileNotFoundError:
            return False
        return True

    def trim(self, now: float) -> int:
        """Remove the least recently used until the budget holds; how many went. `now` is Unix time."""
        entries: list[tuple[float, int, str]] = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._directory):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if INPUT_FILE.fullmatch(entry.name) or now - status.st_mtime > _IN_USE_S:
                        entries.append((status.st_mtime, status.st_size, entry.path))
        over = sum(size for _, size, _ in entries) - self._budget_bytes
        removed = 0
        for used_at, size, path in sorted(entries):
            if over <= 0 or now - used_at <= _IN_USE_S:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                over -= size
                removed += 1
        return removed
