"""The last messages that the core was given, for replaying a bug of it: see `tests.simulation --replay`.

Specs and results are never written, and not kept when they are long; a webhook's address, which may hold a secret, is left out.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

import msgspec

from broker.core.effects import PeerGone
from broker.wire import codec
from broker.wire import messages as m

#: Stimuli kept, and files written by one process: a bug that shows again and again must not fill the disk.
KEPT = 256
MAX_FILES = 8
#: Bytes of a message that is kept with its spec or result.
KEPT_BYTES = 4096


class Record(msgspec.Struct, frozen=True):
    """One stimulus; `message` is its frame, empty: the clock alone (`tick`)."""

    now: float
    peer: bytes
    message: bytes


class Dump(msgspec.Struct, frozen=True):
    """The file."""

    reason: str
    epoch: int
    #: Oldest first; the last one is that over which the core failed.
    stimuli: list[Record]


class Stimuli:
    """A ring of (now, peer, message or None)."""

    def __init__(self, home: Path | None) -> None:
        """`home`: where files go; None: none is written."""
        self._home = home
        self._files = 0
        self.ring: deque[tuple[float, bytes, m.Message | PeerGone | None]] = deque(maxlen=KEPT)

    def dump(self, reason: str, epoch: int, now: float) -> Path | None:
        """Write `<home>/stimuli-<time>.msgpack`; None when that is switched off or cannot be done."""
        if self._home is None or self._files >= MAX_FILES:
            return None
        records = [
            Record(at, peer, b"" if message is None else _written(message))
            for at, peer, message in self.ring
            if not isinstance(message, PeerGone)
        ]
        path = self._home / f"stimuli-{now:.6f}.msgpack"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.msgpack.encode(Dump(reason, epoch, records)))
        except OSError:
            return None
        self._files += 1
        return path


def without_body(message: m.Message) -> m.Message:
    """The message without its spec or result; the abilities in a `Hello` stay."""
    return msgspec.structs.replace(message, body=b"") if isinstance(message, m.Submit | m.Finished) else message


def _written(message: m.Message) -> bytes:
    if isinstance(message, m.Submit):
        message = msgspec.structs.replace(message, submission=msgspec.structs.replace(message.submission, webhook=""))
    return codec.encode(without_body(message))
