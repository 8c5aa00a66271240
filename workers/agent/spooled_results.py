"""Results on the disk of their worker while their files are on the way to a depot, so that the worker's next agent sends them should this
one die.

A result lies beside its files, in the directory of its attempt, and goes with it. Whether it still counts is for the broker to decide, as
of every result: the next agent reports that it holds the attempt.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from broker.runtime.job_paths import read_regular, remove_path
from broker.runtime.log_actions import Action
from broker.wire import codec
from broker.wire.jobspec import Artefact, Result
from broker.wire.messages import PROTOCOL, Finished
from workers.agent import attempt_dirs

#: No artefact bears such a name.
_NAME = ".result"

logger = logging.getLogger(__name__)


class SpooledResult(Struct, frozen=True, kw_only=True):
    """A result whose files wait to be put."""

    message: Finished
    #: Seconds since its attempt was given to an engine.
    age_s: float
    files: tuple[Artefact, ...]


class _Record(Struct, frozen=True, kw_only=True):
    """The file."""

    message: Finished
    #: Unix time at which its attempt was given to an engine.
    given_at: float


def keep(out_root: Path, message: Finished, given_at: float) -> None:
    """Write a result beside its files, on disk when this returns. Raises `OSError` or `ValueError`."""
    directory = attempt_dirs.attempt_dir(out_root, message.job_id, message.fence)
    temporary = directory / f"{_NAME}.part"
    with open(temporary, "wb") as file:
        file.write(msgspec.msgpack.encode(_Record(message=message, given_at=given_at)))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(directory / _NAME)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_up(out_root: Path, now: float) -> tuple[SpooledResult, ...]:
    """The results that lie here, the oldest fence first; all else is removed. `now` is Unix time."""
    found: list[SpooledResult] = []
    for directory in _directories(out_root):
        result = _read(out_root, directory, now) if directory.is_dir() else None
        if result is not None:
            found.append(result)
        else:
            _remove(directory)
    for directory in _directories(out_root, levels=1):
        with contextlib.suppress(OSError):  # those of results stay
            directory.rmdir() if directory.is_dir() else directory.unlink()
    return tuple(sorted(found, key=lambda result: result.message.fence))


def _directories(out_root: Path, levels: int = 2) -> Iterator[Path]:
    """Entries so many levels below."""
    with contextlib.suppress(OSError):
        for entry in [*out_root.iterdir()]:
            if levels == 1:
                yield entry
            elif entry.is_dir() and not entry.is_symlink():
                yield from _directories(entry, levels - 1)


def _read(out_root: Path, directory: Path, now: float) -> SpooledResult | None:
    """The result of an attempt's directory; None where there is none, or its files are not those that it lists."""
    try:
        record = msgspec.msgpack.decode(read_regular(directory / _NAME), type=_Record)
        message = record.message
        if directory != attempt_dirs.attempt_dir(out_root, message.job_id, message.fence):
            return None
        if message.v != PROTOCOL:  # of an agent before an upgrade: the broker dismisses the sender of such a message
            return None
        result: Result = codec.result(message.body)
        whole = all((directory / file.name).stat().st_size == file.size for file in result.artefacts)
    # What is no record, or no result, is a ValueError, too. RecursionError: what is skipped may be nested without end.
    except (OSError, ValueError, RecursionError):
        return None
    age_s = max(0.0, now - record.given_at)
    return SpooledResult(message=message, age_s=age_s, files=result.artefacts) if whole else None


def _remove(path: Path) -> None:
    try:
        remove_path(path)
    except OSError as error:
        extra = {"action": Action.REMOVE_FAILED, "detail": str(error)}
        logger.warning("cannot remove what an agent before left", extra=extra)
