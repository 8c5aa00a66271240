"""The samples of how busy the pool was: what is counted, when, and over a restart of the journal."""

from __future__ import annotations

from broker.core.machine import Core
from broker.testing.core_harness import CoreHarness
from broker.wire import codec
from broker.wire import messages as m
from broker.wire.load import LOAD_PERIOD_S


def begun() -> CoreHarness:
    desk = CoreHarness()
    desk.core.restore([], [], desk.now)
    return desk


def samples(desk: CoreHarness) -> list[m.LoadSample]:
    return codec.load_samples(desk.ask(m.GetLoadHistory(req=1), m.LoadSamples).body)


def test_a_sample_counts_workers_at_work_and_jobs_by_what_they_do() -> None:
    desk = begun()
    desk.hello("w1")
    desk.hello("w2")
    desk.running("a", "w1")
    desk.submit("b")
    desk.submit("c")
    (now,) = samples(desk)
    assert (now.workers, now.busy, now.running, now.waiting) == (2, 2, 2, 1)
    assert now.wait_s > 0
    assert now.finished == {"cancelled": 0, "failed": 0, "succeeded": 0}


def test_what_ended_is_counted_between_two_samples_and_every_answer_ends_with_now() -> None:
    desk = begun()
    desk.running("a")
    desk.finish("w1", "a")
    desk.tick(LOAD_PERIOD_S)
    desk.running("b")
    desk.finish("w1", "b")
    desk.running("c")
    desk.finish("w1", "c")
    found = samples(desk)
    assert [sample.finished["succeeded"] for sample in found] == [1, 2]
    assert found[1].at >= found[0].at


def test_an_hour_is_kept() -> None:
    desk = begun()
    desk.tick(2 * 3600.0)
    found = samples(desk)
    assert len(found) == 361
    assert 3590 <= found[-1].at - found[0].at <= 3610


def test_it_goes_on_over_a_reset_of_the_core() -> None:
    desk = begun()
    desk.tick(3 * LOAD_PERIOD_S)
    before = len(samples(desk))
    core: Core = desk.core
    core.reset(desk.core.state.epoch + 1, desk.now)
    core.restore([], [], desk.now)
    assert len(samples(desk)) == before
