"""Webhook deliveries: caused once by the move they tell of, held by one edge at a time, settled by what is reported."""

from __future__ import annotations

import pytest

from broker.core.deliveries import LEASE_S
from broker.core.effects import DeliveryChanged, Send, Transition
from broker.core.machine import Policy
from broker.testing import EDGE, CoreHarness, sent
from broker.wire import codec
from broker.wire import messages as m

URL = "https://client.example/hook"


def claim(harness: CoreHarness, limit: int = 16, edge: bytes = EDGE) -> tuple[list[m.ClaimedDelivery], float]:
    effects = harness.feed(edge, m.ClaimDeliveries(req=1, limit=limit))
    reply = next(e for e in effects if isinstance(e, Send) and isinstance(e.message, m.Deliveries) and e.peer == edge)
    return codec.hook_claims(reply.message.body), reply.message.wait_s


def done(harness: CoreHarness, held: m.ClaimedDelivery, outcome: str = "delivered", **fields) -> None:
    harness.ask(m.DeliveryDone(req=1, number=held.number, claim=held.claim, outcome=outcome, **fields), m.DeliveryNoted)


def reported(harness: CoreHarness, job_id: str) -> list[tuple[str, str]]:
    return [(delivery.event, delivery.state) for delivery in harness.view(job_id).deliveries]


def finished(harness: CoreHarness, job_id: str = "a", **fields) -> None:
    harness.running(job_id, webhook=URL, **fields)
    harness.finish("w1", job_id)


def test_a_job_without_a_webhook_causes_none():
    harness = CoreHarness()
    harness.running("a")
    harness.finish("w1", "a")
    assert not harness.archive.store.tables.deliveries
    assert claim(harness) == ([], -1.0)


def test_start_and_end_are_told_in_the_commit_of_the_move():
    harness = CoreHarness()
    harness.hello("w1")
    harness.submit("a", webhook=URL)
    effects = harness.start("w1", "a")
    moved, hooked = (next(e for e in effects if isinstance(e, kind)) for kind in (Transition, DeliveryChanged))
    assert moved.durable, "a start that is told must be on disk with what tells it"
    assert (hooked.delivery.event, hooked.delivery.created_at) == ("started", harness.now)
    harness.now += 5
    harness.finish("w1", "a")
    claims, wait_s = claim(harness)
    assert [(held.job_id, held.event, held.attempts) for held in claims] == [("a", "started", 1), ("a", "completed", 1)]
    assert claims[1].created_at == harness.now
    assert wait_s == -1.0


@pytest.mark.parametrize("end", ["failed", "cancelled", "expired"])
def test_every_end_is_told_as_what_it_is(end):
    harness = CoreHarness()
    fields = {"deadline_s": 5.0} if end == "expired" else {}
    harness.running("a", webhook=URL, webhook_events=("completed", "failed", "cancelled"), **fields)
    if end == "failed":
        harness.fail("w1", "a", "invalid_input")
    else:
        harness.cancel("a") if end == "cancelled" else harness.tick(6)
        harness.feed(b"b-w1", m.Cancelled(job_id="a", fence=harness.job("a").fence, free=1))
    assert reported(harness, "a") == [("cancelled" if end == "cancelled" else "failed", "pending")]


def test_only_events_that_are_wanted_are_told():
    harness = CoreHarness()
    finished(harness, webhook_events=("failed",))
    assert reported(harness, "a") == []
    assert harness.view("a").submission.webhook_events == ("failed",)


def test_further_attempts_and_returning_workers_are_no_second_start():
    harness = CoreHarness(Policy(lost_after_s=3, rejoin_s=3))
    fence = harness.running("a", webhook=URL)
    harness.restart()
    harness.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise"), seen=fence, free=0)
    assert harness.state("a") == "running"
    harness.fail("w1", "a", "engine_error")
    harness.tick(2)
    harness.start("w1", "a")
    assert harness.job("a").attempts == 2
    assert reported(harness, "a") == [("started", "pending")]


def test_a_held_delivery_is_nobody_elses_until_its_lease_runs_out():
    harness = CoreHarness()
    finished(harness, webhook_events=("completed",))
    (held,), _ = claim(harness)
    assert claim(harness, edge=b"f-other") == ([], LEASE_S)
    assert harness.view("a").deliveries[0].sending
    harness.restart()
    assert claim(harness, edge=b"f-other")[0] == [], "a claim outlives the broker"
    harness.tick(LEASE_S)
    (again,), _ = claim(harness, edge=b"f-other")
    assert (again.number, again.attempts) == (held.number, 2)
    assert again.claim != held.claim


def test_due_deliveries_are_given_in_parts_the_oldest_first():
    harness = CoreHarness()
    for n in range(5):
        harness.submit(f"j{n}", pinned="nobody", webhook=URL)
        harness.cancel(f"j{n}")
        harness.now += 1
    assert [held.job_id for held in claim(harness, 2)[0]] == ["j0", "j1"]
    claims, wait_s = claim(harness, 2)
    assert [held.job_id for held in claims] == ["j2", "j3"]
    assert wait_s == 0.0
    assert [held.job_id for held in claim(harness, 2)[0]] == ["j4"]


def test_a_failure_is_tried_again_when_asked():
    harness = CoreHarness()
    finished(harness, webhook_events=("completed",))
    (held,), _ = claim(harness)
    done(harness, held, "retry", status=503, retry_s=30.0, note="busy")
    (delivery,) = harness.view("a").deliveries
    assert (delivery.state, delivery.attempts, delivery.status, delivery.note, delivery.sending) == (
        "pending",
        1,
        503,
        "busy",
        False,
    )
    assert delivery.next_at == harness.now + 30
    assert claim(harness) == ([], 30.0)
    harness.tick(30)
    assert claim(harness)[0][0].number == held.number


def test_what_was_not_tried_comes_back_as_if_it_had_not_been_claimed():
    harness = CoreHarness()
    finished(harness, webhook_events=("completed",))
    for _ in range(12):
        (held,), _ = claim(harness)
        assert held.attempts == 1
        done(harness, held, "released", retry_s=7.0)
        assert claim(harness, 1)[0] == []
        harness.now += 7.0


@pytest.mark.parametrize("outcome", ["delivered", "failed", "disabled"])
def test_what_is_settled_is_not_given_again(outcome):
    harness = CoreHarness()
    finished(harness, webhook_events=("completed",))
    (held,), _ = claim(harness)
    done(harness, held, outcome, status=200)
    done(harness, held, "retry", retry_s=0.0)
    harness.restart()
    harness.tick(2 * LEASE_S)
    assert claim(harness) == ([], -1.0)
    assert reported(harness, "a") == [("completed", outcome)]


def test_a_late_success_counts_and_a_late_failure_does_not():
    harness = CoreHarness()
    finished(harness, webhook_events=("completed",))
    (first,), _ = claim(harness)
    harness.tick(LEASE_S)
    (second,), _ = claim(harness)
    done(harness, first, "failed")
    assert reported(harness, "a") == [("completed", "pending")]
    done(harness, first, "delivered", status=204)
    assert reported(harness, "a") == [("completed", "delivered")]
    done(harness, second, "retry", retry_s=5.0)
    assert reported(harness, "a") == [("completed", "delivered")]


def test_a_receiver_that_is_gone_hears_nothing_more_of_that_job():
    harness = CoreHarness()
    harness.running("a", webhook=URL)
    (held,), _ = claim(harness)
    done(harness, held, "disabled", status=410)
    harness.finish("w1", "a")
    assert reported(harness, "a") == [("started", "disabled"), ("completed", "disabled")]
    finished(harness, "b")
    assert reported(harness, "b") == [("started", "pending"), ("completed", "pending")]


def test_disabling_reaches_deliveries_that_wait():
    harness = CoreHarness()
    finished(harness)
    started, completed = claim(harness)[0]
    done(harness, completed, "retry", retry_s=5.0)
    done(harness, started, "disabled", status=410)
    assert reported(harness, "a") == [("started", "disabled"), ("completed", "disabled")]
    harness.tick(2 * LEASE_S)
    assert claim(harness) == ([], -1.0)


def test_deliveries_go_with_their_job():
    harness = CoreHarness()
    finished(harness)
    claims, _ = claim(harness)
    assert harness.ask(m.ForgetJobs(req=1, job_ids=("a",)), m.Forgotten).job_ids == ("a",)
    assert not harness.archive.store.tables.deliveries
    done(harness, claims[0])
    harness.submit("a", webhook=URL)
    assert reported(harness, "a") == []


def test_the_same_id_with_another_webhook_is_another_job():
    harness = CoreHarness()
    harness.submit("a", webhook=URL, webhook_events=("failed",))
    answer = harness.submit("a", webhook=URL, webhook_events=("failed",))
    assert isinstance(answer, m.Accepted)
    assert answer.duplicate
    for fields in ({"webhook": URL}, {"webhook": URL + "2", "webhook_events": ("failed",)}, {}):
        answer = harness.submit("a", **fields)
        assert isinstance(answer, m.Rejected)
        assert answer.code == "id_conflict"


def test_watchers_see_that_a_job_has_a_webhook():
    harness = CoreHarness()
    harness.ask(m.Watch(req=1), m.Watching)
    harness.running("a", webhook=URL)
    effects = harness.finish("w1", "a")
    assert sent(effects, m.Event, EDGE)
    spec_cache = [e.message.body for e in effects if isinstance(e, Send) and isinstance(e.message, m.Event)]
    assert codec.event_views(spec_cache[-1])[-1].submission.webhook == URL
    hooked = next(n for n, e in enumerate(effects) if isinstance(e, DeliveryChanged))
    assert hooked < next(n for n, e in enumerate(effects) if isinstance(e, Send) and isinstance(e.message, m.Event))


@pytest.mark.parametrize("actions", [("pause",), ("pause", "resume")])
def test_a_job_that_was_parked_before_its_first_attempt_keeps_its_deliveries_over_a_restart(actions):
    harness = CoreHarness()
    harness.submit("a", webhook=URL)
    for action in actions:
        harness.ask(m.ControlJob(req=0, job_id="a", action=action), m.ControlReply)
    before = reported(harness, "a")
    assert before, "parked and not told"
    harness.restart()
    assert reported(harness, "a") == before
    for action in ("resume", "pause", "resume"):
        harness.ask(m.ControlJob(req=0, job_id="a", action=action), m.ControlReply)
    assert reported(harness, "a") == [("parked", "pending"), ("resumed", "pending")]
