"""Upload spool: request bodies in temporary files below `<home>/uploads/tmp`, within bounds.

Rules. A request's large bytes lie on disk until the request is complete, so that slow clients cost disk and not memory; at most
`LARGE_AT_ONCE` complete large bodies are in memory at a time. Small bodies arrive in memory, while they have room there together. A
temporary file belongs to one request and is removed with it, whatever ends the request; what a killed process left is removed by age. Room
is kept on the disk for results and the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from broker.runtime.log_actions import Action
from http_edge.base.context import current
from http_edge.base.errors import EdgeError, from_disk
from http_edge.base.limits import CLOSE, MIB, Limits, too_large
from http_edge.body.upload_places import Upload, UploadPlaces, network_of

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Fields of a request, JSON or a form: looking at each costs more than its bytes.
MAX_FIELDS = 512

#: Large bodies in memory at once, and how long a request waits for its turn.
LARGE_AT_ONCE = 4

_LARGE_WAIT_S = 20.0

#: Memory of small bodies that are arriving, together; and what each may have beside it.
ARRIVING_BYTES = 64 * MIB
_ALWAYS_BYTES = 16 * 1024

#: Bytes left free on the disk.
_RESERVE_BYTES = 256 * MIB

_BUFFER_BYTES = 512 * 1024

_DISK_THREADS = 4

#: Seconds that a body may always take; a longer one must come at an average rate, or it only holds the connection.
_UNHURRIED_S = 30.0

#: Temporary files untouched for so long belong to no living request.
STALE_S = 6 * 3600.0


class Spool:
    """Directory of an edge's temporary files, and the shared places for large bodies."""

    def __init__(
        self, directory: Path, limits: Limits | None = None, *, free_bytes: Callable[[Path], int] | None = None
    ) -> None:
        self.directory = directory
        self.limits = limits or Limits()
        self._free_bytes = free_bytes or _free_bytes
        self._threads = anyio.CapacityLimiter(_DISK_THREADS)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._places = UploadPlaces()
        self._arriving_bytes = 0

    def create(self) -> SpoolFile:
        """A new temporary file. Raises `EdgeError` when the disk is full.

        Done at once and not in a thread: a cancelled request could not remove a file that is still to come.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._free_bytes(self.directory) < _RESERVE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            path = self.directory / f"{secrets.token_hex(16)}.part"
            return SpoolFile(self, path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise disk_error(error) from None

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do disk work off the event loop. Raises `EdgeError` for errors of the disk."""
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        except OSError as error:
            raise disk_error(error) from None

    @contextlib.contextmanager
    def upload_turn(self, body: Body) -> Iterator[None]:
        """Hold one of the places of requests that write; it ends the body when another needs the place more.

        Raises `EdgeError` when all are taken.
        """
        upload = Upload(body.client, time.monotonic(), body.stop)
        if not self._places.enter(upload):
            raise EdgeError("busy", "too many uploads are under way", retry_after_s=2.0, headers=CLOSE)
        body.upload = upload
        try:
            yield
        finally:
            body.upload = None
            self._places.leave(upload)

    @contextlib.contextmanager
    def arriving(self) -> Iterator[Callable[[int], bool]]:
        """Count one body that arrives in memory: call the result with its bytes so far; False: there is no room for so many."""
        held = 0

        def grow(size: int) -> bool:
            nonlocal held
            more = max(held, size - _ALWAYS_BYTES) - held
            if self._arriving_bytes + more > ARRIVING_BYTES:
                return False
            self._arriving_bytes += more
            held += more
            return True

        try:
            yield grow
        finally:
            self._arriving_bytes -= held

    async def large_turn(self) -> Callable[[], None]:
        """Wait for one of the places of large bodies in memory; call the result to give it back. Raises `EdgeError`."""
        try:
            async with asyncio.timeout(_LARGE_WAIT_S):
                await self._large.acquire()
        except TimeoutError:
            raise EdgeError("busy", "too many large requests at once", retry_after_s=5.0) from None
        return self._large.release

    def sweep(self, now: float) -> int:
        """Remove files that killed processes left; return their number. `now` is Unix time. Blocks."""
        removed = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.directory):
                with contextlib.suppress(FileNotFoundError):
                    if now - entry.stat(follow_symlinks=False).st_mtime > STALE_S:
                        os.unlink(entry.path)
                        removed += 1
        return removed


class SpoolFile:
    """Temporary file, written from the front. It stays until `discard`."""

    def __init__(self, spool: Spool, path: Path, descriptor: int) -> None:
        self.path = path
        self.size = 0
        self._spool = spool
        self._descriptor = descriptor
        self._buffer = bytearray()
        #: A cancelled request closes the file while a thread may still write: the number must not become another file's meanwhile.
        self._lock = threading.Lock()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises `EdgeError` when the disk refuses."""
        self.size += len(data)
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what is buffered. Raises `EdgeError`."""
        data, self._buffer = self._buffer, bytearray()
        if data:
            await self._spool.in_thread(lambda: self._append(data))

    async def finish(self) -> None:
        """Flush and close: the file is whole. Raises `EdgeError`."""
        await self.flush()
        self.close()

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def discard(self) -> None:
        """Close and remove; also when it is gone already."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _append(self, data: bytearray) -> None:
        with self._lock, memoryview(data) as view:
            done = 0
            while done < len(view) and self._descriptor >= 0:
                done += os.write(self._descriptor, view[done:])


class Body:
    """A request's body as it comes."""

    def __init__(self, request: Request, limits: Limits, cap: int) -> None:
        """`cap`: most bytes."""
        self._request = request
        self._limits = limits
        self._cap = cap
        self._stopped = False
        self._patience: asyncio.Timeout | None = None
        #: While it has a place among the uploads.
        self.upload: Upload | None = None

    @property
    def client(self) -> str:
        """Sender, by which places are shared out: the tenant of a key, else a network address."""
        caller = current().caller
        if caller.key_name:
            return f"tenant {caller.tenant}"
        client = self._request.client
        return network_of(client.host) if client is not None else ""

    def stop(self) -> None:
        """Make `chunks` raise, now or at its next call."""
        self._stopped = True
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes. Raises `EdgeError` when they are over the cap, stall, take too long or are stopped; `ClientDisconnect`."""
        limits, cap = self._limits, self._cap
        length = self._request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > cap:
            raise too_large(f"{length[:20]} bytes", cap)
        started_at = time.monotonic()
        total = 0
        stream = self._request.stream()
        while True:
            allowed_s = min(limits.total_s, _UNHURRIED_S + total / limits.min_bytes_per_s)
            left_s = started_at + allowed_s - time.monotonic()
            if self._stopped:
                raise _stopped()
            try:
                async with asyncio.timeout(max(0.0, min(limits.idle_s, left_s))) as self._patience:
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise (_stopped() if self._stopped else _late(limits, allowed_s, left_s)) from None
            finally:
                self._patience = None
            total += len(chunk)
            if self.upload is not None:
                self.upload.size += len(chunk)
            if total > cap:
                raise too_large(f"more than {cap} bytes", cap)
            if chunk:
                yield chunk


def disk_error(error: OSError) -> EdgeError:
    """Build the error for a disk that cannot be written."""
    refused = from_disk(error)
    if refused is not None:
        log.error("the disk cannot be written", extra={"action": Action.SPOOL, "reason": str(error)})
        refused.headers |= CLOSE
        return refused
    log.error("the upload directory cannot be used", extra={"action": Action.SPOOL, "reason": str(error)})
    return EdgeError("unavailable", "the service cannot keep uploads now", retry_after_s=30.0, headers=CLOSE)


def _late(limits: Limits, allowed_s: float, left_s: float) -> EdgeError:
    if left_s > limits.idle_s:
        what = f"nothing came for {limits.idle_s:g} s"
    else:
        what = f"it did not arrive within {allowed_s:.0f} s"
    return EdgeError("request_timeout", f"body: {what}", retry_after_s=1.0, headers=CLOSE)


def _stopped() -> EdgeError:
    message = "body: it came so slowly that its place was given to another"
    return EdgeError("request_timeout", message, retry_after_s=1.0, headers=CLOSE)


def _free_bytes(path: Path) -> int:
    """Bytes; none when no file can be made any more."""
    status = os.statvfs(path)
    # A file system that counts no inodes gives 0 of 0.
    return 0 if status.f_files and not status.f_favail else status.f_bavail * status.f_frsize
