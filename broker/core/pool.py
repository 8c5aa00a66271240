"""The workers: who they are, when they were last heard, what they hold, how much room they have.

Room is what the worker said last, less the grants it cannot have seen when it said so (fence above the highest it had received).
Absolute numbers heal by themselves: a lost message is corrected by the next heartbeat, where counted credit would leak for good.

A worker is *suspect* when it has been silent for a while or its address cannot be reached (no new work), and *lost* after a longer
silence (its jobs go back to the queue). Its name is its identity; a peer is only an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import dropwhile

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

    @property
    def _shut(self) -> bool:
        return self.lost or self.suspect or self.draining or self.drain_asked or self.benched

    @property
    def in_service(self) -> bool:
        """Whether it runs jobs or soon will."""
        return not (self._shut or self.engine in ("restarting", "stopped"))

    @property
    def room(self) -> int:
        """How many jobs it may be given now."""
        if self._shut:
            return 0
        return max(0, self.free - len(self._unseen))

    def grant(self, job_id: str, fence: int) -> None:
        self.held[job_id] = fence
        self._unseen.append(fence)

    def inherit(self, old: Worker) -> None:
        """Hold what the worker of this name held until now."""
        self.held, self._unseen = dict(old.held), [*old._unseen]

    def said(self, seen: int, free: int) -> None:
        """It has received every fence up to `seen`, and had `free` room then."""
        self.seen = max(self.seen, seen)
        self.free = free
        if self._unseen and self._unseen[0] <= self.seen:
            self._unseen = list(dropwhile(lambda fence: fence <= self.seen, self._unseen))

    def took(self, fence: int) -> None:
        """It has received every fence up to this one; what that took of its room is still to be said."""
        taken = sum(1 for granted in self._unseen if granted <= fence)
        if fence > self.seen:
            self.said(fence, max(0, self.free - taken))

    def release(self, job_id: str, fence: int, now: float) -> None:
        """It does not hold this attempt any more."""
        if self.held.get(job_id) == fence:
            del self.held[job_id]
            if fence in self._unseen:
                self._unseen.remove(fence)
            if not self.held:
                self.idle_since = now


class Pool:
    """All workers by name and by peer, and the set of those with room."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self._by_peer: dict[bytes, Worker] = {}
        #: Names of workers with room > 0; kept by `refresh`.
        self._free: dict[str, Worker] = {}

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
            self._free.pop(worker.name, None)
        self._by_peer.pop(worker.peer, None)

    def unreachable(self, worker: Worker) -> None:
        """Its address is gone; what comes next comes from another one, with a `Hello`."""
        self._by_peer.pop(worker.peer, None)
        worker.suspect = True
        self.refresh(worker)

    def refresh(self, worker: Worker) -> None:
        """Call after anything that changes a worker's room."""
        if worker.room > 0:
            self._free[worker.name] = worker
        else:
            self._free.pop(worker.name, None)

    def free(self) -> list[Worker]:
        """Workers with room, in no promised order."""
        return list(self._free.values())

    @property
    def has_room(self) -> bool:
        return bool(self._free)

    def usable(self) -> int:
        """How many workers run jobs or soon will."""
        return sum(1 for worker in self.workers.values() if worker.in_service)
