"""This broker under the peers' recipe: worker processes with credit 1, a client with 256 submits under way.

`python -m bench.peers.peer_ours NUMBER` is a worker.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from itertools import islice
from pathlib import Path
from sqlite3 import sqlite_version

import zmq

from bench.harness.crowd import CrowdWorker
from bench.harness.driver import padded_spec
from bench.harness.procs import BrokerProcess
from bench.harness.simworker import MODEL, dealer
from bench.peers.peerkit import PAYLOAD_BYTES, SERVER_VARIABLE, Done, DoneNotifier, PeerAdapter, driver_cores
from bench.report.errors import BenchError
from broker.wire import codec
from broker.wire import messages as m

_WINDOW = 256
_ANSWER_MS = 20_000
_POLL_MS = 100


class ZoetropeAdapter(PeerAdapter):
    """Submits over one socket; a submit is done when it is `Accepted`, on disk."""

    def __init__(self, mode: str, room: Path, done: Done) -> None:
        super().__init__(mode, room, done)
        self._home = room / "home"
        self._home.mkdir()
        self._body = padded_spec(PAYLOAD_BYTES)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._broker: BrokerProcess | None = None
        self._front: zmq.Socket[bytes] | None = None

    @property
    def versions(self) -> str:
        return f"zoetrope {metadata.version('zoetrope')}, SQLite {sqlite_version}"

    def start_server(self) -> None:
        self._broker = BrokerProcess(self._home, driver_cores())
        self._broker.await_sockets()
        self._front = dealer(self._context, self._broker.settings.front_endpoint)
        self._front.set(zmq.SNDTIMEO, _ANSWER_MS)
        self._front.set(zmq.RCVTIMEO, _ANSWER_MS)

    def start_workers(self, count: int) -> None:
        assert self._broker is not None
        self.spawn_workers("bench.peers.peer_ours", count, self._broker.settings.back_endpoint)

    def submit(self, number: int, seconds: float) -> None:
        self.submit_all([number], seconds)

    def submit_all(self, numbers: Iterable[int], seconds: float) -> None:
        assert self._front is not None
        rest, under_way = iter(numbers), 0
        while new := [_submit_of(number, seconds, self._body) for number in islice(rest, _WINDOW - under_way)]:
            # As an edge's client does with what its loop has at once.
            for frame in codec.join(map(codec.encode, new)):
                self._front.send(frame)
            under_way += len(new) - self._accepted(self._front)
        while under_way > 0:
            under_way -= self._accepted(self._front)

    def _accepted(self, front: zmq.Socket[bytes]) -> int:
        """Wait for the next answers; how many came. Raises `BenchError` when a job was not accepted."""
        answers = codec.to_edge(front.recv())
        for answer in answers:
            if not isinstance(answer, m.Accepted):
                raise BenchError(f"a job was not accepted: {answer}")
        return len(answers)

    def kill_server(self) -> None:
        assert self._broker is not None
        assert self._front is not None
        self._front.close(linger=0)
        self._broker.end()

    def close(self) -> None:
        super().close()
        if self._front is not None:
            self._front.close(linger=0)
        if self._broker is not None:
            self._broker.stop()
        self._context.term()


def _submit_of(number: int, seconds: float, body: bytes) -> m.Submit:
    """The request for a job of this number, which is also the request's."""
    return m.Submit(
        req=number,
        job_id=job_name(number, seconds),
        submission=m.Submission(model=MODEL, units=1.0),
        fresh=True,
        body=body,
    )


def job_name(number: int, seconds: float) -> str:
    """A job's id, from which its worker reads what to do."""
    return f"job-{number}-{round(seconds * 1000)}"


def parse_name(job_id: str) -> tuple[int, float]:
    """Number and seconds of a job's id."""
    _, number, milliseconds = job_id.split("-", 2)
    return int(number), int(milliseconds) / 1000


def work(name: str) -> None:
    """Serve until killed."""
    notifier = DoneNotifier()

    def started(job_id: str) -> None:
        notifier.started(*parse_name(job_id))

    def committed(job_id: str, accepted: bool) -> None:
        notifier.done(parse_name(job_id)[0])

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    worker = CrowdWorker(dealer(context, os.environ[SERVER_VARIABLE]), f"sim-{name}", 1, started, committed)
    ends_at, running = 0.0, None
    while True:
        if worker.run is not running:
            running = worker.run
            ends_at = time.monotonic() + (parse_name(running.job_id)[1] if running else 0.0)
        now = time.monotonic()
        if running is not None and now >= ends_at:
            worker.finish()
            continue
        worker.socket.poll(min(_POLL_MS, int((ends_at - now) * 1000) + 1) if running is not None else _POLL_MS)
        worker.handle()
        worker.beat(time.monotonic())


if __name__ == "__main__":
    work(sys.argv[1])
