"""A cheap HTTP client for floods, so that one core can request more than another can serve.

Plain sockets in one epoll, ready-made requests, answers that are only measured.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable

from bench.report.errors import BenchError

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


def request(path: str, method: str = "GET") -> bytes:
    """A request without a body, on a connection that stays open."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()


def answer_bytes(data: bytes) -> int | None:
    """Length of the answer that `data` begins with; None while its head is not complete. Raises `BenchError` unless it is a 200."""
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    if not data.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"an answer was {data[:60].decode(errors='replace')!r}")
    head = data[:end].lower()
    at = head.find(_LENGTH)
    if at < 0:
        raise BenchError("an answer had no content-length")
    stop = head.find(b"\r", at)
    return end + len(_HEAD_END) + int(head[at + len(_LENGTH) : stop if stop > 0 else len(head)])


def connect(port: int) -> socket.socket:
    """Open a connection. Raises `BenchError`."""
    try:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    except OSError as error:
        raise BenchError(f"nothing listens on port {port}: {error}") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def flood(port: int, path: str, connections: int, seconds: float) -> int:
    """Answers within `seconds`, each connection sending again as soon as it is answered. Raises `BenchError`."""
    message = request(path)
    with contextlib.ExitStack() as stack:
        epoll = select.epoll()
        stack.callback(epoll.close)
        sockets, buffers = {}, {}
        for _ in range(connections):
            sock = stack.enter_context(connect(port))
            sockets[sock.fileno()], buffers[sock.fileno()] = sock, b""
            epoll.register(sock.fileno(), select.EPOLLIN)
            sock.send(message)
        answered, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            for fd, _ in epoll.poll(0.2):
                sock = sockets[fd]
                data = buffers[fd] + _received(sock)
                length = answer_bytes(data)
                if length is None or len(data) < length:
                    buffers[fd] = data
                    continue
                buffers[fd] = data[length:]
                answered += 1
                sock.send(message)
        return answered


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    if not data:
        raise BenchError("the server closed a connection")
    return data


class Streams:
    """Open event streams on one path; counts the events that come."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self._epoll = select.epoll()
        self._sockets = {}
        self.events = 0
        self.bytes = 0
        for _ in range(count):
            sock = connect(port)
            self._sockets[sock.fileno()] = sock
            self._epoll.register(sock.fileno(), select.EPOLLIN)
            sock.send(request(path))

    def serve(self, seconds: float, done: Callable[[], bool] = lambda: False) -> None:
        """Read for so long, or until `done`. Raises `BenchError`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not done():
            for fd, _ in self._epoll.poll(0.005):
                data = _received(self._sockets[fd])
                self.bytes += len(data)
                # An event, in one piece or several, has one line that begins so.
                self.events += data.count(b"data: ")

    def close(self) -> None:
        self._epoll.close()
        for sock in self._sockets.values():
            sock.close()
