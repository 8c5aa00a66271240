"""The agent's connection to the broker. Sends now or not at all; receives what is there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import zmq

from broker.runtime.curve_keys import PeerKey
from broker.runtime.dealer import open_dealer
from broker.runtime.log_actions import Action
from broker.wire import codec
from broker.wire import messages as m
from workers.agent.errors import AgentError

logger = logging.getLogger(__name__)

#: Larger than any message: what is over it ends the connection.
_MAX_FRAME = 1024 * 1024

#: At the end: time for the last message (`Goodbye`) to get out, in milliseconds.
_LINGER_MS = 500


class BrokerSocket:
    """Connection of an agent to the broker. Raises `AgentError` for an invalid endpoint."""

    def __init__(self, endpoint: str, key: PeerKey | None = None) -> None:
        """Connect; over tcp with a key."""
        self._context = zmq.Context()
        try:
            self.socket = open_dealer(self._context, endpoint, _MAX_FRAME, key)
        except zmq.ZMQError as error:
            self._context.term()
            raise AgentError(f"cannot connect to {endpoint!r}: {error}") from None
        self.rejected = 0

    def send(self, message: m.Message) -> bool:
        """Whether a connection took it."""
        try:
            self.socket.send(codec.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, limit: int = 256) -> Iterator[m.ToAgent | None]:
        """Messages that have arrived (None: the broker's probe). Junk is dropped and counted. Raises `VersionError`."""
        for _ in range(limit):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                messages: Sequence[m.ToAgent | None] = codec.to_agent(codec.single(frames))
            except codec.VersionError:
                raise
            except codec.DecodeError as error:
                self.rejected += 1
                logger.warning("message dropped", extra={"action": Action.DECODE_ERROR, "detail": str(error)})
                continue
            yield from messages

    def close(self) -> None:
        """Close, after giving the last message its time."""
        self.socket.close(_LINGER_MS)
        self._context.term()
