"""Connections as ZeroMQ gives them: in order and whole while they last, and no word about what was lost when they break.

A new connection has a new address. What was under way when one broke may still arrive, behind what comes over the next (the pipes of two
connections are read in turn). A side that does not know of the break yet sends into the void.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

from tests.simulation.timeline import Timeline

#: The system ends a connection over which nothing has come for this long.
REAPED_AFTER_S = 15.0


class Network:
    """Delays, and whether messages come twice."""

    def __init__(self, timeline: Timeline, random: Random, delays: tuple[float, ...], doubled: float) -> None:
        """`delays`: what a message takes, each as likely. `doubled`: the part of messages that arrives twice."""
        self.timeline = timeline
        self.random = random
        self.delays = delays
        self.doubled = doubled
        #: What a message that nothing stops takes at most.
        self.longest_s = max(delays)
        self._connections = 0

    def calm_down(self) -> None:
        self.delays, self.doubled = (0.0, 0.001), 0.0

    def delay(self) -> float:
        return self.random.choice(self.delays)

    def address(self) -> bytes:
        self._connections += 1
        return b"\0%04x" % self._connections


class _Message:
    __slots__ = ("frame",)

    def __init__(self, frame: bytes | None) -> None:
        #: None: it was lost under way.
        self.frame = frame


class Pipe:
    """One direction of one connection."""

    def __init__(self, network: Network, deliver: Callable[[bytes], None]) -> None:
        self._network = network
        self._deliver = deliver
        self._under_way: deque[_Message] = deque()
        self._last_at = 0.0
        self.blocked_until = 0.0

    def __len__(self) -> int:
        return len(self._under_way)

    def send(self, frame: bytes) -> None:
        network = self._network
        arrival = max(network.timeline.now + network.delay(), self._last_at, self.blocked_until)
        self._last_at = arrival
        message = _Message(frame)
        self._under_way.append(message)
        network.timeline.at(arrival, lambda: self._arrive(message))
        if network.doubled and network.random.random() < network.doubled:
            self._under_way.append(twin := _Message(frame))
            network.timeline.at(arrival, lambda: self._arrive(twin))

    def _arrive(self, message: _Message) -> None:
        if self._under_way and self._under_way[0] is message:
            self._under_way.popleft()
        if message.frame is not None:
            self._deliver(message.frame)

    def cut(self) -> None:
        """The connection is gone: the first few messages under way still arrive, the rest does not."""
        saved = self._network.random.randint(0, len(self._under_way))
        for index, message in enumerate(self._under_way):
            if index >= saved:
                message.frame = None
        self._under_way.clear()


class Host(Protocol):
    """The broker's side of all connections."""

    def arrived(self, connection: Connection, frame: bytes) -> None: ...

    def accept(self, connection: Connection) -> bool:
        """Whether there is somebody who listens now."""

    def routes(self) -> dict[bytes, Connection]:
        """Peer -> connection, as the broker's sockets believe."""


class Client(Protocol):
    """The other side of one."""

    def received(self, connection: Connection, frame: bytes) -> None: ...

    def connected(self, connection: Connection) -> None: ...


class Connection:
    """One connection, from its beginning to its end."""

    def __init__(self, network: Network, prefix: bytes, client: Client, host: Host) -> None:
        self.network = network
        self.peer = prefix + network.address()
        self.alive = True
        #: Which life of the client it belongs to.
        self.owner = 0
        self.up = Pipe(network, lambda frame: host.arrived(self, frame))
        self.down = Pipe(network, lambda frame: client.received(self, frame))


class Cable:
    """A client's way to the broker: the connection that it has now, if any, and how it gets the next one."""

    def __init__(self, network: Network, prefix: bytes, client: Client, host: Host) -> None:
        self.network = network
        self.prefix = prefix
        self.client = client
        self.host = host
        self.connection: Connection | None = None
        self.used = True
        self._not_before = 0.0
        #: Until when each direction stands still, over reconnects.
        self._blocked = {"up": 0.0, "down": 0.0}

    def connect(self) -> None:
        """Try to get a connection now."""
        timeline = self.network.timeline
        if not self.used or self.connection is not None or timeline.now < self._not_before:
            return
        if max(self._blocked.values()) > timeline.now:
            timeline.at(max(self._blocked.values()), self.connect)
            return
        connection = Connection(self.network, self.prefix, self.client, self.host)
        if self.host.accept(connection):
            self.connection = connection
            self.client.connected(connection)

    def send(self, frame: bytes) -> bool:
        """Hand a message to the connection; False when there is none."""
        if self.connection is None:
            return False
        self.connection.up.send(frame)
        return True

    def cut(self, back_s: float, noticed_s: float = 0.0) -> None:
        """Break the connection. The broker's side notices after `noticed_s`, the next is tried for after `back_s`."""
        connection, self.connection = self.connection, None
        timeline = self.network.timeline
        if connection is not None:
            connection.alive = False
            connection.up.cut()
            connection.down.cut()
            timeline.after(noticed_s, lambda: self.host.routes().pop(connection.peer, None))
        self._not_before = timeline.now + back_s
        timeline.at(self._not_before, self.connect)

    def block(self, ways: tuple[str, ...], seconds: float) -> None:
        """Nothing passes in these directions ("up": to the broker) for so long. A connection that is blocked for too long ends."""
        timeline = self.network.timeline
        blocked = self.connection
        for way in ways:
            self._blocked[way] = max(self._blocked[way], timeline.now + seconds)
            if self.connection is not None:
                getattr(self.connection, way).blocked_until = self._blocked[way]
        if seconds >= REAPED_AFTER_S:
            timeline.after(REAPED_AFTER_S, lambda: self._time_out(blocked, seconds - REAPED_AFTER_S))

    def _time_out(self, blocked: Connection | None, back_s: float) -> None:
        if blocked is not None and self.connection is blocked:
            self.cut(back_s)

    def heal(self) -> None:
        """Nothing stands in the way any more; what was stopped under way still takes its time."""
        self._blocked = {"up": 0.0, "down": 0.0}
        self._not_before = 0.0
        if self.connection is not None:
            self.connection.up.blocked_until = self.connection.down.blocked_until = 0.0
        self.connect()
