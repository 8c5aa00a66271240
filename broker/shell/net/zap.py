"""Access over tcp: the list of keys that may connect, and the handler that libzmq calls at every handshake (ZeroMQ RFC 27).

What libzmq does, measured, and what follows:

- A CURVE server lets every key in when ZAP has no handler, unless the domain is enforced. So it is, and `Sockets` tests it at start.
- The handler must be there before the bind, and in the same context. It is a thread of its own: handshakes go on while the loop
  waits for the disk, and a flood of strangers does not stand in the queue of the peers.
- A client that is answered "denied" (400) never tries again; one that is answered "not now" (300) does, when its handshake times out. So
  strangers are answered 300: a worker whose key comes onto the list gets in without a restart.
- ZAP runs at the handshake only. Connections of a key that was removed live on, so the router checks each message with `Peers`.

Each socket has its own domain, and a key's role decides which one it may enter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path

import zmq
from zmq.utils import z85

from broker.runtime.curve_keys import AllowedPeer, Role, UnreadableNow, read_allowed
from broker.runtime.log_actions import Action
from broker.runtime.settings import SettingsError

logger = logging.getLogger(__name__)

ZAP_ENDPOINT = "inproc://zeromq.zap.01"

#: The role that a domain is for.
DOMAINS: dict[bytes, Role] = {b"zoetrope.front": "edge", b"zoetrope.back": "worker"}

#: How often the directory is read for handshakes, and how often a refusal is logged.
_LOOK_EVERY_S = 0.2
_LOG_EVERY_S = 1.0

_OK, _NOT_NOW = b"200", b"300"


class Peers:
    """The allow-list: a directory with one file a peer, read again when it changes. Safe to use from both threads."""

    def __init__(self, directory: Path) -> None:
        """Read it. An entry that cannot be used admits no peer, and is logged once."""
        self.directory = directory
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] = ()
        self._looked_at = -1.0
        self._quiet_until = 0.0
        #: Public key, raw -> entry; name -> entry; both replaced whole.
        self._by_key: dict[bytes, AllowedPeer] = {}
        self._names: dict[str, AllowedPeer] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the directory again if anything in it changed."""
        with self._lock:
            self._looked_at = time.monotonic()
            try:
                stamp = _stamp(self.directory)
                if stamp == self._stamp:
                    return
                entries = _read_all(self.directory)
            except (OSError, UnreadableNow) as error:
                # As when all descriptors are used up: the last list holds, and it is read at the next look.
                self._log_unreadable(error)
                return
            self._stamp = stamp
            before = self._names
            self._by_key = {z85.decode(entry.public.encode()): entry for entry in entries}
            self._names = {entry.name: entry for entry in entries}
        for name in sorted(self._names.keys() - before.keys()):
            logger.info(
                "key allowed", extra={"action": Action.KEY_ALLOWED, "key": name, "role": self._names[name].role}
            )
        for name in sorted(before.keys() - self._names.keys()):
            logger.info("key removed", extra={"action": Action.KEY_REMOVED, "key": name, "role": before[name].role})

    def _log_unreadable(self, error: Exception) -> None:
        if self._looked_at >= self._quiet_until:
            self._quiet_until = self._looked_at + _LOG_EVERY_S
            logger.error(
                "the list of keys cannot be read now", extra={"action": Action.KEYS_UNREAD, "reason": str(error)}
            )

    def find(self, public: bytes) -> AllowedPeer | None:
        """The peer of this raw public key, as the list is now (as it was a moment ago at most)."""
        if time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            self.refresh()
        return self._by_key.get(public)

    def admits(self, name: str) -> bool:
        """Whether a peer that was admitted under this name may still send."""
        return name in self._names


def _entries(directory: Path) -> list[Path]:
    """The files of the list. Raises `OSError` when the directory cannot be listed; a directory that is gone has none."""
    try:
        # Not `glob`, which takes a directory that cannot be read for an empty one.
        return [directory / name for name in sorted(os.listdir(directory)) if name.endswith(".pub")]
    except FileNotFoundError:
        return []


def _stamp(directory: Path) -> tuple[object, ...]:
    found = []
    for path in _entries(directory):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile, or a link that leads nowhere
            status = path.stat()
            found.append((path.name, status.st_mtime_ns, status.st_ino, status.st_ctime_ns))
    return (directory.exists(), *found)


def _read_all(directory: Path) -> list[AllowedPeer]:
    """All entries that can be used. Raises `OSError` or `UnreadableNow`."""
    entries: dict[str, AllowedPeer] = {}
    for path in _entries(directory):
        try:
            entry = read_allowed(path)
        except UnreadableNow:
            raise
        except SettingsError as error:
            logger.error("a key cannot be used", extra={"action": Action.BAD_KEY, "reason": str(error)})
            continue
        if entry.public in entries:
            logger.error("two names have one key", extra={"action": Action.BAD_KEY, "reason": str(path)})
            continue
        entries[entry.public] = entry
    return list(entries.values())


class ZapHandler:
    """Answers libzmq's requests in one context, until that context is terminated."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], peers: Peers) -> None:
        """Start answering; when this returns, sockets may be bound."""
        self._peers = peers
        self._context = context
        #: While the broker knocks at its own door, what is refused is not worth a line.
        self.testing = True
        #: Handshakes refused, and the raw keys of the last ones.
        self.refused = 0
        self.last_refused: deque[bytes] = deque(maxlen=64)
        self._quiet_until = 0.0
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zap", daemon=True)
        self._thread.start()
        self._bound.wait()

    def open(self) -> None:
        """Note that the self-test is over: from now on refusals are counted and logged."""
        self.testing = False
        self.refused = 0

    def join(self) -> None:
        """Wait for its end, after the context was terminated."""
        self._thread.join()

    def _run(self) -> None:
        socket = self._context.socket(zmq.REP)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(ZAP_ENDPOINT)
        self._bound.set()
        try:
            while True:
                frames = socket.recv_multipart()
                socket.send_multipart(self._answer(frames))
        except zmq.ContextTerminated:
            socket.close()

    def _answer(self, frames: list[bytes]) -> list[bytes]:
        """The reply to [version, request, domain, address, routing id, mechanism, credentials...]."""
        version, request = frames[0], frames[1]
        domain, address, mechanism = (frames[index] if len(frames) > index else b"" for index in (2, 3, 5))
        public = frames[6] if len(frames) == 7 and mechanism == b"CURVE" else b""
        entry = self._peers.find(public)
        reason = self._reason(entry, domain)
        if entry is not None and not reason:
            return [version, request, _OK, b"OK", entry.name.encode(), b""]
        self.refused += 1
        self.last_refused.append(public)
        self._log(entry, public, address, reason)
        return [version, request, _NOT_NOW, reason.encode(), b"", b""]

    def _reason(self, entry: AllowedPeer | None, domain: bytes) -> str:
        if entry is None:
            return "the key is not on the list"
        return "" if DOMAINS.get(domain) == entry.role else f"the key is for the role {entry.role}"

    def _log(self, entry: AllowedPeer | None, public: bytes, address: bytes, reason: str) -> None:
        now = time.monotonic()
        if self.testing or now < self._quiet_until:
            return
        self._quiet_until = now + _LOG_EVERY_S
        shown = z85.encode(public).decode("ascii") if len(public) == 32 else "none"
        extra = {"action": Action.KEY_REFUSED, "key": entry.name if entry else shown, "reason": reason}
        extra["address"] = address.decode("ascii", "replace")
        logger.warning("connection refused", extra={**extra, "refused": self.refused})
