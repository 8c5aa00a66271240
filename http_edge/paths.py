"""Which files a client's path may mean: resolved from the start directory, symlinks followed, kept inside the roots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def resolve(text: str, start: Path) -> Path:
    """Where a client's path really leads: relative to the edge's start directory, every symlink resolved, nothing need exist."""
    return Path(os.path.realpath(start / text))


def is_within(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a resolved path lies below one of the (resolved) roots."""
    return any(path != root and path.is_relative_to(root) for root in roots)


def resolve_roots(texts: Sequence[str], defaults: Sequence[Path], start: Path) -> tuple[Path, ...]:
    """The roots of a setting, relative ones from the start directory; `defaults` when it is empty."""
    return tuple(resolve(text, start) for text in texts) or tuple(Path(os.path.realpath(path)) for path in defaults)
