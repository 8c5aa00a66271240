"""Frame <-> messages: one typed decoder a direction, size caps, and one error for everything that is not a message.

A message is a msgpack array of its tag, its protocol version and its fields. One that carries a job spec, or a struct of `bodies`, has it
as bytes in the field `body`, opaque to this decode. What is not body is `MAX_HEAD` bytes at most.

A frame is one message, or a batch: `["batch", version, [message, ...]]`, 2 to `MAX_BATCH` messages of one direction in `MAX_BATCH_BYTES`,
each under its own caps. A batch is decoded as a whole or refused as a whole. An empty frame is the ROUTER's connection probe
(`ZMQ_PROBE_ROUTER`) and decodes to None.

A peer can send any bytes at all. Decoding is typed (never `Any`) and turns every way to be wrong into `DecodeError`, so that a socket
loop has one thing to catch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from broker.wire import messages as m
from broker.wire.jobspec import Result
from broker.wire.terms import PROTOCOL

MAX_HEAD = 4 * 1024
#: A job spec. Bodies that the broker writes for edges (pages of jobs) may be larger.
MAX_BODY = 512 * 1024
MAX_REPLY_BODY = 64 * 1024 * 1024
MAX_REPLY_FRAME = MAX_HEAD + MAX_REPLY_BODY
#: Messages of a batch: few enough that one peer's frame holds up no other, and that the front gets its share of a pass behind the back.
MAX_BATCH = 32
#: A frame of several messages; a longer message goes in a frame of its own.
MAX_BATCH_BYTES = 64 * 1024

M = TypeVar("M")


class DecodeError(ValueError):
    """The message is not one of this protocol."""


class VersionError(DecodeError):
    """A message of another protocol version."""

    def __init__(self, version: int, *reqs: int) -> None:
        super().__init__(f"protocol {version}, this is {PROTOCOL}")
        self.version = version
        #: The requests in it, to which its sender waits for answers.
        self.reqs = reqs


class _Batch(m.Message, Generic[M], tag="batch", frozen=True, kw_only=True, array_like=True, gc=False):
    """Several messages of one direction."""

    messages: Annotated[list[M], msgspec.Meta(min_length=2, max_length=MAX_BATCH)]


#: The beginning of a batch, by the number of its messages.
_BATCH_HEADS = [msgspec.msgpack.encode(["batch", PROTOCOL, [None] * n])[: -n or None] for n in range(MAX_BATCH + 1)]
_BATCH_ROOM = MAX_BATCH_BYTES - len(_BATCH_HEADS[-1])


class _Probe(msgspec.Struct, array_like=True):
    """Start of a frame of any version, to recognise it: the first frame of a message of protocol 1 begins like one of today."""

    tag: str
    v: int


class _Request(msgspec.Struct, array_like=True):
    """The beginning of an edge's message, in every version."""

    tag: str
    v: int
    req: int


class _Requests(msgspec.Struct, array_like=True):
    """The beginning of an edge's batch, in every version since 4."""

    tag: str
    v: int
    messages: Annotated[list[_Request], msgspec.Meta(max_length=MAX_BATCH)]


#: Takes the frame's bytes, or what shows them as a buffer (a `zmq.Frame`: its bytes are not copied).
Decoder = Callable[[bytes], Sequence[Any]]


def _decoder(union: Any, max_body: int = MAX_BODY) -> Decoder:
    """A function that decodes the messages that one kind of peer may send."""
    batch = _Batch[union]
    decode_frame = msgspec.msgpack.Decoder(union | batch).decode

    def decode(frame: bytes) -> Sequence[Any]:
        """The messages in the frame; one None for a probe. Raises `DecodeError`."""
        size = len(frame)
        if not size:
            return _PROBE
        try:
            message = decode_frame(frame)
        # UnicodeDecodeError is no msgspec error: bad UTF-8 inside a str raises it.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise other_version(frame) or DecodeError(str(error)[:200]) from None
        if message.v != PROTOCOL:
            raise other_version(frame) or DecodeError(f"protocol {message.v}")
        if type(message) is _Batch:
            messages: list[Any] = message.messages
            _check_batch(messages, frame, size, max_body)
            return messages
        if size > MAX_HEAD:
            _check_size(message, size, max_body)
        return (message,)

    return decode


_PROBE = (None,)
_split = msgspec.msgpack.Decoder(_Batch[msgspec.Raw]).decode


def _check_batch(messages: list[m.Message], frame: bytes, size: int, max_body: int) -> None:
    if size > MAX_BATCH_BYTES:
        raise DecodeError(f"batch of {size} bytes, at most {MAX_BATCH_BYTES}")
    for message in messages:
        if message.v != PROTOCOL:
            raise DecodeError(f"protocol {message.v} in a batch of {PROTOCOL}")
    if size > MAX_HEAD:
        for message, raw in zip(messages, _split(frame).messages, strict=True):
            if len(raw) > MAX_HEAD:
                _check_size(message, len(raw), max_body)


def _check_size(message: m.Message, size: int, max_body: int) -> None:
    body = len(getattr(message, "body", b""))
    if body > max_body:
        raise DecodeError(f"body of {body} bytes, at most {max_body}")
    if size - body > MAX_HEAD:
        raise DecodeError(f"{type(message).__name__} of {size - body} bytes beside its body, at most {MAX_HEAD}")


def other_version(frame: bytes) -> VersionError | None:
    """The error for the first frame of a message, or a batch, of another version; None when it is not one."""
    probe = _begins(frame, _Probe)
    if probe is None or probe.v == PROTOCOL:
        return None
    if request := _begins(frame, _Request):
        return VersionError(probe.v, request.req)
    requests = _begins(frame, _Requests)
    return VersionError(probe.v, *(request.req for request in requests.messages) if requests else ())


def _begins(frame: bytes, kind: type[M]) -> M | None:
    try:
        return msgspec.msgpack.decode(frame, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


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


def join(frames: Iterable[bytes]) -> Iterator[bytes]:
    """The messages of these frames, one in each, in their order and in as few frames as the caps of a batch allow."""
    part: list[bytes] = []
    room = _BATCH_ROOM
    for frame in frames:
        if part and (len(part) == MAX_BATCH or len(frame) > room):
            yield _joined(part)
            part, room = [], _BATCH_ROOM
        part.append(frame)
        room -= len(frame)
    if part:
        yield _joined(part)


def _joined(part: list[bytes]) -> bytes:
    return part[0] if len(part) == 1 else _BATCH_HEADS[len(part)] + b"".join(part)


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
