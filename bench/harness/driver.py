"""The one thread that drives a broker under test: a client that submits, and simulated workers that finish at once.

The client sends as an edge's does: the first submit of a turn at once, and those that follow it in the same turn in one frame, up to the
caps of a batch. A worker sends each message in a frame of its own, as an agent does: one with credit 16 stands for 16.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq
from msgspec import Struct

from bench.harness.procs import BrokerProcess
from bench.harness.simworker import MODEL, SimWorker, dealer
from bench.report.errors import BenchError
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import JobSpec, encode_spec

#: No answer of the broker takes so long but from one that hangs.
STALL_S = 30.0
_POLL_MS = 200
#: A goodbye gets this long to leave, in case the broker is gone.
_GOODBYE_MS = 500


class Times(Struct):
    """Monotonic times of one job, seconds; 0 when not yet."""

    submitted: float
    accepted: float = 0.0
    started: float = 0.0
    ended: float = 0.0


class Jobs:
    """Times of all jobs that one driver submitted: those in flight, and those that are over."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.submitted = 0
        #: Jobs between submit and committed result, by id; submits without an answer, by request.
        self.live: dict[str, Times] = {}
        self.unanswered: dict[int, Times] = {}
        self.done: list[Times] = []

    def submit(self) -> tuple[int, str]:
        """Begin a job; its request's number and its id."""
        job_id = f"{self._prefix}{self.submitted}"
        self.submitted += 1
        self.live[job_id] = self.unanswered[self.submitted] = Times(time.monotonic())
        return self.submitted, job_id

    def accept(self, req: int) -> None:
        """Note the answer to a submit."""
        self.unanswered.pop(req).accepted = time.monotonic()

    def start(self, job_id: str) -> None:
        """Note that a worker has it."""
        times = self.live.get(job_id)
        if times is not None:
            times.started = time.monotonic()

    def end(self, job_id: str, accepted: bool) -> None:
        """Note that its result is committed. Raises `BenchError` when it was not taken."""
        if not accepted:
            raise BenchError(f"the broker did not take the result of job {job_id}")
        times = self.live.pop(job_id)
        times.ended = time.monotonic()
        self.done.append(times)


class Driver:
    """The client and the simulated workers, in one thread."""

    def __init__(self, process: BrokerProcess, workers: int, credit: int, body: bytes, run: str = "") -> None:
        """`run` distinguishes the jobs of several drivers on one broker."""
        self.jobs = Jobs(f"bench-{run}-" if run else "bench-")
        self._process = process
        self._body = body
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._front = dealer(self._context, process.settings.front_endpoint)
        self._front.set(zmq.SNDTIMEO, int(STALL_S * 1000))
        self._workers = [
            SimWorker(
                dealer(self._context, process.settings.back_endpoint),
                f"sim-{run}-{number}" if run else f"sim-{number}",
                credit,
                self.jobs.start,
                self.jobs.end,
            )
            for number in range(workers)
        ]
        self._poller = zmq.Poller()
        self._handlers: dict[zmq.Socket[bytes], Callable[[], None]] = {self._front: self._read_front}
        for worker in self._workers:
            self._handlers[worker.socket] = worker.handle
        for socket in self._handlers:
            self._poller.register(socket, zmq.POLLIN)
        self._front_messages = 0
        self._watching = False
        self._next_beat = 0.0

    @property
    def messages(self) -> int:
        """Messages sent and received so far on all sockets of this side."""
        return self._front_messages + sum(worker.messages for worker in self._workers)

    def await_workers(self) -> None:
        """Return once every worker is registered."""
        self.pump(lambda: all(worker.welcome for worker in self._workers))

    def watch(self) -> None:
        """Request the events of all jobs."""
        self._send([m.Watch(req=0)])
        self.pump(lambda: self._watching)

    def run(self, jobs: int, window: int) -> None:
        """Submit `jobs` jobs, at most `window` outstanding; return when all have ended."""
        own = self.jobs
        last = own.submitted + jobs
        before = 0

        def moved() -> bool:
            return len(own.done) > before

        while own.live or own.submitted < last:
            self._submit(min(window - len(own.live), last - own.submitted))
            before = len(own.done)
            self.pump(moved)
        self.pump(lambda: not own.unanswered)

    def queue(self, jobs: int, window: int = 256) -> None:
        """Submit `jobs` jobs that no worker takes, at most `window` unanswered; return when all are accepted."""
        last = self.jobs.submitted + jobs
        while self.jobs.submitted < last:
            self._submit(min(window - len(self.jobs.unanswered), last - self.jobs.submitted))
            self.pump(lambda: len(self.jobs.unanswered) < window)
        self.pump(lambda: not self.jobs.unanswered)
        self.jobs.live.clear()

    def pump(self, done: Callable[[], bool]) -> None:
        """Serve the sockets until `done`. Raises `BenchError` after `STALL_S`."""
        give_up = time.monotonic() + STALL_S
        while not done():
            ready = self._poller.poll(_POLL_MS)
            now = time.monotonic()
            for socket, _ in ready:
                self._handlers[socket]()
            if now >= self._next_beat:
                self._next_beat = now + 0.1
                for worker in self._workers:
                    worker.beat(now)
            if not ready:
                self._process.check()
            if now > give_up:
                output = self._process.last_lines()
                raise BenchError(f"nothing moved for {STALL_S:.0f} s; the broker's last words: {output}")

    def close(self) -> None:
        for worker in self._workers:
            worker.leave()
            worker.socket.close(linger=_GOODBYE_MS)
        self._front.close(linger=0)
        self._context.term()

    def _submit(self, count: int) -> None:
        """Submit so many jobs in one turn."""
        if count > 0:
            self._send([self._new_submit()])
        if count > 1:
            self._send([self._new_submit() for _ in range(count - 1)])

    def _new_submit(self) -> m.Submit:
        # The clock starts before the frame is built, as it would for a caller.
        req, job_id = self.jobs.submit()
        return m.Submit(
            req=req,
            job_id=job_id,
            submission=m.Submission(model=MODEL, units=1.0),
            fresh=True,
            body=self._body,
        )

    def _send(self, messages: list[m.Message]) -> None:
        self._front_messages += len(messages)
        try:
            for frame in codec.join(map(codec.encode, messages)):
                self._front.send(frame)
        except zmq.Again:
            self._process.check()
            raise BenchError(f"the broker has taken no message for {STALL_S:.0f} s") from None

    def _read_front(self) -> None:
        while True:
            try:
                frame = self._front.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            for message in codec.to_edge(frame):
                self._front_messages += 1
                self._on_message(message)

    def _on_message(self, message: m.Message | None) -> None:
        match message:
            case m.Accepted(req=req):
                self.jobs.accept(req)
            case m.Rejected(code=code, message=reason):
                raise BenchError(f"the broker refused a job: {code}: {reason}")
            case m.Watching():
                self._watching = True
            case _:
                pass


def padded_spec(size: int) -> bytes:
    """A job spec that takes `size` bytes, 200 to 20,000, give or take the few of a length prefix."""

    def spec(prompt: str) -> bytes:
        return encode_spec(
            JobSpec(model=MODEL, output="image", prompt=prompt, width=64, height=64, num_inference_steps=1, seed=1)
        )

    return spec("x" * (1 + size - len(spec("x"))))
