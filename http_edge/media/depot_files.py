"""An edge's depot: files that workers put from machines which do not share its disk, and the inputs that they fetch.

An attempt's file goes to `<home>/artefacts/<job>/<fence>/<name>`, where a worker of this machine would have written it; from then on
the two are alike. It lies there, flushed, before the worker reports its result: the row which publishes it never names a
file that is not there. A file is never written over: the same bytes once more are the same attempt repeating itself.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

from anyio.to_thread import run_sync
from starlette.requests import Request

from broker.depot.tokens import Signed
from broker.runtime.job_paths import remove_path
from broker.wire.inputs import INPUT_FILE
from broker.wire.job_files import CHECKPOINTS, checkpoint_of
from http_edge.base.errors import EdgeError, invalid
from http_edge.base.limits import Limits
from http_edge.body.spool import STALE_S, Body, Spool
from http_edge.media.artefact_store import ArtefactStore

_CHUNK_BYTES = 1024 * 1024

#: Largest file that a worker may put.
MAX_FILE_BYTES = 16 * 1024 * 1024 * 1024

#: Beside the jobs' directories, so that a file moves to its place within one file system.
_INCOMING = ".incoming"

_ANY_ROOM = 2**62

#: A worker's network may be slow; one that sends nothing for so long is gone, and puts the file again.
_LIMITS = Limits(request_bytes=MAX_FILE_BYTES, idle_s=60.0, total_s=6 * 3600.0, min_bytes_per_s=1024.0)


class DepotFiles:
    """The files of one home, as workers of other machines put and get them."""

    def __init__(self, artefacts: Path, uploads: Path, store: ArtefactStore) -> None:
        self.artefacts = artefacts
        self.uploads = uploads
        self.store = store
        # Results are what uploads leave room for on the disk.
        self._spool = Spool(artefacts / _INCOMING, _LIMITS, free_bytes=lambda directory: _ANY_ROOM)
        self._sweep_at = 0.0

    def attempt_file(self, job_id: str, fence: int, name: str) -> Path:
        """Path of an attempt's file; all parts are checked."""
        return self.artefacts / job_id / str(fence) / name

    def parked_file(self, job_id: str, name: str) -> Path:
        """Path of a job's checkpoint, or of its draft: where a worker of this machine would read it."""
        return self.artefacts / CHECKPOINTS / job_id / name

    async def put_checkpoint(self, request: Request, job_id: str, name: str, signed: Signed) -> bool:
        """Take a checkpoint in place of all others of its output; False when it was there. Raises `EdgeError`."""
        target = self.parked_file(job_id, name)
        fresh = await self.put(request, target, signed, over=True)
        await run_sync(_keep_alone, target)
        return fresh

    def input_file(self, name: str) -> Path:
        """Path of an input. Raises `EdgeError` for what is no input's name."""
        if INPUT_FILE.fullmatch(name) is None:
            raise invalid("name", name, "is no input: <sha256>.<suffix>", place="path")
        return self.uploads / name

    async def put(self, request: Request, target: Path, signed: Signed, *, over: bool = False) -> bool:
        """Take a file as it comes, to the place `target`; False when it was there. `over`: in place of another. Raises `EdgeError`."""
        if signed.size > MAX_FILE_BYTES:
            raise invalid("size", signed.size, f"must be at most {MAX_FILE_BYTES}", place="query")
        if (now := time.time()) > self._sweep_at:
            self._sweep_at = now + STALE_S
            # What killed edges left of files that were coming.
            await run_sync(self._spool.sweep, now)
        file = self._spool.create()
        try:
            digest = hashlib.sha256()
            async with aclosing(Body(request, _LIMITS, signed.size).chunks()) as chunks:
                async for chunk in chunks:
                    digest.update(chunk)
                    await file.write(chunk)
            await file.flush()
            if file.size != signed.size:
                raise invalid("body", f"{file.size} bytes", f"must be the {signed.size} bytes that were signed")
            if digest.hexdigest() != signed.sha256:
                raise invalid("body", digest.hexdigest(), f"must have the SHA-256 that was signed, {signed.sha256}")
            return await self._spool.in_thread(lambda: _publish(file.path, target, signed, over))
        finally:
            file.discard()

    async def holds(self, target: Path, signed: Signed) -> bool:
        """Whether this very file lies there."""
        return await run_sync(_is_same, target, signed)


def _publish(source: Path, target: Path, signed: Signed, over: bool) -> bool:
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if target.exists():
        if _is_same(target, signed):
            return False
        if not over:
            message = f"another file lies at {target.parent.parent.name}/{target.parent.name}/{target.name}"
            raise EdgeError("wrong_state", message)
    os.chmod(source, 0o644)
    os.rename(source, target)
    for directory in (target.parent, target.parent.parent, target.parent.parent.parent):
        _flush(directory)
    return True


def _keep_alone(checkpoint: Path) -> None:
    """Remove the other checkpoints of the same output."""
    output = (checkpoint_of(checkpoint.name) or (0, 0))[0]
    for name in os.listdir(checkpoint.parent):
        found = checkpoint_of(name)
        if found is not None and found[0] == output and name != checkpoint.name:
            remove_path(checkpoint.with_name(name))


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_same(path: Path, signed: Signed) -> bool:
    try:
        return path.stat(follow_symlinks=False).st_size == signed.size and sha256_of(path) == signed.sha256
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hex. Blocks. Raises `OSError`."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
