"""Webhooks as receivers meet them: signed by the standard, retried, stopped when they say so; and as jobs show them."""

from __future__ import annotations

import json
import socket
from email.utils import formatdate

import msgspec
import openai
import pytest

from broker.client.errors import BrokerUnavailable
from broker.wire import messages as m
from broker.wire.jobspec import decode_spec
from http_edge.background.webhook_delivery import SCHEDULE_S
from http_edge.background.webhook_events import event_body
from tests.edge.conftest import World
from tests.edge.webhooks import NEW, hooks, later, report, submit, succeed, verified
from tests.testing.receiver import receiving


@pytest.fixture
def sender(open_edge) -> World:
    """An edge that may send to this machine."""
    return open_edge(fetch_allow=("127.0.0.1",), webhook_secrets=(NEW,))


# ---------------------------------------------------------------- what is sent


def test_a_delivery_is_signed_and_says_what_became_of_the_job(sender, receiver):
    job_id = submit(sender, receiver)
    succeed(sender, job_id)
    received = receiver.next()
    event = verified(received)
    assert received.path == "/hook?key=1"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["webhook-id"] == event["id"]
    assert "." not in event["id"]
    assert received.headers["traceparent"] == decode_spec(sender.fake.jobs[job_id].body).traceparent
    assert (event["object"], event["type"]) == ("event", "video.completed")
    assert event["created_at"] == int(sender.fake.jobs[job_id].finished_at)
    assert event["timestamp"].startswith("2026-03-04T05:06:")
    data = event["data"]
    assert (data["id"], data["state"], data["model"], data["output"]) == (job_id, "succeeded", "demo", "video")
    assert sender.http.get(data["artefacts"][0]["url"]).status_code == 200
    assert "prompt" not in received.body.decode()
    assert report(sender).outcome == "delivered"
    (shown,) = hooks(sender, job_id)
    assert shown == {
        "type": "video.completed",
        "state": "delivered",
        "attempts": 1,
        "last_status": 204,
        "last_error": None,
        "next_at": None,
    }


def test_openais_client_takes_it(sender, receiver):
    succeed(sender, submit(sender, receiver))
    received = receiver.next()
    client = openai.OpenAI(api_key="none", base_url="http://localhost/v1")
    event = client.webhooks.unwrap(received.body, received.headers, secret=NEW)
    assert event.type == "video.completed"
    assert event.data.id == verified(received)["data"]["id"]


def test_a_draft_that_waits_is_told_with_its_end(sender, receiver):
    job = sender.submit(webhook=receiver.url, webhook_events=["draft_ready"])
    parking = m.Parking(reason="draft", at=5.0, draft_expires_at=3605.0, draft_fence=7)
    sender.do(sender.fake.park, job["id"], parking, 3)
    event = verified(receiver.next())
    assert (event["type"], event["data"]["state"]) == ("video.draft_ready", "parked")
    assert (event["data"]["kept"], event["data"]["draft_expires_at"]) == (3, 3605.0)
    assert not {"artefacts", "finished_at"} & event["data"].keys()


def test_every_event_that_is_wanted_is_told(sender, receiver):
    job = sender.submit(webhook=receiver.url)
    assert job["webhook"] == {
        "url": receiver.url,
        "wanted": [
            "job.started",
            "job.completed",
            "job.failed",
            "job.cancelled",
            "job.promise_broken",
            "job.draft_ready",
            "job.parked",
            "job.resumed",
        ],
        "events": [],
    }
    sender.do(sender.fake.run, job["id"])
    event = verified(receiver.next())
    assert (event["type"], event["data"]["state"], "finished_at" in event["data"]) == (
        "video.started",
        "running",
        False,
    )
    sender.do(sender.fake.fail, job["id"], "no such thing")
    event = verified(receiver.next())
    assert (event["type"], event["data"]["error"]) == (
        "video.failed",
        {"code": "engine_error", "message": "no such thing"},
    )
    other = sender.submit(webhook=receiver.url, webhook_events=["job.cancelled"], model="org/picture")
    sender.http.delete(f"/v1/jobs/{other['id']}")
    assert verified(receiver.next())["type"] == "image.cancelled"


def test_jobs_without_a_webhook_tell_nobody(sender, receiver):
    job = sender.finished()
    assert job["webhook"] is None
    assert not sender.fake.deliveries.rows
    succeed(sender, submit(sender, receiver, "failed"))
    assert not sender.fake.deliveries.rows
    assert receiver.quiet


def test_the_largest_body_is_within_the_standards_bound(sender):
    job_id = sender.submit(seed=2**63 - 1)["id"]
    succeed(sender, job_id)
    artefact = sender.fake.jobs[job_id].result.artefacts[0]
    large = msgspec.structs.replace(artefact, name="n" * 128, media_type="m" * 128, size=2**60)
    job = sender.http.portal.call(sender.edge.calls.jobs.get, job_id)
    result = msgspec.structs.replace(job.view.result, artefacts=(large,) * 16)
    names = msgspec.structs.replace(job.view.submission, alias="\U0001f600" * 256, model="m" * 256)
    view = msgspec.structs.replace(job.view, result=result, submission=names)
    failed = msgspec.structs.replace(view, failure=m.Failure("engine_error", "\x01" * 2048), result=None)
    for event, shown in (("completed", view), ("failed", failed)):
        claim = m.ClaimedDelivery(number=2**62, claim=1, job_id=job_id, event=event, created_at=1.8e9, attempts=1)
        body = event_body(msgspec.structs.replace(job, view=shown), claim, "https://" + "h" * 253)
        assert len(body) < 20_000


# ---------------------------------------------------------------- what the receiver answers


def test_a_failure_is_tried_again_with_the_same_id_and_body(sender, receiver):
    receiver.answers = [500]
    job_id = submit(sender, receiver)
    succeed(sender, job_id)
    first = receiver.next()
    done = report(sender)
    assert (done.outcome, done.status) == ("retry", 500)
    assert SCHEDULE_S[1] <= done.retry_s <= 1.2 * SCHEDULE_S[1]
    (shown,) = hooks(sender, job_id)
    assert (shown["state"], shown["last_status"], shown["last_error"]) == ("pending", 500, "the receiver answered 500")
    assert shown["next_at"] is not None
    later(sender, done.retry_s)
    second = receiver.next()
    assert (second.headers["webhook-id"], second.body) == (first.headers["webhook-id"], first.body)
    verified(second)
    assert report(sender).outcome == "delivered"


@pytest.mark.parametrize(
    ("status", "headers", "least"),
    [
        (429, {"Retry-After": "120"}, 120.0),
        (503, {"Retry-After": "90"}, 90.0),
        (502, {}, 30.0),
        (504, {"Retry-After": "soon"}, 30.0),
        (429, {"Retry-After": "99999999999"}, 86_400.0),
        (503, {"Retry-After": formatdate(4_102_444_800, usegmt=True)}, 86_400.0),
    ],
)
def test_a_receiver_may_ask_for_time(sender, receiver, status, headers, least):
    receiver.answers = [(status, headers)]
    succeed(sender, submit(sender, receiver))
    done = report(sender)
    assert (done.outcome, done.status) == ("retry", status)
    assert least <= done.retry_s <= least * 1.2


def test_a_redirect_is_a_failure_and_is_not_followed(sender, receiver):
    receiver.answers = [(307, {"Location": receiver.url})]
    succeed(sender, submit(sender, receiver))
    receiver.next()
    done = report(sender)
    assert (done.outcome, done.status, done.note) == ("retry", 307, "it redirects, which is not followed")
    assert receiver.quiet


def test_gone_ends_it(sender, receiver):
    receiver.answers = [410]
    job_id = submit(sender, receiver)
    succeed(sender, job_id)
    assert report(sender).outcome == "disabled"
    assert hooks(sender, job_id)[0]["state"] == "disabled"
    later(sender, 1e6)
    receiver.next()
    assert receiver.quiet


def test_it_is_tried_ten_times_and_then_it_has_failed(sender, receiver):
    receiver.answers = [400] * 20
    job_id = submit(sender, receiver)
    succeed(sender, job_id)
    waits = []
    while (done := report(sender)).outcome == "retry":
        waits.append(done.retry_s)
        later(sender, done.retry_s)
    assert done.outcome == "failed"
    assert len(waits) == len(SCHEDULE_S) - 1
    assert all(base <= wait <= 1.2 * base for base, wait in zip(SCHEDULE_S[1:], waits, strict=True))
    assert hooks(sender, job_id)[0]["attempts"] == 10


def test_a_receiver_that_is_not_there_is_tried_again(sender):
    with receiving() as receiver:
        url = receiver.url
    job_id = sender.submit(webhook=url)["id"]
    sender.do(sender.fake.stop, job_id)
    done = report(sender)
    assert (done.outcome, done.status) == ("retry", 0)
    assert done.note


def test_a_receiver_that_hangs_delays_nobody_else(sender, receiver):
    with socket.create_server(("127.0.0.1", 0), backlog=128) as hung:
        where = f"http://127.0.0.1:{hung.getsockname()[1]}/"
        waiting = [sender.submit(webhook=where, webhook_events=["completed"])["id"] for _ in range(60)]
        for job_id in waiting:
            succeed(sender, job_id)
        good = submit(sender, receiver)
        succeed(sender, good)
        assert verified(receiver.next())["data"]["id"] == good
        reports = [report(sender)]
        while reports[-1].outcome != "delivered":
            reports.append(report(sender))
        # Of the others none was given up meanwhile: they still hang, wait here, or wait in the journal untried.
        assert {done.outcome for done in reports[:-1]} <= {"released"}
        views = [sender.fake.deliveries.of_job(job_id)[0] for job_id in waiting]
        assert {view.state for view in views} == {"pending"}
        assert sum(view.sending for view in views) <= 4 + 16


def test_a_job_deleted_meanwhile_is_not_told_of(sender, receiver):
    job_id = submit(sender, receiver)
    sender.do(sender.fake.run, job_id)

    def end_and_delete() -> None:
        sender.fake.succeed(job_id)
        sender.fake.jobs.pop(job_id)
        sender.edge.hub.memory.drop(job_id)

    sender.do(end_and_delete)
    succeed(sender, submit(sender, receiver))
    assert verified(receiver.next())["data"]["id"] != job_id
    assert receiver.quiet


def test_what_came_while_the_broker_was_away_is_reported_when_it_is_back(sender, receiver):
    job_id = submit(sender, receiver)
    sender.do(sender.fake.run, job_id)
    receiver.answers = [200]
    sender.do(sender.fake.succeed, job_id)
    assert report(sender).outcome == "delivered"
    again = submit(sender, receiver)
    sender.do(sender.fake.run, again)

    def lose_the_broker_at_the_report() -> None:
        done = sender.fake.deliveries.done

        def down_once(message: m.DeliveryDone) -> None:
            sender.fake.deliveries.done = done
            raise BrokerUnavailable()

        sender.fake.deliveries.done = down_once

    sender.do(lose_the_broker_at_the_report)
    sender.do(sender.fake.succeed, again)
    assert report(sender).outcome == "delivered"
    receiver.next()
    receiver.next()
    assert receiver.quiet


def test_bodies_are_json_of_one_object(sender, receiver):
    succeed(sender, submit(sender, receiver))
    assert isinstance(json.loads(receiver.next().body), dict)
