"""The workers: who they are, when they were last heard, what they hold, how much room they have.

Room is what the worker said last, less the grants it cannot have seen when it said so (fence above the highest it had received).
Absolute numbers heal by themselves: a lost message is corrected by the next heartbeat, where counted credit would leak for good.

A worker is *suspect* when it has been silent for a while or its address cannot be reached (no new work), and *lost* after a longer
silence (its jobs go back to the queue). Its name is its identity; a peer is only an address.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from broker.wire.messages import EngineState, Heartbeat, WorkerInfo


class Worker:
    """One worker, as last heard."""

    def __init__(self, name: str, boot: str, peer: bytes, info: WorkerInfo, now: float) -> None:
        self.name = name
        self.boot = boot
        self.peer = peer
        self.info = info
        self.models = frozenset(card.name for card in info.models)
        self.last_heard_at = now
        self.seen = 0
        self.free = 0
        #: job id -> fence, as granted or adopted.
        self.held: dict[str, int] = {}
        #: Fences granted after the last word of this worker, ascending.
        self._unseen: list[int] = []
        self.suspect = False
        self.lost = False
        #: It says that it drains; it has been asked to.
        self.draining = False
        self.drain_asked = False
        #: Jobs that failed here since one succeeded and nowhere else, oldest first; benched until then, and how often by now.
        self.blamed: dict[str, None] = {}
        self.benched_until = 0.0
        self.benchings = 0
        self.engine: EngineState = "starting"
        self.model = ""
        self.stats = Heartbeat(seen=0, free=0)
        self.idle_since = now
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0

    @property
    def benched(self) -> bool:
        """Whether it sits out after too many failures."""
        return self.benched_until > 0

    def capacity(self) -> tuple[int, bool]:
        """(room, in service): see there."""
        if self.lost or self.suspect or self.draining or self.drain_asked or self.benched_until:
            return 0, False
        room = self.free - len(self._unseen)
        return room if room > 0 else 0, self.engine not in ("restarting", "stopped")

    @property
    def in_service(self) -> bool:
        """Whether it runs jobs or soon will."""
        return self.capacity()[1]

    @property
    def room(self) -> int:
        """How many jobs it may be given now."""
        return self.capacity()[0]

    def grant(self, job_id: str, fence: int) -> None:
        self.held[job_id] = fence
        self._unseen.append(fence)

    def inherit(self, old: Worker) -> None:
        """Hold what the worker of this name held until now."""
        self.held, self._unseen = dict(old.held), [*old._unseen]

    def said(self, seen: int, free: int) -> None:
        """It has received every fence up to `seen`, and had `free` room then."""
        if seen > self.seen:
            self.seen = seen
        self.free = free
        if self._unseen and self._unseen[0] <= self.seen:
            del self._unseen[: bisect_right(self._unseen, self.seen)]

    def took(self, fence: int) -> None:
        """It has received every fence up to this one; what that took of its room is still to be said."""
        if fence > self.seen:
            taken = bisect_right(self._unseen, fence)
            self.said(fence, max(0, self.free - taken))

    def release(self, job_id: str, fence: int, now: float) -> bool:
        """It does not hold this attempt any more; True when that makes room, as it has not seen the grant."""
        if self.held.get(job_id) != fence:
            return False
        del self.held[job_id]
        if not self.held:
            self.idle_since = now
        unseen = fence in self._unseen
        if unseen:
            self._unseen.remove(fence)
        return unseen


class Pool:
    """All workers by name and by peer, and the set of those with room."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self._by_peer: dict[bytes, Worker] = {}
        #: Workers with room by name, in no promised order, and names of those in service; kept by `refresh`.
        self.free: dict[str, Worker] = {}
        self._serving: set[str] = set()

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers.values())

    def at(self, peer: bytes) -> Worker | None:
        return self._by_peer.get(peer)

    def get(self, name: str) -> Worker | None:
        return self.workers.get(name)

    def add(self, worker: Worker) -> None:
        self.workers[worker.name] = worker
        self._by_peer[worker.peer] = worker
        self.refresh(worker)

    def move_to(self, worker: Worker, peer: bytes) -> None:
        """It speaks from another address now."""
        self._by_peer.pop(worker.peer, None)
        worker.peer = peer
        self._by_peer[peer] = worker

    def remove(self, worker: Worker) -> None:
        if self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
            self.free.pop(worker.name, None)
            self._serving.discard(worker.name)
        self._by_peer.pop(worker.peer, None)

    def unreachable(self, worker: Worker) -> None:
        """Its address is gone; what comes next comes from another one, with a `Hello`."""
        self._by_peer.pop(worker.peer, None)
        worker.suspect = True
        self.refresh(worker)

    def refresh(self, worker: Worker) -> None:
        """Call after anything that changes a worker's room, or whether it is in service."""
        name = worker.name
        room, in_service = worker.capacity()
        if room:
            self.free[name] = worker
        elif name in self.free:
            del self.free[name]
        if in_service:
            self._serving.add(name)
        else:
            self._serving.discard(name)

    def usable(self) -> int:
        """How many workers run jobs or soon will."""
        return len(self._serving)
