"""The two ROUTER sockets: how they are set, how they are read and written without waiting.

Everything here follows from what libzmq does, measured: a ROUTER without MANDATORY drops what it cannot deliver, with HANDOVER a
newcomer steals a routing id, bind on a live ipc path succeeds and steals the path (hence `lock`), and MAXMSGSIZE holds for a frame,
not a message, so frames are counted too. Routing ids of the two sockets can be equal, so a peer is named by one letter and its
routing id.
"""

from __future__ import annotations

import os
from pathlib import Path

import zmq

from broker.shell.errors import BindFailed
from broker.wire import codec
from broker.wire.options import make_private_dir

FRONT = b"f"
BACK = b"b"

HWM = 10_000
FRONT_MAX_FRAME = 1024 * 1024
#: Results are small and files travel by reference.
BACK_MAX_FRAME = 256 * 1024
HANDSHAKE_MS = 5_000
#: Reaps half-open connections, nothing else: it proves an I/O thread, not a worker. Its time-out must exceed any time a receiver can sleep
#: at its high-water mark, or libzmq drops what is in flight.
HEARTBEAT_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 15_000

#: A message is [header] or [header, body]; what has more is read to its end and dropped.
MAX_FRAMES = 2

# Plain ints: pyzmq's enums cost more than the send itself.
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)


class Listener:
    """One bound ROUTER."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], prefix: bytes, endpoint: str) -> None:
        """Bind. Raises `BindFailed`."""
        self.prefix = prefix
        self.endpoint = endpoint
        self._socket = context.socket(zmq.ROUTER)
        configure(self._socket, FRONT_MAX_FRAME if prefix == FRONT else BACK_MAX_FRAME)
        if prefix == BACK:
            # An empty frame to every peer that connects or reconnects: "the broker is here and may be new, say Hello".
            self._socket.setsockopt(zmq.PROBE_ROUTER, 1)
        path = Path(endpoint.removeprefix("ipc://"))
        # The mode of the file is the umask's; connecting needs write permission.
        umask = os.umask(0o177)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close(linger=0)
            raise BindFailed(
                f"cannot listen on {endpoint}: {error.strerror or error} (directory {path.parent})"
            ) from None
        finally:
            os.umask(umask)
        self.fd = int(self._socket.getsockopt(zmq.FD))
        self._recv = self._socket.recv
        # The compiled method itself: pyzmq's wrapper around it, for options not used here, costs as much as the send.
        self._send = zmq.backend.Socket.send.__get__(self._socket)
        self._get = self._socket.getsockopt

    def receive(self) -> list[bytes] | None:
        """All frames of the next message, routing id first; None when there is none now."""
        try:
            frame = self._recv(_NOBLOCK, False)
        except zmq.Again:
            return None
        frames = [frame.bytes]
        while frame.more:
            frame = self._recv(_NOBLOCK, False)
            # One frame too many is enough to see that it is junk.
            if len(frames) <= MAX_FRAMES + 1:
                frames.append(frame.bytes)
        return frames

    def send(self, routing_id: bytes, frames: list[bytes]) -> bool:
        """Hand a message to libzmq; False when the peer is gone or its queue full. Only the first frame can fail."""
        try:
            self._send(routing_id, _MORE)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        last = len(frames) - 1
        for index, frame in enumerate(frames):
            self._send(frame, _NOBLOCK if index == last else _MORE)
        return True

    def readable(self) -> bool:
        """Whether there is something to read. The FD tells of a change once, and any send or receive may swallow that: ask after it."""
        return bool(int(self._get(_EVENTS)) & _POLLIN)

    def close(self) -> None:
        self._socket.close(linger=0)


def configure(socket: zmq.Socket[bytes], max_frame: int) -> None:
    """Options of a ROUTER that are the same on both sides."""
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.SNDHWM, HWM)
    socket.setsockopt(zmq.RCVHWM, HWM)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.LINGER, 0)


class Wires:
    """Both listeners, and a context of their own."""

    def __init__(self, front: str, back: str) -> None:
        """Make the directories (0700) and bind both. Raises `BindFailed` or `SettingsError`."""
        for endpoint in (front, back):
            make_private_dir(Path(endpoint.removeprefix("ipc://")).parent)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._listeners: dict[int, Listener] = {}
        try:
            self.front = Listener(self._context, FRONT, front)
            self._listeners[FRONT[0]] = self.front
            self.back = Listener(self._context, BACK, back)
            self._listeners[BACK[0]] = self.back
        except BaseException:
            self.close()
            raise

    def send(self, peer: bytes, frames: list[bytes]) -> bool:
        """To a peer as `Router` names them; False when it cannot be reached."""
        return self._listeners[peer[0]].send(peer[1:], frames)

    def close(self) -> None:
        """Close both and wait until libzmq has let go of the paths."""
        for listener in self._listeners.values():
            listener.close()
        self._context.destroy(linger=0)


DECODERS = {FRONT: codec.from_edge, BACK: codec.from_agent}
