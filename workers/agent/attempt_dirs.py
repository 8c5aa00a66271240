"""The directory of one attempt: made before the engine gets the job, removed when its files are garbage."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from broker.runtime.job_paths import remove_path
from broker.wire.job_files import CHECKPOINTS
from broker.wire.jobspec import JOB_ID_RULE, is_job_id

#: Another agent may remove the job's directory, empty between two attempts, just when it is needed.
_TRIES = 5


def attempt_dir(artefacts: Path, job_id: str, fence: int) -> Path:
    """`<artefacts>/<job id>/<fence>`. Raises `ValueError` for what may not be a path component."""
    if not is_job_id(job_id) or fence < 0:
        raise ValueError(f"job id {job_id!r} or fence {fence} is refused: a job id is {JOB_ID_RULE}")
    return artefacts / job_id / str(fence)


def checkpoint_dir(artefacts: Path, job_id: str) -> Path:
    """Directory of a job's checkpoints, by all its attempts. Raises `ValueError` as `attempt_dir`."""
    return artefacts / CHECKPOINTS / attempt_dir(artefacts, job_id, 0).parent.name


def remove_checkpoints(artefacts: Path, job_id: str) -> None:
    """Remove a job's checkpoints, if there are any. Raises `OSError` or `ValueError`."""
    remove_path(checkpoint_dir(artefacts, job_id))


def remove_old_checkpoints(artefacts: Path, before: float) -> None:
    """Remove the checkpoints of jobs that were written last before this Unix time; those that cannot be removed stay."""
    with contextlib.suppress(FileNotFoundError):
        for directory in (artefacts / CHECKPOINTS).iterdir():
            with contextlib.suppress(OSError):
                if directory.stat(follow_symlinks=False).st_mtime < before:
                    remove_path(directory)


def make(artefacts: Path, job_id: str, fence: int) -> Path:
    """Make the attempt's directory, empty, with mode 0755. Raises `OSError` or `ValueError`."""
    target = attempt_dir(artefacts, job_id, fence)
    artefacts.mkdir(mode=0o755, parents=True, exist_ok=True)
    for place in (target.parent, target):
        if place.is_symlink():
            raise FileExistsError(f"{str(place)!r} is a symbolic link")
    for _ in range(_TRIES):
        target.parent.mkdir(mode=0o755, exist_ok=True)
        try:
            target.mkdir(mode=0o755)
        except FileNotFoundError:
            continue
        except FileExistsError:
            # A fence is granted once, so this is left from a process that died between making and beginning.
            shutil.rmtree(target)
            continue
        return target
    raise FileNotFoundError(f"{str(target)!r} vanishes as often as it is made")


def remove(artefacts: Path, job_id: str, fence: int) -> None:
    """Remove the attempt's directory, and the job's when it is empty then. Raises `OSError` or `ValueError`."""
    target = attempt_dir(artefacts, job_id, fence)
    remove_path(target)
    with contextlib.suppress(OSError):
        os.rmdir(target.parent)
