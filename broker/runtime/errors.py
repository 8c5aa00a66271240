"""Errors that end the broker's shell, with their exit codes. One base; a class's docstring is its default message."""

from __future__ import annotations

from broker.runtime.described_error import DescribedError


class ShellError(DescribedError):
    """The broker cannot go on."""

    #: What the process exits with. 1 is left to Python's own tracebacks.
    exit_code = 1


class HomeInUse(ShellError):
    """Another broker uses this directory."""

    exit_code = 2


class BindFailed(ShellError):
    """The broker cannot listen on its sockets."""

    exit_code = 2

    def __init__(self, message: str | None = None, endpoint: str = "") -> None:
        """`endpoint`: as it was given."""
        super().__init__(message)
        self.endpoint = endpoint


class JournalRefused(ShellError):
    """The journal is damaged, or was written by another program or a newer version."""

    exit_code = 3


class JournalShort(JournalRefused):
    """The journal is shorter than it was: commits that were acknowledged are gone."""


class JournalBroken(ShellError):
    """The journal cannot be written; what was not yet acknowledged may or may not be on disk."""

    exit_code = 4


class HomeUnwritable(ShellError):
    """Nothing can be written in this directory: a read-only file system, missing permission, no room."""

    exit_code = 4


class JournalFull(ShellError):
    """The disk is full, the reserve is used up, and results can no longer be recorded."""

    exit_code = 5


class JournalConflict(ShellError):
    """A row would lower its fence or leave a final state: the core has a bug. Ends the broker when it happens again and again."""

    exit_code = 6

    def __init__(self, message: str | None = None, job_id: str = "") -> None:
        """`job_id`: the job of the row, where that is known."""
        super().__init__(message)
        self.job_id = job_id


class IdTaken(JournalConflict):
    """Jobs that were taken for new bear ids that the journal has: a `Submit.fresh` that was not, or that was answered long ago."""

    def __init__(self, job_ids: list[str]) -> None:
        super().__init__(
            f"{len(job_ids)} jobs are in the journal already that were taken for new, the first: {job_ids[0]}"
        )
        self.job_ids = job_ids
