"""Promised times: giving, keeping and breaking them; first the pure plan, then the core."""

from __future__ import annotations

import pytest

from broker.core.scheduling import promises
from broker.core.scheduling.promises import Demand, plan_back
from broker.core.scheduling.queue import Lane
from broker.testing import UNIT, CoreHarness, causes, peer_of, sent, submission, worker_info
from broker.wire import codec
from broker.wire import messages as m

LANE = Lane("demo", 1, "")


def demand(name: str, ready_by: float, run_s: float, margin_s: float = 0.0) -> Demand:
    return Demand(name, LANE, ready_by, run_s, margin_s)


# ---------------------------------------------------------------- the plan


def test_one_worker_does_promised_jobs_one_after_another():
    plan = plan_back([demand("a", 100.0, 10.0), demand("b", 100.0, 10.0), demand("c", 50.0, 5.0)], frozenset("w"))
    assert {job: start for start, job in plan.latest} == {"a": 90.0, "b": 80.0, "c": 45.0}
    assert plan.firsts == (45.0,)


def test_several_workers_share_them():
    plan = plan_back([demand("a", 100.0, 10.0), demand("b", 100.0, 30.0), demand("c", 100.0, 10.0)], frozenset("vw"))
    assert plan.firsts == (70.0, 80.0)


def test_a_margin_is_no_work():
    plan = plan_back([demand("a", 100.0, 10.0, 5.0), demand("b", 85.0, 10.0)], frozenset("w"))
    assert plan.latest == ((75.0, "b"), (85.0, "a"))


@pytest.mark.parametrize(
    ("free_at", "kept"), [((0.0, 0.0), True), ((70.0, 80.0), True), ((80.0, 70.0), True), ((71.0, 80.0), False)]
)
def test_a_plan_holds_while_enough_workers_are_free_in_time(free_at, kept):
    plan = plan_back([demand("a", 100.0, 10.0), demand("b", 100.0, 30.0), demand("c", 100.0, 10.0)], frozenset("vw"))
    assert promises.holds(plan, free_at) is kept


def test_lanes_without_a_common_worker_are_planned_apart():
    other = Demand("x", Lane("flux", 1, ""), 20.0, 10.0)
    able = {LANE: frozenset("v"), other.lane: frozenset("w")}
    plans = promises.plan_all([demand("a", 100.0, 10.0), other], lambda lane: able[lane])
    assert {tuple(plan.workers): plan.firsts for plan in plans} == {("v",): (90.0,), ("w",): (10.0,)}


def test_the_earliest_feasible_time_is_found():
    assert promises.earliest(lambda at: at >= 33.0, 10.0, 100.0, 0.1) == pytest.approx(33.0, abs=0.1)
    assert promises.earliest(lambda at: True, 10.0, 100.0, 0.1) == 10.0
    assert promises.earliest(lambda at: False, 10.0, 100.0, 0.1) is None


# ---------------------------------------------------------------- the core


def learned(workers: int = 1, jobs: int = 30) -> CoreHarness:
    """A core that knows that a job of one `UNIT` takes 10 s, with workers that have the model in memory."""
    harness = CoreHarness()
    harness.core.restore([], [("demo", UNIT * (1 + n % 3), 10.0 * (1 + n % 3), 1) for n in range(jobs)], harness.now)
    for number in range(workers):
        harness.hello(f"w{number}")
        harness.beat(f"w{number}", free=1, model="demo", engine="ready")
    return harness


def wish(within_s: float, confidence: float = 0.95) -> m.PromiseWish:
    return m.PromiseWish(within_s=within_s, confidence=confidence)


def take(harness: CoreHarness, worker: str, job_id: str, free: int = 0) -> None:
    """Let the worker say that it runs this job, its model in memory, and be heard while time passes."""
    fence = harness.job(job_id).fence
    harness.beat(worker, m.Held(job_id=job_id, fence=fence), seen=fence, free=free, model="demo", engine="busy")


def wait(harness: CoreHarness, seconds: float, **held: str) -> None:
    """Let time pass; the workers beat each second and hold what they held."""
    for _ in range(int(seconds)):
        for worker, job_id in held.items():
            take(harness, worker, job_id)
        harness.tick(1.0)


def test_a_promise_is_given_and_shown():
    harness = learned()
    answer = harness.submit("a", promise=wish(30.0))
    assert isinstance(answer, m.Accepted)
    assert answer.admission.promise == m.Promise(ready_by=harness.now + 30.0, confidence=0.95)
    assert harness.view("a").promise == answer.admission.promise


def test_what_cannot_be_promised_is_refused_with_the_earliest_time_that_can():
    harness = learned()
    harness.submit("before")
    take(harness, "w0", "before")
    answer = harness.submit("a", promise=wish(12.0))
    assert isinstance(answer, m.Rejected)
    assert answer.code == "promise"
    assert 20.0 < answer.earliest_s < 26.0
    assert "earliest" in answer.message
    assert isinstance(harness.submit("a", promise=wish(answer.earliest_s + 0.1)), m.Accepted)


def test_a_higher_confidence_needs_more_time():
    harness = learned()
    harness.submit("before")
    assert [harness.submit("a", promise=wish(1.0, c)).earliest_s for c in (0.5, 0.9, 0.99)] == sorted(
        harness.submit("a", promise=wish(1.0, c)).earliest_s for c in (0.5, 0.9, 0.99)
    )


def test_nothing_is_promised_of_a_model_that_is_not_known_yet():
    harness = CoreHarness()
    harness.hello("w0")
    answer = harness.submit("a", promise=wish(1e6))
    assert (answer.code, answer.earliest_s) == ("promise", 0.0)
    assert "finished yet" in answer.message


def test_nothing_is_promised_where_no_worker_could_run_it():
    harness = learned(workers=0)
    assert "no worker" in harness.submit("a", promise=wish(1e6)).message


def test_an_estimate_says_what_a_submit_would_and_keeps_nothing():
    harness = learned()
    harness.submit("before")
    take(harness, "w0", "before")
    harness.submit("waits")
    ask = m.Estimate(req=1, submission=submission({"units": UNIT}))
    found = codec.forecast(harness.ask(ask, m.Estimated).body)
    assert (found.position, found.workers, found.unknown) == (1, 1, "")
    assert found.starts_s == pytest.approx(20.0, abs=1.0)
    assert found.done_s == pytest.approx(30.0, abs=1.5)
    assert found.ready_s > found.done_s
    assert harness.submit("a", promise=wish(1.0)).earliest_s == pytest.approx(found.ready_s)
    assert len(harness.core.state.jobs) == 2


def test_a_model_that_must_be_loaded_first_is_counted():
    harness = learned()
    harness.beat("w0", free=1, model="", engine="ready")
    ask = m.Estimate(req=1, submission=submission({"units": UNIT}))
    found = codec.forecast(harness.ask(ask, m.Estimated).body)
    assert found.done_s == pytest.approx(10.0 + harness.policy.reload_s, abs=1.0)


def test_the_estimate_keeps_to_the_limit_of_the_tenant():
    harness = learned(workers=2)
    harness.submit("before", tenant="small", max_running=1)
    take(harness, "w0", "before")
    ask = m.Estimate(req=1, submission=submission({"units": UNIT, "tenant": "small", "max_running": 1}))
    assert codec.forecast(harness.ask(ask, m.Estimated).body).starts_s == pytest.approx(10.0, abs=1.0)
    other = m.Estimate(req=1, submission=submission({"units": UNIT, "tenant": "other"}))
    assert codec.forecast(harness.ask(other, m.Estimated).body).starts_s == pytest.approx(0.0, abs=1.0)


def test_work_ahead_beyond_what_is_looked_at_is_summed_up():
    harness = learned()
    for number in range(600):
        harness.submit(f"j{number}")
    ask = m.Estimate(req=1, submission=submission({"units": UNIT}))
    found = codec.forecast(harness.ask(ask, m.Estimated).body)
    assert found.starts_s == pytest.approx(6000.0, rel=0.05)


def test_an_urgent_promise_goes_before_shorter_jobs_that_came_later():
    harness = learned()
    harness.submit("running")
    take(harness, "w0", "running")
    assert isinstance(harness.submit("promised", units=2 * UNIT, promise=wish(45.0)), m.Accepted)
    for number in range(10):
        harness.submit(f"short{number}", units=0.5 * UNIT)
    wait(harness, 10.0, w0="running")
    order = []
    current = "running"
    while current != "promised":
        effects = harness.finish("w0", current)
        current = sent(effects, m.Run)[0].job_id
        order.append(current)
        wait(harness, 20 if current == "promised" else 5, w0=current)
    assert 1 <= len(order) <= 3, order  # short ones pass while there is time
    harness.finish("w0", "promised")
    assert harness.job("promised").finished_at <= harness.job("promised").promise.ready_by
    assert harness.job("promised").promise.breaks == 0


def test_an_urgent_promise_goes_before_a_higher_priority_that_came_later():
    harness = learned()
    harness.submit("running")
    take(harness, "w0", "running")
    harness.submit("promised", promise=wish(25.0))
    harness.submit("first", priority=9)
    wait(harness, 10.0, w0="running")
    assert sent(harness.finish("w0", "running"), m.Run)[0].job_id == "promised"


def test_a_promise_does_not_pass_what_waited_before_it():
    harness = learned()
    harness.submit("running")
    take(harness, "w0", "running")
    harness.submit("waits")
    refused = harness.submit("promised", promise=wish(25.0))
    assert isinstance(refused, m.Rejected)
    assert refused.earliest_s > 30.0


def test_a_promise_whose_worker_dies_is_told_broken_at_once_with_a_new_time():
    harness = learned(workers=2)
    harness.submit("other")
    take(harness, "w0", "other")
    harness.submit("a", promise=wish(20.0), webhook="https://client.example/hook")
    take(harness, "w1", "a")
    wait(harness, 8.0, w0="other", w1="a")
    promised = harness.job("a").promise.ready_by
    harness.feed(peer_of("w1"), m.Goodbye(reason="power"))
    effects = harness.tick(0.0)
    # It waits again, and would end in time only if a worker were free before long.
    wait(harness, 3.0, w0="other")
    job = harness.job("a")
    assert job.promise.broken_at
    assert job.promise.broken_at < promised
    assert job.promise.first_ready_by == promised
    assert job.promise.ready_by > promised
    assert "promise_broken" in [move.cause for move in job.history]
    assert [delivery.event for delivery in job.deliveries.values()].count("promise_broken") == 1
    assert effects is not None


def test_a_failed_attempt_that_leaves_no_time_breaks_the_promise():
    harness = learned()
    harness.submit("a", promise=wish(15.0))
    take(harness, "w0", "a")
    wait(harness, 6.0, w0="a")
    harness.fail("w0", "a", "engine_crashed")
    assert harness.job("a").promise.broken_at == harness.now
    assert harness.state("a") == "delayed"


def test_steps_that_take_too_long_break_the_promise_before_its_time():
    harness = learned()
    harness.submit("a", promise=wish(20.0))
    fence = harness.job("a").fence
    for step in range(1, 6):
        harness.tick(2.4)
        held = m.Held(job_id="a", fence=fence, phase="denoise", step=step, total=20)
        harness.beat("w0", held, seen=fence, model="demo", engine="busy")
    assert harness.job("a").promise.broken_at
    assert harness.now < harness.job("a").promise.first_ready_by
    assert harness.job("a").promise.ready_by > harness.now + 15


def test_a_promise_whose_time_passes_is_broken_then():
    harness = learned()
    harness.submit("a", promise=wish(15.0))
    promised = harness.job("a").promise.ready_by
    wait(harness, 17.0, w0="a")
    job = harness.job("a")
    assert job.promise.broken_at == pytest.approx(promised, abs=0.01)
    assert job.promise.ready_by > promised
    wait(harness, 120.0, w0="a")
    assert job.promise.breaks < 12
    harness.finish("w0", "a")
    assert harness.state("a") == "succeeded"


def test_a_promise_is_kept_over_a_restart():
    harness = learned()
    harness.submit("running")
    take(harness, "w0", "running")
    harness.submit("a", promise=wish(30.0))
    promise = harness.job("a").promise
    harness.restart()
    assert harness.job("a").promise == promise
    assert "a" in harness.core.state.promises.waiting


def test_a_cancelled_job_is_planned_for_no_more():
    harness = learned()
    harness.submit("running")
    take(harness, "w0", "running")
    harness.submit("a", promise=wish(60.0))
    assert "a" in harness.core.state.promises.waiting
    harness.cancel("a")
    assert not harness.core.state.promises.waiting


def test_no_more_promised_jobs_wait_than_are_planned_for(monkeypatch):
    monkeypatch.setattr(promises, "MAX_WAITING", 2)
    harness = learned()
    harness.submit("running")
    for name in "abc":
        answer = harness.submit(name, promise=wish(1000.0))
    assert "2 promised jobs wait already" in answer.message


def test_promises_of_another_model_are_kept_by_the_workers_that_have_it():
    harness = CoreHarness()
    rates = [(model, UNIT, 10.0, 1) for model in ("demo", "flux") for _ in range(20)]
    harness.core.restore([], rates, harness.now)
    for name, models in (("w0", ("demo", "flux")), ("w1", ("demo",))):
        harness.hello(name, body=worker_info(*models))
        harness.beat(name, free=1, model=models[-1], engine="ready")
    harness.submit("one", model="flux")
    harness.submit("two", model="demo")
    promised = harness.submit("promised", model="flux", promise=wish(30.0))
    assert isinstance(promised, m.Accepted)
    harness.submit("three", model="demo", priority=9)
    fence = harness.job("one").fence
    harness.beat("w0", m.Held(job_id="one", fence=fence), seen=fence, model="flux", engine="busy")
    harness.tick(1.0)
    assert sent(harness.finish("w0", "one"), m.Run)[0].job_id in ("promised", "three")
    assert causes([]) == []
