"""Secrets in a file of one home: one a line, the newest first; the first process that needs one makes it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def read_or_make(path: Path, make: Callable[[], str]) -> list[str]:
    """The secrets of a file, without empty lines and comments; a new one where there is no file. Raises `OSError`, `UnicodeDecodeError`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        _create(path, make())
        text = path.read_text(encoding="utf-8-sig")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _create(path: Path, secret: str) -> None:
    """Several processes may do this at once: the first link wins, and all of them read its secret."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
