"""The wire does not change by accident, and nothing a peer sends does more than raise `DecodeError`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, Result, decode_spec
from tests.testing.wire_samples import SAMPLES
from tests.testing.wire_strategies import structs

GOLDEN = dict(line.split() for line in (Path(__file__).parent / "golden.txt").read_text().splitlines())
DECODERS = {
    codec.from_edge: m.FromEdge,
    codec.to_edge: m.ToEdge,
    codec.from_agent: m.FromAgent,
    codec.to_agent: m.ToAgent,
}
BODIES = {
    codec.worker_info,
    codec.result,
    codec.job_view,
    codec.job_views,
    codec.pool_view,
    codec.worker_view,
    codec.hook_claims,
}
CLASSES = [cls for union in DECODERS.values() for cls in get_args(union)]
WITH_BODY = {m.Submit, m.Run, m.Hello, m.Finished, m.Accepted, m.Jobs, m.Pool, m.Event, m.Deliveries}


def decoder_of(cls: type) -> codec.Decoder:
    return next(decoder for decoder, union in DECODERS.items() if cls in get_args(union))


def frames_of(message: m.Message) -> list[bytes]:
    return codec.encode(message, b"body" if type(message) in WITH_BODY else None)


# ---------------------------------------------------------------- stability


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_bytes_on_the_wire_are_those_of_protocol_1(message):
    golden = bytes.fromhex(GOLDEN[type(message).__name__])
    assert codec.encode(message)[0] == golden
    frames = [golden, b"body"] if type(message) in WITH_BODY else [golden]
    assert decoder_of(type(message))(frames) == (message, b"body" if type(message) in WITH_BODY else b"")


def test_every_message_has_golden_bytes():
    assert sorted(GOLDEN) == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_peer_that_knows_fewer_or_more_fields_is_understood(message):
    cls = type(message)
    whole = msgspec.msgpack.decode(codec.encode(message)[0])
    required = 2 + sum(1 for field in msgspec.structs.fields(cls) if field.required)
    body = [b"body"] if cls in WITH_BODY else []
    short, _ = decoder_of(cls)([msgspec.msgpack.encode(whole[:required]), *body])
    for field in msgspec.structs.fields(cls):
        assert getattr(short, field.name) == (getattr(message, field.name) if field.required else field.default)
    longer, _ = decoder_of(cls)([msgspec.msgpack.encode([*whole, "a later field"]), *body])
    assert longer == message


@settings(max_examples=25)
@given(st.data())
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_round_trip(cls, data):
    message = data.draw(structs(cls))
    assert decoder_of(cls)(frames_of(message))[0] == message


@settings(max_examples=30)
@given(structs(m.JobView), structs(m.PoolView), structs(m.WorkerInfo), structs(Result), structs(m.ClaimedDelivery))
def test_bodies_round_trip(job, pool, worker, result, claim):
    assert codec.job_view(codec.encode_body(job)) == job
    assert codec.job_views(codec.encode_body([job, job])) == [job, job]
    assert codec.pool_view(codec.encode_body(pool)) == pool
    assert codec.worker_info(codec.encode_body(worker)) == worker
    assert codec.result(codec.encode_body(result)) == result
    assert codec.hook_claims(codec.encode_body([claim])) == [claim]


# ---------------------------------------------------------------- what is refused


def test_a_probe_is_no_message():
    assert codec.from_agent([b""]) is None


@pytest.mark.parametrize(
    ("frames", "rule"),
    [
        ([], "0 frames"),
        ([codec.encode(m.Identify())[0], b"", b""], "3 frames"),
        ([b"", b"body"], "truncated"),
        ([codec.encode(m.GetPool(req=1))[0], b"body"], "GetPool with 2 frames"),
        ([codec.encode(SAMPLES[0])[0]], "Submit with 1 frames"),
        ([bytes(codec.MAX_HEADER + 1)], "header of 4097 bytes, at most 4096"),
        ([codec.encode(SAMPLES[0])[0], bytes(codec.MAX_BODY + 1)], "body of 524289 bytes, at most 524288"),
    ],
)
def test_wrong_frames_are_refused_with_the_rule(frames, rule):
    with pytest.raises(codec.DecodeError, match=rule):
        codec.from_edge(frames)


def test_the_largest_body_passes():
    body = bytes(codec.MAX_BODY)
    assert codec.from_edge([codec.encode(SAMPLES[0])[0], body]) == (SAMPLES[0], body)


def test_messages_of_the_other_direction_are_refused():
    with pytest.raises(codec.DecodeError):
        codec.from_agent(frames_of(m.GetPool(req=1)))
    with pytest.raises(codec.DecodeError):
        codec.from_edge(frames_of(m.Goodbye()))


@pytest.mark.parametrize(
    "header",
    [
        msgspec.msgpack.encode(["goodbye", 2, "later"]),
        msgspec.msgpack.encode(["a message of the future", 2, {"x": 1}]),
        msgspec.msgpack.encode(["heartbeat", 99]),
    ],
)
def test_another_protocol_version_is_told_from_junk(header):
    with pytest.raises(codec.VersionError, match="this is 1"):
        codec.from_agent([header])


@pytest.mark.parametrize(
    "fields",
    [
        ["submit", 1, 1, "../etc", "wan", 1.0],
        ["submit", 1, 1, "x" * 65, "wan", 1.0],
        ["submit", 1, 1, "job", "", 1.0],
        ["submit", 1, 1, "job", "wan", -1.0],
        ["submit", 1, 1, "job", "wan", 1.0, "default", 10],
        ["submit", 1, 1, "job", "wan", "much"],
        ["submit", 1, "one", "job", "wan", 1.0],
    ],
)
def test_fields_out_of_their_range_are_refused(fields):
    with pytest.raises(codec.DecodeError):
        codec.from_edge([msgspec.msgpack.encode(fields), b"body"])


def test_a_header_that_outgrows_its_cap_is_the_senders_bug():
    with pytest.raises(ValueError, match="Rejected header of"):
        codec.encode(m.Rejected(req=1, code="invalid", message="x" * 5000))


HOSTILE = [
    b"\xdd\xff\xff\xff\xff",  # an array of 4 billion
    b"\xdb\xff\xff\xff\xffabc",  # a string of 4 GB
    b"\x91" * 4096,  # 4096 arrays in each other
    b"\xc1",
    pickle.dumps({"a": 1}),
    msgspec.msgpack.encode(["who", 1]) + b"trailing",
    b"\x92\xa3\xff\xfe\xfd\x01",  # a tag that is not UTF-8
    b"\x93\xa7goodbye\x01\xa2\xff\xfe",  # a field that is not UTF-8
    msgspec.msgpack.encode(None),
]


@pytest.mark.parametrize("header", HOSTILE)
def test_hostile_bytes_are_decode_errors(header):
    for decoder in DECODERS:
        for frames in ([header], [header, header]):
            with pytest.raises(codec.DecodeError):
                decoder(frames)
    for decode in BODIES:
        with pytest.raises(codec.DecodeError):
            decode(header)


@pytest.mark.parametrize("header", [msgspec.msgpack.encode({"type": "who"}), msgspec.msgpack.encode([]), b""])
def test_what_is_no_tagged_array_is_no_header(header):
    for decoder in DECODERS:
        with pytest.raises(codec.DecodeError):
            decoder([header, b"body"])


def test_a_job_id_ends_where_its_text_ends():
    """`$` would allow a line break behind it, and the id becomes a directory's name."""
    with pytest.raises(codec.DecodeError):
        codec.from_edge([msgspec.msgpack.encode(["cancel_job", 1, 1, "job\n"])])


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_random_bytes_are_decode_errors_or_messages(frames):
    for decoder, union in DECODERS.items():
        try:
            decoded = decoder(frames)
        except codec.DecodeError:
            continue
        assert decoded is None or isinstance(decoded[0], union)


@settings(max_examples=300)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_messages_are_decode_errors_or_messages(message, data):
    header = bytearray(codec.encode(message)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(header)))
    decoder = decoder_of(type(message))
    for damaged in (bytes(header), bytes(header[:cut])):
        try:
            decoded = decoder([damaged, b"body"] if type(message) in WITH_BODY else [damaged])
        except codec.DecodeError:
            continue
        assert decoded is None or isinstance(decoded[0], DECODERS[decoder])


def test_an_artefact_cannot_name_a_path():
    body = codec.encode_body(
        Result(artefacts=(Artefact(name="../../x", media_type="video/mp4", size=1, sha256="0" * 64),))
    )
    with pytest.raises(codec.DecodeError):
        codec.result(body)


def test_a_spec_nested_without_end_is_no_spec():
    """Junk behind an unknown field is skipped one level at a time."""
    with pytest.raises(ValueError):
        decode_spec(msgspec.msgpack.encode({"junk": 1})[:-1] + b"\x91" * 5000)
