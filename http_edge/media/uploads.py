"""Files that clients uploaded to use later (`/v1/files`), below `<home>/uploads/files`: `<id>.data` and its record `<id>.json`.

Rules. A file is there when its record is: data first, record last, and gone in the other order, so that a crash leaves data without a
record, which the sweep removes. Records never change, and nothing is remembered in memory: any edge answers for any file. Everything
here blocks: callers are worker threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path

import msgspec
from msgspec import Struct

_ID = re.compile(r"file-[0-9a-f]{24}")

#: Data without a record is removed when it is older: a file is being put there meanwhile.
_ORPHAN_S = 3600.0

#: The longest `expires_after` that is taken, as OpenAI's.
LONGEST_KEPT_S = 30 * 86_400

_CHUNK_BYTES = 1024 * 1024


class StoredFile(Struct, frozen=True, kw_only=True):
    """Record of an uploaded file."""

    id: str
    size: int
    sha256: str
    created_at: float
    file_name: str
    purpose: str
    #: Detected from the bytes, not taken from the client.
    media_type: str = "application/octet-stream"
    #: Unix time; 0 when it is kept until it is deleted.
    expires_at: float = 0.0
    #: Tenant that owns it.
    tenant: str = "default"


def is_file_id(text: str) -> bool:
    """Whether this can be the id of an uploaded file."""
    return _ID.fullmatch(text) is not None


class Uploads:
    """The uploaded files of one home."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(
        self,
        source: Path,
        *,
        file_name: str,
        purpose: str,
        media_type: str,
        now: float,
        expires_at: float = 0.0,
        tenant: str = "default",
    ) -> StoredFile:
        """Take over a temporary file (it is moved away). Raises `OSError`."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with open(source, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
            os.fsync(file.fileno())
        record = StoredFile(
            id=f"file-{secrets.token_hex(12)}",
            size=size,
            sha256=digest.hexdigest(),
            created_at=now,
            file_name=file_name,
            purpose=purpose,
            media_type=media_type,
            expires_at=expires_at,
            tenant=tenant,
        )
        os.rename(source, self.data_path(record.id))
        # A file's time is when it came: the sweep goes by it, and a slow upload began long ago.
        os.utime(self.data_path(record.id))
        temporary = self._record_path(record.id).with_suffix(".part")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._record_path(record.id))
        return record

    def get(self, file_id: str, now: float) -> StoredFile | None:
        """The record, None when there is none or it expired."""
        if not is_file_id(file_id):
            return None
        try:
            record = msgspec.json.decode(self._record_path(file_id).read_bytes(), type=StoredFile)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return None if 0 < record.expires_at <= now else record

    def records(self, now: float) -> list[StoredFile]:
        """All records, the newest first."""
        names = self._names(".json")
        found = [record for name in names if (record := self.get(name, now)) is not None]
        return sorted(found, key=lambda record: (record.created_at, record.id), reverse=True)

    def delete(self, file_id: str) -> None:
        """Remove a file; also one that is not there. Raises `OSError`."""
        if is_file_id(file_id):
            self._record_path(file_id).unlink(missing_ok=True)
            self.data_path(file_id).unlink(missing_ok=True)

    def sweep(self, now: float) -> int:
        """Remove what expired and what a crash left; how many."""
        removed = 0
        for name in self._names(".json"):
            if self.get(name, now) is None and self.get(name, 0.0) is not None:
                self.delete(name)
                removed += 1
        for suffix in (".data", ".part"):
            for name in self._names(suffix):
                path = self._directory / f"{name}{suffix}"
                with contextlib.suppress(FileNotFoundError):
                    if now - path.stat().st_mtime > _ORPHAN_S and not self._record_path(name).exists():
                        path.unlink()
                        removed += 1
        return removed

    def data_path(self, file_id: str) -> Path:
        """Path of the bytes."""
        return self._directory / f"{file_id}.data"

    def _record_path(self, file_id: str) -> Path:
        return self._directory / f"{file_id}.json"

    def _names(self, suffix: str) -> list[str]:
        try:
            return [name.removesuffix(suffix) for name in os.listdir(self._directory) if name.endswith(suffix)]
        except FileNotFoundError:
            return []
