"""Length-prefixed msgpack messages on a socketpair."""

from __future__ import annotations

import socket
import struct

import msgspec
from msgspec import Struct

MAX_MESSAGE = 1024 * 1024

_LENGTH = struct.Struct(">I")


class IpcError(ValueError):
    """Received bytes are not a message of this protocol."""


def pack(message: Struct) -> bytes:
    """The message as it goes over the stream. Raises `IpcError` when it is too long."""
    data = msgspec.msgpack.encode(message)
    if len(data) > MAX_MESSAGE:
        raise IpcError(f"message of {len(data)} bytes, at most {MAX_MESSAGE}")
    return _LENGTH.pack(len(data)) + data


class Channel:
    """End of the socketpair. Blocking sends; receives either block (engine) or take what is there (agent)."""

    def __init__(self, sock: socket.socket, incoming: object) -> None:
        self.sock = sock
        self._decode = msgspec.msgpack.Decoder(incoming).decode
        self._buffer = bytearray()

    def send(self, message: Struct) -> None:
        """Raises `OSError` when the other side is gone."""
        self.sock.sendall(pack(message))

    def receive(self) -> Struct | None:
        """The next message, waiting for it; None at the end of the stream."""
        while True:
            message = self._next()
            if message is not None:
                return message
            if not self._fill():
                return None

    def drain(self) -> tuple[list[Struct], bool]:
        """(all messages that have arrived, whether the stream has ended), without waiting on a non-blocking socket."""
        ended = False
        try:
            while self._fill():
                pass
            ended = True
        except BlockingIOError:
            pass
        except ConnectionError:
            ended = True
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages, ended

    def _fill(self) -> bool:
        data = self.sock.recv(65_536)
        self._buffer += data
        return bool(data)

    def _next(self) -> Struct | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise IpcError(f"message of {length} bytes, at most {MAX_MESSAGE}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        try:
            return self._decode(data)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise IpcError(str(error)[:200]) from None
