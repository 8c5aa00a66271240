"""`kill -9` of a broker with thousands of jobs queued: how soon the next one serves, and what became of every job.

Simulated workers on real sockets work through the queue; in the middle of it the broker is killed and started again on the same home.
The count at the end is the promise itself: each job that was accepted has ended, and none was published twice.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import zmq
from msgspec import Struct

from bench.harness.procs import BrokerProcess
from bench.harness.simworker import MODEL, SimWorker, dealer
from bench.report.errors import BenchError
from broker.wire import codec
from broker.wire import messages as m

_STALL_S = 60.0
_WINDOW = 256
#: Share of the jobs that have ended when the broker is killed.
KILL_AT = 0.3
_PING_EVERY_S = 0.02


class Outcome(Struct, frozen=True, kw_only=True):
    """Seconds from the kill to the first answer and to the first job granted, and the count of the jobs."""

    serving_s: float
    granted_s: float
    queued: int
    lost: int
    published_twice: int
    started_twice: int


class Tally:
    """Counts of the jobs as client and workers were sent them, over both lives of the broker."""

    def __init__(self) -> None:
        self.accepted = 0
        self.starts: Counter[str] = Counter()
        self.published: Counter[str] = Counter()
        #: When the broker first answered, and first granted a job, since `restarted`; 0 when not yet.
        self.answered_at = 0.0
        self.granted_at = 0.0

    def restarted(self) -> None:
        """The answers and grants from here on are those of another broker."""
        self.answered_at = self.granted_at = 0.0

    def on_answer(self) -> None:
        """The broker answered a question."""
        self.answered_at = self.answered_at or time.monotonic()

    def on_start(self, job_id: str) -> None:
        """A worker was given this job."""
        self.starts[job_id] += 1
        self.granted_at = self.granted_at or time.monotonic()

    def on_end(self, job_id: str, accepted: bool) -> None:
        """The broker took a result of this job, or did not."""
        if accepted:
            self.published[job_id] += 1

    def outcome(self, jobs: int, queued: int, killed_at: float) -> Outcome:
        """The count, when all that can be published is."""
        return Outcome(
            serving_s=self.answered_at - killed_at,
            granted_s=self.granted_at - killed_at,
            queued=queued,
            lost=jobs - len(self.published),
            published_twice=sum(count > 1 for count in self.published.values()),
            started_twice=sum(count > 1 for count in self.starts.values()),
        )


class Crash:
    """A client and simulated workers that live on while the broker dies."""

    def __init__(self, home: Path, jobs: int, workers: int, body: bytes) -> None:
        self._home = home
        self._jobs = jobs
        self._body = body
        self._tally = tally = Tally()
        self._process = BrokerProcess(home, set())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        settings = self._process.settings
        self._front = dealer(self._context, settings.front_endpoint)
        self._workers = [
            SimWorker(dealer(self._context, settings.back_endpoint), f"sim-{n}", 1, tally.on_start, tally.on_end)
            for n in range(workers)
        ]
        self._poller = zmq.Poller()
        for socket in (self._front, *(worker.socket for worker in self._workers)):
            self._poller.register(socket, zmq.POLLIN)

    def run(self) -> Outcome:
        """Queue, work, kill, restart, work to the end. Raises `BenchError`."""
        tally = self._tally
        try:
            self._process.await_sockets()
            self._queue()
            self._pump(lambda: sum(tally.published.values()) >= KILL_AT * self._jobs, working=True)
            queued = self._jobs - len(tally.starts)
            killed_at = time.monotonic()
            self._process.end()
            self._process = BrokerProcess(self._home, set())
            tally.restarted()
            self._pump(lambda: tally.answered_at > 0 and tally.granted_at > 0, working=True, pinging=True)
            self._pump(lambda: len(tally.published) >= self._jobs, working=True)
            return tally.outcome(self._jobs, queued, killed_at)
        finally:
            self._process.stop()
            for socket in (self._front, *(worker.socket for worker in self._workers)):
                socket.close(linger=0)
            self._context.term()

    def _queue(self) -> None:
        """All jobs accepted, none given out: no worker has registered."""
        for number in range(self._jobs):
            submit = m.Submit(
                req=number + 1, job_id=f"job-{number}", submission=m.Submission(model=MODEL, units=1.0), body=self._body
            )
            self._front.send(codec.encode(submit))
            if number % _WINDOW == 0:
                self._pump(lambda: self._tally.accepted >= number - _WINDOW, working=False)  # noqa: B023  # called at once
        self._pump(lambda: self._tally.accepted >= self._jobs, working=False)

    def _pump(self, done: Callable[[], bool], *, working: bool, pinging: bool = False) -> None:
        give_up = time.monotonic() + _STALL_S
        next_ping = next_beat = 0.0
        while not done():
            now = time.monotonic()
            if now > give_up:
                raise BenchError(
                    f"nothing moved for {_STALL_S:.0f} s; the broker's last words: {self._process.last_lines()}"
                )
            if pinging and now >= next_ping:
                next_ping = now + _PING_EVERY_S
                self._ping()
            if working and now >= next_beat:
                next_beat = now + 0.1
                for worker in self._workers:
                    worker.beat(now)
            for socket, _ in self._poller.poll(10):
                if socket is self._front:
                    self._read_front()
                elif working:
                    next(worker for worker in self._workers if worker.socket is socket).handle()

    def _ping(self) -> None:
        with contextlib.suppress(zmq.Again):
            self._front.send(codec.encode(m.GetJob(req=0, job_id="job-0")), zmq.NOBLOCK)

    def _read_front(self) -> None:
        while True:
            try:
                frame = self._front.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            for message in codec.to_edge(frame):
                match message:
                    case m.Accepted():
                        self._tally.accepted += 1
                    case m.Rejected(code=code, message=reason):
                        raise BenchError(f"the broker refused a job: {code}: {reason}")
                    case m.JobReply():
                        self._tally.on_answer()
                    case _:
                        pass
