"""A bare peer of the broker's tcp endpoints."""

from __future__ import annotations

import zmq

from broker.runtime.curve_keys import PeerKey
from broker.wire import codec
from broker.wire import messages as m


class Dealer:
    """A bare peer with a key."""

    def __init__(self, endpoint: str, key: PeerKey | None, server: str = "", ivl_ms: int = 500) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        # Refused peers try again when a handshake has taken too long; soon, in a test.
        options = {zmq.LINGER: 0, zmq.IMMEDIATE: 1, zmq.HANDSHAKE_IVL: ivl_ms, zmq.RECONNECT_IVL: 50}
        for option, value in options.items():
            self.socket.setsockopt(option, value)
        if key is not None:
            self.socket.curve_publickey = key.public.encode()
            self.socket.curve_secretkey = key.secret.encode()
            self.socket.curve_serverkey = (server or key.broker).encode()
        self.socket.connect(endpoint)
        self.heard: list[m.Message] = []

    def close(self) -> None:
        self.socket.close(linger=0)
        self._context.term()

    def connected(self) -> bool:
        return bool(self.socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT)

    def send(self, message: m.Message) -> None:
        self.socket.send(codec.encode(message), zmq.NOBLOCK)

    def listen(self, decode: codec.Decoder = codec.to_agent) -> list[m.Message]:
        while self.socket.poll(0):
            self.heard += [message for message in decode(self.socket.recv()) if message is not None]
        return self.heard

    def all(self, kind: type[m.Message]) -> list[m.Message]:
        return [message for message in self.listen() if isinstance(message, kind)]
