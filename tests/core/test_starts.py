"""Starts: an attempt's start has no message of its own; whatever tells of the attempt first tells when it began."""

from __future__ import annotations

import pytest

from broker.core.jobs import Cause
from broker.core.machine import Policy
from broker.testing import EDGE, RESULT, CoreHarness, causes, peer_of, sent
from broker.wire import codec
from broker.wire import messages as m

URL = "https://client.example/hook"


def granted(harness: CoreHarness, job_id: str = "a", **fields) -> m.Run:
    """The grant of a job to worker w1; two seconds later nothing has been heard of it."""
    if harness.core.state.pool.workers.get("w1") is None:
        harness.hello("w1")
    harness.submit(job_id, **fields)
    fence = harness.job(job_id).fence
    harness.now += 2.0
    return m.Run(job_id=job_id, fence=fence, lease_s=6.0, body=b"")


def end(kind: type[m.AgentResult], run: m.Run, age_s: float) -> m.AgentResult:
    more = {m.Finished: {"body": RESULT}, m.Failed: {"kind": m.FailureKind("invalid_input")}, m.Cancelled: {}}[kind]
    return kind(job_id=run.job_id, fence=run.fence, free=1, age_s=age_s, **more)


def history(harness: CoreHarness, job_id: str = "a") -> list[tuple[str, float]]:
    return [(move.cause, move.at) for move in harness.job(job_id).history]


@pytest.mark.parametrize(
    ("kind", "cause"), [(m.Finished, Cause.FINISHED), (m.Failed, Cause.FAILED), (m.Cancelled, Cause.RETURNED)]
)
def test_a_result_without_a_heartbeat_before_it_tells_when_its_attempt_began(kind, cause):
    harness = CoreHarness()
    run = granted(harness)
    effects = harness.feed(peer_of("w1"), end(kind, run, 1.5))
    assert causes(effects)[:2] == [Cause.STARTED, cause]
    assert history(harness)[1:4] == [
        ("dispatched", harness.now - 2.0),
        ("started", harness.now - 1.5),
        (cause, harness.now),
    ]
    assert (harness.job("a").attempts, harness.job("a").started_at) == (1, harness.now - 1.5)


def test_a_heartbeat_tells_when_an_attempt_began_and_its_result_does_not_move_that():
    harness = CoreHarness()
    run = granted(harness)
    held = m.Held(job_id="a", fence=run.fence, age_s=1.25)
    harness.beat("w1", held, seen=run.fence)
    began = harness.now - 1.25
    assert (harness.state("a"), harness.view("a").started_at) == ("running", began)
    harness.now += 10.0
    effects = harness.feed(peer_of("w1"), end(m.Finished, run, 3.0))
    assert causes(effects) == [Cause.FINISHED]
    assert harness.view("a").started_at == began


@pytest.mark.parametrize(("age_s", "ago_s"), [(0.0, 0.0), (1e10, 2.0), (float("nan"), 0.0)])
def test_a_start_lies_between_grant_and_now_whatever_a_worker_says(age_s, ago_s):
    harness = CoreHarness()
    run = granted(harness)
    harness.feed(peer_of("w1"), end(m.Finished, run, age_s))
    assert harness.job("a").started_at == harness.now - ago_s


def test_the_start_of_a_job_that_ended_before_a_heartbeat_is_told_before_its_end():
    harness = CoreHarness()
    run = granted(harness, webhook=URL)
    harness.feed(peer_of("w1"), end(m.Finished, run, 1.5))
    claims = codec.hook_claims(harness.ask(m.ClaimDeliveries(req=1), m.Deliveries).body)
    assert [(one.event, one.created_at) for one in claims] == [
        ("started", harness.now - 1.5),
        ("completed", harness.now),
    ]


def test_a_cancel_before_the_start_is_known_ends_the_job_and_its_start_is_told_all_the_same():
    harness = CoreHarness()
    run = granted(harness, webhook=URL)
    assert harness.cancel("a") == "requested"
    asked_at = harness.now
    harness.now += 1.0
    harness.feed(peer_of("w1"), end(m.Cancelled, run, 2.5))
    assert history(harness)[2:] == [
        ("stop_requested", asked_at),
        ("started", asked_at),  # in the history nothing is earlier than what came before
        ("cancelled", harness.now),
    ]
    assert harness.job("a").started_at == harness.now - 2.5
    assert [delivery.event for delivery in harness.view("a").deliveries] == ["started", "cancelled"]


def test_a_cancel_of_a_job_whose_finish_is_on_its_way_publishes_nothing():
    harness = CoreHarness()
    run = granted(harness)
    harness.cancel("a")
    harness.feed(peer_of("w1"), end(m.Finished, run, 1.0))
    assert (harness.state("a"), harness.job("a").result) == ("cancelled", None)


def test_what_was_taken_and_is_handed_back_is_a_loss_also_before_its_start_is_known():
    harness = CoreHarness(Policy(max_losses=1))
    for losses in (1, 2):
        run = (
            granted(harness) if losses == 1 else m.Run(job_id="a", fence=harness.job("a").fence, lease_s=6.0, body=b"")
        )
        harness.feed(peer_of("w1"), m.Refused(job_id="a", fence=run.fence, free=1, age_s=0.01))
        assert (harness.job("a").losses, harness.job("a").attempts) == (losses, losses)
    assert (harness.state("a"), harness.job("a").failure.kind) == ("failed", "quarantined")


def test_what_was_never_taken_is_no_loss():
    harness = CoreHarness(Policy(max_losses=1))
    run = granted(harness)
    effects = harness.feed(peer_of("w1"), m.Refused(job_id="a", fence=run.fence, reason="busy"))
    assert causes(effects) == [Cause.REFUSED]
    assert (harness.job("a").losses, harness.job("a").attempts) == (0, 0)


def test_a_worker_that_is_lost_before_its_start_is_known_may_still_bring_the_result():
    harness = CoreHarness()
    run = granted(harness, webhook=URL)
    harness.tick(7.0)
    assert (harness.state("a"), harness.job("a").losses, harness.job("a").attempts) == ("queued", 1, 0)
    harness.hello("w1", seen=run.fence, free=0)
    effects = harness.feed(peer_of("w1"), end(m.Finished, run, 8.0))
    assert causes(effects) == [Cause.ADOPTED, Cause.FINISHED]
    assert (harness.state("a"), harness.job("a").attempts) == ("succeeded", 1)
    assert harness.job("a").started_at == harness.now - 8.0
    assert [delivery.event for delivery in harness.view("a").deliveries] == ["started", "completed"]


def test_a_broker_that_began_anew_learns_the_start_from_the_result():
    harness = CoreHarness()
    run = granted(harness)
    harness.archive.commit()
    harness.restart()
    harness.hello("w1", m.Held(job_id="a", fence=run.fence, phase="finished", age_s=1.0), seen=run.fence, free=0)
    harness.feed(peer_of("w1"), end(m.Finished, run, 1.0))
    assert (harness.state("a"), harness.job("a").attempts, harness.job("a").started_at) == (
        "succeeded",
        1,
        harness.now - 1.0,
    )


def test_a_watcher_is_told_of_the_end_alone_when_nothing_told_of_the_start():
    harness = CoreHarness()
    harness.feed(EDGE, m.Watch(req=1))
    run = granted(harness)
    effects = harness.feed(peer_of("w1"), end(m.Finished, run, 1.0))
    (event,) = sent(effects, m.Event)
    (view,) = codec.event_views(event.body)
    assert (view.state, view.started_at, view.finished_at) == ("succeeded", harness.now - 1.0, harness.now)
