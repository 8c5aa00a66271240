"""An engine as the agent holds it: one process, or one for each GPU of the worker, here or on other machines. One's end is the end of all.

All ranks get the same setup and each has a socketpair and counters of its own; rank 0 alone gets jobs and requests to stop them, and
answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from workers.agent.engine_process import EngineProcess
from workers.agent.truncate import MAX_TEXT
from workers.ipc.channel import IpcError
from workers.ipc.messages import JobFailed, LoadFailed, Setup
from workers.ipc.shared import Progress
from workers.supervisor.process_groups import kill_orphans


class Rank(Protocol):
    """One process of an engine (`EngineProcess`, `RemoteRank`)."""

    @property
    def name(self) -> str:
        """Name of its machine, where that is another."""

    @property
    def lost(self) -> str:
        """Reason why its machine is gone; "": it is not."""

    @property
    def closed(self) -> bool:
        """Whether it sends nothing more."""

    def send(self, message: Struct) -> None:
        """Send, or keep until it can be."""

    def flush(self) -> None:
        """Send what was kept."""

    def receive(self) -> list[Struct]:
        """Read the messages that have arrived. Raises `IpcError`."""

    def poll(self) -> str | None:
        """Return how it has ended; None while it runs."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def release(self) -> None:
        """Give back what it has, after its end."""


class EngineGroup:
    """A running engine of these processes, by rank; those of this machine come first."""

    def __init__(self, ranks: Sequence[Rank]) -> None:
        self._ranks = ranks
        #: How the first of its processes has ended; "" while all run.
        self.first_end = ""
        self._load_failed = False
        self._own = [rank for rank in ranks if isinstance(rank, EngineProcess)]
        self._first = self._own[0]

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids on this machine by rank; each leads a group of its own."""
        return tuple(rank.pid for rank in self._own)

    @property
    def closed(self) -> bool:
        """Whether one of the streams has ended, or is not listened to any more."""
        return any(rank.closed for rank in self._ranks)

    @property
    def lost(self) -> str:
        """Machine of it that is gone, and the reason; "": none is."""
        return next((rank.lost for rank in self._ranks if rank.lost), "")

    @property
    def open_ranks(self) -> list[EngineProcess]:
        """The processes to poll for messages."""
        return [rank for rank in self._own if not rank.closed]

    def send(self, message: Struct) -> None:
        """Send a setup to all, anything else to rank 0. Raises `IpcError` for a message too long."""
        for rank in self._ranks if isinstance(message, Setup) else (self._first,):
            rank.send(message)

    def flush(self) -> None:
        """Send what was kept, as far as the sockets take it."""
        for rank in self._ranks:
            rank.flush()

    def receive(self) -> Iterator[Struct]:
        """Read the messages that have arrived. Raises `IpcError` for one that is invalid, or not a rank's to send.

        Of the ranks after the first that is why one cannot load, or that memory ran out in it, which ends it.
        """
        followers: list[tuple[int, Struct]] = []
        broken: IpcError | None = None
        for number, rank in enumerate(self._ranks[1:], 1):
            try:
                followers += [(number, message) for message in rank.receive()]
            except IpcError as error:
                broken = broken or error
        # Before rank 0's, which has that a rank is gone, and not why.
        for number, message in followers:
            if isinstance(message, JobFailed) and message.fatal:
                yield self._named(number, message)
        for message in self._first.receive():
            if not isinstance(message, LoadFailed):
                yield message
            elif self._is_first_failure():
                yield self._named(0, message)
        for number, message in followers:
            if isinstance(message, LoadFailed):
                if self._is_first_failure():
                    yield self._named(number, message)
            elif not (isinstance(message, JobFailed) and message.fatal):
                broken = broken or IpcError(f"{self._name(number)} sent {type(message).__name__}")
        if broken is not None:
            raise broken

    def _is_first_failure(self) -> bool:
        """Whether no rank has failed to load before. What keeps one from it keeps all, as a rule: the first reason is enough."""
        before, self._load_failed = self._load_failed, True
        return not before

    def _named(self, number: int, message: LoadFailed | JobFailed) -> Struct:
        """The message with its rank's name, if it has one."""
        if len(self._ranks) == 1:
            return message
        return replace(message, message=f"{self._name(number)}: {message.message}"[:MAX_TEXT])

    def progress(self) -> tuple[Progress, ...]:
        """Read the counters of rank 0, slot by slot."""
        return self._first.progress()

    def memory_mb(self) -> tuple[tuple[int, int], ...]:
        """(used, total) of each rank on this machine from its counters."""
        return tuple(rank.memory_mb() for rank in self._own)

    def request_cancel(self, slot: int, fence: int) -> None:
        """Set the cancel flag of a slot."""
        self._first.request_cancel(slot, fence)

    def request_park(self, slot: int, fence: int) -> None:
        """Set the park flag of a slot."""
        self._first.request_park(slot, fence)

    def poll(self) -> str | None:
        """Return how it ended, once none of its processes is left; None before. When one has ended, the others are killed."""
        ends = [rank.poll() for rank in self._ranks]
        if not self.first_end and any(ends):
            self.first_end = "; ".join(
                f"{self._name(number)}: {how}" if len(ends) > 1 else how for number, how in enumerate(ends) if how
            )
            self.kill()
        return self.first_end if all(ends) else None

    def kill(self) -> None:
        """Send SIGKILL to all."""
        for rank in self._ranks:
            rank.kill()

    def release(self, spared: Sequence[int] = ()) -> None:
        """Give back descriptors, after its end. What it left running is killed, but for the processes `spared`."""
        for rank in self._ranks:
            rank.release()
        kill_orphans(spared)

    def _name(self, number: int) -> str:
        where = self._ranks[number].name
        return f"rank {number} of {len(self._ranks)}" + (f" ({where})" if where else "")
