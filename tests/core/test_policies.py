"""The pure choices: retry, placement, affinity, costs, timers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.deadlines import Deadlines
from broker.core.policy import Policy
from broker.core.pool import Worker
from broker.core.retry import GiveUp, RetryDecision, Tries, decide
from broker.core.scheduling import placement
from broker.core.scheduling.bounds import MAX_ERROR, MAX_RUN_S
from broker.core.scheduling.costs import Costs
from broker.core.scheduling.queue import Lane
from broker.testing import UNIT, CoreHarness, peer_of, sent, worker_info
from broker.wire import messages as m
from broker.wire.jobspec import ModelCard

AGAIN, OFFLOAD, NEVER = "again", "offload", "never"


@pytest.mark.parametrize(
    ("kind", "crashes", "errors", "profile", "outcome"),
    [
        ("invalid_input", 0, 1, "normal", NEVER),
        ("out_of_memory", 1, 0, "normal", OFFLOAD),
        ("out_of_memory", 2, 0, "offload", NEVER),
        ("out_of_memory", 3, 0, "normal", "quarantined"),
        ("engine_crashed", 1, 0, "normal", AGAIN),
        ("engine_crashed", 2, 0, "offload", OFFLOAD),
        ("engine_crashed", 3, 0, "normal", "quarantined"),
        ("hung", 2, 0, "normal", AGAIN),
        ("hung", 3, 0, "normal", "quarantined"),
        ("engine_error", 0, 1, "normal", AGAIN),
        ("engine_error", 0, 2, "normal", NEVER),
        ("expired", 0, 1, "normal", NEVER),
    ],
)
def test_retry_by_class(kind, crashes, errors, profile, outcome):
    choice = decide(m.FailureKind(kind), "why", Tries(crashes=crashes, errors=errors, profile=profile), "w1", 0.0, 3)
    if outcome in (AGAIN, OFFLOAD):
        assert isinstance(choice, RetryDecision)
        assert choice.profile == ("offload" if outcome == OFFLOAD else "normal")
        assert choice.avoid == ("" if kind == "out_of_memory" else "w1")
    else:
        assert isinstance(choice, GiveUp)
        assert choice.kind == (kind if outcome == NEVER else outcome)
        assert "why" in choice.message


@pytest.mark.parametrize(("crashes", "low", "high"), [(1, 1, 1.2), (2, 5, 6), (3, 25, 30), (7, 25, 30)])
def test_back_off_grows_and_spreads(crashes, low, high):
    tries = Tries(crashes=crashes, errors=0, profile="normal")
    delays = [decide(m.FailureKind.HUNG, "", tries, "w", spread, 99).delay_s for spread in (0.0, 0.999)]
    assert delays[0] == low
    assert delays[1] == pytest.approx(high, rel=0.01)


def worker(
    name: str, model: str = "", gpus: int = 1, idle_since: float = 0.0, loras: tuple[str, ...] = (), host: str = ""
) -> Worker:
    cards = tuple(ModelCard(name=each, engine="fake", output="video") for each in ("demo", "flux"))
    made = Worker(name, "b", name.encode(), m.WorkerInfo(gpus=gpus, models=cards, host=host), 0.0)
    made.model, made.idle_since = model, idle_since
    made.stats = m.Heartbeat(seen=0, free=1, model=model, loaded_loras=loras)
    return made


def busy(worker: Worker) -> Worker:
    worker.held["j"] = 1
    return worker


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([worker("a"), worker("b", "demo")], "b"),
        ([worker("a", "flux"), worker("b")], "b"),
        ([worker("a", "demo", gpus=4), worker("b", "demo")], "b"),
        ([worker("a", "demo", idle_since=9), worker("b", "demo", idle_since=3)], "b"),
    ],
)
def test_placement_prefers_the_loaded_then_the_empty_then_the_small_then_the_longest_idle(candidates, chosen):
    assert placement.choose("demo", candidates).name == chosen


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([worker("a", "demo"), worker("b", "demo", loras=("film",))], "b"),
        ([worker("a", "demo", loras=("film",)), worker("b", "demo", loras=("quick", "pan", "film"))], "b"),
        ([worker("a", "demo", loras=("pan",)), worker("b", "demo", loras=("quick",), idle_since=9)], "b"),
        # More weighs having the model, needing fewer GPUs, and having nothing else to do.
        ([worker("a", loras=("film", "quick")), worker("b", "demo")], "b"),
        ([worker("a", "demo", gpus=4, loras=("film", "quick")), worker("b", "demo")], "b"),
        ([busy(worker("a", "demo", loras=("film", "quick"))), worker("b", "demo")], "b"),
        # LoRAs of another model that is in memory are none of this one's.
        ([worker("a", "flux", loras=("film", "quick"), idle_since=9), worker("b", "flux", idle_since=3)], "b"),
    ],
)
def test_placement_prefers_who_has_more_of_a_jobs_loras_among_those_that_are_otherwise_equal(candidates, chosen):
    assert placement.choose("demo", candidates, ("film", "quick")).name == chosen


@pytest.mark.parametrize(
    ("candidates", "spares_s", "chosen"),
    [
        # Between two that have the model, or have not, its machine decides, however little lies there.
        ([worker("a", "demo", host="x"), worker("b", "demo", host="y")], 0.1, "b"),
        ([worker("a", host="x"), worker("b", host="y")], 0.1, "b"),
        ([worker("a", "demo", host="x"), worker("b", "demo", gpus=4, host="y")], 0.1, "b"),
        # A model must be loaded there: it pays when what lies there took longer.
        ([worker("a", "demo", host="x"), worker("b", "flux", host="y")], 9.0, "a"),
        ([worker("a", "demo", host="x"), worker("b", "flux", host="y")], 11.0, "b"),
        ([worker("a", "demo", host="x"), worker("b", host="y")], 11.0, "b"),
        # On that machine, as ever.
        ([worker("a", "flux", host="y"), worker("b", "demo", host="y"), worker("c", "demo", host="x")], 11.0, "b"),
        ([worker("a", host="y", idle_since=9), worker("b", host="y", idle_since=3)], 11.0, "b"),
        # No worker is there: anywhere.
        ([worker("a", "flux", host="x"), worker("b", "demo", host="z")], 11.0, "b"),
    ],
)
def test_placement_prefers_the_machine_of_the_checkpoint_where_that_pays(candidates, spares_s, chosen):
    kept = placement.Kept("y", spares_s)
    assert placement.choose("demo", candidates, kept=kept, reload_s=10.0).name == chosen


def test_where_it_is_not_known_on_which_machine_a_checkpoint_lies_none_is_preferred():
    candidates = [worker("a", "flux", host=""), worker("b", "demo", host="x")]
    assert placement.choose("demo", candidates, kept=placement.Kept("", 99.0), reload_s=10.0).name == "b"


def test_loras_in_memory_are_nothing_to_a_job_without_any():
    candidates = [worker("a", "demo", loras=("film",), idle_since=9), worker("b", "demo", idle_since=3)]
    assert placement.choose("demo", candidates).name == "b"


def test_a_job_goes_where_its_lora_is_and_never_waits_for_it():
    harness = CoreHarness()
    for name, loras in (("w1", ()), ("w2", ("film",))):
        harness.hello(name, free=0)
        harness.beat(name, free=1, model="demo", loaded_loras=loras)
    harness.submit("a", lora_names=("film",))
    harness.submit("b", lora_names=("film",))
    assert [harness.job(name).worker for name in "ab"] == ["w2", "w1"]
    shown = {one.name: one.loaded_loras for one in harness.core.snapshot().workers}
    assert shown == {"w1": (), "w2": ("film",)}


def learned(harness: CoreHarness, *jobs: tuple[str, float, dict], quiet_s: float, workers: int = 2) -> list[str]:
    """In which order a worker is given jobs of (id, seconds, fields) that came together, when nothing has come since for so long."""
    for number in range(2, workers + 1):
        harness.hello(f"w{number}", free=0)
    harness.running("first", units=2 * UNIT)  # took 2 s: a second a unit
    harness.finish("w1", "first", free=0)
    for job_id, seconds, fields in jobs:
        harness.submit(job_id, units=seconds * UNIT, **fields)
    harness.now += quiet_s
    order = []
    harness.beat("w1", free=1)
    while run := sent(harness.effects, m.Run, peer_of("w1")):
        order.append(run[0].job_id)
        harness.start("w1", order[-1])
        harness.finish("w1", order[-1])
    return order


CLIPS = (("short", 10.0, {}), ("long", 40.0, {}), ("middle", 20.0, {}))


def test_while_jobs_keep_coming_the_shortest_goes_first():
    assert learned(CoreHarness(Policy(suspect_after_s=1e6)), *CLIPS, quiet_s=1.0) == ["short", "middle", "long"]


def test_when_a_backlog_ends_the_longest_goes_first():
    assert learned(CoreHarness(Policy(suspect_after_s=1e6)), *CLIPS, quiet_s=100.0) == ["long", "middle", "short"]


def test_where_one_worker_does_all_the_shortest_goes_first_to_the_end():
    harness = CoreHarness(Policy(suspect_after_s=1e6))
    assert learned(harness, *CLIPS, quiet_s=100.0, workers=1) == ["short", "middle", "long"]


def test_equal_jobs_start_in_the_order_in_which_they_came():
    clips = [(f"job-{number}", 10.0, {}) for number in range(5)]
    assert learned(CoreHarness(Policy(suspect_after_s=1e6)), *clips, quiet_s=100.0) == [clip[0] for clip in clips]


@pytest.mark.parametrize(
    "other",
    [
        ("other", 100.0, {}),  # too long to put before one of 10 s
        ("other", 40.0, {"priority": 1}),
        ("other", 40.0, {"tenant": "second"}),
        ("other", 40.0, {"pinned": "w1"}),  # those that others could run as well are not held up by it
    ],
)
def test_at_the_end_of_a_backlog_a_job_is_passed_by_its_own_kind_only(other):
    assert learned(CoreHarness(Policy(suspect_after_s=1e6)), ("short", 10.0, {}), other, quiet_s=1000.0) == [
        "short",
        "other",
    ]


def test_placement_of_nobody():
    assert placement.choose("demo", []) is None


@pytest.mark.parametrize(
    ("lane", "fits"),
    [
        (Lane("demo", 1, ""), True),
        (Lane("other", 1, ""), False),
        (Lane("demo", 2, ""), False),
        (Lane("demo", 1, "a"), True),
        (Lane("demo", 1, "b"), False),
    ],
)
def test_which_lanes_a_worker_can_run(lane, fits):
    assert placement.fits(lane, worker("a")) is fits


def test_a_pinned_job_waits_for_its_worker():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a", pinned="w2")
    assert harness.state("a") == "queued"
    harness.hello("w2")
    assert harness.job("a").worker == "w2"


def test_work_for_the_loaded_model_goes_first_but_not_forever():
    harness = CoreHarness()
    harness.core.restore([], [("demo", UNIT, 10.0, 1), ("flux", UNIT, 10.0, 1)], harness.now)
    harness.hello("w1", body=worker_info("demo", "flux"))
    harness.submit("first", model="demo")
    harness.start("w1", "first")
    harness.submit("other", model="flux")
    for n in range(12):
        harness.submit(f"same{n}", model="demo")
    order = []
    current = "first"
    for _ in range(10):
        fence = harness.job(current).fence
        harness.beat("w1", m.Held(job_id=current, fence=fence), seen=fence, model=harness.job(current).submission.model)
        effects = harness.finish("w1", current)
        current = sent(effects, m.Run)[0].job_id
        order.append(current)
        harness.start("w1", current)
    # Reload 15 s, at most 4 x 15 s of 10 s jobs may go before it.
    assert order.index("other") == 6


def test_the_error_of_predictions_is_kept_by_model():
    costs = Costs()
    costs.learn("demo", 10 * UNIT, 5.0)
    assert costs.errors == {}, "nothing was predicted for the first one"
    costs.learn("demo", 10 * UNIT, 5.0)
    assert costs.errors == {"demo": pytest.approx(0.0, abs=1e-3)}
    costs.learn("demo", 10 * UNIT, 10.0)
    assert costs.errors["demo"] == pytest.approx(0.2 * 0.5, rel=0.02)
    costs.learn("flux", UNIT, 1.0)
    assert set(costs.errors) == {"demo"}


def test_costs_are_learned_by_model():
    costs = Costs()
    assert not costs.can_predict("demo", UNIT)
    assert costs.predict("demo", 2.0) > costs.predict("demo", 1.0)
    costs.learn("demo", 10 * UNIT, 5.0)
    assert costs.can_predict("demo", UNIT)
    assert costs.predict("demo", 4 * UNIT) == pytest.approx(2.0, rel=0.01)
    costs.learn("demo", 10 * UNIT, 10.0)
    assert 2.0 < costs.predict("demo", 4 * UNIT) < 4.0
    for nothing in ((0.0, 5.0), (5.0, 0.0), (math.nan, 5.0), (5.0, math.nan), (-1.0, 5.0), (5.0, -1e300)):
        costs.learn("demo", *nothing)
    assert 2.0 < costs.predict("demo", 4 * UNIT) < 4.0


def test_a_machine_that_became_slower_is_followed():
    costs = Costs()
    for _ in range(30):
        costs.learn("demo", UNIT, 10.0)
    for _ in range(15):
        costs.learn("demo", UNIT, 20.0)
    assert costs.predict("demo", UNIT) == pytest.approx(20.0, rel=0.1)


def test_start_up_and_rate_are_told_apart_by_jobs_of_different_sizes():
    costs = Costs()
    for units in (UNIT, 10 * UNIT, UNIT, 10 * UNIT, 3 * UNIT):
        costs.learn("demo", units, 3.0 + 2.0 * units / UNIT)
    assert costs.predict("demo", 0.0) == pytest.approx(3.0, rel=0.2)
    assert costs.predict("demo", 20 * UNIT) == pytest.approx(43.0, rel=0.05)


def test_a_tiny_job_that_took_long_says_little_of_a_large_one():
    """The first job on a machine compiles, tunes and warms up: 12 s for a step on two by two pixels are no rate."""
    costs = Costs()
    costs.learn("demo", 1.0, 12.0)
    large = 200 * 128 * 128 * 65 * 10.0
    assert not costs.can_predict("demo", large)
    assert costs.predict("demo", 1.0) == pytest.approx(12.0, rel=0.1)
    assert 0 <= costs.predict("demo", large) <= MAX_RUN_S
    costs.learn("demo", large, 3600.0)
    assert costs.predict("demo", large) == pytest.approx(3600.0, rel=0.1)
    assert costs.predict("demo", 1.0) == pytest.approx(12.0, rel=0.5)


@given(st.lists(st.tuples(st.floats(allow_nan=True), st.floats(allow_nan=True)), max_size=20), st.floats(0, 1e15))
def test_whatever_is_learned_a_prediction_is_in_range(jobs, units):
    costs = Costs()
    for job in jobs:
        costs.learn("demo", *job)
    assert 0 <= costs.predict("demo", units) <= MAX_RUN_S
    assert all(0 <= error <= MAX_ERROR for error in costs.errors.values())


def test_timers_can_be_moved_and_taken_back():
    timers = Deadlines()
    timers.set(("due", "a"), 5.0)
    timers.set(("due", "b"), 3.0)
    timers.set(("due", "a"), 1.0)
    timers.clear(("due", "b"))
    timers.clear(("due", "never"))
    assert timers.next() == 1.0
    assert list(timers.due(0.9)) == []
    assert list(timers.due(10.0)) == [("due", "a")]
    assert timers.next() is None
    assert len(timers) == 0


def test_timers_that_move_often_take_no_room():
    timers = Deadlines()
    for n in range(10_000):
        timers.set(("worker", "w"), float(n))
    assert len(timers._heap) < 100
    assert list(timers.due(1e9)) == [("worker", "w")]


def test_a_drained_worker_leaves_the_pool_with_goodbye():
    harness = CoreHarness()
    harness.hello("w1")
    harness.feed(peer_of("w1"), m.Goodbye(reason="drained"))
    assert harness.core.snapshot().workers == ()
