"""Files below a directory in which another process makes and removes some."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path


def files_below(directory: Path, pattern: str) -> list[Path]:
    """Files whose name matches; a directory that vanishes meanwhile has none, at which `Path.rglob` raises."""
    return [Path(place, name) for place, _, names in os.walk(directory) for name in fnmatch.filter(names, pattern)]
