"""Frame <-> message: one typed decoder a direction, size caps, and one error for everything that is not a message.

A message is one frame: a msgpack array of its tag, its protocol version and its fields. A message that carries a job spec, or a struct of
`bodies`, has it as bytes in the field `body`, opaque to this decode. What is not body is `MAX_HEAD` bytes at most. An empty frame is the
ROUTER's connection probe (`ZMQ_PROBE_ROUTER`) and decodes to None.

A peer can send any bytes at all. Decoding is typed (never `Any`) and turns every way to be wrong into `DecodeError`, so that a socket
loop has one thing to catch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from broker.wire import messages as m
from broker.wire.jobspec import Result
from broker.wire.terms import PROTOCOL

MAX_HEAD = 4 * 1024
#: A job spec. Bodies that the broker writes for edges (pages of jobs) may be larger.
MAX_BODY = 512 * 1024
MAX_REPLY_BODY = 64 * 1024 * 1024
MAX_REPLY_FRAME = MAX_HEAD + MAX_REPLY_BODY


class DecodeError(ValueError):
    """The message is not one of this protocol."""


class VersionError(DecodeError):
    """A message of another protocol version."""

    def __init__(self, version: int, req: int | None) -> None:
        super().__init__(f"protocol {version}, this is {PROTOCOL}")
        self.version = version
        #: The request that its sender waits for an answer to, if it is one.
        self.req = req


class _Probe(msgspec.Struct, array_like=True):
    """Enough of any version's message to know it: the first frame of a message of protocol 1 begins like one of today."""

    tag: str
    v: int


class _Request(msgspec.Struct, array_like=True):
    """The beginning of an edge's message, in every version."""

    tag: str
    v: int
    req: int


#: Takes the frame's bytes, or what shows them as a buffer (a `zmq.Frame`: its bytes are not copied).
Decoder = Callable[[bytes], Any]


def _decoder(union: Any, max_body: int = MAX_BODY) -> Decoder:
    """A function that decodes the messages that one kind of peer may send."""
    decode_frame = msgspec.msgpack.Decoder(union).decode

    def decode(frame: bytes) -> Any:
        """The message in the frame, None for a probe. Raises `DecodeError`."""
        size = len(frame)
        if not size:
            return None
        try:
            message = decode_frame(frame)
        # UnicodeDecodeError is no msgspec error: bad UTF-8 inside a str raises it.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise other_version(frame) or DecodeError(str(error)[:200]) from None
        if message.v != PROTOCOL:
            raise VersionError(message.v, getattr(message, "req", None))
        if size > MAX_HEAD:
            _check_size(message, size, max_body)
        return message

    return decode


def _check_size(message: m.Message, size: int, max_body: int) -> None:
    body = len(getattr(message, "body", b""))
    if body > max_body:
        raise DecodeError(f"body of {body} bytes, at most {max_body}")
    if size - body > MAX_HEAD:
        raise DecodeError(f"{type(message).__name__} of {size - body} bytes beside its body, at most {MAX_HEAD}")


def other_version(frame: bytes) -> VersionError | None:
    """The error for the first frame of a message of another version; None when it is not one."""
    try:
        probe = msgspec.msgpack.decode(frame, type=_Probe)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if probe.v == PROTOCOL:
        return None
    try:
        return VersionError(probe.v, msgspec.msgpack.decode(frame, type=_Request).req)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return VersionError(probe.v, None)


def single(frames: Sequence[bytes]) -> bytes:
    """The frame of a message that was received with all its frames. Raises `DecodeError`: only messages of protocol 1 have a second one."""
    if len(frames) == 1:
        return frames[0]
    raise (other_version(frames[0]) if frames else None) or DecodeError(f"{len(frames)} frames, expected 1")


from_edge = _decoder(m.FromEdge)
from_agent = _decoder(m.FromAgent)
to_edge = _decoder(m.ToEdge, MAX_REPLY_BODY)
to_agent = _decoder(m.ToAgent)

_encoder = msgspec.msgpack.Encoder()
_encode = _encoder.encode


def encode(message: m.Message) -> bytes:
    """The frame of a message. Raises `ValueError` when what is not body is over its cap: that is a bug of the sender."""
    frame = _encode(message)
    if len(frame) > MAX_HEAD:
        head = len(frame) - len(getattr(message, "body", b""))
        if head > MAX_HEAD:
            raise ValueError(f"{type(message).__name__} of {head} bytes beside its body, at most {MAX_HEAD}")
    return frame


class BodyDecoder:
    """Decodes one struct type from a message's body. Raises `DecodeError`."""

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def __call__(self, body: bytes) -> Any:
        try:
            return self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(str(error)[:200]) from None


encode_body = _encode
worker_info = BodyDecoder(m.WorkerInfo)
result = BodyDecoder(Result)
job_view = BodyDecoder(m.JobView)
job_views = BodyDecoder(list[m.JobView])
job_updates = BodyDecoder(list[m.JobUpdate])
forecast = BodyDecoder(m.Forecast)
pool_view = BodyDecoder(m.PoolView)
worker_view = BodyDecoder(m.WorkerView)
usage_rows = BodyDecoder(list[m.UsageRow])
load_samples = BodyDecoder(list[m.LoadSample])
hook_claims = BodyDecoder(list[m.ClaimedDelivery])


def event_views(body: bytes) -> list[m.JobView]:
    """The jobs of an `Event`. Raises `DecodeError`."""
    return [update.view() for update in job_updates(body)]
