"""The samples of how busy the pool was: what is counted, when, and over a restart of the journal."""

from __future__ import annotations

from broker.core.machine import Core
from broker.testing.core_harness import CoreHarness
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.load import LOAD_PERIOD_S


def begun() -> CoreHarness:
    harness = CoreHarness()
    harness.core.restore([], [], harness.now)
    return harness


def samples(harness: CoreHarness) -> list[m.LoadSample]:
    return codec.load_samples(harness.ask(m.GetLoadHistory(req=1), m.LoadSamples).body)


def test_a_sample_counts_workers_at_work_and_jobs_by_what_they_do() -> None:
    harness = begun()
    harness.hello("w1")
    harness.hello("w2")
    harness.running("a", "w1")
    harness.submit("b")
    harness.submit("c")
    (now,) = samples(harness)
    assert (now.workers, now.busy, now.running, now.waiting) == (2, 2, 2, 1)
    assert now.wait_s > 0
    assert now.finished == {"cancelled": 0, "failed": 0, "succeeded": 0}


def test_what_ended_is_counted_between_two_samples_and_every_answer_ends_with_now() -> None:
    harness = begun()
    harness.running("a")
    harness.finish("w1", "a")
    harness.tick(LOAD_PERIOD_S)
    harness.running("b")
    harness.finish("w1", "b")
    harness.running("c")
    harness.finish("w1", "c")
    found = samples(harness)
    assert [sample.finished["succeeded"] for sample in found] == [1, 2]
    assert found[1].at >= found[0].at


def test_an_hour_is_kept() -> None:
    harness = begun()
    harness.tick(2 * 3600.0)
    found = samples(harness)
    assert len(found) == 361
    assert 3590 <= found[-1].at - found[0].at <= 3610


def test_it_goes_on_over_a_reset_of_the_core() -> None:
    harness = begun()
    harness.tick(3 * LOAD_PERIOD_S)
    before = len(samples(harness))
    core: Core = harness.core
    core.reset(harness.core.state.epoch + 1, harness.now)
    core.restore([], [], harness.now)
    assert len(samples(harness)) == before
