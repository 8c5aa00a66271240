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
    desk = CoreHarness(archive=MemoryArchive(dump.epoch))
    for record in dump.stimuli:
        desk.now = record.now
        try:
            if record.header:
                desk.feed(record.peer, *_decoded(record.peer, record.header, record.body))
            else:
                desk.apply(desk.core.tick(record.now))
        except codec.DecodeError:
            continue
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


def _decoded(peer: bytes, header: bytes, body: bytes) -> tuple[m.Message, bytes]:
    """The message, with a body that stands for one that was not kept. Raises `DecodeError`."""
    decode = codec.from_edge if peer.startswith(b"f") else codec.from_agent
    decoded = None
    try:
        decoded = decode([header])
    except codec.DecodeError:
        decoded = decode([header, body or RESULT])
    if decoded is None:
        raise codec.DecodeError("it is no message")
    return decoded
