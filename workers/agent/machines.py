"""The other machines of the agent's group: the socket at which their rank hosts come in, and what of the engine runs there.

Decisions are `workers.machines.leader`'s. Where the group is on this machine alone, or there is none, nothing is opened and nothing is due.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import zmq
from msgspec.structs import replace

from broker.runtime.curve_keys import read_peer_key
from broker.runtime.log_actions import Action
from broker.runtime.settings import SettingsError
from workers.agent.effects import Stats
from workers.agent.errors import AddressError, AgentError
from workers.agent.remote_rank import RemoteRank
from workers.gpu.health import together
from workers.machines.endpoint import AddressMissing, host_and_port, own_address
from workers.machines.leader import Leader, Sent
from workers.machines.messages import Device, Leave
from workers.machines.sockets import LeaderSocket
from workers.supervisor.messages import AgentConfig

logger = logging.getLogger(__name__)

#: For so long it waits at the end until the others know that the group has ended.
_LEAVE_S = 2.0

#: For so long it waits for its own address, as of a network that comes up later, and how often it looks.
_ADDRESS_S, _ADDRESS_LOOK_S = 30.0, 0.5

#: Where all ranks are on this machine.
_LOOPBACK = "127.0.0.1"


class Machines:
    """The rank hosts of one worker. Raises `AgentError` where it cannot listen for them, after waiting for its address."""

    def __init__(self, config: AgentConfig) -> None:
        self.leader = Leader(uuid.uuid4().hex, config.machines, len(config.visible))
        #: Where rank 0 of an engine listens: as the others name it, and the address itself.
        self.host = self.address = _LOOPBACK
        self.waits_for = ""
        self._socket: LeaderSocket | None = None
        if config.machines > 1:
            until = time.monotonic() + _ADDRESS_S
            warned = False
            while self._socket is None:
                try:
                    self._socket = self._listen(config)
                except AddressMissing as error:
                    if time.monotonic() >= until:
                        raise AddressError(str(error)) from None
                    if not warned:
                        logger.warning(f"waiting for an address: {error}", extra={"action": Action.MACHINES})
                        warned = True
                    time.sleep(_ADDRESS_LOOK_S)
                except SettingsError as error:
                    raise AgentError(str(error)) from None

    def _listen(self, config: AgentConfig) -> LeaderSocket:
        """Listen for the other machines. Raises `SettingsError`."""
        self.host, port = host_and_port("rank_endpoint", config.rank_endpoint)
        self.address = own_address("rank_endpoint", self.host)
        numeric = f"[{self.address}]" if ":" in self.address else self.address
        return LeaderSocket(f"tcp://{numeric}:{port}", read_peer_key(Path(config.rank_key_file), "worker"))

    @property
    def next_due(self) -> float:
        """Time of the next `serve`."""
        due = self.leader.next_due
        return math.inf if due is None else due

    def register(self, poller: zmq.Poller) -> None:
        """Have the poller wake for their messages."""
        if self._socket is not None:
            self._socket.register(poller)

    def serve(self, now: float) -> None:
        """Take their messages, and send what is due."""
        if self._socket is None:
            return
        for peer, message in self._socket.receive():
            self._send(self.leader.receive(peer, message, now), now)
        self._send(self.leader.tick(now), now)
        waits_for = self.leader.waits_for(now)
        if waits_for != self.waits_for:
            self.waits_for = waits_for
            there = ", ".join(self.leader.there(now))
            logger.log(
                logging.WARNING if waits_for else logging.INFO,
                waits_for or "all machines of the group are there",
                extra={"action": Action.MACHINES, "detail": f"others there: {there or 'none'}"},
            )

    @property
    def stops(self) -> str:
        """Machine that is being stopped, and why; "": none is."""
        return self.leader.stops()

    def start(self, port: int, imports: str, without: str) -> list[RemoteRank]:
        """Start the ranks of an engine that are not on this machine; rank 0 listens at this port. Raises `OSError` while one is missing."""
        if self.leader.next_due is None:
            return []
        if self.waits_for:
            raise OSError(self.waits_for)
        life = self.leader.start(self.host, port, imports, without)
        return [
            RemoteRank(self.leader, life, place, number, name)
            for place, (name, _) in enumerate(self.leader.devices())
            for number in range(self.leader.ranks)
        ]

    def with_theirs(self, own: Stats) -> Stats:
        """Measurements of this machine's ranks, with those of the others."""
        return combined(own, self.leader.devices())

    def close(self, drained: bool | None, reason: str) -> None:
        """End what runs on them; None: this leader comes back, else they end with it."""
        if self._socket is not None:
            messages = self.leader.end(drained, reason)
            for one in messages:
                self._socket.send(one.peer, one.message)
            if drained is not None:
                self._await_leave({one.peer for one in messages})
            self._socket.close()

    def _await_leave(self, peers: set[bytes]) -> None:
        """Wait until these have answered that they end. A connection that is closed while a message arrives takes those before it along,
        also the one that was sent last."""
        assert self._socket is not None
        poller = zmq.Poller()
        self._socket.register(poller)
        until = time.monotonic() + _LEAVE_S
        while peers and (left_s := until - time.monotonic()) > 0:
            poller.poll(int(left_s * 1000) + 1)
            peers -= {peer for peer, message in self._socket.receive() if isinstance(message, Leave)}

    def _send(self, messages: list[Sent], now: float) -> None:
        assert self._socket is not None
        for one in messages:
            if not self._socket.send(one.peer, one.message):
                self.leader.unreachable(one.peer, now)


def combined(own: Stats, others: Sequence[tuple[str, Device]]) -> Stats:
    """Measurements of all machines of a group, the others' with their names: as those of one device; a fault has its machine's name."""
    if not others:
        return own
    devices: list[Stats | Device] = [own, *(device for _, device in others)]
    used = [device.utilisation for device in devices if device.utilisation >= 0]
    faults = (f"{host}: {device.health.fault}" for host, device in others if device.health.fault)
    return Stats(
        memory_used_mb=sum(device.memory_used_mb for device in devices),
        memory_total_mb=sum(device.memory_total_mb for device in devices),
        utilisation=sum(used) / len(used) if used else -1.0,
        temperature_c=max(device.temperature_c for device in devices),
        health=replace(
            together({str(number): device.health for number, device in enumerate(devices)}),
            fault=own.health.fault or next(faults, ""),
        ),
    )
