"""A port that is kept for a process of ours until that listens there, and between two of its lives."""

from __future__ import annotations

import socket


class ReservedPort:
    """A port of this machine's address that the system has chosen, kept as long as this object.

    It is bound and does not listen: a process that shares addresses (`SO_REUSEADDR`, as libzmq does) can listen there, and the system gives
    the port to no connection of another.
    """

    def __init__(self, ip: str) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((ip, 0))
        self.endpoint = f"tcp://{f'[{ip}]' if ':' in ip else ip}:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        """Give it back."""
        self._socket.close()
