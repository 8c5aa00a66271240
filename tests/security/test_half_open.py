"""Strangers who connect and say nothing."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path

from broker.shell.zap import Peers
from broker.wire.curve import read_peer_key
from tests.security.conftest import KeyDesk
from tests.security.procs import broker_process
from tests.security.test_curve import Dealer
from tests.support.waiting import wait_until


def test_a_flood_without_handshakes_uses_up_no_descriptors(desk: KeyDesk, tmp_path: Path) -> None:
    key = read_peer_key(desk.add("node-2", "worker"), "worker")
    with broker_process(tmp_path / "home", desk, descriptors=256) as broker, contextlib.ExitStack() as stack:
        honest = Dealer(broker.back_tcp, key)
        stack.callback(honest.close)
        wait_until(honest.connected, 10, "an honest worker to get in")
        for _ in range(600):
            stranger = stack.enter_context(socket.socket())
            stranger.setblocking(False)
            stranger.connect_ex(("127.0.0.1", broker.back))
        wait_until(lambda: "half-open connections cut" in broker.logged(), 20, "strangers to be cut")
        wait_until(lambda: broker.connections() <= 20, 20, "the strangers to be gone")
        assert honest.connected()
        late = Dealer(broker.back_tcp, key)
        stack.callback(late.close)
        wait_until(late.connected, 20, "another honest worker to get in")
        assert "key removed" not in broker.logged()
        assert broker.asks()


def test_the_list_of_keys_holds_while_it_cannot_be_read(desk: KeyDesk) -> None:
    desk.add("node-2", "worker")
    peers = Peers(desk.directory / "allowed")
    desk.add("node-3", "worker")
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
