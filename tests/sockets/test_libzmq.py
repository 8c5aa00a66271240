"""What libzmq does, where the design leans on it: a change there must be noticed here first."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import zmq

from broker.runtime.dealer import open_dealer
from broker.shell.net.sockets import Sockets, configure
from tests.support.waiting import wait_until

NOBLOCK = zmq.NOBLOCK


def pair(sockets, endpoint, **router_options):
    """A ROUTER, a connected DEALER, and the DEALER's routing id."""
    router = sockets(zmq.ROUTER, **router_options)
    router.bind(endpoint)
    dealer = sockets(zmq.DEALER)
    dealer.connect(endpoint)
    dealer.send(b"hello")
    assert router.poll(60_000)
    return router, dealer, router.recv_multipart()[0]


def test_a_router_without_mandatory_drops_in_silence_and_with_it_says_so(sockets, endpoint):
    router = sockets(zmq.ROUTER)
    router.bind(endpoint)
    router.send_multipart([b"nobody", b"x"], NOBLOCK)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    with pytest.raises(zmq.ZMQError) as caught:
        router.send_multipart([b"nobody", b"x"], NOBLOCK)
    assert caught.value.errno == zmq.EHOSTUNREACH


def test_a_full_peer_is_eagain(sockets, endpoint):
    router, _, peer = pair(sockets, endpoint, router_mandatory=1, sndhwm=10)

    def send_many() -> None:
        for _ in range(200_000):
            router.send_multipart([peer, bytes(1000)], NOBLOCK)

    with pytest.raises(zmq.Again):
        send_many()


def test_a_peer_that_closed_is_unreachable_soon(sockets, endpoint):
    router, dealer, peer = pair(sockets, endpoint, router_mandatory=1)
    sockets.end(dealer)

    def unreachable() -> bool:
        try:
            router.send_multipart([peer, b"x"], NOBLOCK)
        except zmq.ZMQError as error:
            return error.errno == zmq.EHOSTUNREACH
        return False

    wait_until(unreachable)


def test_only_the_first_frame_of_a_message_can_fail(sockets, endpoint):
    """`Listener.send` gives up after the first; a message half sent would shift all that follow."""
    router, dealer, peer = pair(sockets, endpoint, router_mandatory=1, sndhwm=1)
    failed = False
    for number in range(200_000):
        try:
            router.send(peer, NOBLOCK | zmq.SNDMORE)
        except zmq.Again:
            failed = True
            break
        router.send(b"%d" % number, NOBLOCK | zmq.SNDMORE)
        router.send(bytes(1000), NOBLOCK)
    assert failed
    assert dealer.poll(60_000)
    received = []
    while len(received) < number and dealer.poll(60_000):
        received.append(dealer.recv_multipart())
    assert not dealer.poll(200)
    assert [int(frames[0]) for frames in received] == list(range(number))
    assert all(len(frames) == 2 for frames in received)


def test_the_probe_reaches_a_dealer_on_each_connection(sockets, endpoint):
    """It is sent by the thread that owns the ROUTER: a broker that stands still does not greet."""
    dealer = sockets(zmq.DEALER, reconnect_ivl=10)
    dealer.connect(endpoint)

    def greeted(router) -> bool:
        router.getsockopt(zmq.EVENTS)  # the owner does something, anything
        return bool(dealer.poll(5))

    for _ in range(3):
        router = sockets(zmq.ROUTER, probe_router=1)
        router.bind(endpoint)
        assert not dealer.poll(50)
        wait_until(partial(greeted, router))
        assert dealer.recv_multipart() == [b""]
        sockets.end(router)


def test_immediate_refuses_to_queue_for_a_broker_that_is_not_there(sockets, endpoint):
    dealer = sockets(zmq.DEALER, immediate=1)
    dealer.connect(endpoint)
    with pytest.raises(zmq.Again):
        dealer.send(b"x", NOBLOCK)
    router = sockets(zmq.ROUTER)
    router.bind(endpoint)
    assert wait_until(lambda: dealer.getsockopt(zmq.EVENTS) & zmq.POLLOUT)
    dealer.send(b"x", NOBLOCK)
    sockets.end(router)
    assert wait_until(lambda: not dealer.getsockopt(zmq.EVENTS) & zmq.POLLOUT)


def test_the_fd_wakes_when_a_connection_comes_up(sockets, endpoint):
    """The client learns of a new broker this way."""
    dealer = sockets(zmq.DEALER, immediate=1, reconnect_ivl=10)
    dealer.connect(endpoint)
    assert not dealer.getsockopt(zmq.EVENTS) & zmq.POLLOUT
    router = sockets(zmq.ROUTER)
    router.bind(endpoint)

    def woken_writable() -> bool:
        ready, _, _ = select.select([dealer.getsockopt(zmq.FD)], [], [], 5)
        return bool(ready) and bool(dealer.getsockopt(zmq.EVENTS) & zmq.POLLOUT)

    wait_until(woken_writable)


def test_the_fd_may_be_silent_though_there_is_something_to_read(sockets, endpoint):
    """Why every pass ends by asking EVENTS: a send swallows the edge."""
    router, dealer, peer = pair(sockets, endpoint)
    fd = router.getsockopt(zmq.FD)
    assert not router.getsockopt(zmq.EVENTS) & zmq.POLLIN
    dealer.send(b"one")
    wait_until(lambda: select.select([fd], [], [], 0)[0])
    router.send_multipart([peer, b"x"], NOBLOCK)  # handles the commands behind the FD
    if not select.select([fd], [], [], 0)[0]:
        assert router.getsockopt(zmq.EVENTS) & zmq.POLLIN


def test_maxmsgsize_holds_for_a_frame_not_for_a_message(sockets, endpoint):
    router, dealer, _ = pair(sockets, endpoint, maxmsgsize=1000)
    dealer.send_multipart([bytes(900)] * 50)
    assert router.poll(60_000)
    assert len(router.recv_multipart()) == 51
    dealer.send(bytes(1001))
    assert not router.poll(200)


def test_without_handover_the_second_bearer_of_a_name_is_ignored(sockets, endpoint):
    router = sockets(zmq.ROUTER, router_handover=0)
    router.bind(endpoint)
    first, second = sockets(zmq.DEALER, reconnect_ivl=10_000), sockets(zmq.DEALER, reconnect_ivl=10_000)
    for dealer in (first, second):
        dealer.setsockopt(zmq.ROUTING_ID, b"same")
    first.connect(endpoint)
    first.send(b"first")
    assert router.poll(60_000)
    assert router.recv_multipart() == [b"same", b"first"]
    second.connect(endpoint)
    second.send(b"second")
    assert not router.poll(200)


def test_a_second_bind_steals_a_live_path(sockets, endpoint):
    """Why the broker takes an flock first."""
    first, second = sockets(zmq.ROUTER), sockets(zmq.ROUTER)
    first.bind(endpoint)
    second.bind(endpoint)
    dealer = sockets(zmq.DEALER)
    dealer.connect(endpoint)
    dealer.send(b"hello")
    assert second.poll(60_000)
    assert not first.poll(100)


def test_the_file_of_an_ipc_socket_gets_the_umasks_mode(sockets, run_dir):
    before = os.umask(0o177)
    try:
        sockets(zmq.ROUTER).bind(f"ipc://{run_dir}/private")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(f"{run_dir}/private").st_mode) == 0o600


def test_what_a_dead_broker_had_not_read_is_gone(sockets, endpoint):
    """Why everything is resent until it is acknowledged."""
    dealer = sockets(zmq.DEALER, reconnect_ivl=10)
    dealer.connect(endpoint)
    router = sockets(zmq.ROUTER)
    router.bind(endpoint)
    for number in range(100):
        dealer.send(b"%d" % number)
    assert router.poll(60_000)
    assert router.recv_multipart()[1] == b"0"
    sockets.end(router)
    router = sockets(zmq.ROUTER)
    router.bind(endpoint)
    wait_until(lambda: dealer.getsockopt(zmq.EVENTS) & zmq.POLLOUT)
    dealer.send(b"after")
    assert router.poll(60_000)
    assert int(router.recv_multipart()[1].replace(b"after", b"999")) > 1


def test_zmtp_heartbeats_do_not_find_a_process_whose_python_stands_still(sockets, endpoint):
    """Why workers send heartbeats of their own: libzmq's thread answers for a process that computes."""
    router = sockets(zmq.ROUTER, router_mandatory=1, heartbeat_ivl=200, heartbeat_timeout=1500)
    router.bind(endpoint)
    dealer = sockets(zmq.DEALER)
    dealer.connect(endpoint)
    dealer.send(b"hello")
    assert router.poll(60_000)
    peer = router.recv_multipart()[0]
    still = threading.Event()  # nobody reads `dealer` any more
    assert not still.wait(3.0)
    router.send_multipart([peer, b"x"], NOBLOCK)


def test_the_options_of_our_routers(sockets):
    router = sockets(zmq.ROUTER)
    configure(router, 1234, 567)
    # ROUTER_MANDATORY and ROUTER_HANDOVER can only be set, not read; their effect is tested above.
    read = {
        name: router.getsockopt(getattr(zmq, name))
        for name in ("LINGER", "SNDHWM", "RCVHWM", "MAXMSGSIZE", "HANDSHAKE_IVL")
    }
    assert read == {
        "LINGER": 0,
        "SNDHWM": 567,
        "RCVHWM": 10_000,
        "MAXMSGSIZE": 1234,
        "HANDSHAKE_IVL": 5_000,
    }


@pytest.fixture
def context():
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def tcp_ends(context):
    """(a ROUTER as ours, a DEALER as ours, the system's socket of their connection)."""
    router = context.socket(zmq.ROUTER)
    configure(router, 1234, 567)
    router.bind("tcp://127.0.0.1:*")
    dealer = open_dealer(context, router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"), 1234)
    dealer.setsockopt(zmq.SNDTIMEO, 60_000)
    dealer.send(b"hello")
    assert router.poll(60_000)
    router.recv()
    with socket.socket(fileno=router.recv(copy=False).get(zmq.SRCFD)) as connection:
        yield router, dealer, connection
        connection.detach()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux")
def test_the_system_reaps_tcp_connections_of_machines_that_are_gone(tcp_ends):
    _, _, connection = tcp_ends

    def option(name):
        return connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))

    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert option("TCP_KEEPIDLE") + option("TCP_KEEPINTVL") * option("TCP_KEEPCNT") <= 15
    assert option("TCP_USER_TIMEOUT") == 15_000


def test_nobody_is_pinged_by_libzmq(run_dir, tcp_ends):
    """A message to or from a connection with such a timer has libzmq look through those of all connections."""
    _, dealer, _ = tcp_ends
    wires = Sockets(f"ipc://{run_dir}/f", f"ipc://{run_dir}/b")
    try:
        ends = (wires.front._socket, wires.back._socket, dealer)
        assert [end.getsockopt(zmq.HEARTBEAT_IVL) for end in ends] == [0, 0, 0]
    finally:
        wires.close()


UNREAD = """
import sys, time, zmq
from broker.shell.net.sockets import HWM, Sockets

front, back = sys.argv[1:]
wires = Sockets(front, back)
context = zmq.Context()
edge = context.socket(zmq.DEALER)
edge.setsockopt(zmq.SNDHWM, 0)
edge.connect(front)
for _ in range(3 * HWM):
    edge.send(bytes(1000))
time.sleep(1.0)  # until the broker's queue is full
edge.close(linger=0)
context.term()
time.sleep(3.0)
while wires.front.receive() is not None:
    pass
time.sleep(1.0)
wires.close()
print("alive")
"""


def test_an_edge_that_dies_while_its_queue_is_full_does_not_take_the_broker_with_it(run_dir):
    """libzmq 4.3.5 aborts its process over such a connection if it pings it."""
    done = subprocess.run(
        [sys.executable, "-c", UNREAD, f"ipc://{run_dir}/f", f"ipc://{run_dir}/b"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux")
def test_the_brokers_io_thread_lets_its_loop_go_on(run_dir):
    # By libzmq's own names of its threads: in this process, others may start threads at any time.
    def io_threads():
        found = {}
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if Path(f"/proc/self/task/{task}/comm").read_text().startswith("ZMQbg/IO"):
                    found[task] = os.sched_getscheduler(int(task))
        return found

    before = io_threads()
    wires = Sockets(f"ipc://{run_dir}/f", f"ipc://{run_dir}/b")
    try:
        wait_until(lambda: set(io_threads()) - set(before), 10)  # a thread names itself once it runs
        policies = {policy for task, policy in io_threads().items() if task not in before}
    finally:
        wires.close()
    assert policies == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
