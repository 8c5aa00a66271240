"""Raw bytes at the broker's sockets: it goes on serving, lets go of the connections, and does not grow."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from broker.runtime.curve_keys import PeerKey, read_peer_key
from tests.security.conftest import KeyDesk
from tests.security.procs import MIB, BrokerProcess, broker_process, greeting, keyed_dealer, knock, long_frame
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage")


@pytest.fixture(scope="module")
def keys(place: Path) -> KeyDesk:
    harness = KeyDesk(place / "curve")
    assert harness("init") == 0
    return harness


@pytest.fixture(scope="module")
def edge_key(keys: KeyDesk) -> PeerKey:
    return read_peer_key(keys.add("edge-2", "edge"), "edge")


@pytest.fixture(scope="module")
def node_key(keys: KeyDesk) -> PeerKey:
    return read_peer_key(keys.add("node-2", "worker"), "worker")


@pytest.fixture(scope="module")
def broker(place: Path, keys: KeyDesk, edge_key: PeerKey, node_key: PeerKey) -> Iterator[BrokerProcess]:
    with broker_process(place / "home", keys) as process:
        process.asks()
        yield process


def pour(connection: socket.socket, data: bytes, upto: int) -> int:
    """Send these bytes again and again until so many are gone or the other side has had enough; how many went."""
    connection.settimeout(2)
    sent = 0
    with contextlib.suppress(OSError):
        while sent < upto:
            sent += connection.send(data)
    return sent


GREETED = greeting()
RAW = {
    "nothing": b"",
    "zeros": bytes(4096),
    "half a greeting": GREETED[:11],
    "a greeting for NULL": greeting(b"NULL"),
    "a greeting for PLAIN": greeting(b"PLAIN"),
    "an unknown mechanism": greeting(b"\xff" * 20),
    "an old version": b"\xff" + bytes(8) + b"\x7f\x01\x05" + bytes(60),
    "a huge frame": GREETED + long_frame(2**63 - 1, 0x06),
    "a frame of the largest size": GREETED + long_frame(1024 * 1024, 0x06) + bytes(500_000),
    "messages before the handshake": GREETED + long_frame(100, 0x02) + bytes(100) + long_frame(100, 0x00) + bytes(100),
    "a HELLO that is too short": GREETED + b"\x04\x06\x05HELLO",
    "a HELLO that is too long": GREETED + b"\x06\x00\x00\x00\x00\x00\x00\x10\x00\x05HELLO" + bytes(4090),
    "HTTP": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "pickle": b"\x80\x05\x95" + bytes(200),
}


def test_bytes_that_are_no_handshake_lead_nowhere(broker: BrokerProcess) -> None:
    """All at once, for those that the broker waits for take as long as a handshake may."""
    opened = broker.connections()
    with contextlib.ExitStack() as held:
        for data in RAW.values():
            for port in (broker.front, broker.back):
                connection = held.enter_context(knock(port))
                with contextlib.suppress(OSError):
                    connection.sendall(data)
        broker.asks()
        # The broker lets go of them; nobody here closes one.
        wait_until(lambda: broker.connections() <= opened, 60, "the broker to let go")
        broker.asks()


def test_random_bytes(broker: BrokerProcess) -> None:
    chance = random.Random(20)
    before = broker.memory()
    for round_ in range(60):
        start = GREETED if round_ % 2 else b""
        with knock(chance.choice((broker.front, broker.back))) as connection, contextlib.suppress(OSError):
            connection.sendall(start + chance.randbytes(chance.randrange(1, 20_000)))
    broker.asks()
    assert broker.memory() - before < 50 * MIB


def test_a_thousand_silent_connections_hold_up_nobody_and_are_let_go(broker: BrokerProcess) -> None:
    before = broker.memory()
    opened = broker.connections()
    with contextlib.ExitStack() as held:
        for number in range(1000):
            connection = held.enter_context(knock((broker.front, broker.back)[number % 2]))
            if number % 3:
                connection.sendall(GREETED[: number % 64])
        broker.asks()
        assert broker.memory() - before < 100 * MIB
        wait_until(lambda: broker.connections() <= opened, 60, "silent connections to be let go")
    broker.asks()


def test_one_byte_at_a_time_does_not_make_a_handshake_last(broker: BrokerProcess) -> None:
    done = threading.Event()
    with knock(broker.front) as connection:

        def drip() -> None:
            with contextlib.suppress(OSError):
                for byte in GREETED + b"\x04\xc8\x05HELLO" + bytes(194):
                    connection.send(bytes((byte,)))
                    if done.wait(0.1):
                        return

        dripping = threading.Thread(target=drip)
        dripping.start()
        connection.settimeout(60)
        with contextlib.suppress(OSError):
            while connection.recv(4096):
                pass
        done.set()
        dripping.join()
        assert done.is_set()
    broker.asks()


def test_large_frames_before_the_handshake_are_bounded(broker: BrokerProcess) -> None:
    before = broker.memory()
    with contextlib.ExitStack() as held:
        for number in range(40):
            connection = held.enter_context(knock((broker.front, broker.back)[number % 2]))
            pour(connection, GREETED + long_frame(1024 * 1024, 0x06) + bytes(1024 * 1024), 8 * MIB)
        assert broker.memory() - before < 100 * MIB
    broker.asks()


def test_a_message_without_an_end_is_cut(broker: BrokerProcess, edge_key: PeerKey) -> None:
    """libzmq would keep it all, and tell nobody before the last frame."""
    before, peak = broker.memory(), 0
    frame = bytes(100_000)
    with keyed_dealer(broker.front_tcp, edge_key, reconnect_ivl=60_000) as dealer:
        for _ in range(20_000):  # 2 GB, of which this process holds one frame
            dealer.send(frame, zmq.SNDMORE, copy=False)
        dealer.send(b"the end")

        def cut() -> bool:
            nonlocal peak
            peak = max(peak, broker.memory())
            return " oversized_message " in broker.logged()

        wait_until(cut, 60, "the connection to be cut")
        broker.asks()
    # How much comes between two looks of the broker is up to the machine; all of it would be 1,900 MiB.
    assert peak - before < 1500 * MIB
    wait_until(lambda: 'zoetrope_connections_cut_total{reason="oversized_message"} 1.0' in metrics(broker), 60)


def test_a_peer_that_sends_junk_is_cut_off_and_said_once(broker: BrokerProcess, node_key: PeerKey) -> None:
    before, cuts = broker.memory(), broker.logged().count("peer cut off")
    with keyed_dealer(broker.back_tcp, node_key, reconnect_ivl=-1, sndhwm=10_000) as dealer:
        with contextlib.suppress(zmq.Again):  # it was cut off while it was still sending
            for _ in range(5000):
                dealer.send(bytes(1000), zmq.NOBLOCK)
        wait_until(lambda: broker.logged().count("peer cut off") > cuts, 60, "the cut")
        wait_until(lambda: broker.connections() == 0, 60, "the connection to end")
        broker.asks()
    assert broker.logged().count("peer cut off") == cuts + 1
    assert broker.memory() - before < 100 * MIB
    wait_until(lambda: 'zoetrope_connections_cut_total{reason="invalid_messages"} 1.0' in metrics(broker), 60)


def test_messages_with_many_frames_are_read_to_their_end_and_dropped(broker: BrokerProcess, edge_key: PeerKey) -> None:
    before = broker.memory()
    with keyed_dealer(broker.front_tcp, edge_key) as dealer:
        for _ in range(20):
            dealer.send_multipart([bytes(10_000)] * 500)
        wait_until(lambda: 'zoetrope_invalid_messages_total{kind="frames"} 20.0' in metrics(broker), 60)
        broker.asks()
    assert broker.memory() - before < 150 * MIB


def metrics(broker: BrokerProcess) -> str:
    path = broker.home / "metrics"
    return path.read_text() if path.exists() else ""
