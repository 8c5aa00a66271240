"""Connections whose message never ends: found and cut.

libzmq keeps the frames of a message until its last one has come; its high-water mark counts messages and its size limit holds for a frame,
so a message without an end fills the memory unseen (measured: 362 MB in seconds). Over tcp the system counts the bytes that each
connection brought; one that brought more than `LIMIT_BYTES` since its last whole message is cut. Over ipc the system does not count, and
only this user may connect, who could as well kill the process.

The connections are looked through only when the process has grown. Linux only; elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

#: Bytes that a connection may bring without a message: the longest message has a fraction of it.
LIMIT_BYTES = 64 * 1024 * 1024

#: Growth of the process since the last look that makes another one worth it.
GROWTH_BYTES = 32 * 1024 * 1024

#: `tcpi_bytes_received` in Linux' `struct tcp_info` (4.1 and later).
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128

_FDS = Path("/proc/self/fd")
_STATM = Path("/proc/self/statm")
_TCP_INFO = getattr(socket, "TCP_INFO", None)


class FloodGuard:
    """Watches the connections to these tcp ports."""

    def __init__(self, ports: frozenset[int]) -> None:
        self._ports = ports
        #: Descriptors by which a whole message came since the last look; the router adds to it.
        self.delivered: set[int] = set()
        #: Descriptor -> bytes it had brought at its last message.
        self._base: dict[int, int] = {}
        self._low = resident_bytes()

    def find(self) -> list[int]:
        """Descriptors of the connections with an endless message, as of now. Cheap while the process does not grow."""
        size = resident_bytes()
        self._low = min(self._low, size)
        if size - self._low < GROWTH_BYTES:
            return []
        found = []
        base: dict[int, int] = {}
        for descriptor, received in self._connections():
            known = received if descriptor in self.delivered else self._base.get(descriptor, 0)
            # The number of a closed connection may be a new one's, which starts from nothing.
            base[descriptor] = known = known if known <= received else 0
            if received - known > LIMIT_BYTES:
                found.append(descriptor)
        self._base = base
        self.delivered.clear()
        if not found:
            self._low = size
        return found

    def _connections(self) -> list[tuple[int, int]]:
        """(descriptor, bytes received) of every connection to one of the ports."""
        found = []
        with contextlib.suppress(OSError):
            for entry in os.listdir(_FDS):
                received = self._received(int(entry))
                if received is not None:
                    found.append((int(entry), received))
        return found

    def _received(self, descriptor: int) -> int | None:
        try:
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                if connection.family not in (socket.AF_INET, socket.AF_INET6) or _TCP_INFO is None:
                    return None
                if connection.getsockname()[1] not in self._ports:
                    return None
                info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RECEIVED_AT + _RECEIVED.size)
        except OSError:  # no socket, or closed meanwhile
            return None
        return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0]) if len(info) >= _RECEIVED_AT + _RECEIVED.size else None


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system has no such number."""
    try:
        return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
