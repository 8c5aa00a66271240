"""Frames <-> messages: one typed decoder a direction, size caps, and one error for everything that is not a message.

A peer can send any bytes at all. Decoding is typed (never `Any`), checks sizes before it parses, and turns every way to be wrong
into `DecodeError`, so that a socket loop has one thing to catch. An empty single frame is the ROUTER's connection probe
(`ZMQ_PROBE_ROUTER`) and decodes to None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import msgspec

from broker.wire import messages as m
from broker.wire.jobspec import Result
from broker.wire.terms import PROTOCOL

MAX_HEADER = 4 * 1024
#: A job spec. Bodies that the broker writes for edges (pages of jobs) may be larger.
MAX_BODY = 512 * 1024
MAX_REPLY_BODY = 64 * 1024 * 1024

#: Messages that come with a second frame, and those that come either way; all others come without.
_ALWAYS_WITH_BODY = frozenset((m.Submit, m.Run, m.Hello, m.Finished, m.Accepted, m.Jobs, m.Pool, m.Event, m.Deliveries))
_BODY_OPTIONAL = frozenset((m.JobReply, m.CancelReply, m.WorkerReply))
_EVERY = frozenset(get_args(m.FromEdge | m.ToEdge | m.FromAgent | m.ToAgent))
_NEVER_WITH_BODY = _EVERY - _ALWAYS_WITH_BODY - _BODY_OPTIONAL

T = TypeVar("T")


class DecodeError(ValueError):
    """What arrived is not a message of this protocol."""


class VersionError(DecodeError):
    """A well-formed message of another protocol version."""


class _Probe(msgspec.Struct, array_like=True):
    """Enough of any header to tell another version from junk."""

    tag: str
    v: int


Decoder = Callable[[Sequence[bytes]], tuple[Any, bytes] | None]


def _decoder(union: Any, max_body: int = MAX_BODY) -> Decoder:
    """A function that decodes the messages that one kind of peer may send."""
    decode_header = msgspec.msgpack.Decoder(union).decode

    def decode(frames: Sequence[bytes]) -> tuple[Any, bytes] | None:
        """(message, body) of the frames, None for a probe. Raises `DecodeError`."""
        count = len(frames)
        if count == 1:
            header, body = frames[0], b""
            if not header:
                return None
        elif count == 2:
            header, body = frames
            if len(body) > max_body:
                raise DecodeError(f"body of {len(body)} bytes, at most {max_body}")
        else:
            raise DecodeError(f"{count} frames, expected 1 or 2")
        if len(header) > MAX_HEADER:
            raise DecodeError(f"header of {len(header)} bytes, at most {MAX_HEADER}")
        try:
            message = decode_header(header)
        # UnicodeDecodeError is no msgspec error: bad UTF-8 inside a str raises it.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _version_or_junk(header, error) from None
        if message.v != PROTOCOL:
            raise VersionError(f"protocol {message.v}, this is {PROTOCOL}")
        if type(message) in (_NEVER_WITH_BODY if count == 2 else _ALWAYS_WITH_BODY):
            raise DecodeError(f"{type(message).__name__} with {count} frames")
        return message, body

    return decode


def _version_or_junk(header: bytes, error: Exception) -> DecodeError:
    try:
        probe = msgspec.msgpack.decode(header, type=_Probe)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return DecodeError(str(error)[:200])
    if probe.v != PROTOCOL:
        return VersionError(f"protocol {probe.v}, this is {PROTOCOL}")
    return DecodeError(str(error)[:200])


from_edge = _decoder(m.FromEdge)
from_agent = _decoder(m.FromAgent)
to_edge = _decoder(m.ToEdge, MAX_REPLY_BODY)
to_agent = _decoder(m.ToAgent)

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
hook_claims = BodyDecoder(list[m.ClaimedDelivery])
