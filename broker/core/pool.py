"""The workers: names and addresses, when a message last came from them, held attempts, room.

Room is the worker's last report, less the grants that it had not seen then (fence above the highest it had received).
Absolute numbers heal by themselves: a lost message is corrected by the next heartbeat, where counted credit would leak for good.

A worker is *suspect* when it has been silent for a while or its address cannot be reached (no new work), and *lost* after a longer
silence (its jobs go back to the queue). Its name is its identity; a peer is only an address.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator

from broker.core.scheduling.free_workers import FreeWorkers
from broker.core.scheduling.worker_sizes import WorkerSizes
from broker.wire.messages import EngineState, Heartbeat, WorkerInfo


class Worker:
    """One worker, as its last message left it. Read anywhere; what its capacity depends on is changed by methods of `Pool` alone."""

    def __init__(self, name: str, boot: str, peer: bytes, info: WorkerInfo, now: float) -> None:
        self.name = name
        self.boot = boot
        self.peer = peer
        self.info = info
        self.models = frozenset(card.name for card in info.models)
        #: Those of which a job goes on from its checkpoint.
        self.resumable = frozenset(card.name for card in info.models if card.resumes)
        self.last_message_at = now
        self.seen = 0
        self.free = 0
        #: job id -> fence, as granted or adopted.
        self.held: dict[str, int] = {}
        #: The job that made room here, until another one is given this worker.
        self.left_by = ""
        #: Fences granted after the last report of this worker, ascending.
        self.unseen: list[int] = []
        self.suspect = False
        self.lost = False
        #: It reports that it drains; its drain was requested.
        self.draining = False
        self.drain_requested = False
        #: It is to take jobs again: `Undrain` is repeated while it reports that it drains.
        self.undrain_requested = False
        #: What it holds is to come back at once.
        self.hand_back = False
        #: Jobs that failed here since one succeeded and nowhere else, oldest first; without work until then, and how often in a row by now.
        self.recent_failures: dict[str, None] = {}
        self.tripped_until = 0.0
        self.trips = 0
        self.engine: EngineState = "starting"
        self.model = ""
        self.stats = Heartbeat(seen=0, free=0)
        self.idle_since = now
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0

    @property
    def loaded_loras(self) -> Collection[str]:
        """LoRAs beside the weights of `model`."""
        return self.stats.loaded_loras

    @property
    def tripped(self) -> bool:
        """Whether it gets no work for a while, after too many failures."""
        return self.tripped_until > 0

    @property
    def fault(self) -> str:
        """Reason why its device is not to be used, as reported; "": it may be used."""
        return self.stats.health.fault

    def capacity(self) -> tuple[int, bool]:
        """(room, in service): see there."""
        if (
            self.lost
            or self.suspect
            or self.draining
            or self.drain_requested
            or self.tripped_until
            or self.stats.health.fault
        ):
            return 0, False
        room = self.free - len(self.unseen)
        return room if room > 0 else 0, self.engine not in ("restarting", "stopped")

    @property
    def in_service(self) -> bool:
        """Whether it runs jobs or soon will."""
        return self.capacity()[1]

    @property
    def room(self) -> int:
        """Number of jobs that it may be given now."""
        return self.capacity()[0]


class Pool:
    """All workers by name and by peer, and the index of those with room.

    Every change of what `Worker.capacity` reads, or what `FreeWorkers` orders by, is a method here, so that the index follows.
    """

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        #: For reading.
        self.by_peer: dict[bytes, Worker] = {}
        #: Workers with room, and names of those in service.
        self.free: FreeWorkers[Worker] = FreeWorkers()
        self._serving: set[str] = set()
        #: All names in order; None: they have changed since that was requested.
        self._names: list[str] | None = None
        #: For reading.
        self.sizes = WorkerSizes(self.workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers.values())

    def behind(self, name: str, limit: int) -> tuple[list[Worker], bool]:
        """The next workers by name, at most `limit` (0: all), and whether there are more."""
        if self._names is None:
            self._names = sorted(self.workers)
        first = bisect_right(self._names, name) if name else 0
        end = first + limit if limit else len(self._names)
        return [self.workers[one] for one in self._names[first:end]], end < len(self._names)

    def usable(self) -> int:
        """Number of workers that run jobs or soon will."""
        return len(self._serving)

    # ------------------------------------------------------------ registered workers

    def add(self, worker: Worker) -> None:
        """Register a worker of a new name."""
        self._names = None
        self.workers[worker.name] = worker
        self.by_peer[worker.peer] = worker
        self.sizes.note(worker.name, worker.info.gpus)
        self._index(worker)

    def register_again(self, worker: Worker, boot: str, peer: bytes, info: WorkerInfo, now: float) -> None:
        """Take a known worker's new address, or new process: its record and held attempts stay.

        A new process begins afresh: no drain was requested of it, it failed at nothing, and its device counts as sound.
        """
        self.by_peer.pop(worker.peer, None)
        if boot != worker.boot:
            worker.drain_requested, worker.hand_back, worker.tripped_until, worker.trips = False, False, 0.0, 0
            worker.undrain_requested = False
            worker.recent_failures.clear()
            worker.stats = Heartbeat(seen=0, free=0)
        worker.boot, worker.peer, worker.info = boot, peer, info
        worker.models = frozenset(card.name for card in info.models)
        worker.resumable = frozenset(card.name for card in info.models if card.resumes)
        worker.last_message_at = worker.idle_since = now
        worker.seen = worker.free = 0
        worker.suspect = worker.lost = worker.draining = False
        self.by_peer[peer] = worker
        self.sizes.note(worker.name, info.gpus)
        self._index(worker)

    def remove(self, worker: Worker) -> None:
        if self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
            self._names = None
            if worker.name in self.free.by_name:
                self.free.take(worker.name)
            self._serving.discard(worker.name)
            self.sizes.note(worker.name, 0)
        self.by_peer.pop(worker.peer, None)

    # ------------------------------------------------------------ silence

    def renew_lease(self, worker: Worker, now: float) -> None:
        """Renew the lease and lift the suspicion, as any message does."""
        if now > worker.last_message_at:
            worker.last_message_at = now
        if worker.suspect:
            worker.suspect = False
            self._index(worker)

    def mark_suspect(self, worker: Worker) -> None:
        """Give no new work to a worker that is silent."""
        worker.suspect = True
        self._index(worker)

    def mark_unreachable(self, worker: Worker) -> None:
        """Drop the worker's address, which cannot be reached: it comes back from another one, with a `Hello`."""
        self.by_peer.pop(worker.peer, None)
        self.mark_suspect(worker)

    def mark_lost(self, worker: Worker) -> None:
        """Mark a worker as lost, which was silent for too long."""
        worker.lost = True
        self.sizes.note(worker.name, 0)
        self._index(worker)

    # ------------------------------------------------------------ room

    def update_room(self, worker: Worker, seen: int, free: int) -> None:
        """Note the worker's report that it has received every fence up to `seen`, and had `free` room then."""
        if seen > worker.seen:
            worker.seen = seen
        else:
            seen = worker.seen
        worker.free = free
        unseen = worker.unseen
        if unseen and unseen[0] <= seen:
            worker.unseen = [] if unseen[-1] <= seen else unseen[bisect_right(unseen, seen) :]
        self._index(worker)

    def update_stats(self, worker: Worker, stats: Heartbeat) -> None:
        """Take the numbers of a heartbeat."""
        worker.engine, worker.model, worker.stats = stats.engine, stats.model, stats
        worker.draining = stats.draining
        worker.undrain_requested = worker.undrain_requested and stats.draining
        self.update_room(worker, stats.seen, stats.free)

    def grant(self, worker: Worker, job_id: str, fence: int) -> None:
        """Count an attempt that is about to be sent to the worker."""
        worker.held[job_id] = fence
        worker.unseen.append(fence)
        self._index(worker)

    def adopt(self, worker: Worker, job_id: str, fence: int) -> None:
        """Count an attempt that the worker reports as held."""
        worker.held[job_id] = fence
        self._index(worker)

    def release(self, worker: Worker, job_id: str, fence: int, now: float) -> None:
        """Count an attempt no longer; that makes room where the worker has not seen the grant."""
        if worker.held.get(job_id) != fence:
            return
        del worker.held[job_id]
        if not worker.held:
            worker.idle_since = now
        if fence in worker.unseen:
            worker.unseen.remove(fence)
            self._index(worker)
        elif worker.name in self.free.by_name:
            self.free.put(worker)

    # ------------------------------------------------------------ out of service

    def request_drain(self, worker: Worker, *, hand_back: bool = False) -> None:
        """Give no new work to a worker that is to end; `hand_back`: it hands back what it holds."""
        worker.drain_requested, worker.undrain_requested = True, False
        worker.hand_back = worker.hand_back or hand_back
        self._index(worker)

    def request_undrain(self, worker: Worker) -> None:
        """Take a drain back. Work comes once the worker reports that it drains no more."""
        worker.drain_requested = worker.hand_back = False
        worker.undrain_requested = True
        self._index(worker)

    def trip(self, worker: Worker, until: float) -> None:
        """Give no new work until then; 0: give it work again."""
        worker.tripped_until = until
        self._index(worker)

    def _index(self, worker: Worker) -> None:
        name = worker.name
        room, in_service = worker.capacity()
        if room:
            self.free.put(worker)
        elif name in self.free.by_name:
            self.free.take(name)
        if not in_service:
            self._serving.discard(name)
        elif name not in self._serving:
            self._serving.add(name)
