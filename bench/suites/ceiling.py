"""Ceiling of ZeroMQ alone on this machine, now: bare echoes beside which the broker's figures are to be read.

`router`: a pyzmq ROUTER in a poll loop that sends every message back. `proxy`: libzmq's own `zmq_proxy` between a ROUTER and a DEALER;
the driver is the worker behind it. Neither decodes, decides or writes anything. `python -m bench.suites.ceiling KIND FRONT BACK` is the
server.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import zmq
from msgspec import Struct

from bench.harness.process import clean_environ, cpu_seconds
from bench.harness.procs import pinned
from bench.report.errors import BenchError

#: Kind and words for people.
ECHOES = {"router": "a pyzmq ROUTER that echoes", "proxy": "zmq_proxy to a worker and back"}
_START_S = 20.0
_STALL_MS = 10_000


class Echo(Struct, frozen=True, kw_only=True):
    """Round trips a second, and the server's seconds of processor time each."""

    per_s: float
    cpu_s: float


def serve(kind: str, front: str, back: str) -> None:
    """Echo until killed."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.set(zmq.SNDHWM, 10_000)
    router.set(zmq.RCVHWM, 10_000)
    router.bind(front)
    if kind == "proxy":
        dealer = context.socket(zmq.DEALER)
        dealer.bind(back)
        zmq.proxy(router, dealer)
        return
    while True:
        router.poll()
        while True:
            try:
                frames = router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            router.send_multipart(frames, zmq.NOBLOCK)


def echo(kind: str, home: Path, seconds: float, window: int, size: int, server_cores: set[int]) -> Echo:
    """`window` messages of `size` bytes under way at any time, for `seconds`. Raises `BenchError`."""
    front, back = home / f"{kind}-front", home / f"{kind}-back"
    command = [sys.executable, "-m", "bench.suites.ceiling", kind, f"ipc://{front}", f"ipc://{back}"]
    with pinned(server_cores):
        process = subprocess.Popen(command, env=clean_environ())
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    client, worker = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    try:
        give_up = time.monotonic() + _START_S
        while not (front.exists() and (kind == "router" or back.exists())):
            if process.poll() is not None or time.monotonic() > give_up:
                raise BenchError("the bare echo did not start")
            time.sleep(0.02)
        client.connect(f"ipc://{front}")
        worker.connect(f"ipc://{back}")
        return _drive(client, worker, psutil.Process(process.pid), seconds, window, b"x" * size)
    finally:
        process.kill()
        process.wait()
        for socket in (client, worker):
            socket.close(linger=0)
        context.term()


def _drive(
    client: zmq.Socket[bytes],
    worker: zmq.Socket[bytes],
    process: psutil.Process,
    seconds: float,
    window: int,
    body: bytes,
) -> Echo:
    poller = zmq.Poller()
    poller.register(client, zmq.POLLIN)
    poller.register(worker, zmq.POLLIN)
    for _ in range(window):
        client.send_multipart([b"", body])
    cpu_s = cpu_seconds(process)
    begun = time.monotonic()
    count = 0
    while time.monotonic() - begun < seconds:
        ready = poller.poll(_STALL_MS)
        if not ready:
            raise BenchError("the bare echo stopped answering")
        for socket, _ in ready:
            while True:
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                # What the client gets is a round trip done, and begins the next; the worker only sends back.
                count += socket is client
                socket.send_multipart(frames)
    took = time.monotonic() - begun
    return Echo(per_s=count / took, cpu_s=(cpu_seconds(process) - cpu_s) / max(1, count))


def main(argv: Sequence[str]) -> int:
    """The server's process."""
    kind, front, back = argv
    serve(kind, front, back)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
