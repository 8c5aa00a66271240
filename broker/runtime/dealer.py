"""A DEALER to the broker, set up as the broker's ROUTERs expect it: for edges, agents, tools and measurements.

No routing id is set: a name in `Hello` cannot be stolen or parked, a routing id can.
"""

from __future__ import annotations

from random import Random, SystemRandom

import zmq

from broker.runtime.curve_keys import PeerKey

_random = SystemRandom()

#: The system reaps dead tcp connections within 15 s, on both sides, so that none is kept beside the new one. Not libzmq's own heartbeats:
#: it searches the timers of all connections at every message to one that has such a timer, which takes most of a core from
#: some thousand connections on, and they can abort their process (see `EDGE_HWM` in `broker/shell/net/sockets.py`). Over ipc the end of a
#: peer is seen at once.
KEEP_ALIVE = (
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 5),
    (zmq.TCP_KEEPALIVE_INTVL, 2),
    (zmq.TCP_KEEPALIVE_CNT, 5),
    # What was sent and is not acknowledged, in milliseconds.
    (zmq.TCP_MAXRT, 15_000),
)

_OPTIONS = (
    # Nothing is queued for a connection that does not exist: a send without a broker fails at once, instead of arriving late, in a burst.
    (zmq.IMMEDIATE, 1),
    (zmq.LINGER, 0),
    # Never reached: what is under way is bounded by requests and credit. At its mark libzmq would drop or block.
    (zmq.SNDHWM, 10_000),
    (zmq.RCVHWM, 10_000),
    (zmq.HANDSHAKE_IVL, 5_000),
    *KEEP_ALIVE,
)

#: Range of the first pause between two tries to connect, and of the longest, in milliseconds: they double from the one to the other. The
#: broker waits 3 s after a start for the workers of before (`rejoin_s`): all must be back by then, so the longest is a third of it.
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = (50, 150), (500, 1_000)


def reconnect_pauses(random: Random) -> tuple[int, int]:
    """(first, longest) pause of one connection, milliseconds. libzmq draws nothing itself where there is a longest pause: of thousands of
    peers that lost their broker in one instant, each would try again in the same instants as all others."""
    return random.randint(*FIRST_PAUSE_MS), random.randint(*LONGEST_PAUSE_MS)


def open_dealer(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, max_frame: int, key: PeerKey | None = None
) -> zmq.Socket[bytes]:
    """A DEALER that connects to `endpoint`, now or as soon as there is a broker, and again after every loss; over tcp with a key.

    A send raises `zmq.Again` while there is no connection. Raises `zmq.ZMQError` for what is no endpoint.
    """
    socket = context.socket(zmq.DEALER)
    first_ms, longest_ms = reconnect_pauses(_random)
    pauses = ((zmq.RECONNECT_IVL, first_ms), (zmq.RECONNECT_IVL_MAX, longest_ms))
    for option, value in (*_OPTIONS, *pauses, (zmq.MAXMSGSIZE, max_frame)):
        socket.setsockopt(option, value)
    if key is not None:
        for option, text in (
            (zmq.CURVE_PUBLICKEY, key.public),
            (zmq.CURVE_SECRETKEY, key.secret),
            (zmq.CURVE_SERVERKEY, key.broker),
        ):
            socket.setsockopt(option, text.encode())
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    try:
        socket.connect(endpoint)
    except zmq.ZMQError:
        socket.close()
        raise
    return socket
