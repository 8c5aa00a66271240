"""Previews: the pictures that an engine leaves beside its attempt's files while it draws (`job_files.preview_name`), and its draft."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from broker.runtime.job_paths import read_regular
from broker.wire.job_files import CHECKPOINTS, draft_names, preview_name, preview_number
from broker.wire.messages import JobView


def newest_preview(artefacts: Path, view: JobView) -> int:
    """Number of the newest preview of a job's attempt; 0 while there is none. One look at one directory."""
    try:
        names = os.listdir(_directory(artefacts, view))
    except OSError:
        return 0
    return max(map(preview_number, names), default=0)


def read_preview(artefacts: Path, view: JobView, number: int) -> bytes | None:
    """A preview's file, a PNG; None when it is not there. Blocks."""
    try:
        return read_regular(_directory(artefacts, view) / preview_name(number))
    except OSError:
        return None


def read_draft(artefacts: Path, view: JobView, index: int) -> tuple[str, bytes] | None:
    """(name, content) of an output's draft, a clip or else a picture; None when there is none. Blocks."""
    for name in draft_names(index):
        with contextlib.suppress(OSError):
            return name, read_regular(artefacts / CHECKPOINTS / view.id / name)
    return None


def _directory(artefacts: Path, view: JobView) -> Path:
    return artefacts / view.id / str(view.fence)
