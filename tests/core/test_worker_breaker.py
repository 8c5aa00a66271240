"""A worker on which job after job fails gets none for a while; one that is to be drained gets none and leaves."""

from __future__ import annotations

from broker.core.effects import WorkerNoted
from broker.core.policy import Policy
from broker.testing import CoreHarness, peer_of, sent, worker_info
from broker.wire import codec
from broker.wire import messages as m

POLICY = Policy(breaker_failures=3, breaker_s=60.0)


def worker(harness: CoreHarness, name: str) -> m.WorkerView:
    return next(view for view in harness.core.snapshot().workers if view.name == name)


def fail_on(harness: CoreHarness, name: str, *job_ids: str, kind: m.FailureKind = "engine_crashed") -> None:
    """One new job after another fails on this worker, and nowhere else."""
    for job_id in job_ids:
        harness.beat(name, free=1)
        harness.submit(job_id, pinned=name)
        harness.start(name, job_id)
        harness.fail(name, job_id, kind)
        assert harness.cancel(job_id) == "cancelled"


def two_workers() -> CoreHarness:
    harness = CoreHarness(POLICY)
    harness.hello("w1")
    harness.hello("w2", free=0)
    return harness


def notes(harness: CoreHarness) -> list[str]:
    return [effect.action for effect in harness.effects if isinstance(effect, WorkerNoted)]


def test_three_jobs_that_fail_in_a_row_bench_their_worker_and_say_so() -> None:
    harness = two_workers()
    fail_on(harness, "w1", "a", "b")
    assert worker(harness, "w1").state == "idle"

    harness.submit("c", pinned="w1")
    harness.start("w1", "c")
    harness.fail("w1", "c", "hung")

    assert notes(harness) == ["worker_tripped"]
    view = worker(harness, "w1")
    assert (view.state, view.tripped_s, view.failed_in_a_row, view.free) == ("tripped", 60.0, 3, 0)
    harness.submit("d")
    harness.beat("w1", free=1)
    assert harness.state("d") == "queued"


def test_a_tripped_worker_comes_back_on_trial_and_sits_out_twice_as_long_when_it_fails_again() -> None:
    harness = two_workers()
    fail_on(harness, "w1", "a", "b", "c")
    for _ in range(60):
        harness.tick(1.0)
        harness.beat("w1", free=1)
        harness.beat("w2", free=0)
    assert worker(harness, "w1").state == "idle"

    fail_on(harness, "w1", "d")

    assert worker(harness, "w1").tripped_s == 120.0


def test_a_success_wipes_the_slate() -> None:
    harness = two_workers()
    fail_on(harness, "w1", "a", "b")
    harness.beat("w1", free=1)
    harness.submit("good", pinned="w1")
    harness.start("w1", "good")
    harness.finish("w1", "good")

    fail_on(harness, "w1", "c", "d")

    assert worker(harness, "w1").state == "idle"


def test_bad_input_is_not_the_workers_fault() -> None:
    harness = two_workers()
    fail_on(harness, "w1", "a", "b", "c", "d")

    other = two_workers()
    for job_id in ("a", "b", "c", "d"):
        other.beat("w1", free=1)
        other.submit(job_id, pinned="w1")
        other.start("w1", job_id)
        other.fail("w1", job_id, "invalid_input")

    assert (worker(harness, "w1").state, worker(other, "w1").state) == ("tripped", "idle")


def test_a_job_that_fails_on_two_workers_is_to_blame_itself() -> None:
    harness = CoreHarness(POLICY)
    harness.hello("w1")
    harness.hello("w2")
    for job_id in ("a", "b", "c", "d", "e"):
        harness.submit(job_id)
        first = harness.job(job_id).worker
        harness.start(first, job_id)
        harness.fail(first, job_id, "engine_crashed")
        harness.tick(1.5)
        second = harness.job(job_id).worker
        assert second != first
        harness.start(second, job_id)
        harness.fail(second, job_id, "engine_crashed")
        harness.cancel(job_id)
        for name in ("w1", "w2"):
            harness.beat(name, free=1)

    assert [worker(harness, name).state for name in ("w1", "w2")] == ["idle", "idle"]
    assert [worker(harness, name).failed_in_a_row for name in ("w1", "w2")] == [0, 0]


def test_the_only_worker_for_a_model_never_trips() -> None:
    harness = CoreHarness(POLICY)
    harness.hello("w1")
    harness.hello("w2", body=worker_info("other"))
    fail_on(harness, "w1", "a", "b", "c", "d", "e")
    assert worker(harness, "w1").state == "idle"


def test_a_tripped_worker_comes_back_when_it_is_the_last() -> None:
    harness = two_workers()
    fail_on(harness, "w1", "a", "b", "c")
    harness.beat("w1", free=1)
    harness.submit("d")

    harness.feed(peer_of("w2"), m.Goodbye(reason="stopped"))

    assert notes(harness) == ["worker_restored"]
    assert harness.job("d").worker == "w1"


def test_a_restarted_worker_has_a_new_chance_and_a_reconnected_one_has_not() -> None:
    harness = two_workers()
    fail_on(harness, "w1", "a", "b", "c")
    harness.hello("w1", peer=b"b-again", seen=harness.job("c").fence)
    assert worker(harness, "w1").state == "tripped"

    harness.hello("w1", boot="b2", peer=b"b-new")

    assert worker(harness, "w1").state == "idle"


def test_the_breaker_can_be_switched_off() -> None:
    harness = CoreHarness(Policy(breaker_failures=0))
    harness.hello("w1")
    harness.hello("w2", free=0)
    fail_on(harness, "w1", "a", "b", "c", "d")
    assert worker(harness, "w1").state == "idle"


# ---------------------------------------------------------------- drain


def drain(harness: CoreHarness, name: str) -> m.WorkerReply:
    return harness.ask(m.DrainWorker(req=1, name=name), m.WorkerReply)


def test_a_drained_worker_keeps_its_job_and_gets_no_other() -> None:
    harness = CoreHarness()
    harness.running("a")
    harness.submit("b")

    assert drain(harness, "w1").found
    assert sent(harness.effects, m.Drain, peer_of("w1"))
    harness.finish("w1", "a")

    assert (harness.state("a"), harness.state("b"), worker(harness, "w1").state) == ("succeeded", "queued", "draining")


def test_the_order_to_drain_is_repeated_until_the_worker_says_that_it_does() -> None:
    harness = CoreHarness()
    fence = harness.running("a")
    drain(harness, "w1")
    held = m.Held(job_id="a", fence=fence, phase="denoise")

    assert sent(harness.beat("w1", held, seen=fence), m.Drain)
    assert not sent(harness.beat("w1", held, seen=fence, draining=True), m.Drain)


def test_a_drained_worker_that_reconnects_is_told_again() -> None:
    harness = CoreHarness()
    fence = harness.running("a")
    drain(harness, "w1")
    held = m.Held(job_id="a", fence=fence, phase="denoise")
    harness.hello("w1", held, peer=b"b-again", seen=fence, free=0)

    effects = harness.feed(b"b-again", m.Heartbeat(seen=fence, free=0, held=(held,)))

    assert sent(effects, m.Drain, b"b-again")


def undrain(harness: CoreHarness, name: str) -> m.WorkerReply:
    return harness.ask(m.UndrainWorker(req=1, name=name), m.WorkerReply)


def test_a_worker_that_drains_and_has_not_left_goes_back_to_work() -> None:
    harness = CoreHarness()
    fence = harness.running("a")
    harness.submit("b")
    drain(harness, "w1")
    held = m.Held(job_id="a", fence=fence, phase="denoise")
    harness.beat("w1", held, seen=fence, draining=True)

    assert undrain(harness, "w1").found
    assert sent(harness.effects, m.Undrain, peer_of("w1"))
    assert sent(harness.beat("w1", held, seen=fence, draining=True), m.Undrain), "said again until it drains no more"
    assert worker(harness, "w1").state == "draining"
    assert not sent(harness.beat("w1", held, seen=fence), m.Undrain)
    assert worker(harness, "w1").state == "busy"
    harness.finish("w1", "a")
    assert harness.state("b") == "assigned"


def test_a_drain_asked_of_the_broker_before_is_taken_back_too_and_one_asked_again_holds() -> None:
    harness = CoreHarness()
    fence = harness.running("a")
    held = m.Held(job_id="a", fence=fence, phase="denoise")
    harness.beat("w1", held, seen=fence, draining=True)

    undrain(harness, "w1")
    assert sent(harness.effects, m.Undrain)
    drain(harness, "w1")
    assert not sent(harness.beat("w1", held, seen=fence, draining=True), m.Undrain)
    assert worker(harness, "w1").state == "draining"


def test_a_worker_that_works_has_nothing_taken_back_and_an_unknown_one_is_not_found() -> None:
    harness = CoreHarness()
    harness.running("a")
    harness.effects.clear()
    assert undrain(harness, "w1").found
    assert not sent(harness.effects, m.Undrain)
    assert not undrain(harness, "nobody").found


def test_draining_an_unknown_worker_says_so() -> None:
    assert not drain(CoreHarness(), "nobody").found


def test_the_answer_to_a_drain_shows_the_worker() -> None:
    harness = CoreHarness()
    harness.running("a")
    effects = harness.feed(b"f-edge", m.DrainWorker(req=1, name="w1"))
    body = next(e.message.body for e in effects if isinstance(getattr(e, "message", None), m.WorkerReply))
    view = codec.worker_view(body)
    assert (view.name, view.state, [held.job_id for held in view.jobs]) == ("w1", "draining", ["a"])
