"""Brokers on tcp: who gets in, as what, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq

from bench.harness.process import free_port
from broker.client.client import BrokerClient
from broker.client.errors import BrokerUnavailable
from broker.runtime.curve_keys import PeerKey, read_broker, read_peer_key
from broker.runtime.errors import BindFailed
from broker.shell.net import selftest, sockets, zap
from broker.shell.net.sockets import Gate, Sockets
from broker.testing import worker_info
from broker.wire import messages as m
from tests.security.conftest import KeyDesk
from tests.security.dealers import Dealer
from tests.support.waiting import eventually, wait_until
from tests.testing.in_process import Service, a_job, in_loop


class TcpService(Service):
    """A broker on ipc and on tcp."""

    def __init__(self, home: Path, run_dir: str, harness: KeyDesk) -> None:
        super().__init__(home, run_dir)
        self.harness = harness
        self.front_tcp, self.back_tcp = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))

    def open_wires(self) -> Sockets:
        return Sockets(self.front, self.back, gate(self.harness, self.front_tcp, self.back_tcp))


def gate(harness: KeyDesk, front: str = "", back: str = "") -> Gate:
    key = read_broker(harness.directory / "broker.key")
    return Gate(key=key, allowed=harness.directory / "allowed", front=front, back=back)


@asynccontextmanager
async def serving(tmp_path: Path, run_dir: str, harness: KeyDesk) -> AsyncIterator[TcpService]:
    home = tmp_path / "home"
    home.mkdir()
    service = TcpService(home, run_dir, harness)
    await service.start()
    try:
        yield service
    finally:
        await service.kill()


@pytest.fixture
def dealers() -> Iterator[type]:
    made: list[Dealer] = []

    class Made(Dealer):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
            made.append(self)

    yield Made
    for dealer in made:
        dealer.close()


def hello(name: str) -> m.Hello:
    return m.Hello(name=name, boot="boot", seen=0, free=1, body=worker_info())


async def stays_out(dealer: Dealer, service: TcpService) -> None:
    """Over two refused handshakes, or one that never ends."""
    for _ in range(40):
        assert not dealer.connected()
        await asyncio.sleep(0.02)
    assert service.server is not None


@in_loop
async def test_an_edge_and_a_worker_with_keys_work_as_over_ipc(harness, tmp_path, short_dir, dealers):
    edge, node = harness.add("edge-2", "edge"), harness.add("node-2", "worker")
    async with serving(tmp_path, short_dir, harness) as service:
        async with BrokerClient(service.front_tcp, key=read_peer_key(edge, "edge")) as client:
            agent = dealers(service.back_tcp, read_peer_key(node, "worker"))
            await eventually(agent.connected)
            agent.send(hello("node-2.gpu-0"))
            await eventually(lambda: agent.all(m.Welcome))
            view, _ = await client.submit(a_job("job-1"))
            assert view.id == "job-1"
            await eventually(lambda: agent.all(m.Run))
        # And those over ipc need no key beside them.
        async with BrokerClient(service.front) as client:
            assert (await client.get("job-1")).state == "assigned"


@in_loop
async def test_a_broker_may_listen_on_tcp_alone(harness, tmp_path, short_dir, monkeypatch):
    monkeypatch.setattr(TcpService, "open_wires", lambda self: Sockets(self.front_tcp, self.back_tcp, gate(harness)))
    edge = read_peer_key(harness.add("edge-2", "edge"), "edge")
    async with serving(tmp_path, short_dir, harness) as service, BrokerClient(service.front_tcp, key=edge) as client:
        assert (await client.worker_requests.pool()).workers == ()


@pytest.mark.parametrize("who", ["stranger", "no key", "wrong broker", "edge at the back", "worker at the front"])
def test_nobody_else_gets_in(harness, tmp_path, short_dir, dealers, who):
    @in_loop
    async def story() -> None:
        public, secret = (part.decode() for part in zmq.curve_keypair())
        node = read_peer_key(harness.add("node-2", "worker"), "worker")
        edge = read_peer_key(harness.add("edge-2", "edge"), "edge")
        stranger = PeerKey(name="x", role="worker", public=public, secret=secret, broker=node.broker)
        async with serving(tmp_path, short_dir, harness) as service:
            dealer = {
                "stranger": lambda: dealers(service.back_tcp, stranger),
                "no key": lambda: dealers(service.back_tcp, None),
                "wrong broker": lambda: dealers(service.back_tcp, node, server=public),
                "edge at the back": lambda: dealers(service.back_tcp, edge),
                "worker at the front": lambda: dealers(service.front_tcp, node),
            }[who]()
            await stays_out(dealer, service)
            if who not in ("no key", "wrong broker"):  # these fail before the list is asked
                assert service.wires.refused
            good = dealers(service.back_tcp, node)
            await eventually(good.connected)

    story()


@in_loop
async def test_a_key_that_is_added_gets_in_without_a_restart_of_anybody(harness, tmp_path, short_dir, dealers):
    async with serving(tmp_path, short_dir, harness) as service:
        node = harness.add("node-2", "worker")
        entry = harness.directory / "allowed/node-2.pub"
        kept = entry.read_bytes()
        entry.unlink()
        dealer = dealers(service.back_tcp, read_peer_key(node, "worker"))
        await stays_out(dealer, service)
        entry.write_bytes(kept)
        entry.chmod(0o600)
        await eventually(dealer.connected)


@in_loop
async def test_a_removed_key_is_dead_on_open_connections_too(harness, tmp_path, short_dir, dealers):
    edge, node = (
        read_peer_key(harness.add("edge-2", "edge"), "edge"),
        read_peer_key(harness.add("node-2", "worker"), "worker"),
    )
    async with serving(tmp_path, short_dir, harness) as service:
        agent = dealers(service.back_tcp, node)
        await eventually(agent.connected)
        agent.send(hello("node-2.gpu-0"))
        await eventually(lambda: agent.all(m.Welcome))
        async with BrokerClient(service.front_tcp, key=edge) as client:
            assert len((await client.worker_requests.pool()).workers) == 1
            client.timeout_s = 0.7
            harness("remove", "edge-2")
            harness("remove", "node-2")
            service.wires.keep_watch()
            with pytest.raises(BrokerUnavailable):
                await client.submit(a_job("job-1"))
            agent.send(m.Heartbeat(seen=0, free=1))
            await eventually(lambda: not agent.connected())
            await stays_out(agent, service)
        assert service.core.job("job-1") is None
        assert [worker.state for worker in service.core.snapshot().workers] == ["suspect"]


@in_loop
async def test_a_machine_cannot_act_as_the_worker_of_another(harness, tmp_path, short_dir, dealers):
    node = read_peer_key(harness.add("node-2", "worker"), "worker")
    async with serving(tmp_path, short_dir, harness) as service:
        for name in ("node-1.gpu-0", "gpu-0", "node-22.gpu-0", "node-2"):
            agent = dealers(service.back_tcp, node)
            await eventually(agent.connected)
            agent.send(hello(name))
            bye = (await eventually(lambda agent=agent: agent.all(m.WorkerRejected)))[0]
            assert "node-2." in bye.reason
        assert service.core.snapshot().workers == ()
        assert service.limiter.by_kind["name"] == 4


@pytest.mark.parametrize("fault", ["no handler", "no domain", "handler that admits all", "no curve"])
def test_a_door_that_only_looks_shut_is_found_at_start(harness, short_dir, monkeypatch, fault):
    if fault == "no handler":
        monkeypatch.setattr(zap.ZapHandler, "_run", lambda self: self._bound.set())
    elif fault == "handler that admits all":
        monkeypatch.setattr(zap.ZapHandler, "_answer", lambda self, frames: [b"1.0", frames[1], b"200", b"", b"x", b""])
    elif fault == "no domain":
        real = sockets._require_key
        monkeypatch.setattr(zap.ZapHandler, "_run", lambda self: self._bound.set())

        def lax(socket, *args):
            real(socket, *args)
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 0)

        monkeypatch.setattr(sockets, "_require_key", lax)
    else:
        monkeypatch.setattr(sockets, "_require_key", lambda *args: None)
    monkeypatch.setattr(selftest, "_PATIENCE_S", 0.5)
    with pytest.raises(BindFailed, match="self-test"):
        Sockets(f"ipc://{short_dir}/f", f"ipc://{short_dir}/b", gate(harness, back=f"tcp://127.0.0.1:{free_port()}"))


def test_a_busy_port_is_said(harness, short_dir):
    port = free_port()
    context = zmq.Context()
    holder = context.socket(zmq.ROUTER)
    holder.bind(f"tcp://127.0.0.1:{port}")
    try:
        with pytest.raises(BindFailed, match=f"127.0.0.1:{port}"):
            Sockets(f"ipc://{short_dir}/f", f"ipc://{short_dir}/b", gate(harness, back=f"tcp://127.0.0.1:{port}"))
    finally:
        context.destroy(linger=0)


def test_the_list_follows_its_directory(harness, caplog):
    peers = zap.Peers(harness.directory / "allowed")
    caplog.set_level("INFO")
    key = read_peer_key(harness.add("node-2", "worker"), "worker")
    raw = zmq.utils.z85.decode(key.public.encode())
    wait_until(lambda: peers.find(raw) is not None)
    assert peers.admits("node-2")
    entry = harness.directory / "allowed/node-2.pub"
    entry.chmod(0o666)
    entry.write_text(entry.read_text())
    peers.refresh()
    entry.touch()
    peers.refresh()
    assert not peers.admits("node-2"), "an entry that others may change lets nobody in"
    assert "bad_key" in {record.action for record in caplog.records}
