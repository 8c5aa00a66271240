"""This broker under the peers' recipe: four worker processes with credit 1, a client with 256 submits under way.

`python -m bench.peer_ours` is a worker.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import zmq

from bench.driver import padded_spec
from bench.peerkit import (
    DONE_VARIABLE,
    PAYLOAD_BYTES,
    SERVER_VARIABLE,
    WORKERS,
    Done,
    Teller,
    Unavailable,
    driver_cores,
    workers,
)
from bench.procs import BrokerProcess
from bench.simworker import MODEL, SimWorker, dealer
from broker.wire import codec
from broker.wire import messages as m

MODES = {"default": "there is only the durable mode", "durable": "SQLite WAL, synchronous=FULL, before each answer"}
_WINDOW = 256


class OurClient:
    """Submits over one socket; a submit is done when it is `Accepted`, on disk."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._front = dealer(self._context, endpoint)
        self._front.set(zmq.SNDTIMEO, 20_000)
        self._front.set(zmq.RCVTIMEO, 20_000)
        self._body = padded_spec(PAYLOAD_BYTES)

    def submit(self, number: int) -> None:
        self.submit_all([number])

    def submit_all(self, numbers: Sequence[int]) -> None:
        under_way = 0
        for number in numbers:
            submit = m.Submit(req=number, job_id=f"job-{number}", model=MODEL, units=1.0)
            self._front.send_multipart(codec.encode(submit, self._body))
            under_way += 1
            if under_way >= _WINDOW:
                self._accepted()
                under_way -= 1
        for _ in range(under_way):
            self._accepted()

    def _accepted(self) -> None:
        decoded = codec.to_edge(self._front.recv_multipart())
        assert decoded is not None
        assert isinstance(decoded[0], m.Accepted), decoded[0]

    def close(self) -> None:
        self._front.close(linger=0)
        self._context.term()


@contextlib.contextmanager
def opened(mode: str, home: Path, done: Done) -> Iterator[OurClient]:
    """Broker, workers and client. Raises `Unavailable`."""
    if mode == "default":
        raise Unavailable("it has no mode that is not durable")
    process = BrokerProcess(home, driver_cores())
    try:
        process.await_sockets()
        environ = {SERVER_VARIABLE: process.settings.back_endpoint, DONE_VARIABLE: str(done.path)}
        client = OurClient(process.settings.front_endpoint)
        with contextlib.closing(client), workers("bench.peer_ours", home, environ):
            yield client
    finally:
        process.stop()


def work(number: str) -> None:
    """Serve until killed."""
    teller = Teller()

    def committed(job_id: str, accepted: bool) -> None:
        teller.done(int(job_id.removeprefix("job-")))

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    worker = SimWorker(dealer(context, os.environ[SERVER_VARIABLE]), f"sim-{number}", 1, lambda _: None, committed)
    while True:
        worker.socket.poll(100)
        worker.handle()
        worker.beat(time.monotonic())


if __name__ == "__main__":
    assert WORKERS
    work(sys.argv[1])
