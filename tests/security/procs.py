"""A broker in a process of its own, listening on tcp too, and its memory."""

from __future__ import annotations

import signal
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import zmq

from bench.harness.process import Process, free_port
from broker.runtime.curve_keys import PeerKey
from broker.wire import codec
from broker.wire import messages as m
from tests.security.conftest import KeyDesk, few_descriptors
from tests.support.waiting import wait_until

MIB = 1024 * 1024


class BrokerProcess:
    """`python -m broker` on ipc and tcp."""

    def __init__(self, home: Path, run_dir: str, harness: KeyDesk, descriptors: int = 0) -> None:
        """`descriptors`: how many it may have at most; 0: what the system allows."""
        self.home = home
        self.front, self.back = free_port(), free_port()
        self.run_dir = Path(run_dir)
        options = ["--curve-dir", str(harness.directory), "--front-tcp", self.front_tcp, "--back-tcp", self.back_tcp]
        options += ["--metrics-file", str(home / "metrics")]
        before = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"] if descriptors else []
        with few_descriptors():
            self.process = Process(
                "broker", "--home", str(home), "--run-dir", run_dir, *options, log=home / "broker.log", before=before
            )
        wait_until(lambda: " serving " in self.logged(), 60, f"the broker to serve: {self.logged()}")

    @property
    def front_tcp(self) -> str:
        return f"tcp://127.0.0.1:{self.front}"

    @property
    def back_tcp(self) -> str:
        return f"tcp://127.0.0.1:{self.back}"

    def logged(self) -> str:
        return self.process.logged()

    def memory(self) -> int:
        """Bytes in RAM."""
        return self.process.memory_bytes()

    def connections(self) -> int:
        """Open tcp connections of others."""
        return sum(1 for one in self.process.stats.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED)

    def descriptors(self) -> int:
        """How many it has open."""
        return int(self.process.stats.num_fds())

    def asks(self, deadline_s: float = 60.0) -> m.Pool:
        """An answer over ipc: the broker serves."""
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"ipc://{self.run_dir}/front.sock")
        try:
            dealer.send(codec.encode(m.GetPool(req=1)))
            assert dealer.poll(deadline_s * 1000), f"no answer; log:\n{self.logged()[-2000:]}"
            (pool,) = codec.to_edge(dealer.recv())
            return pool
        finally:
            context.destroy(linger=0)

    def close(self) -> None:
        assert self.process.end(signal.SIGTERM) == 0, self.logged()[-2000:]


@contextmanager
def broker_process(home: Path, harness: KeyDesk, descriptors: int = 0) -> Iterator[BrokerProcess]:
    home.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zs-") as run_dir:
        process = BrokerProcess(home, run_dir, harness, descriptors)
        try:
            yield process
        finally:
            process.close()


@contextmanager
def keyed_dealer(endpoint: str, key: PeerKey, **options: int) -> Iterator[zmq.Socket[bytes]]:
    """A bare DEALER with a key, blocking sends."""
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    for name, value in options.items():
        dealer.setsockopt(getattr(zmq, name.upper()), value)
    dealer.curve_publickey, dealer.curve_secretkey = key.public.encode(), key.secret.encode()
    dealer.curve_serverkey = key.broker.encode()
    dealer.connect(endpoint)
    try:
        yield dealer
    finally:
        context.destroy(linger=0)


def knock(port: int) -> socket.socket:
    """A raw connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


#: What a ZMTP 3.1 peer says first: signature, version, mechanism, as-server, filler (ZeroMQ RFC 37).
def greeting(mechanism: bytes = b"CURVE") -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


def long_frame(length: int, flags: int = 0x02) -> bytes:
    """The head of a frame with an eight-byte length."""
    return bytes((flags,)) + struct.pack(">Q", length)
