"""A router over a real core and journal, and wires that only remember."""

from __future__ import annotations

import time
from collections import deque

from broker.core.machine import Core
from broker.core.policy import Policy
from broker.shell.journal.disk import Disk
from broker.shell.journal.sqlite_store import sqlite_journal
from broker.shell.metrics import Metrics
from broker.shell.net.peer_limits import PeerLimiter
from broker.shell.router import Router
from broker.testing import worker_info
from broker.wire import codec
from broker.wire import messages as m

NOW = 1_000_000.0


class Listener:
    """A socket's inbox."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.keyed = False
        self.rest = None
        self.cuts = 0
        #: Routing id and frames of each message.
        self.inbox: deque[list[bytes]] = deque()

    def receive(self) -> tuple[bytes, bytes, bool] | None:
        if not self.inbox:
            return None
        routing_id, frame, *further = self.inbox.popleft()
        return routing_id, frame, bool(further)

    def sender(self) -> str:
        return ""

    def cut(self) -> None:
        self.cuts += 1

    def readable(self) -> bool:
        return bool(self.inbox)


class Sockets:
    """Both inboxes, and what was sent; peers in `gone` cannot be reached."""

    def __init__(self, log: list[str]) -> None:
        self.front = Listener(b"f")
        self.back = Listener(b"b")
        self.gone: set[bytes] = set()
        self.deliveries: list[tuple[bytes, m.Message]] = []
        #: What was sent in the words of another version.
        self.foreign: list[tuple[bytes, bytes]] = []
        self._log = log

    def send(self, peer: bytes, frame: bytes) -> bool:
        self._log.append("send")
        if peer in self.gone:
            return False
        decode = codec.to_edge if peer.startswith(b"f") else codec.to_agent
        try:
            self.deliveries += [(peer, message) for message in decode(frame)]
        except codec.VersionError:
            self.foreign.append((peer, frame))
        return True


def held(run: m.Run) -> m.Held:
    """An attempt as its worker tells of it."""
    return m.Held(job_id=run.job_id, fence=run.fence, phase="denoise")


class Bench:
    """A router with everything it needs, driven by hand."""

    def __init__(self, home, **policy) -> None:
        self.log: list[str] = []
        self.journal = sqlite_journal(home / "jobs.sqlite")
        commit = self.journal.commit

        def logged_commit(*, lazy: bool = True) -> int:
            self.log.append("commit")
            return commit(lazy=lazy)

        self.journal.commit = logged_commit
        self.core = Core(self.journal.epoch, Policy(**policy), NOW)
        self.wires = Sockets(self.log)
        self.disk = Disk(home, self.journal.store.path, min_free=0, reserve=0)
        self.limiter = PeerLimiter()
        self.metrics = Metrics(self.limiter)
        self.router = Router(
            self.core, self.journal, self.wires, self.disk, self.metrics, self.limiter, time.perf_counter
        )
        self.now = NOW

    def edge(self, message: m.Message, peer: bytes = b"edge") -> None:
        self.wires.front.inbox.append([peer, codec.encode(message)])

    def agent(self, message: m.Message, peer: bytes = b"agent") -> None:
        self.wires.back.inbox.append([peer, codec.encode(message)])

    def join(self, peer: bytes = b"agent", name: str = "cpu-0", free: int = 1) -> None:
        self.agent(m.Hello(name=name, boot="boot", seen=0, free=free, body=worker_info()), peer)
        self.run()

    def run(self, seconds: float = 0.0) -> bool:
        self.now += seconds
        return self.router.run_pass(self.now)

    def sent(self, kind=m.Message, peer: bytes | None = None) -> list:
        return [message for to, message in self.wires.deliveries if isinstance(message, kind) and peer in (None, to)]
