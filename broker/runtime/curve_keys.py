"""CURVE keys, as files, of the peers that may connect to the broker over tcp. `python -m broker keys` writes them.

The broker's pair lies in `<curve_dir>/broker.key`, its list of peers is `<curve_dir>/allowed/NAME.pub`, one file a peer. A peer's own key
is `<curve_dir>/worker.key` or `edge.key` on the peer's machine; it holds the broker's public key too, so that no other process can pass for
the broker. A key has one role: a worker's cannot act as an edge, nor the other way round. Files with a secret must be their owner's alone;
root's that nobody may write, as a mounted secret's are, may be read through this process's group.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from broker.runtime.settings import CommonSettings, SettingsError, make_private_dir

Role = Literal["worker", "edge"]

#: Names of peers. No dot: it ends the name in `worker_prefix`.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z"

#: A key of 32 bytes in Z85 (ZeroMQ RFC 32).
_Z85 = r"^[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z"

_MAX_FILE = 4096
_MAX_LINKS = 16

#: Errors that are not the file's: it may be readable in a moment.
PASSING = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT))

_EVERYWHERE = ("tcp://0.0.0.0:", "tcp://[::]:")

Name = Annotated[str, Meta(pattern=NAME)]
Z85Key = Annotated[str, Meta(pattern=_Z85)]

COMMAND = "python -m broker keys"

K = TypeVar("K", bound=Struct)


class UnreadableNow(SettingsError):
    """A key file could not be read for a reason that is not the file's."""


class BrokerKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker's pair."""

    public: Z85Key
    secret: Z85Key

    def __repr__(self) -> str:
        return f"BrokerKey({self.public!r})"


class PeerKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A peer's pair, its name and role in the broker's configuration, and the broker's public key."""

    name: Name
    role: Role
    public: Z85Key
    secret: Z85Key
    broker: Z85Key

    def __repr__(self) -> str:
        return f"PeerKey({self.name!r}, {self.role!r}, {self.public!r})"


class AllowedPeer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the broker's list: name and role of a public key."""

    name: Name
    role: Role
    public: Z85Key


def is_tcp(endpoint: str) -> bool:
    """Whether an endpoint crosses machines, and so needs keys."""
    return endpoint.startswith("tcp://")


def listening_key(settings: CommonSettings, name: str, endpoint: str) -> BrokerKey:
    """The key to listen on this tcp endpoint with. Raises `SettingsError` naming the option `name`."""
    path = settings.curve_path / "broker.key"
    if not path.exists():
        raise SettingsError(
            f"{name}: {endpoint!r} needs CURVE keys and {str(path)!r} does not exist: make it with `{COMMAND} init`,"
            " or name another directory with curve_dir"
        )
    return read_broker(path)


def read_broker(path: Path) -> BrokerKey:
    """The broker's pair. Raises `SettingsError`."""
    return _read(path, BrokerKey, secret=True)


def list_directory(directory: Path) -> Path:
    """The directory of the list of peers in a broker's `curve_dir`; made where they are missing. Raises `SettingsError`.

    Each is private to this user, or a mounted secret's, whose files are checked one by one.
    """
    allowed = directory / "allowed"
    if _is_mounted(directory):
        if not allowed.is_dir():
            raise SettingsError(
                f"curve_dir: {str(allowed)!r} is no directory: mount the list of peers there, with NAME.pub for each of them"
            )
        _walk(allowed)
        return allowed
    make_private_dir(directory, "curve_dir")
    if not _is_mounted(allowed):
        make_private_dir(allowed, "curve_dir")
    return allowed


def _is_mounted(directory: Path) -> bool:
    """Whether a directory is like a mounted secret's: root's, or with the sticky bit, and only root or this user changes where it leads."""
    try:
        status = _walk(directory).lstat()
    except (SettingsError, OSError):
        return False
    return stat.S_ISDIR(status.st_mode) and (status.st_uid != os.getuid() or bool(status.st_mode & stat.S_ISVTX))


def peer_key_path(settings: CommonSettings, role: Role, name: str, endpoint: str) -> Path | None:
    """The file of the key to connect to this endpoint with, checked; None when it needs none. Raises `SettingsError`."""
    if not is_tcp(endpoint):
        return None
    if endpoint.startswith(_EVERYWHERE):
        raise SettingsError(
            f"{name}: {endpoint!r} is an address to listen on; give the one by which the broker is reached"
        )
    path = settings.curve_path / f"{role}.key"
    if not path.exists():
        raise SettingsError(
            f"{name}: {endpoint!r} needs a CURVE key and {str(path)!r} does not exist: make one on the broker's machine with"
            f" `{COMMAND} add NAME --role {role}` and copy it there, or name another directory with curve_dir"
        )
    read_peer_key(path, role)
    return path


def read_peer_key(path: Path, role: Role) -> PeerKey:
    """A peer's key. Raises `SettingsError` when it cannot be used, or is for another role."""
    key = _read(path, PeerKey, secret=True)
    if key.role != role:
        raise SettingsError(f"curve_dir: the key {str(path)!r} is {_a(key.role)}'s and not {_a(role)}'s")
    return key


def read_allowed(path: Path) -> AllowedPeer:
    """An entry of the list. Raises `SettingsError`."""
    entry = _read(path, AllowedPeer, secret=False)
    if entry.name != path.stem:
        raise SettingsError(
            f"curve_dir: {str(path)!r} is the entry of {entry.name!r}; it must be named {entry.name}.pub"
        )
    return entry


def worker_prefix(key_name: str) -> str:
    """The beginning of the names of all workers with this key, so that none can take the name of another machine's."""
    return f"{key_name}."


def is_name(text: str) -> bool:
    """Whether this can be the name of a peer."""
    return re.match(NAME, text) is not None


def _read(path: Path, kind: type[K], *, secret: bool) -> K:
    try:
        real = _follow(path)
        # Whatever links led here are checked; a link put there since is not followed.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SettingsError(f"curve_dir: {str(path)!r} is no file")
            if status.st_uid not in (os.getuid(), 0):
                raise SettingsError(f"curve_dir: {str(path)!r} belongs to another user")
            wrong = 0o077 if secret else 0o022
            if status.st_uid == 0 and not status.st_mode & 0o222:
                # A mounted secret: root's, and read through this process's group.
                wrong &= ~0o040
            if status.st_mode & wrong:
                verb = "read" if secret else "changed"
                raise SettingsError(f"curve_dir: {str(path)!r} can be {verb} by others; give it mode 0600")
            text = file.read(_MAX_FILE + 1)
    except OSError as error:
        kind_of_error = UnreadableNow if error.errno in PASSING else SettingsError
        raise kind_of_error(f"curve_dir: {str(path)!r} cannot be read: {error.strerror}") from None
    try:
        if len(text) > _MAX_FILE:
            raise ValueError(len(text))
        return msgspec.convert(tomllib.loads(text.decode("utf-8-sig")), kind)
    except (ValueError, msgspec.ValidationError):
        # Without the words of the error: they may quote the file.
        raise SettingsError(
            f"curve_dir: {str(path)!r} is no key file of this kind; make it anew with `{COMMAND}`"
        ) from None


def _follow(path: Path) -> Path:
    """The target of a path, itself when neither it nor its directory is a link. Raises `SettingsError` as `_walk` does, `OSError`."""
    return _walk(path) if path.is_symlink() or path.parent.is_symlink() else path


def _walk(path: Path) -> Path:
    """The target of a path. Raises `SettingsError` where others could change it, `OSError`.

    Who can place a link could have another file read, so root or this user own each step and nobody else may write to its directories;
    those with the sticky bit may be written to, as a mounted secret's and /tmp are: there nobody replaces what another owns.
    """
    done, left, links = Path("/"), list(path.absolute().parts[1:]), 0
    while left:
        part = left.pop(0)
        if part == "..":
            done = done.parent
            continue
        status = (done / part).lstat()
        if status.st_uid not in (os.getuid(), 0):
            raise SettingsError(f"curve_dir: {str(path)!r} leads through {str(done / part)!r}, another user's")
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise SettingsError(f"curve_dir: {str(path)!r} leads through more than {_MAX_LINKS} links")
            target = Path(os.readlink(done / part))
            left[:0] = target.parts[1:] if target.is_absolute() else target.parts
            done = Path("/") if target.is_absolute() else done
            continue
        if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
            raise SettingsError(
                f"curve_dir: {str(path)!r} leads through {str(done / part)!r}, where others may write; give it mode 0755"
            )
        done /= part
    return done


def _a(role: str) -> str:
    return f"an {role}" if role == "edge" else f"a {role}"
