"""Real sockets in short paths, all closed when a test is over."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.sockets.broker_side import BrokerSide, broker_side
from tests.sockets.router_bench import Bench
from tests.sockets.workers_side import short_home


@pytest.fixture
def run_dir():
    """A private directory with a short path: a socket's name has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="zt-") as path:
        yield path


@pytest.fixture
def home() -> Iterator[Path]:
    """Home of a worker's processes."""
    with short_home() as path:
        yield path


@pytest.fixture
def broker(home: Path) -> Iterator[BrokerSide]:
    """A broker's back socket in `home`, and what arrived there."""
    with broker_side(f"ipc://{home}/back.sock") as side:
        yield side


@pytest.fixture
def endpoint(run_dir):
    return f"ipc://{run_dir}/s"


class Sockets:
    """Makes sockets, each of a context of its own, and closes them."""

    def __init__(self) -> None:
        self._made: list[zmq.Socket[bytes]] = []

    def __call__(self, kind: int, **options: int) -> zmq.Socket[bytes]:
        socket = zmq.Context().socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name.upper()), value)
        self._made.append(socket)
        return socket

    def end(self, socket: zmq.Socket[bytes]) -> None:
        """Close it and wait until its path is free: the listener's end, which comes later, removes whatever has that name."""
        socket.close(linger=0)
        socket.context.term()
        self._made.remove(socket)

    def close(self) -> None:
        for socket in [*self._made]:
            self.end(socket)


@pytest.fixture
def sockets():
    made = Sockets()
    yield made
    made.close()


@pytest.fixture
def make(tmp_path):
    made = []

    def one(**policy) -> Bench:
        made.append(Bench(tmp_path, **policy))
        return made[-1]

    yield one
    for bench in made:
        bench.journal.close()


@pytest.fixture
def bench(make):
    return make()
