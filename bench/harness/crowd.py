"""Many simulated workers in one thread: each holds its job for a while, so that the broker meets a pool of that size at work.

The sockets' descriptors are in one epoll, since polling a thousand sockets each time would cost more than the broker takes. A ZeroMQ
descriptor signals changes only, so a socket is read dry after each signal and after each send.
"""

from __future__ import annotations

import heapq
import random
import select
import time
from collections.abc import Callable

import zmq

from bench.harness.simworker import BEAT_S, SimWorker, dealer
from broker.wire import messages as m

_LOOK_S = 0.05
#: Longest wait for messages in a turn.
_WAIT_S = 0.005


class CrowdWorker(SimWorker):
    """Holds each job until `finish` is called; `idle_at` is when it last reported that it has room."""

    idle_at = 0.0
    run: m.Run | None = None

    def _work(self, run: m.Run) -> None:
        self.run = run
        self._seen = max(self._seen, run.fence)

    def finish(self) -> None:
        """Report the job's end, with room for the next."""
        run, self.run = self.run, None
        if run is not None:
            self.idle_at = time.monotonic()
            super()._work(run)

    def _held(self) -> tuple[m.Held, ...]:
        running = (m.Held(job_id=self.run.job_id, fence=self.run.fence, phase="denoise"),) if self.run else ()
        return (*super()._held(), *running)

    @property
    def room(self) -> int:
        """Room for one job at a time."""
        return 0 if self.run else self._credit


class WorkerCrowd:
    """All workers of one measurement."""

    def __init__(
        self, endpoint: str, count: int, hold_s: float, seed: int, check: Callable[[], None], name: str = "crowd"
    ) -> None:
        """`check` is called in each turn; `name`: what the workers' names begin with."""
        self._random = random.Random(seed)
        self._hold_s = hold_s
        self._check = check
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, count + 16)
        self._epoll = select.epoll()
        self._by_fd: dict[int, CrowdWorker] = {}
        #: (when, order, worker): jobs that end, and heartbeats.
        self._ends: list[tuple[float, int, CrowdWorker]] = []
        self._beats: list[tuple[float, int, CrowdWorker]] = []
        self._order = 0
        #: Seconds from a result with room in it to the next job.
        self.dispatches: list[float] = []
        self.ended = 0
        #: Seconds by which turns in which nothing came were longer than they had to be: the delays of this process itself.
        self.late: list[float] = []
        for number in range(count):
            worker = CrowdWorker(dealer(self._context, endpoint), f"{name}-{number}", 1, lambda _: None, self._on_end)
            fd = int(worker.socket.getsockopt(zmq.FD))
            self._by_fd[fd] = worker
            self._epoll.register(fd, select.EPOLLIN)
            worker.next_beat = BEAT_S * self._random.random()
            self._push(self._beats, time.monotonic() + worker.next_beat, worker)

    def serve(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Play all workers for so long, or until `done`."""
        end = time.monotonic() + seconds
        look_at = 0.0
        while (now := time.monotonic()) < end:
            if now >= look_at:  # it walks all workers, which would cost more than to serve them
                if done():
                    break
                look_at = now + _LOOK_S
            signalled = self._epoll.poll(_WAIT_S)
            if not signalled:
                self.late.append(max(0.0, time.monotonic() - now - _WAIT_S))
            for fd, _ in signalled:
                self._read(self._by_fd[fd])
            while self._ends and self._ends[0][0] <= now:
                worker = heapq.heappop(self._ends)[2]
                worker.finish()
                self._read(worker)
            while self._beats and self._beats[0][0] <= now:
                worker = heapq.heappop(self._beats)[2]
                worker.beat(now)
                self._read(worker)
                self._push(self._beats, worker.next_beat if worker.welcome else now + BEAT_S, worker)
            self._check()

    @property
    def welcome(self) -> int:
        """Workers that the broker has registered."""
        return sum(worker.welcome for worker in self._by_fd.values())

    @property
    def answered_beats(self) -> int:
        """Heartbeats that the broker has answered."""
        return sum(worker.answered_beats for worker in self._by_fd.values())

    @property
    def busy(self) -> int:
        """Workers that hold a job."""
        return sum(worker.run is not None for worker in self._by_fd.values())

    def hold(self) -> None:
        """Let no job end any more."""
        self._ends.clear()
        self._hold_s = 1e9

    def close(self) -> None:
        self._epoll.close()
        for worker in self._by_fd.values():
            worker.socket.close(linger=0)
        self._context.term()

    def _read(self, worker: CrowdWorker) -> None:
        had = worker.run
        while int(worker.socket.getsockopt(zmq.EVENTS)) & int(zmq.POLLIN):
            worker.handle()
        if worker.run is not None and worker.run is not had:
            now = time.monotonic()
            if worker.idle_at:
                self.dispatches.append(now - worker.idle_at)
            self._push(self._ends, now + self._random.uniform(0.5, 1.5) * self._hold_s, worker)

    def _push(self, heap: list[tuple[float, int, CrowdWorker]], at: float, worker: CrowdWorker) -> None:
        self._order += 1
        heapq.heappush(heap, (at, self._order, worker))

    def _on_end(self, job_id: str, accepted: bool) -> None:
        self.ended += accepted
