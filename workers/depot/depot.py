"""Interface of a depot, whatever kind it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

#: Whether the transfer is cancelled.
Revoked = Callable[[], bool]


class NotNow(Exception):
    """It cannot be done now, and is to be tried again; one sentence on the reason."""


class Refused(NotNow):
    """It is refused, however often it is tried."""


class InputGone(Exception):
    """The depot does not keep this input any more."""


class DepotFile(Struct, frozen=True, kw_only=True):
    """A file to put."""

    #: Where it goes in the depot (`tokens.artefact_key`).
    key: str
    path: Path
    size: int
    sha256: str


class Depot(Protocol):
    """A depot that is not the worker's own disk. Calls block."""

    #: With which requests are signed, where they are.
    key: str

    def put(self, file: DepotFile, revoked: Revoked, *, again: bool) -> None:
        """Put a file; `again`: it may be there already. It is on the depot's disk when this returns. Raises `NotNow`."""

    def discard(self, job_id: str, fence: int) -> None:
        """Remove what was put of an attempt that does not count. Raises `NotNow`."""

    def checkpoints(self, job_id: str, fence: int) -> list[str]:
        """The keys of a job's newest checkpoints, one of each output, for its attempt of this fence. Raises `NotNow`, `Refused`."""

    def fetch_checkpoint(self, key: str, target: Path, revoked: Revoked) -> None:
        """Fetch the checkpoint of this key to the path `target`, whole or not at all. Raises `NotNow`, `Refused`."""

    def fetch(self, name: str, target: Path, revoked: Revoked) -> None:
        """Fetch an input to the path `target`, whole and with the SHA-256 of its name, or not at all. Raises `NotNow`, `InputGone`."""
