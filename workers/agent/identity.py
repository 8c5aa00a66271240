"""Constants of an agent's life."""

from __future__ import annotations

from msgspec import Struct

from broker.wire import messages as m
from workers.agent.dirs import WorkerDirs
from workers.ipc.messages import Setup


class Identity(Struct, frozen=True, kw_only=True):
    """Name, model and directories of a worker."""

    name: str
    #: Drawn at each start.
    boot: str
    info: m.WorkerInfo
    setup: Setup
    dirs: WorkerDirs
    #: Whether the name was taken by another process before this one started.
    yields: bool = False
    #: Machines that its GPUs are on.
    machines: int = 1

    @property
    def leaves(self) -> str:
        """Reason why it hands its jobs back when it leaves."""
        return f"worker {self.name} leaves"
