"""Self-test before serving over tcp: a connection with an unknown key and one without a key must both be refused.

An endpoint that looks closed may be open: libzmq admits any key when no handler answers ZAP and the domain is not enforced, and a
socket option set after the bind has no effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from broker.runtime.errors import BindFailed
from broker.shell.net.zap import ZapHandler

#: A handshake within one machine takes milliseconds.
_PATIENCE_S = 3.0
#: How long a refused connection is watched for getting in after all.
_AFTERMATH_S = 0.05

_REFUSALS = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)


def assert_shut(endpoint: str, server_key: bytes, zap: ZapHandler) -> None:
    """Try to get in at this tcp endpoint. Raises `BindFailed` when that works, or when it cannot be shown that it does not."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        public, secret = zmq.curve_keypair()
        stranger = _Knock(context, endpoint, (public, secret, server_key))
        raw = z85.decode(public)
        if not stranger.refused(lambda: raw in zap.last_refused):
            raise BindFailed(f"{endpoint}: the self-test failed, an unknown key was not refused")
        keyless = _Knock(context, endpoint, None)
        if not keyless.refused(lambda: keyless.failed):
            raise BindFailed(f"{endpoint}: the self-test failed, a connection without a key was not refused")
    finally:
        context.destroy(linger=0)


class _Knock:
    """One attempt to connect, watched."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: tuple[bytes, bytes, bytes] | None
    ) -> None:
        self.failed = False
        self._entered = False
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        if keys is not None:
            for option, key in zip((zmq.CURVE_PUBLICKEY, zmq.CURVE_SECRETKEY, zmq.CURVE_SERVERKEY), keys, strict=True):
                self._socket.setsockopt(option, key)
        self._monitor = self._socket.get_monitor_socket()
        self._socket.connect(endpoint)

    def refused(self, proven: Callable[[], bool]) -> bool:
        """Whether it was refused for certain, within `_PATIENCE_S`."""
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up and not self._entered:
            self._watch(0.02)
            if proven():
                self._watch(_AFTERMATH_S)
                return not self._entered
        return False

    def _watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self._monitor.poll(int(left * 1000) + 1):
            event = recv_monitor_message(self._monitor)["event"]
            self._entered = self._entered or event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self.failed = self.failed or event in _REFUSALS
