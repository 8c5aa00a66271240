"""What libzmq does with keys, where the design leans on it: a change there must be noticed here first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import zmq
from zmq.utils import z85

from bench.harness.process import free_port
from tests.support.waiting import wait_until

PUBLIC, SECRET = zmq.curve_keypair()
CLIENT_PUBLIC, CLIENT_SECRET = zmq.curve_keypair()


class Door:
    """A CURVE server in a context of its own; `handle` answers ZAP, if it is to."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.asked = 0
        self.code = b"200"

    def lock(self, **options: int | bytes) -> None:
        self.router.curve_server = 1
        self.router.curve_publickey, self.router.curve_secretkey = PUBLIC, SECRET
        for name, value in options.items():
            self.router.setsockopt(getattr(zmq, name.upper()), value)

    def handle(self) -> None:
        bound = threading.Event()

        def answer() -> None:
            handler = self.context.socket(zmq.REP)
            handler.setsockopt(zmq.LINGER, 0)
            handler.bind("inproc://zeromq.zap.01")
            bound.set()
            try:
                while True:
                    frames = handler.recv_multipart()
                    self.asked += 1
                    assert frames[6] == z85.decode(CLIENT_PUBLIC)
                    handler.send_multipart([b"1.0", frames[1], self.code, b"", b"somebody", b""])
            except zmq.ContextTerminated:
                handler.close()

        threading.Thread(target=answer, daemon=True).start()
        bound.wait()

    def bind(self) -> str:
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.router.bind(endpoint)
        return endpoint

    def close(self) -> None:
        self.router.close(0)
        self.context.term()


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


@pytest.fixture
def knock() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    context = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def one(endpoint: str, *, key: bool = True) -> zmq.Socket[bytes]:
        dealer = context.socket(zmq.DEALER)
        made.append(dealer)
        for option, value in {"LINGER": 0, "IMMEDIATE": 1, "HANDSHAKE_IVL": 300, "RECONNECT_IVL": 20}.items():
            dealer.setsockopt(getattr(zmq, option), value)
        if key:
            dealer.curve_publickey, dealer.curve_secretkey = CLIENT_PUBLIC, CLIENT_SECRET
            dealer.curve_serverkey = PUBLIC
        dealer.connect(endpoint)
        return dealer

    yield one
    for dealer in made:
        dealer.close(0)
    context.term()


def entered(dealer: zmq.Socket[bytes], wait_ms: int = 1000) -> bool:
    return bool(dealer.poll(wait_ms, zmq.POLLOUT))


def test_a_curve_server_lets_every_key_in_when_nobody_handles_zap(door, knock):
    door.lock(zap_domain=b"x")
    assert entered(knock(door.bind()), 5000)


def test_an_enforced_domain_lets_nobody_in_when_nobody_handles_zap(door, knock):
    door.lock(zap_domain=b"x", zap_enforce_domain=1)
    assert not entered(knock(door.bind()))


def test_without_a_domain_zap_is_asked_all_the_same(door, knock):
    door.lock()
    door.handle()
    door.code = b"400"
    assert not entered(knock(door.bind()))
    assert door.asked


def test_who_is_told_400_never_asks_again(door, knock):
    door.lock(zap_domain=b"x", zap_enforce_domain=1)
    door.handle()
    door.code = b"400"
    dealer = knock(door.bind())
    wait_until(lambda: door.asked == 1)
    door.code = b"200"
    assert not entered(dealer, 1500)
    assert door.asked == 1


def test_who_is_told_300_asks_again_when_the_handshake_has_timed_out(door, knock):
    door.lock(zap_domain=b"x", zap_enforce_domain=1)
    door.handle()
    door.code = b"300"
    dealer = knock(door.bind())
    wait_until(lambda: door.asked == 1)
    door.code = b"200"
    assert entered(dealer, 5000)
    assert door.asked == 2


def test_a_bind_keeps_the_options_of_its_time(door, knock, short_dir):
    """One socket, open on ipc and locked on tcp; and the key's name comes with each message from tcp alone."""
    ipc = f"ipc://{short_dir}/s"
    door.router.bind(ipc)
    door.lock(zap_domain=b"x", zap_enforce_domain=1)
    door.handle()
    tcp = door.bind()
    assert not entered(knock(tcp, key=False))
    names = []
    for endpoint, key in ((ipc, False), (tcp, True)):
        dealer = knock(endpoint, key=key)
        assert entered(dealer, 5000)
        dealer.send(b"hello")
        assert door.router.poll(60_000)
        frame = door.router.recv(copy=False)
        try:
            names.append(frame.get("User-Id"))
        except zmq.ZMQError:
            names.append(None)
        door.router.recv()
    assert names == [None, "somebody"]


def test_a_removed_key_still_speaks_on_its_open_connection(door, knock):
    """Why each message is asked about."""
    door.lock(zap_domain=b"x", zap_enforce_domain=1)
    door.handle()
    dealer = knock(door.bind())
    assert entered(dealer, 5000)
    door.code = b"400"
    dealer.send(b"hello")
    assert door.router.poll(60_000)
