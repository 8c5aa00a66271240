"""The two ROUTER sockets: how they are set, how they are read and written without waiting.

Everything here follows from what libzmq does, measured: a ROUTER without MANDATORY drops what it cannot deliver, with HANDOVER a
newcomer steals a routing id, bind on a live ipc path succeeds and steals the path (hence `lock`), and MAXMSGSIZE holds for a frame,
not a message, so a second frame is refused. Routing ids of the two sockets can be equal, so a peer is named by one letter and its
routing id. Options hold for the binds that follow them: one ROUTER listens on ipc without keys and on tcp with them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq
from msgspec import Struct

from broker.runtime.curve_keys import BrokerKey, is_tcp
from broker.runtime.dealer import KEEP_ALIVE
from broker.runtime.errors import BindFailed
from broker.runtime.settings import make_private_dir
from broker.shell.net.flood_guard import FloodGuard
from broker.shell.net.half_open import HalfOpen, shut_down
from broker.shell.net.selftest import assert_shut
from broker.shell.net.zap import Peers, ZapHandler
from broker.wire import codec
from broker.wire import messages as m

FRONT = b"f"
BACK = b"b"

#: Frames from one peer, and to one worker.
HWM = 10_000
#: Frames to one edge, which reads 10,000 more whatever its Python does: so many wait for a process that is stopped, until it ends. libzmq's
#: heartbeats would find it, but abort this process (libzmq 4.3.5, `!_io_error`) over a connection that ends while its messages wait at the
#: high-water mark to be read.
EDGE_HWM = 1_000
FRONT_MAX_FRAME = 1024 * 1024
#: Results are small and files travel by reference.
BACK_MAX_FRAME = 256 * 1024
HANDSHAKE_MS = 5_000

# Plain ints: pyzmq's enums cost more than the send itself.
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

#: Threads of this process.
_TASKS = "/proc/self/task"


class Gate(Struct, frozen=True, kw_only=True):
    """Needs of listening on tcp: the broker's key, the directory of the peers that are allowed, and the endpoints."""

    key: BrokerKey
    allowed: Path
    #: tcp endpoints besides those of `Sockets`; "": none.
    front: str = ""
    back: str = ""


class Listener:
    """One ROUTER, bound to its endpoints."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        prefix: bytes,
        endpoints: tuple[str, ...],
        key: BrokerKey | None = None,
    ) -> None:
        """Bind; ipc first, then tcp with the key. Raises `BindFailed`."""
        self.prefix = prefix
        self.endpoints = endpoints
        #: Addresses of the tcp endpoints, as this machine can connect to them.
        self.reachable: list[str] = []
        #: Whether peers may come by tcp, and so have names.
        self.keyed = any(map(is_tcp, endpoints))
        #: Whether they may come over ipc, and so have none.
        self.local = not all(map(is_tcp, endpoints))
        #: The rest of a frame that the last pass had no room for: its peer, the messages, whether they are kept whole.
        self.rest: tuple[bytes, Sequence[m.Message | None], bool] | None = None
        self._socket = context.socket(zmq.ROUTER)
        configure(self._socket, *((FRONT_MAX_FRAME, EDGE_HWM) if prefix == FRONT else (BACK_MAX_FRAME, HWM)))
        if prefix == BACK:
            # An empty frame to every peer that connects or reconnects: the broker is here and may be new, so register again.
            self._socket.setsockopt(zmq.PROBE_ROUTER, 1)
        try:
            for endpoint in sorted(endpoints, key=is_tcp):
                if is_tcp(endpoint):
                    _require_key(self._socket, endpoint, key, _DOMAIN[prefix])
                self._bind(endpoint)
        except BaseException:
            self._socket.close(linger=0)
            raise
        self.fd = int(self._socket.getsockopt(zmq.FD))
        # The compiled methods themselves: pyzmq's wrappers around them, for options not used here, cost as much as the send.
        self._recv = zmq.backend.Socket.recv.__get__(self._socket)
        self.send_frame = zmq.backend.Socket.send.__get__(self._socket)
        self._get = zmq.backend.Socket.get.__get__(self._socket)
        #: The last message, which has its source.
        self._source: zmq.Frame | None = None

    def _bind(self, endpoint: str) -> None:
        # The mode of an ipc file is the umask's; connecting needs write permission.
        umask = os.umask(0o177)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            where = "" if is_tcp(endpoint) else f" (directory {ipc_path(endpoint).parent})"
            raise BindFailed(f"cannot listen on {endpoint}: {error.strerror or error}{where}", endpoint) from None
        finally:
            os.umask(umask)
        if is_tcp(endpoint):
            self.reachable.append(_reachable(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")))

    def receive(self) -> tuple[bytes, Any, bool] | None:
        """(routing id, first frame as a buffer, whether more frames came behind it) of the next message; None when there is none now.

        Further frames are read to the message's end and dropped: left in the socket, the next would be taken for a routing id, and its
        sender could pass for any peer.
        """
        try:
            routing_id = self._recv(_NOBLOCK, True)
        except zmq.Again:
            return None
        # Not copied: a `Frame` costs more than the copy of a small message, but is the only one with `more`, without another call, and with
        # the source.
        self._source = first = frame = self._recv(_NOBLOCK, False)
        while frame.more:
            frame = self._recv(_NOBLOCK, False)
        return routing_id, first, frame is not first

    def sender(self) -> str:
        """The name on whose key the last message came; "" when it came over ipc, from this user's own processes."""
        try:
            return str(self._source.get("User-Id")) if self._source is not None else ""
        except zmq.ZMQError:  # there is none
            return ""

    def source_fd(self) -> int:
        """Descriptor of the connection by which the last message came; -1 when that is not known."""
        try:
            return int(self._source.get(zmq.SRCFD)) if self._source is not None else -1
        except zmq.ZMQError:
            return -1

    def cut(self) -> None:
        """End the connection by which the last message came. libzmq has no call for that, so the system's is used, which libzmq detects."""
        shut_down(self.source_fd())

    def readable(self) -> bool:
        """Whether there is something to read. The FD signals a change once, and any send or receive may swallow that: call this after
        it.
        """
        return bool(self._get(_EVENTS) & _POLLIN)

    def close(self) -> None:
        self._socket.close(linger=0)


def ipc_path(endpoint: str) -> Path:
    """The file of an ipc endpoint."""
    return Path(endpoint.removeprefix("ipc://"))


def _require_key(socket: zmq.Socket[bytes], endpoint: str, key: BrokerKey | None, domain: bytes) -> None:
    """Admit only peers whose keys are on the list, from now on."""
    if key is None:
        raise BindFailed(f"cannot listen on {endpoint}: tcp needs CURVE keys")
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
    socket.setsockopt(zmq.ZAP_DOMAIN, domain)
    # Without it every peer gets in while no ZAP handler runs.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))


def configure(socket: zmq.Socket[bytes], max_frame: int, unread: int) -> None:
    """Set the options of a ROUTER: what a frame has at most, in bytes, and how many frames wait for a peer that does not read."""
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.SNDHWM, unread)
    socket.setsockopt(zmq.RCVHWM, HWM)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    for option, value in KEEP_ALIVE:
        socket.setsockopt(option, value)
    socket.setsockopt(zmq.LINGER, 0)


class Sockets:
    """Both listeners, and a context of their own."""

    def __init__(self, front: str, back: str, gate: Gate | None = None) -> None:
        """Make the directories (0700), bind both, and test that an unknown key is refused. Raises `BindFailed` or `SettingsError`.

        A tcp endpoint needs a gate.
        """
        further = (gate.front, gate.back) if gate else ("", "")
        ends = {FRONT: tuple(filter(None, (front, further[0]))), BACK: tuple(filter(None, (back, further[1])))}
        for endpoint in (*ends[FRONT], *ends[BACK]):
            if not is_tcp(endpoint):
                make_private_dir(ipc_path(endpoint).parent)
        self._context = _open_context()
        self._listeners: dict[int, Listener] = {}
        #: Allow-list for tcp; None: tcp is refused.
        self.peers = Peers(gate.allowed) if gate else None
        self._zap = ZapHandler(self._context, self.peers) if self.peers else None
        key = gate.key if gate else None
        tcp = [endpoint for endpoint in (*ends[FRONT], *ends[BACK]) if is_tcp(endpoint)]
        ports = frozenset(int(endpoint.rpartition(":")[2]) for endpoint in tcp)
        self._flood_guard = FloodGuard(ports) if tcp else None
        self._half_open = HalfOpen(ports) if tcp else None
        try:
            self.front = Listener(self._context, FRONT, ends[FRONT], key)
            self._listeners[FRONT[0]] = self.front
            self.back = Listener(self._context, BACK, ends[BACK], key)
            self._listeners[BACK[0]] = self.back
            if gate and self._zap:
                for endpoint in (*self.front.reachable, *self.back.reachable):
                    assert_shut(endpoint, gate.key.public.encode(), self._zap)
                self._zap.open()
        except BaseException:
            self.close()
            raise

    def delivered(self, listener: Listener) -> None:
        """Note that a whole message came by tcp: its sender does end its messages."""
        if self._flood_guard:
            self._flood_guard.delivered.add(listener.source_fd())

    def keep_watch(self) -> int:
        """Read the list of keys again if it changed, and cut connections that send without end; how many. To be called each second."""
        if self.peers:
            self.peers.refresh()
        endless = self._flood_guard.find() if self._flood_guard else []
        for descriptor in endless:
            shut_down(descriptor)
        return len(endless)

    @property
    def refused(self) -> int:
        """Connections refused for their key."""
        return self._zap.refused if self._zap else 0

    def send(self, peer: bytes, frame: bytes) -> bool:
        """To a peer as `Router` names them; False when it is gone or its queue full, which only the routing id's frame finds."""
        send = self._listeners[peer[0]].send_frame
        try:
            send(peer[1:], _MORE)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        send(frame, _NOBLOCK)
        return True

    def close(self) -> None:
        """Close both and wait until libzmq has let go of the paths."""
        if self._half_open:
            self._half_open.close()
        for listener in self._listeners.values():
            listener.close()
        # Not `destroy`: the handler's socket is its thread's to close, and it does when the context ends.
        self._context.term()
        if self._zap:
            self._zap.join()
        # libzmq leaves the files. They are ours: the process that binds such a path holds its lock.
        for listener in self._listeners.values():
            for endpoint in listener.endpoints:
                if not is_tcp(endpoint):
                    ipc_path(endpoint).unlink(missing_ok=True)


def _open_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context whose I/O thread, which every send wakes, waits for a core instead of taking the loop's.

    Where both run on one, a pass's messages then leave together, after it: a sixth of the processor time a job, measured. Not by libzmq's
    own option, which ends the process where the system refuses (some sandboxes do).
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: not on Linux
        batch, others = os.SCHED_BATCH, set(os.listdir(_TASKS))
        context.socket(zmq.DEALER).close()  # the first socket starts the threads
        for task in set(os.listdir(_TASKS)) - others:
            with contextlib.suppress(ProcessLookupError):  # another program's thread, which has ended meanwhile
                os.sched_setscheduler(int(task), batch, os.sched_param(0))
    return context


def _reachable(endpoint: str) -> str:
    """A bound tcp endpoint (a numeric address, where the option may have named an interface) as this machine can connect to it."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    own = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"tcp://{own}:{port}"


_DOMAIN = {FRONT: b"zoetrope.front", BACK: b"zoetrope.back"}

DECODERS = {FRONT: codec.from_edge, BACK: codec.from_agent}
