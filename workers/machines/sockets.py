"""Sockets between the leader of a group over several machines and its rank hosts: a ROUTER and DEALERs, with CURVE.

All machines of a group have one key, `worker.key`: the leader's ROUTER is the server of that pair, and lets in clients that have the same.
libzmq's own heartbeats are not used (`broker.runtime.dealer`): both sides have beats of their own.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import zmq
from msgspec.structs import replace
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from broker.runtime.curve_keys import PeerKey
from broker.runtime.dealer import KEEP_ALIVE, open_dealer
from broker.runtime.log_actions import Action
from workers.machines.endpoint import AddressMissing
from workers.machines.messages import MAX_FRAME, MessageError, ToHost, ToLeader, encode, to_host, to_leader

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ZAP = "inproc://zeromq.zap.01"
_DOMAIN = b"zoetrope.ranks"

#: As the broker answers: a refused client tries again when its handshake times out, and gets in once it has the right key.
_OK, _NOT_NOW = b"200", b"300"

#: For so long an address may be another's before that counts as an error, and how often it is looked at.
_TAKEN_S, _TAKEN_LOOK_S = 5.0, 0.1

#: How often a refusal for the same reason is logged.
_LOG_EVERY_S = 10.0

_SAME_KEY = "all machines of a group have the same worker.key in curve_dir"

_HANDSHAKE_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_CONNECTION_EVENTS = (
    zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | _HANDSHAKE_FAILURES
)

_HANDSHAKE_MS = 5_000
_LINGER_MS = 500

#: Messages read in one pass.
_MOST = 256


class _Refusals:
    """Lines of the log about refused connections: for each reason one at once, and then one every `_LOG_EVERY_S` at most."""

    def __init__(self) -> None:
        #: Reason -> when it may be logged again, and refusals since it was.
        self._logged: dict[str, tuple[float, int]] = {}

    def note(self, reason: str, address: str = "") -> None:
        """Count a refusal, and log it if that is due."""
        now = time.monotonic()
        quiet_until, count = self._logged.get(reason, (0.0, 0))
        if now < quiet_until:
            self._logged[reason] = quiet_until, count + 1
            return
        self._logged[reason] = now + _LOG_EVERY_S, 0
        extra = {"action": Action.KEY_REFUSED, "address": address, "reason": reason, "refused": count + 1}
        logger.warning("connection refused", extra=extra)


class LeaderSocket:
    """The ROUTER. Raises `AddressMissing` where it cannot listen."""

    def __init__(self, endpoint: str, key: PeerKey) -> None:
        self._public = z85.decode(key.public.encode())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # Called at every handshake, and there before the bind; without it, and the domain enforced, every client would get in.
        self._zap = self._context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(_ZAP)
        self._router = self._context.socket(zmq.ROUTER)
        # A client of another pair of keys fails before ZAP is asked, and is not told why.
        self._failures = self._router.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        self._refusals = _Refusals()
        options = (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.MAXMSGSIZE, MAX_FRAME),
            (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
            *KEEP_ALIVE,
            (zmq.CURVE_SERVER, 1),
            (zmq.CURVE_PUBLICKEY, key.public.encode()),
            (zmq.CURVE_SECRETKEY, key.secret.encode()),
            (zmq.ZAP_DOMAIN, _DOMAIN),
            (zmq.ZAP_ENFORCE_DOMAIN, 1),
            (zmq.IPV6, int("[" in endpoint)),
        )
        for option, value in options:
            self._router.setsockopt(option, value)
        try:
            self._bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise AddressMissing(
                f"rank_endpoint: cannot listen on {endpoint}: {zmq.strerror(error.errno or 0)}"
            ) from None

    def _bind(self, endpoint: str) -> None:
        """Listen, once a leader before this one, which may be ending, has let go of the address. Raises `zmq.ZMQError`."""
        until = time.monotonic() + _TAKEN_S
        while True:
            try:
                self._router.bind(endpoint)
                return
            except zmq.ZMQError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
                    raise
            time.sleep(_TAKEN_LOOK_S)

    def register(self, poller: zmq.Poller) -> None:
        """Have the poller wake for what arrives."""
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._failures, zmq.POLLIN)

    def receive(self) -> Iterator[tuple[bytes, ToLeader]]:
        """Answer handshakes, and read the messages that have arrived, with the address of each. An invalid one is dropped, and logged."""
        self._admit()
        while self._failures.poll(0):
            recv_monitor_message(self._failures)
            self._refusals.note(f"it has no key, or takes this leader for one with another key; {_SAME_KEY}")
        for _ in range(_MOST):
            try:
                peer, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if (message := _decoded(to_leader, frames)) is not None:
                yield peer, message

    def send(self, peer: bytes, message: ToHost) -> bool:
        """Whether there is a connection to that address, which took it."""
        try:
            self._router.send_multipart([peer, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def _admit(self) -> None:
        for _ in range(_MOST):
            try:
                frames = self._zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            version, request = frames[:2]
            admitted = len(frames) == 7 and frames[5] == b"CURVE" and frames[6] == self._public
            if not admitted:
                address = frames[3].decode("ascii", "replace")
                self._refusals.note(f"it has another key than this leader; {_SAME_KEY}", address)
            status = (_OK, b"OK") if admitted else (_NOT_NOW, b"another key")
            self._zap.send_multipart([version, request, *status, b"", b""])

    def close(self) -> None:
        """Close, after giving the last messages their time."""
        self._router.disable_monitor()
        self._failures.close(0)
        self._router.close(_LINGER_MS)
        self._zap.close(0)
        self._context.term()


class HostSocket:
    """The DEALER, connected to a leader. It connects again for ever."""

    def __init__(self, endpoint: str, key: PeerKey) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._endpoint = endpoint
        self.socket = open_dealer(self._context, endpoint, MAX_FRAME, replace(key, broker=key.public))
        self._events = self.socket.get_monitor_socket(_CONNECTION_EVENTS)
        self._trouble = "nothing is known of it yet"
        #: Whether the address was tried since the last pause before a try: a name without an address is not.
        self._tried = True

    def trouble(self) -> str:
        """Reason why there is no answer of the leader, as far as the connection shows it."""
        while self._events.poll(0):
            self._note_event(recv_monitor_message(self._events)["event"])
        return self._trouble

    def _note_event(self, event: int) -> None:
        if event & _HANDSHAKE_FAILURES:
            self._trouble = f"what listens at {self._endpoint} has another key; {_SAME_KEY}"
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._trouble = "it is connected, and says nothing"
        elif event == zmq.EVENT_CLOSED:
            self._trouble = f"nothing listens at {self._endpoint} yet"
        elif event == zmq.EVENT_CONNECT_RETRIED and not self._tried:
            self._trouble = f"the name in {self._endpoint} has no address yet"
        self._tried = event != zmq.EVENT_CONNECT_RETRIED

    def send(self, message: ToLeader) -> bool:
        """Whether a connection took it."""
        try:
            self.socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Iterator[ToHost]:
        """Read the messages that have arrived. An invalid one is dropped, and logged."""
        for _ in range(_MOST):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if (message := _decoded(to_host, frames)) is not None:
                yield message

    def close(self) -> None:
        """Close, after giving the last message its time."""
        self.socket.disable_monitor()
        self._events.close(0)
        self.socket.close(_LINGER_MS)
        self._context.term()


def _decoded(decode: Callable[[bytes], T], frames: list[bytes]) -> T | None:
    try:
        if len(frames) != 1:
            raise MessageError(f"{len(frames)} frames")
        return decode(frames[0])
    except MessageError as error:
        logger.warning("message dropped", extra={"action": Action.DECODE_ERROR, "detail": str(error)})
        return None
