"""What is fuzzed: every place where bytes of another process are read. A target says what came out, or raises what it must not.

The decoders are compiled, so lines of Python say little about the way an input took. What comes out says more: the decoder's own words
about where in the type it stopped, or which fields of which message were given. The fuzzer keeps inputs that say something new.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from broker.testing import RESULT, CoreHarness, worker_info
from broker.wire import codec, jobspec
from broker.wire import messages as m
from tests.testing.wire_samples import SAMPLES
from workers.ipc import channel as ipc_channel
from workers.ipc import messages as ipc_messages

Frames = list[bytes]

#: What an input made a target do, in few words: equal for inputs that took the same way.
Feature = tuple[object, ...]

_VARIES = re.compile(r"\d+|'[^']*'|`[^`]*`")


class Wrong(AssertionError):
    """A decoded message does not encode to itself."""


class Target(Struct, frozen=True):
    """One reader of bytes."""

    name: str
    seeds: tuple[Frames, ...]
    run: Callable[[Frames], Feature]


def _words(error: Exception) -> Feature:
    return type(error).__name__, _VARIES.sub("#", str(error))


def _given(message: Any) -> Feature:
    fields = msgspec.structs.fields(type(message))
    return type(message).__name__, tuple(
        field.name for field in fields if getattr(message, field.name) != field.default
    )


def _decoder(name: str, decode: codec.Decoder, union: Any) -> Target:
    def run(frames: Frames) -> Feature:
        try:
            messages = decode(codec.single(frames))
        except codec.DecodeError as error:
            return _words(error)
        if None in messages:
            return ("probe",)
        try:
            again = [codec.encode(message) for message in messages]
        except ValueError as error:  # a number may be longer as we write it than as it came
            return _words(error)
        twice = [message for frame in codec.join(again) for message in decode(frame)]
        if [codec.encode(message) for message in twice] != again:
            raise Wrong(f"{messages} is {twice} after a round trip")
        return *_given(messages[-1]), len(messages)

    mine = [codec.encode(message) for message in SAMPLES if isinstance(message, union)]
    return Target(name, (*([frame] for frame in mine), [*codec.join(mine)][:1], [b""]), run)


def _body(name: str, decode: Callable[[bytes], Any], sample: object, declared: type[Exception]) -> Target:
    def run(frames: Frames) -> Feature:
        try:
            value = decode(frames[0] if frames else b"")
        except declared as error:
            return _words(error)
        data = codec.encode_body(value)
        if codec.encode_body(decode(data)) != data:
            raise Wrong(f"{value} is {decode(data)} after a round trip")
        return _given(value) if isinstance(value, Struct) else (type(value).__name__, len(value))

    return Target(name, ([codec.encode_body(sample)], [b""]), run)


# ---------------------------------------------------------------- the engine's socket

_TO_AGENT = [
    ipc_messages.Ready(model="demo", load_s=1.0),
    ipc_messages.LoadFailed(model="demo", message="no"),
    ipc_messages.PostprocessBegun(fence=1, model="demo"),
    ipc_messages.JobFinished(fence=1, result=jobspec.Result(seed=3), run_s=2.0, model="demo"),
    ipc_messages.JobFailed(fence=1, kind="out_of_memory", fatal=True),
    ipc_messages.JobCancelled(fence=1, model="demo"),
]


class _Stream:
    """A socket from which everything has arrived."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def recv(self, size: int) -> bytes:
        part, self._data = self._data[:size], self._data[size:]
        return part


def _channel(frames: Frames) -> Feature:
    channel = ipc_channel.Channel(_Stream(b"".join(frames)), ipc_messages.FromEngine)  # type: ignore[arg-type]
    try:
        messages, ended = channel.drain()
    except ipc_channel.IpcError as error:
        return _words(error)
    assert ended
    for message in messages:
        back = ipc_channel.Channel(_Stream(ipc_channel.pack(message)), ipc_messages.FromEngine)  # type: ignore[arg-type]
        if [ipc_channel.pack(again) for again in back.drain()[0]] != [ipc_channel.pack(message)]:
            raise Wrong(f"{message} does not come back")
    return tuple(_given(message) for message in messages[:3])


# ---------------------------------------------------------------- the broker's core behind its decoders


def _sound(message: m.Message) -> m.Message:
    """The message with a body that its reader understands."""
    bodies = {m.Hello: worker_info(), m.Finished: RESULT}
    body = bodies.get(type(message))
    return message if body is None else msgspec.structs.replace(message, body=body)


def _conversation(frames: Frames) -> Feature:
    """A conversation with the core: each frame a message from the edge or the agent, whichever reads it, in a world with one job."""
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("job-1")
    said: list[object] = []
    for number, frame in enumerate(frames[:8]):
        for peer, decode in ((b"f-edge", codec.from_edge), (b"b-w1", codec.from_agent)):
            try:
                effects = [
                    effect for message in decode(frame) if message is not None for effect in harness.feed(peer, message)
                ]
            except codec.DecodeError:
                continue
            said.append((number, *sorted({type(effect).__name__ for effect in effects})))
            harness.tick(0.7)
    return tuple(said[:6])


_VIEW = m.JobView(
    id="job-1",
    state="queued",
    submission=m.Submission(model="wan"),
    revision=1,
    history=(m.HistoryEntry(1.0, "", "queued", "submitted"),),
)

TARGETS: tuple[Target, ...] = (
    _decoder("from_edge", codec.from_edge, m.FromEdge),
    _decoder("from_agent", codec.from_agent, m.FromAgent),
    _decoder("to_edge", codec.to_edge, m.ToEdge),
    _decoder("to_agent", codec.to_agent, m.ToAgent),
    _body("worker_info", codec.worker_info, m.WorkerInfo(host="here", pid=3), codec.DecodeError),
    _body("result", codec.result, jobspec.Result(seed=7, stage_durations={"load": 1.0}), codec.DecodeError),
    _body("job_view", codec.job_view, _VIEW, codec.DecodeError),
    _body("job_views", codec.job_views, [_VIEW], codec.DecodeError),
    _body(
        "job_updates",
        codec.job_updates,
        [m.JobUpdate(id="job-1", state="queued", submission=m.Submission(model="wan"), revision=1)],
        codec.DecodeError,
    ),
    _body("pool_view", codec.pool_view, m.PoolView(epoch=1, counts={"queued": 3}), codec.DecodeError),
    _body("worker_view", codec.worker_view, m.WorkerView(name="gpu-0", state="idle"), codec.DecodeError),
    _body(
        "hook_claims",
        codec.hook_claims,
        [m.ClaimedDelivery(number=1, claim=2, job_id="job-1", event="completed", created_at=1.0, attempts=1)],
        codec.DecodeError,
    ),
    _body(
        "job_spec",
        jobspec.decode_spec,
        jobspec.JobSpec(
            model="demo", output="video", width=64, height=64, prompt="a cat", num_inference_steps=4, seed=1
        ),
        ValueError,
    ),
    Target(
        "trace_id",
        ([codec.encode_body({"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})],),
        lambda frames: (len(jobspec.trace_id_of(b"".join(frames))),),
    ),
    Target("engine_socket", tuple([ipc_channel.pack(message)] for message in _TO_AGENT), _channel),
    Target("core", tuple([codec.encode(_sound(message))] for message in SAMPLES), _conversation),
)
