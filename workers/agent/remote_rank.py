"""One process of an engine on another machine, as the agent holds it: with the methods of `EngineProcess`, carried out by a rank host."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from workers.ipc.messages import Setup
from workers.machines.leader import End, Leader


class RemoteRank:
    """Process of a life, by place and number there. `name`: that of its machine."""

    def __init__(self, leader: Leader, life: int, place: int, number: int, name: str) -> None:
        self._leader = leader
        self._life, self._place, self._number = life, place, number
        self._how: str | None = None
        self.name = name

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self.poll() is not None

    def send(self, message: Struct) -> None:
        """Give it the setup, as all processes of its life: others get no other message."""
        assert isinstance(message, Setup)
        # Rank 0 signs, with files of its own machine.
        self._leader.set_up(self._life, replace(message, credentials=None))

    def flush(self) -> None:
        """Do nothing: what is sent waits for its machine."""

    def receive(self) -> list[Struct]:
        """Read the messages that have arrived."""
        return [*self._leader.take(self._life, self._place, self._number)]

    def poll(self) -> str | None:
        """Return how it has ended, in words; None while it runs, as far as is known."""
        if self._how is None and (end := self._read_end()) is not None:
            self._how = end.how
        return self._how

    @property
    def lost(self) -> str:
        """Reason why its machine is gone, also if it had ended before; "": it is not."""
        end = self._read_end()
        return end.how if end is not None and end.lost else ""

    def _read_end(self) -> End | None:
        return self._leader.end_of(self._life, self._place, self._number)

    def kill(self) -> None:
        """End its life."""
        self._leader.kill(self._life)

    def release(self) -> None:
        """Forget its life, which has ended."""
        self._leader.forget(self._life)
