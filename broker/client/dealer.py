"""A DEALER to the broker, set up as the broker's ROUTERs expect it."""

from __future__ import annotations

import zmq

from broker.runtime.curve_keys import PeerKey

_HWM = 10_000
_HANDSHAKE_MS = 5_000
_RECONNECT_MS = 100
_RECONNECT_MAX_MS = 1_000
#: As the broker's: reaps half-open connections; must exceed any time the owner's loop may stand still.
_HEARTBEAT_MS = 2_000
_HEARTBEAT_TIMEOUT_MS = 15_000


def open_dealer(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, max_frame: int, key: PeerKey | None = None
) -> zmq.Socket[bytes]:
    """A DEALER that connects to `endpoint`, now or as soon as there is somebody, and again after every loss; over tcp with a key.

    A send raises `zmq.Again` while there is no connection: without IMMEDIATE it would be kept, and delivered late, in a burst.
    """
    socket = context.socket(zmq.DEALER)
    for option, value in (
        (zmq.IMMEDIATE, 1),
        (zmq.LINGER, 0),
        (zmq.SNDHWM, _HWM),
        (zmq.RCVHWM, _HWM),
        (zmq.MAXMSGSIZE, max_frame),
        (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
        (zmq.RECONNECT_IVL, _RECONNECT_MS),
        (zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS),
        (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS),
        (zmq.HEARTBEAT_TTL, _HEARTBEAT_TIMEOUT_MS),
    ):
        socket.setsockopt(option, value)
    if key is not None:
        for option, text in (
            (zmq.CURVE_PUBLICKEY, key.public),
            (zmq.CURVE_SECRETKEY, key.secret),
            (zmq.CURVE_SERVERKEY, key.broker),
        ):
            socket.setsockopt(option, text.encode())
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    socket.connect(endpoint)
    return socket
