"""The trace that a spec names, as log lines show it."""

from __future__ import annotations

import msgspec
import pytest

from broker.wire.jobspec import JobSpec, encode_spec, trace_id_of

SPEC = JobSpec(model="demo", output="video", prompt="a", width=64, height=64, num_inference_steps=4, seed=1)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_the_id_is_read_from_the_spec():
    spec = msgspec.structs.replace(SPEC, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    assert trace_id_of(encode_spec(spec)) == TRACE


@pytest.mark.parametrize(
    "body",
    [
        encode_spec(SPEC),
        b"",
        b"\xc1",
        b"\x81\xa5extra" + b"\x91" * 200_000,
        msgspec.msgpack.encode({"traceparent": 5}),
        msgspec.msgpack.encode({"traceparent": "00-\n-forged line"}),
        msgspec.msgpack.encode([1, 2]),
    ],
    ids=range(7),
)
def test_a_spec_without_one_and_what_is_no_spec_have_none(body):
    assert trace_id_of(body) == ""
