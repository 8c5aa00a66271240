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


def claim(desk: CoreHarness, limit: int = 16, edge: bytes = EDGE) -> tuple[list[m.ClaimedDelivery], float]:
    effects = desk.feed(edge, m.ClaimDeliveries(req=1, limit=limit))
    reply = next(e for e in effects if isinstance(e, Send) and isinstance(e.message, m.Deliveries) and e.peer == edge)
    return codec.hook_claims(reply.message.body), reply.message.wait_s


def done(desk: CoreHarness, held: m.ClaimedDelivery, outcome: str = "delivered", **fields) -> None:
    desk.ask(m.DeliveryDone(req=1, number=held.number, claim=held.claim, outcome=outcome, **fields), m.DeliveryNoted)


def reported(desk: CoreHarness, job_id: str) -> list[tuple[str, str]]:
    return [(delivery.event, delivery.state) for delivery in desk.view(job_id).deliveries]


def finished(desk: CoreHarness, job_id: str = "a", **fields) -> None:
    desk.running(job_id, webhook=URL, **fields)
    desk.finish("w1", job_id)


def test_a_job_without_a_webhook_causes_none():
    desk = CoreHarness()
    desk.running("a")
    desk.finish("w1", "a")
    assert not desk.archive.store.tables.deliveries
    assert claim(desk) == ([], -1.0)


def test_start_and_end_are_told_in_the_commit_of_the_move():
    desk = CoreHarness()
    desk.hello("w1")
    desk.submit("a", webhook=URL)
    effects = desk.start("w1", "a")
    moved, hooked = (next(e for e in effects if isinstance(e, kind)) for kind in (Transition, DeliveryChanged))
    assert moved.durable, "a start that is told must be on disk with what tells it"
    assert (hooked.delivery.event, hooked.delivery.created_at) == ("started", desk.now)
    desk.now += 5
    desk.finish("w1", "a")
    claims, wait_s = claim(desk)
    assert [(held.job_id, held.event, held.attempts) for held in claims] == [("a", "started", 1), ("a", "completed", 1)]
    assert claims[1].created_at == desk.now
    assert wait_s == -1.0


@pytest.mark.parametrize("end", ["failed", "cancelled", "expired"])
def test_every_end_is_told_as_what_it_is(end):
    desk = CoreHarness()
    fields = {"deadline_s": 5.0} if end == "expired" else {}
    desk.running("a", webhook=URL, webhook_events=("completed", "failed", "cancelled"), **fields)
    if end == "failed":
        desk.fail("w1", "a", "invalid_input")
    else:
        desk.cancel("a") if end == "cancelled" else desk.tick(6)
        desk.feed(b"b-w1", m.Cancelled(job_id="a", fence=desk.job("a").fence, free=1))
    assert reported(desk, "a") == [("cancelled" if end == "cancelled" else "failed", "pending")]


def test_only_events_that_are_wanted_are_told():
    desk = CoreHarness()
    finished(desk, webhook_events=("failed",))
    assert reported(desk, "a") == []
    assert desk.view("a").submission.webhook_events == ("failed",)


def test_further_attempts_and_returning_workers_are_no_second_start():
    desk = CoreHarness(Policy(lost_after_s=3, rejoin_s=3))
    fence = desk.running("a", webhook=URL)
    desk.restart()
    desk.hello("w1", m.Held(job_id="a", fence=fence, phase="denoise"), seen=fence, free=0)
    assert desk.state("a") == "running"
    desk.fail("w1", "a", "engine_error")
    desk.tick(2)
    desk.start("w1", "a")
    assert desk.job("a").attempts == 2
    assert reported(desk, "a") == [("started", "pending")]


def test_a_held_delivery_is_nobody_elses_until_its_lease_runs_out():
    desk = CoreHarness()
    finished(desk, webhook_events=("completed",))
    (held,), _ = claim(desk)
    assert claim(desk, edge=b"f-other") == ([], LEASE_S)
    assert desk.view("a").deliveries[0].sending
    desk.restart()
    assert claim(desk, edge=b"f-other")[0] == [], "a claim outlives the broker"
    desk.tick(LEASE_S)
    (again,), _ = claim(desk, edge=b"f-other")
    assert (again.number, again.attempts) == (held.number, 2)
    assert again.claim != held.claim


def test_due_deliveries_are_given_in_parts_the_oldest_first():
    desk = CoreHarness()
    for n in range(5):
        desk.submit(f"j{n}", pinned="nobody", webhook=URL)
        desk.cancel(f"j{n}")
        desk.now += 1
    assert [held.job_id for held in claim(desk, 2)[0]] == ["j0", "j1"]
    claims, wait_s = claim(desk, 2)
    assert [held.job_id for held in claims] == ["j2", "j3"]
    assert wait_s == 0.0
    assert [held.job_id for held in claim(desk, 2)[0]] == ["j4"]


def test_a_failure_is_tried_again_when_asked():
    desk = CoreHarness()
    finished(desk, webhook_events=("completed",))
    (held,), _ = claim(desk)
    done(desk, held, "retry", status=503, retry_s=30.0, note="busy")
    (delivery,) = desk.view("a").deliveries
    assert (delivery.state, delivery.attempts, delivery.status, delivery.note, delivery.sending) == (
        "pending",
        1,
        503,
        "busy",
        False,
    )
    assert delivery.next_at == desk.now + 30
    assert claim(desk) == ([], 30.0)
    desk.tick(30)
    assert claim(desk)[0][0].number == held.number


def test_what_was_not_tried_comes_back_as_if_it_had_not_been_claimed():
    desk = CoreHarness()
    finished(desk, webhook_events=("completed",))
    for _ in range(12):
        (held,), _ = claim(desk)
        assert held.attempts == 1
        done(desk, held, "released", retry_s=7.0)
        assert claim(desk, 1)[0] == []
        desk.now += 7.0


@pytest.mark.parametrize("outcome", ["delivered", "failed", "disabled"])
def test_what_is_settled_is_not_given_again(outcome):
    desk = CoreHarness()
    finished(desk, webhook_events=("completed",))
    (held,), _ = claim(desk)
    done(desk, held, outcome, status=200)
    done(desk, held, "retry", retry_s=0.0)
    desk.restart()
    desk.tick(2 * LEASE_S)
    assert claim(desk) == ([], -1.0)
    assert reported(desk, "a") == [("completed", outcome)]


def test_a_late_success_counts_and_a_late_failure_does_not():
    desk = CoreHarness()
    finished(desk, webhook_events=("completed",))
    (first,), _ = claim(desk)
    desk.tick(LEASE_S)
    (second,), _ = claim(desk)
    done(desk, first, "failed")
    assert reported(desk, "a") == [("completed", "pending")]
    done(desk, first, "delivered", status=204)
    assert reported(desk, "a") == [("completed", "delivered")]
    done(desk, second, "retry", retry_s=5.0)
    assert reported(desk, "a") == [("completed", "delivered")]


def test_a_receiver_that_is_gone_hears_nothing_more_of_that_job():
    desk = CoreHarness()
    desk.running("a", webhook=URL)
    (held,), _ = claim(desk)
    done(desk, held, "disabled", status=410)
    desk.finish("w1", "a")
    assert reported(desk, "a") == [("started", "disabled"), ("completed", "disabled")]
    finished(desk, "b")
    assert reported(desk, "b") == [("started", "pending"), ("completed", "pending")]


def test_disabling_reaches_deliveries_that_wait():
    desk = CoreHarness()
    finished(desk)
    started, completed = claim(desk)[0]
    done(desk, completed, "retry", retry_s=5.0)
    done(desk, started, "disabled", status=410)
    assert reported(desk, "a") == [("started", "disabled"), ("completed", "disabled")]
    desk.tick(2 * LEASE_S)
    assert claim(desk) == ([], -1.0)


def test_deliveries_go_with_their_job():
    desk = CoreHarness()
    finished(desk)
    claims, _ = claim(desk)
    assert desk.ask(m.ForgetJobs(req=1, job_ids=("a",)), m.Forgotten).job_ids == ("a",)
    assert not desk.archive.store.tables.deliveries
    done(desk, claims[0])
    desk.submit("a", webhook=URL)
    assert reported(desk, "a") == []


def test_the_same_id_with_another_webhook_is_another_job():
    desk = CoreHarness()
    desk.submit("a", webhook=URL, webhook_events=("failed",))
    answer = desk.submit("a", webhook=URL, webhook_events=("failed",))
    assert isinstance(answer, m.Accepted)
    assert answer.duplicate
    for fields in ({"webhook": URL}, {"webhook": URL + "2", "webhook_events": ("failed",)}, {}):
        answer = desk.submit("a", **fields)
        assert isinstance(answer, m.Rejected)
        assert answer.code == "id_conflict"


def test_watchers_see_that_a_job_has_a_webhook():
    desk = CoreHarness()
    desk.ask(m.Watch(req=1), m.Watching)
    desk.running("a", webhook=URL)
    effects = desk.finish("w1", "a")
    assert sent(effects, m.Event, EDGE)
    spec_cache = [e.message.body for e in effects if isinstance(e, Send) and isinstance(e.message, m.Event)]
    assert codec.event_views(spec_cache[-1])[-1].submission.webhook == URL
    hooked = next(n for n, e in enumerate(effects) if isinstance(e, DeliveryChanged))
    assert hooked < next(n for n, e in enumerate(effects) if isinstance(e, Send) and isinstance(e.message, m.Event))


@pytest.mark.parametrize("actions", [("pause",), ("pause", "resume")])
def test_a_job_that_was_parked_before_its_first_attempt_keeps_its_deliveries_over_a_restart(actions):
    desk = CoreHarness()
    desk.submit("a", webhook=URL)
    for action in actions:
        desk.ask(m.ControlJob(req=0, job_id="a", action=action), m.ControlReply)
    before = reported(desk, "a")
    assert before, "parked and not told"
    desk.restart()
    assert reported(desk, "a") == before
    for action in ("resume", "pause", "resume"):
        desk.ask(m.ControlJob(req=0, job_id="a", action=action), m.ControlReply)
    assert reported(desk, "a") == [("parked", "pending"), ("resumed", "pending")]
