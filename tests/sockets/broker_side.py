"""The broker's end of real sockets, played by a test: a ROUTER that answers what a broker always answers, and tells the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import zmq

from broker.wire import codec
from broker.wire import messages as m
from tests.support.waiting import wait_until

M = TypeVar("M", bound=m.Message)


class BrokerSide:
    """One bound ROUTER. `peers` are the workers by name, as their last `Hello` said."""

    def __init__(self, endpoint: str, epoch: int = 1) -> None:
        self.endpoint = endpoint
        self.epoch = epoch
        self.peers: dict[str, bytes] = {}
        self.hellos: list[m.Hello] = []
        self.infos: dict[str, m.WorkerInfo] = {}
        self.inbox: list[tuple[bytes, m.Message]] = []
        self.beats: dict[bytes, m.Heartbeat] = {}
        #: Every message, in the order in which they came.
        self.history: list[m.Message] = []
        self._names: dict[bytes, str] = {}
        #: Reads, and answers nothing.
        self.mute = False
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.PROBE_ROUTER, 1)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind(endpoint)

    def close(self) -> None:
        self._router.close(0)
        self._context.term()

    def pump(self) -> None:
        """Take in what has come, for a hundredth of a second at most, and answer what is answered always."""
        if not self._router.poll(10):
            return
        while True:
            try:
                peer, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            for message in codec.from_agent(codec.single(frames)):
                if message is not None:
                    self._take(peer, message)

    def _take(self, peer: bytes, message: m.Message) -> None:
        self.history.append(message)
        match message:
            case m.Hello():
                self.peers[message.name] = peer
                self._names[peer] = message.name
                self.hellos.append(message)
                self.infos[message.name] = codec.worker_info(message.body)
                self.send(message.name, m.Welcome(epoch=self.epoch, heartbeat_s=0.2))
            case m.Heartbeat():
                self.beats[peer] = message
                self.reply(peer, m.HeartbeatAck(epoch=self.epoch))
            case _:
                self.inbox.append((peer, message))

    def send(self, name: str, message: m.Message) -> None:
        self.reply(self.peers[name], message)

    def reply(self, peer: bytes, message: m.Message) -> None:
        if self.mute:
            return
        try:
            self._router.send_multipart([peer, codec.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise

    def send_raw(self, name: str, frames: list[bytes]) -> None:
        self._router.send_multipart([self.peers[name], *frames])

    def registered(self, count: int = 1, deadline_s: float = 60.0) -> None:
        """Until so many workers have said `Hello` and are ready for a job."""
        wait_until(lambda: self._ready() >= count, deadline_s, f"{count} ready workers")

    def _ready(self) -> int:
        self.pump()
        return sum(1 for peer in self.peers.values() if peer in self.beats and self.beats[peer].free == 1)

    def beat(self, name: str) -> m.Heartbeat | None:
        """The last heartbeat of this worker."""
        self.pump()
        return self.beats.get(self.peers.get(name, b""))

    def expect(self, kind: type[M], name: str = "", deadline_s: float = 60.0) -> M:
        """The next message of this kind (from this worker), taken out."""

        def found() -> M | None:
            self.pump()
            for index, (peer, message) in enumerate(self.inbox):
                if isinstance(message, kind) and name in ("", self._names.get(peer)):
                    del self.inbox[index]
                    return message
            return None

        return wait_until(found, deadline_s, f"{kind.__name__} from {name or 'anybody'}")  # type: ignore[return-value]

    def run(self, name: str, counter: int, order: str) -> int:
        """Give a worker a job whose body tells the scripted engine what to do; returns the fence."""
        at = self.epoch << 32 | counter
        self.send(name, m.Run(job_id=f"j{counter}", fence=at, lease_s=6.0, body=order.encode()))
        return at

    def acknowledge(self, result: m.AgentResult, name: str, *, accepted: bool = True) -> None:
        self.send(name, m.ResultAck(job_id=result.job_id, fence=result.fence, accepted=accepted))


@contextmanager
def broker_side(endpoint: str, epoch: int = 1) -> Iterator[BrokerSide]:
    side = BrokerSide(endpoint, epoch)
    try:
        yield side
    finally:
        side.close()
