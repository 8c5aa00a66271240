"""The place of an engine in a group: several processes, one a GPU, that draw each job together. No torch here.

An agent starts them with the same command, and with RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in their environment;
rank 0 inherits the socket at which the others find it. Rank 0 takes the jobs and answers; the others follow it. Without WORLD_SIZE, or with
1, an engine is alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from broker.wire.jobspec import JobSpec, ModelCard
from workers.engine.errors import LoadError
from workers.engine.progress import Monitor
from workers.models.model import ModelSetup
from workers.models.parallel import Parallel

if TYPE_CHECKING:
    from workers.engine.checkpoints import Binding, Checkpoints
    from workers.engine.progress import DraftKept
    from workers.engine.resuming import UnknownState


class Rank(Struct, frozen=True, kw_only=True):
    """Number of a process, from 0, in a group of so many; and where rank 0 listens while the group meets."""

    number: int
    of: int
    host: str
    port: int
    #: Descriptor of the socket at which rank 0 listens there.
    listener: int = -1
    #: Whether there are processes of the group on other machines.
    spread: bool = False

    @property
    def follows(self) -> bool:
        """Whether jobs come to it from rank 0."""
        return self.number > 0

    def __str__(self) -> str:
        return f"rank {self.number} of {self.of}"


def own_rank(environ: Mapping[str, str], listener: int = -1) -> Rank | None:
    """This process's place; None: it is alone. `listener`: as in `Rank`. Raises `LoadError`."""
    of = _number(environ, "WORLD_SIZE", 1, 1, 1024)
    if of == 1:
        return None
    number = _number(environ, "RANK", None, 0, of - 1)
    if number == 0 and listener < 0:
        raise LoadError("--meeting: rank 0 of a group was given no socket at which the others find it")
    return Rank(
        number=number,
        of=of,
        host=environ.get("MASTER_ADDR") or "127.0.0.1",
        port=_number(environ, "MASTER_PORT", None, 1, 65_535),
        listener=listener,
        spread=_number(environ, "LOCAL_WORLD_SIZE", of, 1, of) < of,
    )


def _number(environ: Mapping[str, str], name: str, default: int | None, least: int, most: int) -> int:
    text = environ.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise LoadError(f"{name}: {text!r} is not a whole number from {least} to {most}")
    return int(text)


class Ranks(Protocol):
    """The group of an engine, as the engine uses it while it draws a job. In all ranks each is called in the same order."""

    def check(self, card: ModelCard, setup: ModelSetup) -> None:
        """Raise `LoadError` for a model whose jobs this group cannot share."""

    def split(
        self, pipe: Any, card: ModelCard, spec: JobSpec, parallel: Parallel, monitor: Monitor
    ) -> AbstractContextManager[None]:
        """Inside, the ranks share the passes of the pipeline's denoisers. Raises `InvalidInput` where they cannot share this job's."""

    def checkpoints(self, output: int, own: Checkpoints | None, binding: Binding) -> Checkpoints | None:
        """Checkpoints that a call for this output goes on from and writes to, by what rank 0 has; None: it begins anew and writes none."""

    def put_back(self) -> None:
        """Wait until all have put a checkpoint's state back. Raises what makes a rank leave that cannot."""

    def leave_call(self, error: UnknownState | DraftKept) -> UnknownState | DraftKept:
        """Return the exception by which all ranks leave a call of the pipeline, of which one has raised this."""
