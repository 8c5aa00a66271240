"""Frames <-> messages: one typed decoder a direction, size caps, and one error for everything that is not a message.

A peer can send any bytes at all. Decoding is typed (never `Any`), checks sizes before it parses, and turns every way to be wrong
into `DecodeError`, so that a socket loop has one thing to catch. An empty single frame is the ROUTER's connection probe
(`ZMQ_PROBE_ROUTER`) and decodes to None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from broker.wire import messages as m
from broker.wire.jobspec import Result

MAX_HEADER = 4 * 1024
#: A job spec. Bodies that the broker writes for edges (pages of jobs) may be larger.
MAX_BODY = 512 * 1024
MAX_REPLY_BODY = 64 * 1024 * 1024

#: Messages that come with a second frame; all others come without.
_WITH_BODY = (m.Submit, m.Run, m.Hello, m.Finished, m.Accepted, m.Jobs, m.Pool, m.Event, m.Hooks)
#: Messages that may come either way.
_BODY_OPTIONAL = (m.JobReply, m.CancelReply, m.WorkerReply)

T = TypeVar("T")


class DecodeError(ValueError):
    """What arrived is not a message of this protocol."""


class VersionError(DecodeError):
    """A well-formed message of another protocol version."""


class _Probe(msgspec.Struct, array_like=True):
    """Enough of any header to tell another version from junk."""

    tag: str
    v: int


class Decoder:
    """Decodes the messages that one kind of peer may send."""

    def __init__(self, union: Any, max_body: int = MAX_BODY) -> None:
        self._decode = msgspec.msgpack.Decoder(union).decode
        self._max_body = max_body

    def __call__(self, frames: Sequence[bytes]) -> tuple[Any, bytes] | None:
        """(message, body) of the frames, None for a probe. Raises `DecodeError`."""
        count = len(frames)
        if count == 1 and not frames[0]:
            return None
        if not 1 <= count <= 2:
            raise DecodeError(f"{count} frames, expected 1 or 2")
        header = frames[0]
        if len(header) > MAX_HEADER:
            raise DecodeError(f"header of {len(header)} bytes, at most {MAX_HEADER}")
        body = frames[1] if count == 2 else b""
        if len(body) > self._max_body:
            raise DecodeError(f"body of {len(body)} bytes, at most {self._max_body}")
        try:
            message = self._decode(header)
        # UnicodeDecodeError is no msgspec error: bad UTF-8 inside a str raises it.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _version_or_junk(header, error) from None
        if message.v != m.PROTOCOL:
            raise VersionError(f"protocol {message.v}, this is {m.PROTOCOL}")
        kind = type(message)
        if kind in _BODY_OPTIONAL:
            return message, body
        if (kind in _WITH_BODY) != (count == 2):
            raise DecodeError(f"{kind.__name__} with {count} frames")
        return message, body


def _version_or_junk(header: bytes, error: Exception) -> DecodeError:
    try:
        probe = msgspec.msgpack.decode(header, type=_Probe)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return DecodeError(str(error)[:200])
    if probe.v != m.PROTOCOL:
        return VersionError(f"protocol {probe.v}, this is {m.PROTOCOL}")
    return DecodeError(str(error)[:200])


from_edge = Decoder(m.FromEdge)
from_agent = Decoder(m.FromAgent)
to_edge = Decoder(m.ToEdge, MAX_REPLY_BODY)
to_agent = Decoder(m.ToAgent)

_encoder = msgspec.msgpack.Encoder()


def encode(message: m.Message, body: bytes | None = None) -> list[bytes]:
    """The frames of a message. Raises `ValueError` when the header is over its cap: that is a bug of the sender."""
    header = _encoder.encode(message)
    if len(header) > MAX_HEADER:
        raise ValueError(f"{type(message).__name__} header of {len(header)} bytes, at most {MAX_HEADER}")
    return [header] if body is None else [header, body]


class BodyDecoder:
    """Decodes one struct type from a body frame. Raises `DecodeError`."""

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def __call__(self, body: bytes) -> Any:
        try:
            return self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(str(error)[:200]) from None


encode_body = _encoder.encode
worker_info = BodyDecoder(m.WorkerInfo)
result = BodyDecoder(Result)
job_view = BodyDecoder(m.JobView)
job_views = BodyDecoder(list[m.JobView])
pool_view = BodyDecoder(m.PoolView)
worker_view = BodyDecoder(m.WorkerView)
hook_claims = BodyDecoder(list[m.HookClaim])
