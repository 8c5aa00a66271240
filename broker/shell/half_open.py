"""Connections over tcp that have not finished their handshake: counted and cut, so that strangers do not use up the descriptors.

libzmq gives each one `HANDSHAKE_IVL` and bounds them in no other way, and its events do not say whose handshake succeeded. The system
counts the bytes that a connection brought, and a CURVE handshake has a least length: who brought less is not through it. A thread of its
own looks, as the loop may wait for the disk, and it needs no descriptor to. Linux only; elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import struct
import threading
from collections import Counter

logger = logging.getLogger(__name__)

#: Greeting (64), HELLO (202) and INITIATE (2 + at least 257) of ZMTP 3 with CURVE.
_HANDSHAKE_BYTES = 525

#: Half-open connections that one address may have, and the part of all descriptors that may be half-open.
PER_ADDRESS = 16
_SHARE = 4

_LOOK_EVERY_S = 0.1
_LOOK_FURTHER = 65_536

#: `tcpi_bytes_received` in Linux' `struct tcp_info`.
_RECEIVED = struct.Struct("=Q")
_RECEIVED_AT = 128
_TCP_INFO = getattr(socket, "TCP_INFO", None)


class HalfOpen:
    """Cuts half-open connections to these tcp ports, until `close`."""

    def __init__(self, ports: frozenset[int]) -> None:
        self._ports = ports
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        #: Descriptors in use at the last look that are no half-open connections.
        self._settled = 0
        self.cut = 0
        self._said = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="half-open", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        descriptors = self._descriptors()
        if len(descriptors) - self._settled <= PER_ADDRESS:
            self._settled = min(self._settled, len(descriptors))
            return
        found = [(number, address) for number in descriptors if (address := self._half_open(number)) is not None]
        self._settled = max(0, len(descriptors) - len(found))
        counts = Counter(address for _, address in found)
        full = len(found) > self._limit // _SHARE
        for number, address in found:
            if full or counts[address] > PER_ADDRESS:
                shut_down(number)
                self.cut += 1
        if self.cut > self._said:
            logger.warning("half-open connections cut", extra={"action": "half_open", "count": self.cut - self._said})
            self._said = self.cut

    def _descriptors(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir("/proc/self/fd")]
        except OSError:  # all are in use
            return [number for number in range(min(self._limit, _LOOK_FURTHER)) if _is_open(number)]

    def _half_open(self, number: int) -> str | None:
        """The address at the other end of a half-open connection; None for everything else."""
        if _TCP_INFO is None:
            return None
        try:
            connection = socket.socket(fileno=number)
        except OSError:  # no socket, or closed meanwhile
            return None
        try:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            if connection.getsockname()[1] not in self._ports:
                return None
            address = str(connection.getpeername()[0])
            info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RECEIVED_AT + _RECEIVED.size)
        except OSError:  # it listens, or has ended
            return None
        finally:
            connection.detach()
        if len(info) < _RECEIVED_AT + _RECEIVED.size:
            return None
        return address if _RECEIVED.unpack_from(info, _RECEIVED_AT)[0] < _HANDSHAKE_BYTES else None


def _is_open(number: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(number)
        return True
    return False


def shut_down(descriptor: int) -> None:
    """Close both ways of a connection that libzmq owns, without taking the descriptor from it.

    Should libzmq have closed it just now and the number be another connection's, that one is cut, and its peer connects again.
    """
    if descriptor < 0:
        return
    with contextlib.suppress(OSError):
        connection = socket.socket(fileno=descriptor)
        try:
            # Not on a duplicate: there may be no descriptor left for one.
            connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.detach()
