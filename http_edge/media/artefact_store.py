"""Store of artefacts: `<home>/artefacts/<job id>/<fence>/`, their sizes, pins, locks and removal.

Where results lie in an object store, they are removed there, too: what that does not do now is an orphan, and swept later.

An attempt's files go by its fence, which is never given twice: what is removed for a job that was forgotten can be no file of a later job
of the same id. A job is pinned while `<home>/pins/<job id>` exists. Everything here blocks: callers are worker threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from broker.depot.object_store import ObjectStore, StoreError
from broker.depot.tokens import ARTEFACTS, attempt_key, job_key
from broker.runtime.log_actions import Action
from broker.wire.jobspec import CHECKPOINTS, is_job_id
from http_edge.http.file_response import lock_unless_sent

log = logging.getLogger(__name__)

#: Directory of the home in which results are kept that were fetched from an object store: see `result_files`.
RESULT_CACHE = "result_cache"


class ArtefactStore:
    """The files of one home, and of the object store behind it (None: there is none)."""

    def __init__(self, home: Path, remote: ObjectStore | None = None) -> None:
        self._remote = remote
        self._artefacts = home / "artefacts"
        self._cache = home / RESULT_CACHE
        self._uploads = home / "uploads"
        self._pins = home / "pins"

    # ------------------------------------------------------------ sizes

    def usage(self) -> int:
        """Bytes on disk of all artefacts and uploads."""
        return _tree_bytes(self._artefacts) + _tree_bytes(self._uploads)

    def size(self, job_id: str) -> int:
        """Bytes on disk of one job's files."""
        return _tree_bytes(self._artefacts / job_id)

    # ------------------------------------------------------------ removal

    def lock(self, job_id: str, fence: int) -> list[int] | None:
        """Lock an attempt's files against being sent, until the descriptors are closed; None when one of them is being sent."""
        locks: list[int] = []
        for path in _files(self._artefacts / job_id / str(fence)):
            try:
                lock = lock_unless_sent(path)
            except OSError:
                continue
            if lock is None:
                release(locks)
                return None
            locks.append(lock)
        return locks

    def remove(self, job_id: str, fence: int) -> None:
        """Remove the files of a job's attempts up to this fence. Raises `OSError`."""
        for name in self.attempts(job_id):
            if name <= fence:
                self.remove_attempt(job_id, name)
        with contextlib.suppress(OSError):
            (self._artefacts / job_id).rmdir()

    def remove_attempt(self, job_id: str, fence: int) -> None:
        """Remove one attempt's files; also when they are gone already. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._artefacts / job_id / str(fence))
        # What was fetched of it goes with it.
        shutil.rmtree(self._cache / job_id / str(fence), ignore_errors=True)
        if self._remote is not None:
            try:
                self._remote.remove(attempt_key(job_id, fence))
            except StoreError as error:
                log.warning("left for a later sweep", extra={"action": Action.DEPOT, "detail": str(error)})

    def attempts(self, job_id: str) -> list[int]:
        """The fences of a job that have a directory, here or in the object store."""
        try:
            names = os.listdir(self._artefacts / job_id)
        except (FileNotFoundError, NotADirectoryError):
            names = []
        names += self._remote_names(job_key(job_id))
        return sorted({int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 20})

    def job_ids(self) -> list[str]:
        """Jobs that have a directory, in order. Files that clients had saved beside them are not ours to look at."""
        try:
            entries = list(os.scandir(self._artefacts))
        except FileNotFoundError:
            entries = []
        here = {entry.name for entry in entries if is_job_id(entry.name) and entry.is_dir(follow_symlinks=False)}
        return sorted(here | set(filter(is_job_id, self._remote_names(ARTEFACTS))))

    def _remote_names(self, prefix: str) -> list[str]:
        """What lies there in the object store; nothing while that does not answer."""
        if self._remote is None:
            return []
        try:
            return self._remote.names(prefix)
        except StoreError as error:
            log.warning("not looked at", extra={"action": Action.DEPOT, "detail": str(error)})
            return []

    def checkpointed(self) -> list[str]:
        """Jobs that have checkpoints."""
        try:
            return sorted(filter(is_job_id, os.listdir(self._artefacts / CHECKPOINTS)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def checkpoint_age_s(self, job_id: str, now: float) -> float:
        """Seconds since a checkpoint of the job was last written; 0 when there is none."""
        try:
            return now - (self._artefacts / CHECKPOINTS / job_id).stat(follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return 0.0

    def remove_checkpoints(self, job_id: str) -> None:
        """Remove a job's checkpoints; also when they are gone already. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._artefacts / CHECKPOINTS / job_id)

    def age_s(self, job_id: str, fence: int, now: float) -> float:
        """Seconds since something was last put into an attempt's directory; 0 when it is gone."""
        times = []
        with contextlib.suppress(FileNotFoundError):
            times.append((self._artefacts / job_id / str(fence)).stat(follow_symlinks=False).st_mtime)
        if self._remote is not None:
            try:
                times += [one.at for one in self._remote.below(attempt_key(job_id, fence))]
            except StoreError:
                return 0.0
        return now - max(times) if times else 0.0

    # ------------------------------------------------------------ pins

    def pin(self, job_id: str) -> None:
        """Keep this job until it is unpinned. Raises `OSError`."""
        self._pins.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._pins / job_id).touch(mode=0o600)

    def unpin(self, job_id: str) -> None:
        """Let this job go when its time has come. Raises `OSError`."""
        (self._pins / job_id).unlink(missing_ok=True)

    def is_pinned(self, job_id: str) -> bool:
        """Whether this job is kept."""
        return (self._pins / job_id).exists()

    def pins(self) -> list[str]:
        """The pinned jobs."""
        try:
            return sorted(os.listdir(self._pins))
        except FileNotFoundError:
            return []


def release(locks: list[int]) -> None:
    """Close the descriptors of `ArtefactStore.lock`."""
    for lock in locks:
        os.close(lock)
    locks.clear()


def _files(directory: Path) -> Iterator[Path]:
    for root, _, names in os.walk(directory):
        for name in names:
            yield Path(root, name)


def _tree_bytes(directory: Path) -> int:
    total = 0
    for path in _files(directory):
        # Files come and go meanwhile.
        with contextlib.suppress(OSError):
            total += path.stat(follow_symlinks=False).st_blocks * 512
    return total
