"""A worker on which job after job fails gets none for a while; one that is to be drained gets none and leaves."""

from __future__ import annotations

from broker.core.effects import WorkerNoted
from broker.core.policy import Policy
from broker.testing import CoreHarness, peer_of, sent, worker_info
from broker.wire import codec
from broker.wire import messages as m

POLICY = Policy(breaker_failures=3, breaker_s=60.0)


def worker(desk: CoreHarness, name: str) -> m.WorkerView:
    return next(view for view in desk.core.snapshot().workers if view.name == name)


def fail_on(desk: CoreHarness, name: str, *job_ids: str, kind: m.FailureKind = "engine_crashed") -> None:
    """One new job after another fails on this worker, and nowhere else."""
    for job_id in job_ids:
        desk.beat(name, free=1)
        desk.submit(job_id, pinned=name)
        desk.start(name, job_id)
        desk.fail(name, job_id, kind)
        assert desk.cancel(job_id) == "cancelled"


def two_workers() -> CoreHarness:
    desk = CoreHarness(POLICY)
    desk.hello("w1")
    desk.hello("w2", free=0)
    return desk


def notes(desk: CoreHarness) -> list[str]:
    return [effect.action for effect in desk.effects if isinstance(effect, WorkerNoted)]


def test_three_jobs_that_fail_in_a_row_bench_their_worker_and_say_so() -> None:
    desk = two_workers()
    fail_on(desk, "w1", "a", "b")
    assert worker(desk, "w1").state == "idle"

    desk.submit("c", pinned="w1")
    desk.start("w1", "c")
    desk.fail("w1", "c", "hung")

    assert notes(desk) == ["worker_tripped"]
    view = worker(desk, "w1")
    assert (view.state, view.tripped_s, view.failed_in_a_row, view.free) == ("tripped", 60.0, 3, 0)
    desk.submit("d")
    desk.beat("w1", free=1)
    assert desk.state("d") == "queued"


def test_a_tripped_worker_comes_back_on_trial_and_sits_out_twice_as_long_when_it_fails_again() -> None:
    desk = two_workers()
    fail_on(desk, "w1", "a", "b", "c")
    for _ in range(60):
        desk.tick(1.0)
        desk.beat("w1", free=1)
        desk.beat("w2", free=0)
    assert worker(desk, "w1").state == "idle"

    fail_on(desk, "w1", "d")

    assert worker(desk, "w1").tripped_s == 120.0


def test_a_success_wipes_the_slate() -> None:
    desk = two_workers()
    fail_on(desk, "w1", "a", "b")
    desk.beat("w1", free=1)
    desk.submit("good", pinned="w1")
    desk.start("w1", "good")
    desk.finish("w1", "good")

    fail_on(desk, "w1", "c", "d")

    assert worker(desk, "w1").state == "idle"


def test_bad_input_is_not_the_workers_fault() -> None:
    desk = two_workers()
    fail_on(desk, "w1", "a", "b", "c", "d")

    other = two_workers()
    for job_id in ("a", "b", "c", "d"):
        other.beat("w1", free=1)
        other.submit(job_id, pinned="w1")
        other.start("w1", job_id)
        other.fail("w1", job_id, "invalid_input")

    assert (worker(desk, "w1").state, worker(other, "w1").state) == ("tripped", "idle")


def test_a_job_that_fails_on_two_workers_is_to_blame_itself() -> None:
    desk = CoreHarness(POLICY)
    desk.hello("w1")
    desk.hello("w2")
    for job_id in ("a", "b", "c", "d", "e"):
        desk.submit(job_id)
        first = desk.job(job_id).worker
        desk.start(first, job_id)
        desk.fail(first, job_id, "engine_crashed")
        desk.tick(1.5)
        second = desk.job(job_id).worker
        assert second != first
        desk.start(second, job_id)
        desk.fail(second, job_id, "engine_crashed")
        desk.cancel(job_id)
        for name in ("w1", "w2"):
            desk.beat(name, free=1)

    assert [worker(desk, name).state for name in ("w1", "w2")] == ["idle", "idle"]
    assert [worker(desk, name).failed_in_a_row for name in ("w1", "w2")] == [0, 0]


def test_the_only_worker_for_a_model_never_trips() -> None:
    desk = CoreHarness(POLICY)
    desk.hello("w1")
    desk.hello("w2", body=worker_info("other"))
    fail_on(desk, "w1", "a", "b", "c", "d", "e")
    assert worker(desk, "w1").state == "idle"


def test_a_tripped_worker_comes_back_when_it_is_the_last() -> None:
    desk = two_workers()
    fail_on(desk, "w1", "a", "b", "c")
    desk.beat("w1", free=1)
    desk.submit("d")

    desk.feed(peer_of("w2"), m.Goodbye(reason="stopped"))

    assert notes(desk) == ["worker_restored"]
    assert desk.job("d").worker == "w1"


def test_a_restarted_worker_has_a_new_chance_and_a_reconnected_one_has_not() -> None:
    desk = two_workers()
    fail_on(desk, "w1", "a", "b", "c")
    desk.hello("w1", peer=b"b-again", seen=desk.job("c").fence)
    assert worker(desk, "w1").state == "tripped"

    desk.hello("w1", boot="b2", peer=b"b-new")

    assert worker(desk, "w1").state == "idle"


def test_the_breaker_can_be_switched_off() -> None:
    desk = CoreHarness(Policy(breaker_failures=0))
    desk.hello("w1")
    desk.hello("w2", free=0)
    fail_on(desk, "w1", "a", "b", "c", "d")
    assert worker(desk, "w1").state == "idle"


# ---------------------------------------------------------------- drain


def drain(desk: CoreHarness, name: str) -> m.WorkerReply:
    return desk.ask(m.DrainWorker(req=1, name=name), m.WorkerReply)


def test_a_drained_worker_keeps_its_job_and_gets_no_other() -> None:
    desk = CoreHarness()
    desk.running("a")
    desk.submit("b")

    assert drain(desk, "w1").found
    assert sent(desk.effects, m.Drain, peer_of("w1"))
    desk.finish("w1", "a")

    assert (desk.state("a"), desk.state("b"), worker(desk, "w1").state) == ("succeeded", "queued", "draining")


def test_the_order_to_drain_is_repeated_until_the_worker_says_that_it_does() -> None:
    desk = CoreHarness()
    fence = desk.running("a")
    drain(desk, "w1")
    held = m.Held(job_id="a", fence=fence, phase="denoise")

    assert sent(desk.beat("w1", held, seen=fence), m.Drain)
    assert not sent(desk.beat("w1", held, seen=fence, draining=True), m.Drain)


def test_a_drained_worker_that_reconnects_is_told_again() -> None:
    desk = CoreHarness()
    fence = desk.running("a")
    drain(desk, "w1")
    held = m.Held(job_id="a", fence=fence, phase="denoise")
    desk.hello("w1", held, peer=b"b-again", seen=fence, free=0)

    effects = desk.feed(b"b-again", m.Heartbeat(seen=fence, free=0, held=(held,)))

    assert sent(effects, m.Drain, b"b-again")


def undrain(desk: CoreHarness, name: str) -> m.WorkerReply:
    return desk.ask(m.UndrainWorker(req=1, name=name), m.WorkerReply)


def test_a_worker_that_drains_and_has_not_left_goes_back_to_work() -> None:
    desk = CoreHarness()
    fence = desk.running("a")
    desk.submit("b")
    drain(desk, "w1")
    held = m.Held(job_id="a", fence=fence, phase="denoise")
    desk.beat("w1", held, seen=fence, draining=True)

    assert undrain(desk, "w1").found
    assert sent(desk.effects, m.Undrain, peer_of("w1"))
    assert sent(desk.beat("w1", held, seen=fence, draining=True), m.Undrain), "said again until it drains no more"
    assert worker(desk, "w1").state == "draining"
    assert not sent(desk.beat("w1", held, seen=fence), m.Undrain)
    assert worker(desk, "w1").state == "busy"
    desk.finish("w1", "a")
    assert desk.state("b") == "assigned"


def test_a_drain_asked_of_the_broker_before_is_taken_back_too_and_one_asked_again_holds() -> None:
    desk = CoreHarness()
    fence = desk.running("a")
    held = m.Held(job_id="a", fence=fence, phase="denoise")
    desk.beat("w1", held, seen=fence, draining=True)

    undrain(desk, "w1")
    assert sent(desk.effects, m.Undrain)
    drain(desk, "w1")
    assert not sent(desk.beat("w1", held, seen=fence, draining=True), m.Undrain)
    assert worker(desk, "w1").state == "draining"


def test_a_worker_that_works_has_nothing_taken_back_and_an_unknown_one_is_not_found() -> None:
    desk = CoreHarness()
    desk.running("a")
    desk.effects.clear()
    assert undrain(desk, "w1").found
    assert not sent(desk.effects, m.Undrain)
    assert not undrain(desk, "nobody").found


def test_draining_an_unknown_worker_says_so() -> None:
    assert not drain(CoreHarness(), "nobody").found


def test_the_answer_to_a_drain_shows_the_worker() -> None:
    desk = CoreHarness()
    desk.running("a")
    effects = desk.feed(b"f-edge", m.DrainWorker(req=1, name="w1"))
    body = next(e.message.body for e in effects if isinstance(getattr(e, "message", None), m.WorkerReply))
    view = codec.worker_view(body)
    assert (view.name, view.state, [held.job_id for held in view.jobs]) == ("w1", "draining", ["a"])
