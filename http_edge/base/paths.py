"""Resolving clients' paths: from the start directory, symlinks followed, confined to the roots.

A resolved path is a name that can lead elsewhere a moment later, when a link is put where a directory was. So whatever is read or
written is reached from its root by open directories, one name at a time and through no link (`open_parent`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Flags to open a directory that is only passed through, which needs no permission to list it.
_WALK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Most roots that an error names.
_NAMED = 4


class OutsideRoot(OSError):
    """A part of the path is a link, whose target was not checked."""


def resolve(text: str, start: Path) -> Path:
    """Resolve a client's path: relative to the edge's start directory, every symlink followed; nothing need exist.

    Returns "/", which is within no root, when links are exchanged meanwhile.
    """
    try:
        return Path(os.path.realpath(start / text))
    except OSError:
        return Path("/")


def is_within(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a resolved path lies below one of the (resolved) roots."""
    return _root_of(path, roots) is not None


def resolve_roots(texts: Sequence[str], defaults: Sequence[Path], start: Path) -> tuple[Path, ...]:
    """The roots of a setting, relative ones from the start directory; `defaults` when it is empty."""
    return tuple(resolve(text, start) for text in texts) or tuple(Path(os.path.realpath(path)) for path in defaults)


def named_roots(roots: Sequence[Path]) -> str:
    """The roots as an error names them, each once."""
    roots = list(dict.fromkeys(roots))
    return ", ".join([*map(str, roots[:_NAMED]), *(["…"] if len(roots) > _NAMED else [])])


@contextlib.contextmanager
def open_parent(path: Path, roots: Sequence[Path], *, create: bool = False) -> Iterator[int]:
    """A descriptor of the directory that a resolved path within the roots lies in. `create` makes directories that are missing.

    Raises `OutsideRoot` when a link is on the way or the path is within no root; `OSError`.
    """
    root = _root_of(path, roots)
    if root is None or ".." in path.parts:
        raise OutsideRoot(errno.EXDEV, "it is in none of the directories that are allowed")
    if create:
        root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, _WALK)
    try:
        for name in path.relative_to(root).parts[:-1]:
            inner = _open_inner(descriptor, name, create=create)
            os.close(descriptor)
            descriptor = inner
        # To be synced, a directory must be open for reading.
        last = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    try:
        yield last
    finally:
        os.close(last)


def _open_inner(directory: int, name: str, *, create: bool) -> int:
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=directory)
    try:
        return os.open(name, _WALK, dir_fd=directory)
    except NotADirectoryError:
        # A directory now: it was exchanged meanwhile.
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OutsideRoot(errno.ELOOP, f"{name} is a link") from None
        raise


def _root_of(path: Path, roots: Sequence[Path]) -> Path | None:
    """The innermost root that a path lies below."""
    found = [root for root in roots if path != root and path.is_relative_to(root)]
    return max(found, key=lambda root: len(root.parts), default=None)
