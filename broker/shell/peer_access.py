"""Access of peers: one whose key was removed, and one that sends too many invalid messages, are disconnected."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from broker.core.effects import Send
from broker.runtime.curve_keys import worker_prefix
from broker.runtime.log_actions import Action
from broker.shell.executor import Executor
from broker.shell.net.peer_limits import PeerLimiter
from broker.shell.net.sockets import BACK, Listener, Sockets
from broker.wire import codec
from broker.wire import messages as m

logger = logging.getLogger(__name__)

#: Peers that were cut off and may still have messages in the socket.
_MAX_SHUT = 1024


class PeerAccess:
    """Admits and refuses the senders of messages; answers of its own wait in the executor with those of the core."""

    def __init__(
        self, limiter: PeerLimiter, wires: Sockets, executor: Executor, on_gone: Callable[[bytes, float], None]
    ) -> None:
        """`on_gone` is called with a peer that was disconnected, and the time."""
        self._limiter = limiter
        self._wires = wires
        self._executor = executor
        self._on_gone = on_gone
        #: Peers that were cut off, the oldest first: what they sent before that is not read any more.
        self.shut: dict[bytes, None] = {}

    def admits(self, listener: Listener, peer: bytes, now: float) -> bool:
        """Whether the sender of the last message may still send: its key was good at the handshake, and may have been removed."""
        name = listener.sender()
        if not name:
            return listener.local
        peers = self._wires.peers
        if peers is None or not peers.admits(name):
            self._cut_off(listener, peer, f"the key {name} is not on the list any more", now)
            return False
        self._wires.delivered(listener)
        return True

    def admits_name(self, listener: Listener, peer: bytes, worker: str, now: float) -> bool:
        """Whether a worker may bear this name: over tcp it begins with its key's, so that no machine can act as another's worker."""
        key = listener.sender()
        if not key or worker.startswith(worker_prefix(key)):
            return True
        reason = f"the key {key} is not for a worker named {worker!r}: its name must begin with {worker_prefix(key)!r}"
        self._executor.sends.append(Send(peer, m.WorkerRejected(reason=reason[:256])))
        self.note_invalid(listener, peer, "name", reason, now)
        return False

    def note_invalid(self, listener: Listener, peer: bytes, kind: str, reason: str, now: float) -> None:
        """Count an invalid message, and disconnect a peer that sends too many."""
        if self._limiter.note(peer, kind, reason, now):
            self._cut_off(listener, peer, "it sends too many invalid messages", now)

    def refuse_frames(self, listener: Listener, peer: bytes, frame: Any, now: float) -> None:
        """Refuse a message of several frames, which only protocol 1 has."""
        error = codec.other_version(frame)
        if error is not None:
            self.refuse_version(listener, peer, error, now)
        else:
            self.note_invalid(listener, peer, "frames", "more than one frame", now)

    def refuse_version(self, listener: Listener, peer: bytes, error: codec.VersionError, now: float) -> None:
        """Answer a peer of another version, in a frame of its own version, that an agent is to leave, or that a request is refused."""
        self.note_invalid(listener, peer, "version", str(error), now)
        if peer.startswith(BACK):
            self._executor.sends.append(Send(peer, m.WorkerRejected(v=error.version, reason=str(error))))
            return
        for req in error.reqs:
            refusal = m.Rejected(v=error.version, req=req, code="invalid", message=str(error))
            self._executor.sends.append(Send(peer, refusal))

    def _cut_off(self, listener: Listener, peer: bytes, reason: str, now: float) -> None:
        """Disconnect the sender of the last message, and read nothing more of it."""
        self._limiter.cut += 1
        if len(self.shut) >= _MAX_SHUT:
            del self.shut[next(iter(self.shut))]
        self.shut[peer] = None
        extra = {"action": Action.CUT_OFF, "peer": peer.hex(), "key": listener.sender(), "reason": reason}
        logger.warning("peer cut off", extra=extra)
        listener.cut()
        self._on_gone(peer, now)
