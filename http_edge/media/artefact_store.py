"""Store of artefacts: `<home>/artefacts/<job id>/<fence>/`, their sizes, pins, locks and removal.

Results in an object store are removed there, too; objects that could not be removed are swept later.

An attempt's files go by its fence, which is never given twice: what is removed for a job that was forgotten can be no file of a later job
of the same id. A job is pinned while `<home>/pins/<job id>` exists, or an object of that name in the store, where there is one. Everything
here blocks: callers are worker threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from broker.depot.object_store import ObjectStore
from broker.depot.tokens import attempt_key, job_key
from broker.runtime.job_paths import regular_names, remove_path
from broker.wire.job_files import CHECKPOINTS, checkpoint_name, newest_checkpoints, preview_number
from broker.wire.jobspec import is_job_id
from http_edge.http.file_response import lock_unless_sent
from http_edge.media.result_objects import Checkpointed, ResultObjects

#: Directory of the home in which results are kept that were fetched from an object store: see `result_files`.
RESULT_CACHE = "result_cache"


class ArtefactStore:
    """The files of one home, and of the object store behind it (None: there is none)."""

    def __init__(self, home: Path, remote: ObjectStore | None = None) -> None:
        self._objects = ResultObjects(remote, home) if remote is not None else None
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
        for name in {*_fences(self._artefacts / job_id), *_fences(self._cache / job_id)}:
            if name <= fence:
                self._remove_here(job_id, name)
        self.remove_empty(job_id)
        if self._objects is not None:
            self._objects.remove(job_key(job_id), fence)

    def remove_attempt(self, job_id: str, fence: int) -> None:
        """Remove one attempt's files; also when they are gone already. Raises `OSError`."""
        self._remove_here(job_id, fence)
        if self._objects is not None:
            self._objects.remove(attempt_key(job_id, fence), fence)

    def drop_previews(self, job_id: str, fence: int) -> bool:
        """Remove the local files of a job whose result (of this fence, if it has one) is in the object store. Raises `OSError`.

        False, and nothing is removed, where there is no store or the result lies here.
        """
        if self._objects is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            if not all(map(preview_number, os.listdir(self._artefacts / job_id / str(fence)))):
                return False
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._artefacts / job_id)
        return True

    def remove_empty(self, job_id: str) -> None:
        """Remove a job's directory if nothing is in it."""
        with contextlib.suppress(OSError):
            (self._artefacts / job_id).rmdir()

    def _remove_here(self, job_id: str, fence: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._artefacts / job_id / str(fence))
        # Copies that were fetched of it go with it.
        shutil.rmtree(self._cache / job_id / str(fence), ignore_errors=True)

    # ------------------------------------------------------------ what there is

    def attempts(self, after: str, count: int) -> dict[str, dict[int, float]]:
        """Attempts of up to `count` jobs that have files, behind the job `after` ("": from the first): fence -> Unix time of the last
        change of its directory. Jobs come in one order; the last is the `after` of the next call.

        Of the object store a page or a few are requested, whatever it holds, and nothing while it does not answer or is another's. Files
        that clients had saved beside the jobs' directories are not ours to look at.
        """
        ids = sorted((name for name in self._job_ids() if _order(name) > _order(after)), key=_order)
        found = {job_id: _fences(self._artefacts / job_id) for job_id in ids[:count]}
        for job_id, fence, at in self._objects.attempts(after, count) if self._objects is not None else ():
            times = found.setdefault(job_id, {})
            times[fence] = max(at, times.get(fence, 0.0))
        return {job_id: found[job_id] for job_id in sorted(found, key=_order)[:count]}

    def _job_ids(self) -> list[str]:
        try:
            entries = list(os.scandir(self._artefacts))
        except FileNotFoundError:
            return []
        return [entry.name for entry in entries if is_job_id(entry.name) and entry.is_dir(follow_symlinks=False)]

    # ------------------------------------------------------------ checkpoints

    def checkpoints(self, job_id: str) -> list[str]:
        """The names of a job's newest checkpoints on this disk, one of each output."""
        try:
            names = regular_names(self._artefacts / CHECKPOINTS / job_id)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [checkpoint_name(output, step) for output, step in newest_checkpoints(names).items()]

    def stored_checkpoints(self, job_id: str) -> list[str]:
        """The keys of those in the object store. Raises `StoreError`."""
        return self._objects.checkpoints(job_id) if self._objects is not None else []

    def checkpointed(self, after: str, count: int) -> dict[str, Checkpointed]:
        """Up to `count` jobs that have checkpoints, behind the job `after` ("": from the first), in one order; the last is the `after` of
        the next call."""
        found = self._objects.checkpointed(after, count) if self._objects is not None else {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(self._artefacts / CHECKPOINTS):
                if is_job_id(entry.name) and _order(entry.name) > _order(after):
                    with contextlib.suppress(FileNotFoundError):
                        at = entry.stat(follow_symlinks=False).st_mtime
                        there = found.get(entry.name, Checkpointed(at=at))
                        found[entry.name] = replace(there, at=max(at, there.at))
        return {job_id: found[job_id] for job_id in sorted(found, key=_order)[:count]}

    def remove_checkpoints(self, job_id: str) -> None:
        """Remove a job's checkpoints; also when they are gone already. Raises `OSError`."""
        remove_path(self._artefacts / CHECKPOINTS / job_id)
        if self._objects is not None:
            self._objects.remove_checkpoints(job_id)

    def remove_old_checkpoints(self, keys: Sequence[str]) -> None:
        """Remove these checkpoints (`Checkpointed.old`) from the object store, in which earlier ones lie beside later ones."""
        if self._objects is not None:
            self._objects.remove_old(keys)

    # ------------------------------------------------------------ pins

    def pin(self, job_id: str) -> None:
        """Keep this job until it is unpinned. Raises `OSError`, `StoreError`."""
        if self._objects is not None:
            self._objects.pin(job_id)
            return
        self._pins.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._pins / job_id).touch(mode=0o600)

    def unpin(self, job_id: str) -> None:
        """Let this job go when its time has come. Raises `OSError`, `StoreError`."""
        (self._pins / job_id).unlink(missing_ok=True)
        if self._objects is not None:
            self._objects.unpin(job_id)

    def is_pinned(self, job_id: str) -> bool:
        """Whether this job is kept. Raises `StoreError`."""
        return (self._pins / job_id).exists() or (self._objects is not None and self._objects.is_pinned(job_id))

    def pins(self) -> list[str]:
        """The pinned jobs."""
        try:
            found = os.listdir(self._pins)
        except FileNotFoundError:
            found = []
        return sorted({*found, *(self._objects.pins() if self._objects is not None else ())})


def release(locks: list[int]) -> None:
    """Close the descriptors of `ArtefactStore.lock`."""
    for lock in locks:
        os.close(lock)
    locks.clear()


def _order(job_id: str) -> str:
    """Position of a job in the order of the object store's keys."""
    return job_key(job_id) + "/" if job_id else ""


def _fences(directory: Path) -> dict[int, float]:
    """The attempts in a job's directory, and when something was last put into each, Unix time."""
    times: dict[int, float] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(directory):
            if entry.name.isascii() and entry.name.isdecimal() and len(entry.name) < 20:
                with contextlib.suppress(FileNotFoundError):
                    times[int(entry.name)] = entry.stat(follow_symlinks=False).st_mtime
    return times


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
