"""The file of API keys: one JSON object a line, with a key's hash and what the key may do. The keys themselves are not stored.

A key is 32 random bytes, so one round of SHA-256 is enough: they cannot all be tried, as passwords could. The file is read again
when it changes. If it cannot be read then, the keys stay as they were, and the log has the reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, get_type_hints

import msgspec
from msgspec import Meta, Struct

from broker.runtime.log_actions import Action
from broker.runtime.setting_rules import in_words
from broker.wire.loras import MAX_KNOWN, LoraName

log = logging.getLogger(__name__)

PREFIX = "zk_"
_RANDOM_BYTES = 32

#: Names of keys and tenants: they stand in log lines and in the journal.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"

_SHA256 = "sha256:"

Name = Annotated[
    str, Meta(pattern=_NAME, extra={"rule": "text of 1 to 64 letters, digits and . _ -, a letter or digit first"})
]
Limit = Annotated[int, Meta(ge=0, le=1_000_000)]


class KeyRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Record of an API key: a line of the file."""

    name: Name
    #: "sha256:" and 64 hex digits.
    hash: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z", extra={"rule": "sha256: and 64 hex digits"})]
    tenant: Name
    #: Jobs of the tenant that may wait, and that may run at once; 0: no limit.
    max_queued: Limit = 0
    max_running: Limit = 0
    #: Highest priority of its jobs.
    max_priority: Annotated[int, Meta(ge=0, le=9)] = 9
    #: LoRAs that its jobs may name; absent: all of the model.
    loras: Annotated[tuple[LoraName, ...] | None, Meta(extra={"rule": f"a list of names, at most {MAX_KNOWN}"})] = None
    #: Whether files of its jobs may have their recipe.
    recipe: bool = True
    #: Whether it may take workers out of service, and put them back.
    operator: bool = False
    created_at: Annotated[float, Meta(ge=0)] = 0.0
    #: Unix time at which the key expires; 0: never.
    expires_at: Annotated[float, Meta(ge=0)] = 0.0


_REQUIRED = tuple(field.name for field in msgspec.structs.fields(KeyRecord) if field.required)


class KeyFileError(ValueError):
    """The file cannot be read, or a line of it is no key; one sentence for the operator."""


def new_key() -> str:
    """Make a key, as clients send it."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_of(key: str) -> str:
    """Hash of a key, as the file has it."""
    return _SHA256 + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> list[KeyRecord]:
    """The keys in a file. Raises `KeyFileError`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    records: dict[str, KeyRecord] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            record = msgspec.json.decode(line, type=KeyRecord)
        except msgspec.MsgspecError:
            raise KeyFileError(f"{path}, line {number}: {_fault(line)}") from None
        if record.name in records:
            raise KeyFileError(f"{path}, line {number}: there are two keys named {record.name}")
        records[record.name] = record
    return list(records.values())


def _fault(line: str) -> str:
    """Return the reason why a line is no record, without values: one may be a key."""
    try:
        found = msgspec.json.decode(line)
    except msgspec.MsgspecError:
        found = None
    if not isinstance(found, dict):
        return "it is not one JSON object, as `python -m http_edge keys add` writes"
    hints = get_type_hints(KeyRecord, include_extras=True)
    if unknown := found.keys() - hints.keys():
        return f"{min(unknown)[:64]!r} is not known; a key has {', '.join(hints)}"
    for name, hint in hints.items():
        if name not in found:
            if name in _REQUIRED:
                return f"{name} is missing"
            continue
        try:
            msgspec.convert(found[name], hint)
        except msgspec.ValidationError:
            return f"{name} {in_words(hint)}"
    return "it is not a key"


def write_keys(path: Path, records: list[KeyRecord]) -> None:
    """Put these keys in place of those in the file, whole or not at all. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file against another command that changes it. Raises `OSError`."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


class KeyRing:
    """Valid keys of a file, which is read again when it changes."""

    def __init__(self, path: Path, *, wall_clock: Callable[[], float] = time.time) -> None:
        """Raises `KeyFileError`."""
        self._path = path
        self._wall_clock = wall_clock
        self._stamp = self._look()
        self._by_hash = _by_hash(read_keys(path))

    def find(self, key: str) -> KeyRecord | None:
        """The record of a key that a client sent; None when there is none, or it has expired."""
        self._read_again()
        digest = hash_of(key)
        record = self._by_hash.get(digest)
        # The table is searched by a hash, which a client cannot steer; what it finds is compared in constant time.
        if record is None or not hmac.compare_digest(record.hash, digest):
            return None
        return None if 0 < record.expires_at <= self._wall_clock() else record

    def _read_again(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            records = read_keys(self._path)
        except KeyFileError as error:
            log.error(
                "the keys file cannot be read: the keys stay as they were",
                extra={"action": Action.KEYS, "reason": str(error)},
            )
            return
        self._by_hash = _by_hash(records)
        log.info("keys read", extra={"action": Action.KEYS, "count": len(records)})

    def _look(self) -> tuple[int, ...]:
        """Return the file's identity, which changes with its content. Taken before reading: a change in between is seen the next time."""
        try:
            status = os.stat(self._path)
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _by_hash(records: list[KeyRecord]) -> dict[str, KeyRecord]:
    return {record.hash: record for record in records}
