"""Connections over tcp that have not finished their handshake: counted and cut, so that clients without a key do not use up the
descriptors.

libzmq gives each one `HANDSHAKE_IVL`, however many bytes it brings, and bounds them in no other way; its events do not have the peer whose
handshake succeeded. The bytes that a peer has acknowledged show it: no peer is sent more than greeting and WELCOME before its key is found
good. The system counts them, and takes no acknowledgement of what was not sent. A thread of its own checks, as the loop may wait for the
disk, and it needs no descriptor to. Linux only; elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence

from broker.runtime.log_actions import Action

logger = logging.getLogger(__name__)

#: What a server sends of ZMTP 3 with CURVE before it has checked the key: greeting (64) and WELCOME (170). READY brings 67 at least. The
#: system may count the byte of the connection's begin.
_UNKNOWN_BYTES = 64 + 170 + 1

#: Half-open connections that one address may have, and the part of all descriptors that may be half-open.
PER_ADDRESS = 16
_SHARE = 4

#: Descriptors that are kept free of half-open connections, for new peers over ipc and the process itself; fewer where there are few.
_RESERVE = 64
_RESERVE_SHARE = 8

#: Between two checks: usually, and after one that had to cut or left less than twice the reserve.
_LOOK_EVERY_S = 0.1
_LOOK_SOON_S = 0.005
_LOOK_FURTHER = 65_536

_LOG_EVERY_S = 1.0

_FDS = "/proc/self/fd"

#: `tcpi_bytes_acked` in Linux' `struct tcp_info` (4.1 and later).
_ACKED = struct.Struct("=Q")
_ACKED_AT = 120
_TCP_INFO = getattr(socket, "TCP_INFO", None)


def reserve(limit: int) -> int:
    """Descriptors to keep free of half-open connections, of so many that there may be."""
    return min(_RESERVE, limit // _RESERVE_SHARE)


def surplus(found: Sequence[tuple[int, str]], free: int, limit: int) -> list[int]:
    """Which of the half-open connections `found` (descriptor, address) to cut, while `free` of `limit` descriptors are left.

    All, when they have more than their share or what is left falls below the reserve; else all of an address that has too many.
    """
    counts = Counter(address for _, address in found)
    full = len(found) > limit // _SHARE or free < reserve(limit)
    return [number for number, address in found if full or counts[address] > PER_ADDRESS]


class HalfOpen:
    """Cuts half-open connections to these tcp ports, until `close`."""

    def __init__(self, ports: frozenset[int]) -> None:
        self._ports = ports
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        #: Descriptors in use at the last look that are no half-open connections.
        self._settled = 0
        self.cut = 0
        self._logged = 0
        self._quiet_until = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="half-open", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = _LOOK_EVERY_S
        while not self._ended.wait(pause_s):
            pause_s = _LOOK_SOON_S if self._look() else _LOOK_EVERY_S
            self._log()

    def _look(self) -> bool:
        """Cut what is too much. Returns whether to look again soon."""
        in_use = self._in_use()
        free = self._limit - in_use
        scarce = free < 2 * reserve(self._limit)
        if in_use - self._settled <= PER_ADDRESS and not scarce:
            self._settled = min(self._settled, in_use)
            return False
        descriptors = self._descriptors()
        found = [(number, address) for number in descriptors if (address := self._half_open(number)) is not None]
        self._settled = max(0, len(descriptors) - len(found))
        cut = surplus(found, free, self._limit)
        for number in cut:
            shut_down(number)
        self.cut += len(cut)
        return bool(cut) or (scarce and bool(found))

    def _log(self) -> None:
        """Log what was cut, once a second at most."""
        now = time.monotonic()
        if self.cut > self._logged and now >= self._quiet_until:
            logger.warning(
                "half-open connections cut", extra={"action": Action.HALF_OPEN, "count": self.cut - self._logged}
            )
            self._logged = self.cut
            self._quiet_until = now + _LOG_EVERY_S

    def _in_use(self) -> int:
        """Number of descriptors in use. Linux 6.2 and later give it: to list those of thousands of workers, which holds the loop up, takes
        a thousand times as long."""
        return _kernel_count() or len(self._descriptors())

    def _descriptors(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(_FDS)]
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
            info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKED_AT + _ACKED.size)
        except OSError:  # it listens, or has ended
            return None
        finally:
            connection.detach()
        if len(info) < _ACKED_AT + _ACKED.size:
            return None
        return address if _ACKED.unpack_from(info, _ACKED_AT)[0] <= _UNKNOWN_BYTES else None


def _kernel_count() -> int:
    """Number of descriptors in use, from the kernel; 0 where it has no such number."""
    with contextlib.suppress(OSError):
        return os.stat(_FDS).st_size
    return 0


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
