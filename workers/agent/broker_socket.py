"""The DEALER to the broker. Sends now or not at all; receives what is there.

Options and their reasons (each measured: without it messages vanish or pile up unseen): IMMEDIATE keeps messages out of a connection
that does not exist yet, so a send without a broker fails at once instead of arriving minutes later; no routing id is set, for
a name in `Hello` cannot be stolen or parked; ZMTP heartbeats only reap half-open connections, so their timeout is far above any pause.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import zmq

from broker.runtime.curve_keys import PeerKey
from broker.runtime.log_actions import Action
from broker.wire import codec
from broker.wire import messages as m
from workers.agent.errors import AgentError

logger = logging.getLogger(__name__)

_OPTIONS = (
    (zmq.IMMEDIATE, 1),
    (zmq.SNDHWM, 10_000),
    (zmq.RCVHWM, 10_000),
    (zmq.MAXMSGSIZE, 1024 * 1024),
    (zmq.RECONNECT_IVL, 100),
    (zmq.RECONNECT_IVL_MAX, 2_000),
    (zmq.HANDSHAKE_IVL, 5_000),
    (zmq.HEARTBEAT_IVL, 2_000),
    (zmq.HEARTBEAT_TIMEOUT, 15_000),
)

#: At the end: time for the last message (`Goodbye`) to get out, in milliseconds.
_LINGER_MS = 500


class BrokerSocket:
    """One agent's connection. Raises `AgentError` for an endpoint that cannot be one."""

    def __init__(self, endpoint: str, key: PeerKey | None = None) -> None:
        """Connect; over tcp with a key."""
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        for option, value in _OPTIONS:
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.LINGER, 0)
        if key is not None:
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, key.broker.encode())
            self.socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise AgentError(f"cannot connect to {endpoint!r}: {error}") from None
        self.rejected = 0

    def send(self, message: m.Message, body: bytes | None = None) -> bool:
        """Whether a connection took it."""
        try:
            self.socket.send_multipart(codec.encode(message, body), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, limit: int = 256) -> Iterator[tuple[m.ToAgent | None, bytes]]:
        """Messages that have arrived (None: the broker's probe). Junk is dropped and counted. Raises `VersionError`."""
        for _ in range(limit):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                decoded = codec.to_agent(frames)
            except codec.VersionError:
                raise
            except codec.DecodeError as error:
                self.rejected += 1
                logger.warning("message dropped", extra={"action": Action.DECODE_ERROR, "detail": str(error)})
                continue
            yield decoded if decoded is not None else (None, b"")

    def close(self) -> None:
        """Close, after giving the last message its time."""
        self.socket.close(_LINGER_MS)
        self._context.term()
