"""Any msgpack at all, and any message with any value in any place: the declared error, or a message that encodes to itself."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.wire import codec
from broker.wire import messages as m
from tests.fuzz.targets import TARGETS
from tests.testing.wire_strategies import structs

_DIRECTIONS = {"from_edge": m.FromEdge, "from_agent": m.FromAgent, "to_edge": m.ToEdge, "to_agent": m.ToAgent}
_BY_NAME = {target.name: target for target in TARGETS}
_TAGS = [cls.__struct_config__.tag for union in _DIRECTIONS.values() for cls in get_args(union)]

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=80)
    | st.binary(max_size=80)
    | st.sampled_from(["job-1", "queued", "denoise", "demo", ""])
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_messages = st.tuples(st.sampled_from(_TAGS), st.just(m.PROTOCOL) | _scalars).flatmap(
    lambda head: st.lists(_values, max_size=20).map(lambda rest: [*head, *rest])
)


@settings(max_examples=50)
@given(value=_messages | _values, more=st.none() | st.binary(max_size=20))
@pytest.mark.parametrize("direction", _DIRECTIONS)
def test_any_msgpack_is_the_declared_error_or_a_message(direction: str, value: Any, more: bytes | None) -> None:
    frame = msgspec.msgpack.encode(value)
    _BY_NAME[direction].run([frame] if more is None else [frame, more])


@settings(max_examples=50)
@given(data=st.data())
@pytest.mark.parametrize("direction", _DIRECTIONS)
def test_a_message_with_any_value_in_any_place(direction: str, data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(get_args(_DIRECTIONS[direction])))
    fields = msgspec.msgpack.decode(codec.encode(data.draw(structs(cls))))
    for _ in range(data.draw(st.integers(0, 2))):
        fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(_values)
    fields = fields[: data.draw(st.integers(0, len(fields)))] + data.draw(st.lists(_values, max_size=2))
    frame = msgspec.msgpack.encode(fields)
    _BY_NAME[direction].run([frame])


_BODIES = ("worker_info", "result", "job_view", "job_views", "job_updates", "pool_view", "job_spec")


@settings(max_examples=25)
@given(value=_values | st.lists(structs(m.JobView).map(msgspec.to_builtins), max_size=2))
@pytest.mark.parametrize("body", _BODIES)
def test_any_msgpack_is_the_declared_error_or_a_body(body: str, value: Any) -> None:
    _BY_NAME[body].run([msgspec.msgpack.encode(value)])


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("kind", [m.JobView, m.PoolView, m.WorkerInfo])
def test_a_body_with_any_value_in_any_place(kind: type, data: st.DataObject) -> None:
    fields = msgspec.msgpack.decode(codec.encode_body(data.draw(structs(kind))))
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(_values)
    target = {m.JobView: "job_view", m.PoolView: "pool_view", m.WorkerInfo: "worker_info"}[kind]
    _BY_NAME[target].run([msgspec.msgpack.encode(fields)])
