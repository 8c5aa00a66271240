"""The wire does not change by accident, and nothing a peer sends does more than raise `DecodeError`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, Result, decode_spec
from tests.testing.wire_samples import SAMPLES
from tests.testing.wire_strategies import structs as drawn


def golden(name: str) -> dict[str, str]:
    """Message -> its bytes in hex."""
    return dict(line.split() for line in (Path(__file__).parent / name).read_text().splitlines())


GOLDEN = golden("golden.txt")
#: The headers of version 0.1.0; those of messages with a body had it in a second frame.
OLD_GOLDEN = golden("golden_protocol_1.txt")
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
    codec.job_updates,
    codec.pool_view,
    codec.worker_view,
    codec.hook_claims,
}
LATER = m.PROTOCOL + 1
CLASSES = [cls for union in DECODERS.values() for cls in get_args(union)]
#: By the tag: classes have other names now, and `Started` is no message any more.
OLD_READERS = {cls.__struct_config__.tag: decode for decode, union in DECODERS.items() for cls in get_args(union)}
RUN = next(message for message in SAMPLES if isinstance(message, m.Run))
#: Those whose job id finds a job or none.
LOOKED_UP = [
    message
    for message in SAMPLES
    if isinstance(
        message,
        m.CancelJob | m.GetJob | m.ListJobs | m.ForgetJobs | m.Refused | m.Finished | m.Failed | m.Cancelled,
    )
]


def decoder_of(cls: type) -> codec.Decoder:
    return next(decoder for decoder, union in DECODERS.items() if cls in get_args(union))


def decoded(cls: type, frame: bytes) -> m.Message:
    """The one message of a frame."""
    (message,) = decoder_of(cls)(frame)
    return message


# ---------------------------------------------------------------- stability


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_bytes_on_the_wire_are_those_of_this_protocol(message):
    golden = bytes.fromhex(GOLDEN[type(message).__name__])
    assert codec.encode(message) == golden
    assert decoded(type(message), golden) == message


def test_every_message_has_golden_bytes():
    assert sorted(GOLDEN) == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_peer_that_knows_fewer_or_more_fields_is_understood(message):
    cls = type(message)
    whole = msgspec.msgpack.decode(codec.encode(message))
    fields = msgspec.structs.fields(cls)
    # Tag and version, and all up to the last field without which it is no message.
    least = 2 + max((number for number, field in enumerate(fields) if field.required), default=0)
    short = decoded(cls, msgspec.msgpack.encode(whole[:least]))
    for number, field in enumerate(fields):
        sent = number < least - 1
        assert getattr(short, field.name) == (getattr(message, field.name) if sent else field.default)
    assert decoded(cls, msgspec.msgpack.encode([*whole, "a later field"])) == message


@settings(max_examples=25)
@given(st.data())
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_round_trip(cls, data):
    message = data.draw(drawn(cls))
    assert decoded(cls, codec.encode(message)) == message


@settings(max_examples=30)
@given(
    drawn(m.JobView),
    drawn(m.JobUpdate),
    drawn(m.PoolView),
    drawn(m.WorkerInfo),
    drawn(Result),
    drawn(m.ClaimedDelivery),
)
def test_bodies_round_trip(job, update, pool, worker, result, claim):
    assert codec.job_view(codec.encode_body(job)) == job
    assert codec.job_views(codec.encode_body([job, job])) == [job, job]
    assert codec.job_updates(codec.encode_body([update])) == [update]
    assert codec.pool_view(codec.encode_body(pool)) == pool
    assert codec.worker_info(codec.encode_body(worker)) == worker
    assert codec.result(codec.encode_body(result)) == result
    assert codec.hook_claims(codec.encode_body([claim])) == [claim]


# ---------------------------------------------------------------- what is refused


def test_a_probe_is_no_message():
    assert codec.from_agent(b"") == (None,)


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (msgspec.msgpack.encode(["submit", m.PROTOCOL, 1, "job", ["wan", 1.0]]), "at least length 11"),
        (codec.encode(SAMPLES[0])[:-1], "truncated"),
        (codec.encode(SAMPLES[0]) + b"x", "trailing"),
        (
            codec.encode(structs.replace(SAMPLES[0], body=bytes(codec.MAX_BODY + 1))),
            "body of 524289 bytes, at most 524288",
        ),
        (
            msgspec.msgpack.encode(["get_pool", m.PROTOCOL, 1, "", 0, b"x" * 4096]),
            "GetPool of 4113 bytes beside its body, at most 4096",
        ),
        (
            msgspec.msgpack.encode([*msgspec.msgpack.decode(codec.encode(SAMPLES[0])), b"x" * 4096]),
            r"Submit of 42\d\d bytes beside its body, at most 4096",
        ),
    ],
)
def test_wrong_frames_are_refused_with_the_rule(frame, rule):
    with pytest.raises(codec.DecodeError, match=rule):
        codec.from_edge(frame)


@pytest.mark.parametrize(
    ("frames", "rule"),
    [
        ([], "0 frames, expected 1"),
        ([codec.encode(m.Identify()), b""], "2 frames, expected 1"),
        ([b"", b"body"], "2 frames, expected 1"),
        ([b"a", b"b", b"c"], "3 frames, expected 1"),
    ],
)
def test_a_message_has_one_frame(frames, rule):
    with pytest.raises(codec.DecodeError, match=rule):
        codec.single(frames)


def test_the_largest_body_passes():
    message = structs.replace(SAMPLES[0], body=bytes(codec.MAX_BODY))
    assert codec.from_edge(codec.encode(message)) == (message,)


def test_messages_of_the_other_direction_are_refused():
    with pytest.raises(codec.DecodeError):
        codec.from_agent(codec.encode(m.GetPool(req=1)))
    with pytest.raises(codec.DecodeError):
        codec.from_edge(codec.encode(m.Goodbye()))


@pytest.mark.parametrize(
    ("fields", "version", "req"),
    [
        (["goodbye", LATER, "later"], LATER, None),
        (["a message of the future", LATER, {"x": 1}], LATER, None),
        (["heartbeat", 99], 99, None),
        (["get_pool", 1, 7], 1, 7),
        (["a request of the future", LATER, 8, {"x": 1}], LATER, 8),
    ],
)
def test_another_protocol_version_is_told_from_junk(fields, version, req):
    for decode in (codec.from_agent, codec.from_edge):
        with pytest.raises(codec.VersionError, match=f"protocol {version}, this is {m.PROTOCOL}") as caught:
            decode(msgspec.msgpack.encode(fields))
        assert caught.value.version == version
    assert caught.value.reqs == (() if req is None else (req,))


@pytest.mark.parametrize("name", OLD_GOLDEN)
def test_what_protocol_1_said_is_known_as_such(name):
    header = bytes.fromhex(OLD_GOLDEN[name])
    for frames in ([header], [header, b"body"]):
        with pytest.raises(codec.VersionError, match=f"protocol 1, this is {m.PROTOCOL}"):
            OLD_READERS.get(msgspec.msgpack.decode(header)[0], codec.from_agent)(codec.single(frames))


def test_what_a_peer_of_protocol_1_is_told_is_what_it_reads():
    bye = codec.encode(m.WorkerRejected(v=1, reason="protocol 2, this is 1"))
    # A field more than version 0.1.0 knew, which it skips.
    assert msgspec.msgpack.decode(bye)[:-1] == msgspec.msgpack.decode(bytes.fromhex(OLD_GOLDEN["Bye"]))
    rejected = codec.encode(m.Rejected(v=1, req=8, code="queue_full", message="full", retry_after_s=2.5))
    assert msgspec.msgpack.decode(rejected)[:-1] == msgspec.msgpack.decode(bytes.fromhex(OLD_GOLDEN["Rejected"]))


@pytest.mark.parametrize(
    "fields",
    [
        ["submit", m.PROTOCOL, 1, "job", "", 1.0],
        ["submit", m.PROTOCOL, 1, "job", "wan", -1.0],
        ["submit", m.PROTOCOL, 1, "job", "wan", 1.0, "default", 10],
        ["submit", m.PROTOCOL, 1, "job", "wan", "much"],
        ["submit", m.PROTOCOL, "one", "job", "wan", 1.0],
    ],
)
def test_fields_out_of_their_range_are_refused(fields):
    whole = msgspec.msgpack.decode(codec.encode(SAMPLES[0]))
    with pytest.raises(codec.DecodeError, match=r"Expected|Invalid"):
        codec.from_edge(msgspec.msgpack.encode([*fields, *whole[len(fields) :]]))


# ---------------------------------------------------------------- batches


def batch(*messages: m.Message, v: int = m.PROTOCOL) -> bytes:
    return msgspec.msgpack.encode(["batch", v, [msgspec.Raw(codec.encode(message)) for message in messages]])


def submit_of(size: int) -> m.Submit:
    """A job whose message is so long."""
    empty = structs.replace(SAMPLES[0], body=b"")
    # 257 bytes or more: two of length where an empty body has one.
    return structs.replace(empty, body=bytes(size - len(codec.encode(empty)) - 1))


@pytest.mark.parametrize("union", DECODERS.values(), ids=("from_edge", "to_edge", "from_agent", "to_agent"))
def test_messages_of_a_batch_are_read_in_their_order(union):
    sent = [message for message in SAMPLES if isinstance(message, union)]
    (frame,) = codec.join(map(codec.encode, sent))
    assert frame == batch(*sent)
    assert decoder_of(type(sent[0]))(frame) == sent


def test_a_message_alone_is_a_frame_as_it_is():
    assert [*codec.join([codec.encode(RUN)])] == [codec.encode(RUN)]
    assert [*codec.join([])] == []


@pytest.mark.parametrize(
    ("messages", "batches"),
    [
        ([m.GetPool(req=number) for number in range(codec.MAX_BATCH)], [32]),
        ([m.GetPool(req=number) for number in range(codec.MAX_BATCH * 2 + 1)], [32, 32, 1]),
        ([submit_of(30_000)] * 5, [2, 2, 1]),
        # Room is kept for the longest beginning, of 11 bytes.
        ([submit_of(codec.MAX_BATCH_BYTES // 2 - 6), submit_of(codec.MAX_BATCH_BYTES // 2 - 5)], [2]),
        ([submit_of(codec.MAX_BATCH_BYTES // 2 - 5)] * 2, [1, 1]),
        ([m.GetPool(req=1), submit_of(codec.MAX_BATCH_BYTES * 2), m.GetPool(req=2), m.GetPool(req=3)], [1, 1, 2]),
    ],
)
def test_a_batch_is_as_long_as_its_caps_allow(messages, batches):
    read = [codec.from_edge(frame) for frame in codec.join(map(codec.encode, messages))]
    assert [len(part) for part in read] == batches
    assert [message for part in read for message in part] == messages


@pytest.mark.parametrize(
    ("frame", "rule"),
    [
        (batch(), "length >= 2"),
        (batch(m.GetPool(req=1)), "length >= 2"),
        (batch(*[m.GetPool(req=1)] * (codec.MAX_BATCH + 1)), "length <= 32"),
        (msgspec.msgpack.encode(["batch", m.PROTOCOL]), "at least length 3"),
        (msgspec.msgpack.encode(["batch", m.PROTOCOL, "junk"]), "Expected `array`, got `str`"),
        (msgspec.msgpack.encode(["batch", m.PROTOCOL, [msgspec.Raw(batch(m.GetPool(req=1), RUN))] * 2]), "batch"),
        (batch(m.GetPool(req=1), m.Identify()), "Invalid value 'who'"),
        (batch(m.GetPool(req=1), m.GetPool(req=2))[:-1], "truncated"),
        (batch(m.GetPool(req=1), m.GetPool(req=2)) + b"x", "trailing"),
        (batch(m.GetPool(req=1), m.GetPool(v=LATER, req=2)), f"protocol {LATER} in a batch of {m.PROTOCOL}"),
        (batch(submit_of(40_000), submit_of(40_000)), r"batch of 80009 bytes, at most 65536"),
        (
            msgspec.msgpack.encode(
                ["batch", m.PROTOCOL, [["get_pool", m.PROTOCOL, 1, "", 0, b"x" * 4096], ["get_pool", m.PROTOCOL, 2]]]
            ),
            "GetPool of 4113 bytes beside its body, at most 4096",
        ),
    ],
)
def test_a_batch_is_taken_as_a_whole_or_refused_with_the_rule(frame, rule):
    with pytest.raises(codec.DecodeError, match=rule) as caught:
        codec.from_edge(frame)
    assert not isinstance(caught.value, codec.VersionError)


def test_heads_of_a_batch_may_be_longer_together_than_one_of_them():
    long = m.Rejected(req=1, code="invalid", message="x" * 900)
    assert codec.to_edge(batch(*[long] * 8)) == [long] * 8


@pytest.mark.parametrize("decode", [codec.from_agent, codec.from_edge])
def test_a_batch_of_another_version_names_the_requests_in_it(decode):
    requests = [["a request of the future", LATER, req, {"x": 1}] for req in (7, 8)]
    with pytest.raises(codec.VersionError, match=f"protocol {LATER}, this is {m.PROTOCOL}") as caught:
        decode(msgspec.msgpack.encode(["batch", LATER, requests]))
    assert (caught.value.version, caught.value.reqs) == (LATER, (7, 8))
    with pytest.raises(codec.VersionError) as caught:
        decode(batch(m.Goodbye(v=LATER), m.Identify(v=LATER), v=LATER))
    assert (caught.value.version, caught.value.reqs) == (LATER, ())


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(
    "job_id", ["", "../etc", "a/b", ".", "..", "job\n", "job\0", "x" * 65, "é", "0123456789ab.", "job.x"]
)
def test_a_new_job_bears_an_id_that_may_be_a_path(job_id):
    """It becomes a row, a directory's name and part of URLs. `$` would let a line break pass behind it."""
    for message, decode in ((SAMPLES[0], codec.from_edge), (RUN, codec.to_agent)):
        fields = msgspec.msgpack.decode(codec.encode(message))
        fields[1 + message.__struct_fields__.index("job_id")] = job_id
        with pytest.raises(codec.DecodeError, match=r"regex|job_id must be"):
            decode(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("url", ["http://a b", "http://é", "http://a\n", "x" * 1025])
def test_a_webhook_can_stand_in_a_request(url):
    fields = msgspec.msgpack.decode(codec.encode(SAMPLES[0]))
    submission = fields[1 + SAMPLES[0].__struct_fields__.index("submission")]
    submission[m.Submission.__struct_fields__.index("webhook")] = url
    with pytest.raises(codec.DecodeError, match=r"webhook must be|length"):
        codec.from_edge(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("message", LOOKED_UP, ids=lambda message: type(message).__name__)
def test_an_id_that_is_looked_up_is_bounded(message):
    decode = decoder_of(type(message))
    field = "after" if isinstance(message, m.ListJobs) else "job_ids" if isinstance(message, m.ForgetJobs) else "job_id"

    def named(job_id: str) -> bytes:
        value = (job_id,) if field == "job_ids" else job_id
        return codec.encode(structs.replace(message, **{field: value}))

    longest = "0123456789ab." + "x" * 64
    assert len(longest) == m.MAX_ID
    decode(named(longest))
    with pytest.raises(codec.DecodeError, match="length <= 77"):
        decode(named(longest + "x"))


def test_what_outgrows_its_cap_is_the_senders_bug():
    with pytest.raises(ValueError, match=r"Rejected of 50\d\d bytes beside its body"):
        codec.encode(m.Rejected(req=1, code="invalid", message="x" * 5000))
    with pytest.raises(ValueError, match="Refused of"):
        codec.encode(m.Refused(job_id="j", fence=1, reason="x" * 5000))


HOSTILE = [
    b"\xdd\xff\xff\xff\xff",  # an array of 4 billion
    b"\xdb\xff\xff\xff\xffabc",  # a string of 4 GB
    b"\x91" * 4096,  # 4096 arrays in each other
    b"\xc1",
    pickle.dumps({"a": 1}),
    msgspec.msgpack.encode(["who", m.PROTOCOL]) + b"trailing",
    b"\x92\xa3\xff\xfe\xfd\x01",  # a tag that is not UTF-8
    b"\x93\xa7goodbye\x01\xa2\xff\xfe",  # a field that is not UTF-8
    msgspec.msgpack.encode(None),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_bytes_are_decode_errors(data):
    for decode in (*DECODERS, *BODIES):
        with pytest.raises(codec.DecodeError):
            decode(data)


@pytest.mark.parametrize("data", [msgspec.msgpack.encode({"type": "who"}), msgspec.msgpack.encode([])])
def test_what_is_no_tagged_array_is_no_message(data):
    for decode in DECODERS:
        with pytest.raises(codec.DecodeError):
            decode(data)


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_random_bytes_are_decode_errors_or_messages(data):
    for decode, union in DECODERS.items():
        try:
            messages = decode(data)
        except codec.DecodeError:
            continue
        assert all(message is None or isinstance(message, union) for message in messages)


@settings(max_examples=300)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_messages_are_decode_errors_or_messages(message, data):
    frame = bytearray(codec.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    decode = decoder_of(type(message))
    for damaged in (bytes(frame), bytes(frame[:cut])):
        try:
            messages = decode(damaged)
        except codec.DecodeError:
            continue
        assert all(message is None or isinstance(message, DECODERS[decode]) for message in messages)


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
