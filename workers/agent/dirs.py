"""Directories of a worker."""

from __future__ import annotations

from msgspec import Struct


class WorkerDirs(Struct, frozen=True, kw_only=True):
    """Directories of one worker, absolute."""

    #: Of all artefacts and checkpoints on this machine.
    artefacts: str
    #: Of what waits to be put into a depot, and of inputs that were fetched from it; "": the artefacts' and the inputs' own are the depot.
    spool: str = ""
    inputs: str = ""

    @property
    def remote(self) -> bool:
        """Whether files go into a depot that is not this disk."""
        return bool(self.spool)

    @property
    def out_root(self) -> str:
        """Directory of the attempts' files: `<out root>/<job id>/<fence>`."""
        return self.spool or self.artefacts
