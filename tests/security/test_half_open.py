"""Strangers who connect and say nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
from pathlib import Path

import pytest
import zmq

from broker.runtime.curve_keys import PeerKey, read_peer_key
from broker.shell.net import half_open
from broker.shell.net.half_open import PER_ADDRESS, reserve, surplus
from broker.shell.net.zap import Peers
from tests.security.conftest import KeyDesk
from tests.security.dealers import Dealer
from tests.security.procs import BrokerProcess, broker_process, greeting, keyed_dealer, knock, long_frame
from tests.support.waiting import wait_until

#: More bytes than a whole handshake has, and no end of one.
ENDLESS = greeting() + long_frame(1000, 0x06) + bytes(600)


def cut_some(broker: BrokerProcess) -> bool:
    return "half-open connections cut" in broker.logged()


def test_a_flood_without_handshakes_uses_up_no_descriptors(harness: KeyDesk, tmp_path: Path) -> None:
    key = read_peer_key(harness.add("node-2", "worker"), "worker")
    with broker_process(tmp_path / "home", harness, descriptors=256) as broker, contextlib.ExitStack() as stack:
        honest = Dealer(broker.back_tcp, key)
        stack.callback(honest.close)
        wait_until(honest.connected, 60, "an honest worker to get in")
        for _ in range(600):
            stranger = stack.enter_context(socket.socket())
            stranger.setblocking(False)
            stranger.connect_ex(("127.0.0.1", broker.back))
        wait_until(lambda: cut_some(broker), 60, "strangers to be cut")
        wait_until(lambda: broker.connections() <= 20, 60, "the strangers to be gone")
        # On a machine that is short of processor time its own heartbeat may have run out meanwhile; then it comes back.
        wait_until(honest.connected, 60, "the honest worker to be connected")
        late = Dealer(broker.back_tcp, key)
        stack.callback(late.close)
        wait_until(late.connected, 60, "another honest worker to get in")
        assert "key removed" not in broker.logged()
        assert broker.asks()


def test_who_brings_as_much_as_a_handshake_and_not_its_end_is_a_stranger(harness: KeyDesk, tmp_path: Path) -> None:
    with broker_process(tmp_path / "home", harness) as broker, contextlib.ExitStack() as stack:
        for _ in range(3 * PER_ADDRESS):
            with contextlib.suppress(ConnectionError):  # cut already
                stack.enter_context(knock(broker.back)).sendall(ENDLESS)
        wait_until(lambda: cut_some(broker), 60, "strangers to be cut")
        assert broker.asks()


def test_strangers_do_not_get_the_last_descriptors(harness: KeyDesk, tmp_path: Path) -> None:
    """Few of them, each from an address of its own, at a broker that is nearly full of peers."""
    limit = 128
    key = read_peer_key(harness.add("node-2", "worker"), "worker")
    with broker_process(tmp_path / "home", harness, limit) as broker, contextlib.ExitStack() as stack:
        honest: list[zmq.Socket[bytes]] = []
        while broker.descriptors() < limit - reserve(limit) - 8:
            honest.append(stack.enter_context(keyed_dealer(broker.back_tcp, key, immediate=1)))
            wait_until(lambda: honest[-1].poll(0, zmq.POLLOUT), 60, "an honest worker to get in")
        for number in range(1, 21):
            stranger = stack.enter_context(socket.socket())
            stranger.bind((f"127.0.1.{number}", 0))
            stranger.connect(("127.0.0.1", broker.back))
        wait_until(lambda: cut_some(broker), 60, "strangers to be cut")
        wait_until(lambda: broker.descriptors() <= limit - reserve(limit), 60, "descriptors to be free")
        assert broker.asks()
        wait_until(lambda: all(one.poll(0, zmq.POLLOUT) for one in honest), 60, "the honest workers to be there")


@pytest.mark.parametrize("withheld", [False, True], ids=["a message without an end", "no INITIATE after HELLO"])
def test_a_handshake_that_never_ends_is_cut_however_much_it_brings(
    harness: KeyDesk, tmp_path: Path, withheld: bool
) -> None:
    key = read_peer_key(harness.add("node-2", "worker"), "worker")
    with broker_process(tmp_path / "home", harness) as broker, knock(broker.back) as stranger:
        if withheld:
            relay_the_start(key, stranger, 530)
        else:
            stranger.sendall(ENDLESS)
        stranger.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(4096):
                pass
        wait_until(lambda: broker.connections() == 0, 60, "the connection to be gone")


def relay_the_start(key: PeerKey, to: socket.socket, count: int) -> None:
    """The first `count` bytes of a good peer's handshake: greeting, HELLO (to 266), and only a part of INITIATE."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        peer = Dealer(f"tcp://127.0.0.1:{door.getsockname()[1]}", key)
        try:
            ours, _ = door.accept()
            with ours, selectors.DefaultSelector() as selector:
                selector.register(ours, selectors.EVENT_READ, to)
                selector.register(to, selectors.EVENT_READ, ours)
                while count:
                    for ready, _ in selector.select(10):
                        source, target = ready.fileobj, ready.data
                        data = source.recv(count if source is ours else 4096)
                        assert data, "the handshake ended"
                        target.sendall(data)
                        count -= len(data) if source is ours else 0
        finally:
            peer.close()


def test_a_connection_of_a_refused_key_counts_as_half_open(harness: KeyDesk, tmp_path: Path) -> None:
    file = harness.add("node-3", "worker")
    key = read_peer_key(file, "worker")
    (harness.directory / "allowed" / "node-3.pub").unlink()
    with broker_process(tmp_path / "home", harness) as broker, contextlib.ExitStack() as stack:
        for _ in range(PER_ADDRESS + 8):
            stack.callback(Dealer(broker.back_tcp, key, ivl_ms=0).close)
        wait_until(lambda: cut_some(broker), 60, "strangers to be cut")


@pytest.mark.parametrize(
    ("addresses", "free", "limit", "cut"),
    [
        ([], 0, 1024, 0),
        (["a"] * PER_ADDRESS, 500, 1024, 0),
        (["a"] * (PER_ADDRESS + 1), 500, 1024, PER_ADDRESS + 1),
        (["a"] * (PER_ADDRESS + 1) + ["b"] * PER_ADDRESS, 500, 1024, PER_ADDRESS + 1),
        ([str(number) for number in range(256)], 500, 1024, 0),
        ([str(number) for number in range(257)], 500, 1024, 257),
        (["a", "b"], 64, 1024, 0),
        (["a", "b"], 63, 1024, 2),
        (["a", "b"], 32, 256, 0),
        (["a", "b"], 31, 256, 2),
    ],
)
def test_which_connections_are_cut(addresses: list[str], free: int, limit: int, cut: int) -> None:
    chosen = surplus(list(enumerate(addresses, 10)), free, limit)
    assert len(chosen) == cut
    assert chosen == list(range(10, 10 + cut))


def test_the_list_of_keys_holds_while_it_cannot_be_read(harness: KeyDesk) -> None:
    harness.add("node-2", "worker")
    peers = Peers(harness.directory / "allowed")
    harness.add("node-3", "worker")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno(), before[1]))
    try:
        with contextlib.suppress(OSError):
            socket.socket().close()
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(socket.socket())
        peers.refresh()
        assert peers.admits("node-2")
        for one in taken:
            one.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    peers.refresh()
    assert peers.admits("node-3")


@pytest.mark.parametrize("reported", [True, False], ids=["by the kernel", "by listing them"])
def test_descriptors_are_counted_whether_the_kernel_says_how_many_there_are_or_not(
    reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = half_open.HalfOpen(frozenset())
    try:
        if not reported:
            monkeypatch.setattr(half_open, "_kernel_count", lambda: 0)
        before = watch._in_use()
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
        try:
            assert 48 <= watch._in_use() - before <= 52, "but for those of other threads"
        finally:
            for descriptor in opened:
                os.close(descriptor)
    finally:
        watch.close()
