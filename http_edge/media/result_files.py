"""Results of finished jobs as files of this machine, wherever they lie.

Without an object store they lie in `<home>/artefacts`, where workers or the depot have put them. With one they are fetched from there when
they are requested, whole and checked against the digest of the job's row, into `<home>/result_cache`, which keeps the most recently
requested ones. A file that lies in `<home>/artefacts` all the same, as it was made before there was a store, is taken from there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections import OrderedDict
from pathlib import Path

import anyio
import anyio.to_thread

from broker.depot.object_store import NotThere, ObjectStore, StoreError
from broker.depot.tokens import artefact_key
from broker.wire.jobspec import Artefact
from broker.wire.messages import JobView
from http_edge.base.errors import EdgeError
from http_edge.http.file_response import Download
from http_edge.media.artefact_store import RESULT_CACHE
from http_edge.media.artefacts import artefact_path, file_name

#: Validity of a signed address in the store, seconds.
_SIGNED_S = 600.0

#: Files fetched at once. A store that hangs holds a thread for each, and all other files are read by threads, too.
_FETCHES = 16


class ResultFiles:
    """The results below one home. `remote`: the object store behind it, of which `cache_bytes` are kept here."""

    def __init__(
        self, home: Path, remote: ObjectStore | None = None, *, cache_bytes: int = 0, redirect: bool = False
    ) -> None:
        self._artefacts = home / "artefacts"
        self._cache = home / RESULT_CACHE
        self._remote = remote
        self._cache_bytes = cache_bytes
        self._redirect = redirect
        self._fetches = anyio.CapacityLimiter(_FETCHES)
        self._lock = threading.Lock()
        #: Of files that are being fetched: others wait for them.
        self._fetching: dict[Path, threading.Lock] = {}
        #: Directory of an attempt in the cache -> its bytes, the one that was requested last behind all others; None: not looked at yet.
        self._kept: OrderedDict[Path, int] | None = None

    def path(self, view: JobView, artefact: Artefact) -> Path:
        """Path of an artefact of a finished job, or of where it will be fetched to."""
        own = artefact_path(self._artefacts, view, artefact)
        return own if self._remote is None or own.exists() else artefact_path(self._cache, view, artefact)

    async def fetched(self, view: JobView, artefact: Artefact) -> Path:
        """The path of an artefact, fetched if it is not here; one that is in the store no more is not there.

        Raises `EdgeError` while the store does not answer.
        """
        path = self.path(view, artefact)
        remote = self._remote
        if remote is not None and path.is_relative_to(self._cache):
            # A file that is here already waits for no other.
            threads = None if path.exists() else self._fetches
            await anyio.to_thread.run_sync(self._fetch, remote, view, artefact, path, limiter=threads)
        return path

    def file(self, view: JobView, index: int, artefact: Artefact, *, name: str = "", inline: bool = True) -> Download:
        """An artefact as a file to send. `name`: what the client should call it, if not by its job."""
        path = self.path(view, artefact)
        cached = self._remote is not None and path.is_relative_to(self._cache)
        return Download(
            root=self._cache if cached else self._artefacts,
            path=path,
            size=artefact.size,
            sha256=artefact.sha256,
            media_type=artefact.media_type,
            name=name or file_name(view, index, artefact),
            inline=inline,
            fetch=(lambda: self.fetched(view, artefact)) if cached else None,
            redirect_url=(lambda: self._signed(view, artefact)) if cached and self._redirect else None,
        )

    def root_of(self, path: Path) -> Path:
        """The directory that a result, or what was made from it, must really be in."""
        return self._cache if path.is_relative_to(self._cache) else self._artefacts

    def _signed(self, view: JobView, artefact: Artefact) -> str:
        assert self._remote is not None
        try:
            return self._remote.signed_url(artefact_key(view.id, view.fence, artefact.name), _SIGNED_S)
        except StoreError as error:
            raise store_unavailable(error) from None

    # ------------------------------------------------------------ the cache

    def _fetch(self, remote: ObjectStore, view: JobView, artefact: Artefact, path: Path) -> None:
        with self._lock:
            fetching = self._fetching.setdefault(path, threading.Lock())
        try:
            with fetching:
                if not path.exists():
                    remote.fetch(artefact_key(view.id, view.fence, artefact.name), path, artefact.sha256)
        except NotThere:
            return
        except StoreError as error:
            raise store_unavailable(error) from None
        finally:
            with self._lock:
                self._fetching.pop(path, None)
        with self._lock:
            self._use(path.parent)

    def _use(self, directory: Path) -> None:
        """Note a use of an attempt's files, and delete others where there are too many bytes."""
        if self._kept is None:
            self._kept = _found(self._cache)
        self._kept.pop(directory, None)
        self._kept[directory] = _bytes(directory)
        # Another process uses the cache as well: what it requested last is known by the time.
        with contextlib.suppress(OSError):
            os.utime(directory, (time.time(), directory.stat().st_mtime))
        over = sum(self._kept.values()) - self._cache_bytes
        for old in list(self._kept)[:-1]:
            if over <= 0:
                return
            over -= self._kept.pop(old)
            # Readers of one of them have it open.
            shutil.rmtree(old, ignore_errors=True)
            with contextlib.suppress(OSError):
                old.parent.rmdir()


def _found(cache: Path) -> OrderedDict[Path, int]:
    """Files that an edge before this one left in the cache, least recently used first."""
    try:
        found = [path for job in cache.iterdir() for path in job.iterdir()]
    except OSError:
        found = []
    return OrderedDict((path, _bytes(path)) for path in sorted(found, key=lambda one: one.stat().st_atime))


def _bytes(directory: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(directory))
    except OSError:
        return 0


def store_unavailable(error: StoreError) -> EdgeError:
    """The error while the object store does not answer."""
    return EdgeError("unavailable", f"the store of results does not answer: {error}", retry_after_s=5.0)
