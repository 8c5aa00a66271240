"""Feeds a core the stimuli that a broker wrote down when it failed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker.shell.stimuli import Dump
from broker.testing import RESULT, CoreHarness, MemoryArchive
from broker.wire import codec
from broker.wire import messages as m


def replay(path: Path) -> str:
    """What the core raises when it is given these stimuli one by one; "" when nothing. Jobs that it held before are not known to it."""
    dump = msgspec.msgpack.decode(path.read_bytes(), type=Dump)
    harness = CoreHarness(archive=MemoryArchive(dump.epoch))
    for record in dump.stimuli:
        harness.now = record.now
        try:
            if record.message:
                harness.feed(record.peer, _decoded(record.peer, record.message))
            else:
                harness.apply(harness.core.tick(record.now))
        except codec.DecodeError:
            continue
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


def _decoded(peer: bytes, frame: bytes) -> m.Message:
    """The message, with a result that stands for the one that was not kept. Raises `DecodeError`."""
    message: m.Message
    (message,) = (codec.from_edge if peer.startswith(b"f") else codec.from_agent)(frame)
    return msgspec.structs.replace(message, body=RESULT) if isinstance(message, m.Finished) else message
