"""Whatever workers and clients say within their types, everything that the core says back can be read by the other side, and is finite."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.effects import Send
from broker.core.scheduling import bounds
from broker.testing import EDGE, CoreHarness, peer_of
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.jobspec import Artefact, Result

ANY = st.one_of(st.floats(), st.sampled_from((0.0, -1.0, 1e-300, 1e300, -1e300, math.inf, -math.inf, math.nan)))
SECONDS = st.floats(0, 1e10)
COUNT = st.one_of(st.integers(0, 3), st.integers(0, 1_000_000))

SUBMIT = st.fixed_dictionaries(
    {
        "units": st.one_of(st.floats(0, 1e15), st.sampled_from((0.0, 1.0, 1e15))),
        "deadline_s": st.sampled_from((0.0, 1e9)),
    }
)
BEAT = st.fixed_dictionaries(dict.fromkeys(("memory_used_mb", "memory_total_mb", "utilisation", "temperature_c"), ANY))
FINISH = st.fixed_dictionaries(
    {
        "run_s": SECONDS,
        "stages": st.dictionaries(st.sampled_from(("load", "denoise", "x" * 300)), ANY, max_size=3),
        "memory": ANY,
        "fps": ANY,
    }
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), SUBMIT),
        st.tuples(st.just("beat"), BEAT),
        st.tuples(st.just("finish"), FINISH),
        st.tuples(st.just("ask"), st.none()),
    ),
    min_size=1,
    max_size=12,
)
BODIES = {
    m.Accepted: codec.job_view,
    m.JobReply: codec.job_view,
    m.CancelReply: codec.job_view,
    m.Event: codec.event_views,
    m.Jobs: codec.job_views,
    m.Pool: codec.pool_view,
    m.WorkerReply: codec.worker_view,
}


def check(harness: CoreHarness) -> None:
    """Decode every message of the last pass as its receiver does."""
    for effect in harness.effects:
        if not isinstance(effect, Send):
            continue
        frame = codec.encode(effect.message)
        (message,) = codec.to_edge(frame) if effect.peer == EDGE else codec.to_agent(frame)
        assert_finite(msgspec.to_builtins(message))
        if type(message) in BODIES and message.body:
            assert_finite(msgspec.to_builtins(BODIES[type(message)](message.body)))
        if isinstance(message, m.Run):
            assert 0 <= message.predicted_s <= bounds.MAX_RUN_S


def assert_finite(value: Any) -> None:
    if isinstance(value, float):
        assert math.isfinite(value)
        assert -1e10 <= value <= 1e10
    elif isinstance(value, dict):
        for name, item in value.items():
            if name != "submission":  # what the edge sent, and gets back as it is
                assert_finite(item)
    elif isinstance(value, list | tuple):
        for item in value:
            assert_finite(item)


@settings(max_examples=150, deadline=None)
@given(
    rates=st.lists(st.tuples(st.just("demo"), ANY, ANY, st.integers(1, 64)), max_size=3),
    names=st.text(min_size=1, max_size=128),
    steps=STEPS,
)
def test_what_is_said_back_can_be_read(rates, names, steps):
    harness = CoreHarness()
    harness.core.restore([], rates, harness.now)
    harness.feed(EDGE, m.Watch(req=1))
    harness.hello("w1", free=2)
    harness.hello(names, peer=peer_of("w1"))  # the reason of the refusal repeats the name
    check(harness)
    for number, (what, given_) in enumerate(steps):
        if what == "submit":
            harness.submit(f"j{number}", **given_)
        elif what == "beat":
            held = tuple(m.Held(job_id=j, fence=f) for j, f in harness.core.state.pool.workers.get("w1").held.items())
            harness.beat("w1", *held, seen=harness.core.state.last_fence, free=2, **given_)
        elif what == "finish" and (held := list(harness.core.state.pool.workers.get("w1").held.items())):
            job_id, fence = held[0]
            artefact = Artefact(name="a.mp4", media_type="video/mp4", size=1, sha256="0" * 64, fps=given_["fps"])
            result = Result(stage_durations=given_["stages"], peak_memory_mb=given_["memory"], artefacts=(artefact,))
            body, run_s = codec.encode_body(result), given_["run_s"]
            harness.feed(peer_of("w1"), m.Finished(job_id=job_id, fence=fence, free=2, run_s=run_s, body=body))
        else:
            harness.feed(EDGE, m.GetPool(req=number))
            check(harness)
            harness.feed(EDGE, m.ListJobs(req=number))
        check(harness)
