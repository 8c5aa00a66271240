"""Copies of results at paths that clients choose: where they may go, and filling them after publication.

Rules. A path is relative to the edge's start directory, confined to the output roots, ends in the suffix of what the job makes, and never
names a file that this service did not write. What it wrote is remembered in a ledger, `<home>/exports/<sha256 of the path>.json`:
path, job, and the identity (device, inode, size, mtime) of the file it put there. A file that was changed since is not ours any more.

Results are copied, not linked: a program that later rewrites the client's file in place would otherwise rewrite the published artefact.
Several edges do this at once, so a path is filled under a lock, and a finished job fills its path once: of two jobs that name one
path the later finisher's file stays, and a file that was removed is not put back.

A path is checked when its job comes and filled when the job is over, and directories may be exchanged for links at any moment. So a path is
taken apart once, into an open directory and a name (`_Location`), and looking, writing, renaming and tidying up are all done there.

Everything here blocks: callers are worker threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from http_edge.base.errors import EdgeError, invalid
from http_edge.base.paths import OutsideRoot, is_within, named_roots, open_parent, resolve

#: What a job of each output writes, and so what the path must end in.
SUFFIXES = {"video": ".mp4", "image": ".png"}

_ALLOWED = "the directories that clients may write to"
_TAKEN = "exists already, and is not a file that this service wrote"

#: A copy takes seconds at most; a process that holds the lock longer is stopped or stuck.
_LOCK_TIMEOUT_S = 10.0
_LOCK_POLL_S = 0.02


class Identity(Struct, frozen=True):
    """Identity of a file and of its version."""

    dev: int
    ino: int
    size: int
    mtime_ns: int


#: Identity of anything that is no regular file.
_NO_FILE = Identity(-1, -1, -1, -1)


class Entry(Struct, frozen=True, kw_only=True):
    """The ledger's record of one path."""

    path: str
    #: The job whose result was last put there (or is being put, while not `done`), and when it finished.
    job: str
    finished_at: float
    #: The file that is ours at this path; while not `done`, the one of before.
    file: Identity | None = None
    #: While not `done`: the file about to be renamed to this path, and its name beside it, to be removed after a crash.
    pending: Identity | None = None
    temporary: str = ""
    done: bool = False
    #: Tenant of the job.
    tenant: str = "default"


class Source(Struct, frozen=True, kw_only=True):
    """A published artefact to copy."""

    job: str
    finished_at: float
    path: Path
    size: int
    tenant: str = "default"


class _Location(Struct, frozen=True):
    """Location of a path: a name in an open directory."""

    directory: int
    name: str

    def identity(self) -> Identity | None:
        """Return the identity of the file there, None when there is none. A link, directory or device is never one of ours."""
        try:
            status = os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return _identity(status) if stat.S_ISREG(status.st_mode) else _NO_FILE

    def beside(self, name: str) -> _Location:
        return _Location(self.directory, name)

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.directory)


class Exports:
    """The output roots and the ledger of one service. `overwrite`: a file that the service did not write may be replaced."""

    def __init__(self, home: Path, start: Path, roots: Sequence[Path], *, overwrite: bool = False) -> None:
        self._start = start
        self._roots = tuple(roots)
        self._overwrite = overwrite
        home = Path(os.path.realpath(home))
        self._artefacts = home / "artefacts"
        self._ledger = home / "exports"
        self._private = (self._artefacts, self._ledger, home / "uploads", home / "run")

    def check(self, field: str, text: str, output: str, tenant: str = "default") -> str:
        """The absolute path that a client's path means. Raises `EdgeError` naming field, value and rule."""
        suffix = SUFFIXES[output]
        if not text.lower().endswith(suffix) or os.path.basename(text).lower() == suffix:
            raise invalid(field, text, f"must be a file name ending in {suffix}, as this job makes {_article(output)}")
        target = resolve(text, self._start)
        if target.suffix.lower() != suffix:
            raise invalid(field, text, f"is a link to a file that does not end in {suffix}")
        if not is_within(target, self._roots):
            raise invalid(
                field, text, f"leads out of {_ALLOWED}, which are {named_roots(self._roots)} (setting output_roots)"
            )
        if not self._outside_private(target):
            raise invalid(field, text, "lies in the service's own directories")
        try:
            with self._locked(target):
                entry = self._read(target)
                allowed = self._may_replace(self._there(target), entry, tenant)
        except OSError as error:
            raise invalid(field, text, f"cannot be used: {error.strerror or error}") from None
        if not allowed:
            raise invalid(field, text, f"{_TAKEN} (setting save_overwrites)")
        return str(target)

    def fill(self, target_text: str, source: Source) -> str:
        """Copy a finished job's result to the path that its client chose. Returns "" when it is there (or was), else the reason why not."""
        target = Path(target_text)
        try:
            with self._locked(target):
                return self._fill(target, source)
        except OutsideRoot:
            return f"leads out of {_ALLOWED}"
        except OSError as error:
            return f"cannot be written: {error.strerror or error}"

    def written(self, text: str) -> str | None:
        """The job whose result this service put at a client's path; None when what is there is not that. Raises `EdgeError`."""
        target = resolve(text, self._start)
        if not (is_within(target, self._roots) and self._outside_private(target)):
            raise EdgeError("forbidden", "Access to this file is not allowed", param="path", value=text, place="path")
        # Without the lock: a client that requests any number of paths must not leave a lock file for each.
        with contextlib.suppress(OSError):
            entry = self._read(target)
            if entry is not None and entry.done and self._there(target) == entry.file:
                return entry.job
        return None

    def owner(self, target: Path) -> str | None:
        """Return the tenant whose result was saved at a resolved path; None when this service saved none there."""
        entry = self._read(target)
        return None if entry is None else entry.tenant

    # ------------------------------------------------------------ under the lock

    def _fill(self, target: Path, source: Source) -> str:
        entry = self._read(target)
        with open_parent(target, self._roots, create=True) as directory:
            location = _Location(directory, target.name)
            if entry is not None:
                entry = _recover(location, entry)
                newer = (entry.finished_at, entry.job) >= (source.finished_at, source.job)
                if entry.done and newer and entry.tenant == source.tenant:
                    return ""
            if not self._may_replace(location.identity(), entry, source.tenant):
                return _TAKEN
            self._put(target, location, source, entry.file if entry else None)
        return ""

    def _put(self, target: Path, location: _Location, source: Source, ours: Identity | None) -> None:
        """Copy, record, rename: after a crash at any point the ledger still lists the files that are ours."""
        temporary = location.beside(f".{secrets.token_hex(8)}.part")
        entry = Entry(
            path=str(target),
            job=source.job,
            finished_at=source.finished_at,
            file=ours,
            temporary=temporary.name,
            tenant=source.tenant,
        )
        self._write(target, entry)
        try:
            identity = _copy(source, temporary)
            self._write(target, msgspec.structs.replace(entry, pending=identity))
            if location.identity() is None:
                _rename_new(temporary, location)
            else:
                os.replace(temporary.name, location.name, src_dir_fd=location.directory, dst_dir_fd=location.directory)
            os.fsync(location.directory)
        finally:
            temporary.remove()
        self._write(target, msgspec.structs.replace(entry, file=identity, temporary="", done=True))

    def _there(self, target: Path) -> Identity | None:
        """Return the identity of the file at a resolved path within the roots, None when there is none. Raises `OSError`."""
        try:
            with open_parent(target, self._roots) as directory:
                return _Location(directory, target.name).identity()
        except FileNotFoundError:
            return None

    def _may_replace(self, there: Identity | None, entry: Entry | None, tenant: str) -> bool:
        """Whether nothing is there, or what this service wrote there for the same tenant, or a file that may be overwritten."""
        if there is None:
            return True
        if entry is not None and there in (entry.file, entry.pending):
            return entry.tenant == tenant
        return self._overwrite and there != _NO_FILE

    def _outside_private(self, target: Path) -> bool:
        """Return whether a path is none of the service's own; the artefacts directory itself is free, what lies deeper is a job's."""
        return target.parent == self._artefacts or not is_within(target, self._private)

    # ------------------------------------------------------------ ledger

    def _name(self, target: Path) -> str:
        return hashlib.sha256(os.fsencode(target)).hexdigest()

    def _read(self, target: Path) -> Entry | None:
        try:
            entry = msgspec.json.decode((self._ledger / f"{self._name(target)}.json").read_bytes(), type=Entry)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return entry if entry.path == str(target) else None

    def _write(self, target: Path, entry: Entry) -> None:
        final = self._ledger / f"{self._name(target)}.json"
        temporary = final.with_suffix(".part")
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(entry))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)

    @contextlib.contextmanager
    def _locked(self, target: Path) -> Iterator[None]:
        """Hold this path's lock against threads and processes. Raises `OSError` when it cannot be had in time."""
        self._ledger.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._ledger / f"{self._name(target)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(errno.ETIMEDOUT, "another process is writing it") from None
                    time.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(lock)


def _recover(location: _Location, entry: Entry) -> Entry:
    """The record after a crash in `_put`: without its half copy, and done if the rename had happened."""
    if entry.done:
        return entry
    if entry.temporary:
        location.beside(entry.temporary).remove()
    there = location.identity()
    if there is not None and there == entry.pending:
        return msgspec.structs.replace(entry, file=there, pending=None, temporary="", done=True)
    return msgspec.structs.replace(entry, pending=None, temporary="")


def _identity(status: os.stat_result) -> Identity:
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _copy(source: Source, temporary: _Location) -> Identity:
    read = os.open(source.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(read, "rb") as reader:
        if os.fstat(read).st_size != source.size:
            raise OSError(errno.EIO, "the published file is not whole")
        with open(_create(temporary), "wb") as writer:
            shutil.copyfileobj(reader, writer, 1024 * 1024)
            writer.flush()
            os.fsync(writer.fileno())
            return _identity(os.fstat(writer.fileno()))


def _create(location: _Location) -> int:
    """A new empty file. Raises `FileExistsError`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(location.name, flags, 0o666, dir_fd=location.directory)


def _rename_new(temporary: _Location, location: _Location) -> None:
    """Rename, but never over a file that came meanwhile. Raises `FileExistsError`."""
    try:
        os.link(temporary.name, location.name, src_dir_fd=temporary.directory, dst_dir_fd=location.directory)
    except FileExistsError:
        raise
    except OSError:
        # No hard links on this file system: claim the name first, then put the file over our own empty one.
        os.close(_create(location))
        os.replace(temporary.name, location.name, src_dir_fd=temporary.directory, dst_dir_fd=location.directory)


def _article(output: str) -> str:
    return "an image" if output == "image" else f"a {output}"
