"""Webhooks as receivers meet them: signed by the standard, retried, stopped when they say so; and as jobs show them."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import stat
from email.utils import formatdate

import msgspec
import openai
import pytest
import standardwebhooks

from broker.client.errors import BrokerUnavailable
from broker.wire import messages as m
from broker.wire.jobspec import decode_spec
from http_edge import cli
from http_edge.background.webhook_delivery import SCHEDULE_S
from http_edge.background.webhook_events import event_body
from http_edge.background.webhook_signing import SecretsError, WebhookSecrets, new_secret
from http_edge.media.fetch import Fetcher, NotSent
from http_edge.media.ssrf import SsrfGuard
from tests.edge.conftest import World
from tests.testing.receiver import Received, Receiver, receiving

OLD, NEW = new_secret(), new_secret()


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def told(open_edge) -> World:
    """An edge that may send to this machine."""
    return open_edge(fetch_allow=("127.0.0.1",), webhook_secrets=(NEW,))


def submit(world: World, receiver: Receiver, *events: str, **fields) -> str:
    return world.submit(webhook=receiver.url, webhook_events=list(events) or ["completed"], **fields)["id"]


def succeed(world: World, job_id: str) -> None:
    world.do(world.fake.run, job_id)
    world.do(world.fake.succeed, job_id)


def report(world: World) -> m.DeliveryDone:
    return world.fake.deliveries.reports.get(timeout=60)


def later(world: World, seconds: float) -> None:
    """Let the broker's time pass, and the edge look again."""

    def pass_time() -> None:
        world.fake.deliveries.now += seconds
        world.fake.gap()

    world.do(pass_time)


def verified(received: Received, secret: str = NEW) -> dict:
    return standardwebhooks.Webhook(secret).verify(received.body, received.headers)


def hooks(world: World, job_id: str) -> list[dict]:
    world.do(world.edge.hub.memory.clear)
    return world.http.get(f"/v1/jobs/{job_id}").json()["webhook"]["events"]


# ---------------------------------------------------------------- what is sent


def test_a_delivery_is_signed_and_says_what_became_of_the_job(told, receiver):
    job_id = submit(told, receiver)
    succeed(told, job_id)
    received = receiver.next()
    event = verified(received)
    assert received.path == "/hook?key=1"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["webhook-id"] == event["id"]
    assert "." not in event["id"]
    assert received.headers["traceparent"] == decode_spec(told.fake.jobs[job_id].body).traceparent
    assert (event["object"], event["type"]) == ("event", "video.completed")
    assert event["created_at"] == int(told.fake.jobs[job_id].finished_at)
    assert event["timestamp"].startswith("2026-03-04T05:06:")
    data = event["data"]
    assert (data["id"], data["state"], data["model"], data["output"]) == (job_id, "succeeded", "demo", "video")
    assert told.http.get(data["artefacts"][0]["url"]).status_code == 200
    assert "prompt" not in received.body.decode()
    assert report(told).outcome == "delivered"
    (shown,) = hooks(told, job_id)
    assert shown == {
        "type": "video.completed",
        "state": "delivered",
        "attempts": 1,
        "last_status": 204,
        "last_error": None,
        "next_at": None,
    }


def test_openais_client_takes_it(told, receiver):
    succeed(told, submit(told, receiver))
    received = receiver.next()
    client = openai.OpenAI(api_key="none", base_url="http://localhost/v1")
    event = client.webhooks.unwrap(received.body, received.headers, secret=NEW)
    assert event.type == "video.completed"
    assert event.data.id == verified(received)["data"]["id"]


def test_a_draft_that_waits_is_told_with_its_end(told, receiver):
    job = told.submit(webhook=receiver.url, webhook_events=["draft_ready"])
    parking = m.Parking(reason="draft", at=5.0, draft_expires_at=3605.0, draft_fence=7)
    told.do(told.fake.park, job["id"], parking, 3)
    event = verified(receiver.next())
    assert (event["type"], event["data"]["state"]) == ("video.draft_ready", "parked")
    assert (event["data"]["kept"], event["data"]["draft_expires_at"]) == (3, 3605.0)
    assert not {"artefacts", "finished_at"} & event["data"].keys()


def test_every_event_that_is_wanted_is_told(told, receiver):
    job = told.submit(webhook=receiver.url)
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
    told.do(told.fake.run, job["id"])
    event = verified(receiver.next())
    assert (event["type"], event["data"]["state"], "finished_at" in event["data"]) == (
        "video.started",
        "running",
        False,
    )
    told.do(told.fake.fail, job["id"], "no such thing")
    event = verified(receiver.next())
    assert (event["type"], event["data"]["error"]) == (
        "video.failed",
        {"code": "engine_error", "message": "no such thing"},
    )
    other = told.submit(webhook=receiver.url, webhook_events=["job.cancelled"], model="org/picture")
    told.http.delete(f"/v1/jobs/{other['id']}")
    assert verified(receiver.next())["type"] == "image.cancelled"


def test_jobs_without_a_webhook_tell_nobody(told, receiver):
    job = told.finished()
    assert job["webhook"] is None
    assert not told.fake.deliveries.rows
    succeed(told, submit(told, receiver, "failed"))
    assert not told.fake.deliveries.rows
    assert receiver.quiet


def test_the_largest_body_is_within_the_standards_bound(told):
    job_id = told.submit(seed=2**63 - 1)["id"]
    succeed(told, job_id)
    artefact = told.fake.jobs[job_id].result.artefacts[0]
    large = msgspec.structs.replace(artefact, name="n" * 128, media_type="m" * 128, size=2**60)
    job = told.http.portal.call(told.edge.calls.jobs.get, job_id)
    result = msgspec.structs.replace(job.view.result, artefacts=(large,) * 16)
    names = msgspec.structs.replace(job.view.submission, alias="\U0001f600" * 256, model="m" * 256)
    view = msgspec.structs.replace(job.view, result=result, submission=names)
    failed = msgspec.structs.replace(view, failure=m.Failure("engine_error", "\x01" * 2048), result=None)
    for event, shown in (("completed", view), ("failed", failed)):
        claim = m.ClaimedDelivery(number=2**62, claim=1, job_id=job_id, event=event, created_at=1.8e9, attempts=1)
        body = event_body(msgspec.structs.replace(job, view=shown), claim, "https://" + "h" * 253)
        assert len(body) < 20_000


# ---------------------------------------------------------------- what the receiver answers


def test_a_failure_is_tried_again_with_the_same_id_and_body(told, receiver):
    receiver.answers = [500]
    job_id = submit(told, receiver)
    succeed(told, job_id)
    first = receiver.next()
    done = report(told)
    assert (done.outcome, done.status) == ("retry", 500)
    assert SCHEDULE_S[1] <= done.retry_s <= 1.2 * SCHEDULE_S[1]
    (shown,) = hooks(told, job_id)
    assert (shown["state"], shown["last_status"], shown["last_error"]) == ("pending", 500, "the receiver answered 500")
    assert shown["next_at"] is not None
    later(told, done.retry_s)
    second = receiver.next()
    assert (second.headers["webhook-id"], second.body) == (first.headers["webhook-id"], first.body)
    verified(second)
    assert report(told).outcome == "delivered"


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
def test_a_receiver_may_ask_for_time(told, receiver, status, headers, least):
    receiver.answers = [(status, headers)]
    succeed(told, submit(told, receiver))
    done = report(told)
    assert (done.outcome, done.status) == ("retry", status)
    assert least <= done.retry_s <= least * 1.2


def test_a_redirect_is_a_failure_and_is_not_followed(told, receiver):
    receiver.answers = [(307, {"Location": receiver.url})]
    succeed(told, submit(told, receiver))
    receiver.next()
    done = report(told)
    assert (done.outcome, done.status, done.note) == ("retry", 307, "it redirects, which is not followed")
    assert receiver.quiet


def test_gone_ends_it(told, receiver):
    receiver.answers = [410]
    job_id = submit(told, receiver)
    succeed(told, job_id)
    assert report(told).outcome == "disabled"
    assert hooks(told, job_id)[0]["state"] == "disabled"
    later(told, 1e6)
    receiver.next()
    assert receiver.quiet


def test_it_is_tried_ten_times_and_then_it_has_failed(told, receiver):
    receiver.answers = [400] * 20
    job_id = submit(told, receiver)
    succeed(told, job_id)
    waits = []
    while (done := report(told)).outcome == "retry":
        waits.append(done.retry_s)
        later(told, done.retry_s)
    assert done.outcome == "failed"
    assert len(waits) == len(SCHEDULE_S) - 1
    assert all(base <= wait <= 1.2 * base for base, wait in zip(SCHEDULE_S[1:], waits, strict=True))
    assert hooks(told, job_id)[0]["attempts"] == 10


def test_a_receiver_that_is_not_there_is_tried_again(told):
    with receiving() as receiver:
        url = receiver.url
    job_id = told.submit(webhook=url)["id"]
    told.do(told.fake.stop, job_id)
    done = report(told)
    assert (done.outcome, done.status) == ("retry", 0)
    assert done.note


def test_a_receiver_that_hangs_delays_nobody_else(told, receiver):
    with socket.create_server(("127.0.0.1", 0), backlog=128) as hung:
        where = f"http://127.0.0.1:{hung.getsockname()[1]}/"
        waiting = [told.submit(webhook=where, webhook_events=["completed"])["id"] for _ in range(60)]
        for job_id in waiting:
            succeed(told, job_id)
        good = submit(told, receiver)
        succeed(told, good)
        assert verified(receiver.next())["data"]["id"] == good
        reports = [report(told)]
        while reports[-1].outcome != "delivered":
            reports.append(report(told))
        # Of the others none was given up meanwhile: they still hang, wait here, or wait in the journal untried.
        assert {done.outcome for done in reports[:-1]} <= {"released"}
        views = [told.fake.deliveries.of_job(job_id)[0] for job_id in waiting]
        assert {view.state for view in views} == {"pending"}
        assert sum(view.sending for view in views) <= 4 + 16


def test_a_job_deleted_meanwhile_is_not_told_of(told, receiver):
    job_id = submit(told, receiver)
    told.do(told.fake.run, job_id)

    def end_and_delete() -> None:
        told.fake.succeed(job_id)
        told.fake.jobs.pop(job_id)
        told.edge.hub.memory.drop(job_id)

    told.do(end_and_delete)
    succeed(told, submit(told, receiver))
    assert verified(receiver.next())["data"]["id"] != job_id
    assert receiver.quiet


def test_what_came_while_the_broker_was_away_is_reported_when_it_is_back(told, receiver):
    job_id = submit(told, receiver)
    told.do(told.fake.run, job_id)
    receiver.answers = [200]
    told.do(told.fake.succeed, job_id)
    assert report(told).outcome == "delivered"
    again = submit(told, receiver)
    told.do(told.fake.run, again)

    def lose_the_broker_at_the_report() -> None:
        done = told.fake.deliveries.done

        def down_once(message: m.DeliveryDone) -> None:
            told.fake.deliveries.done = done
            raise BrokerUnavailable()

        told.fake.deliveries.done = down_once

    told.do(lose_the_broker_at_the_report)
    told.do(told.fake.succeed, again)
    assert report(told).outcome == "delivered"
    receiver.next()
    receiver.next()
    assert receiver.quiet


# ---------------------------------------------------------------- where it may lead


BAD = [
    ({"webhook": "http://127.0.0.1/x"}, "does not send to"),
    ({"webhook": "http://[::1]/x"}, "does not send to"),
    ({"webhook": "http://169.254.169.254/latest"}, "does not send to"),
    ({"webhook": "http://10.0.0.1:8080/"}, "does not send to"),
    ({"webhook": "http://93.184.216.34:6379/"}, "does not send to"),
    ({"webhook": "ftp://client.example/"}, "no URL of http or https"),
    ({"webhook": "client.example/hook"}, "no URL of http or https"),
    ({"webhook": "https://user:pass@client.example/"}, "user name"),
    ({"webhook": "https://"}, "not a valid URL"),
    ({"webhook": "https://a.example/" + "x" * 1024}, "too long"),
    ({"webhook": "https://a.example/" + "ü" * 500}, "at most 1024 characters"),
    ({"webhook": 7}, "not a string"),
    ({"webhook": "https://93.184.216.34/", "webhook_events": ["job.done"]}, "is no event"),
    ({"webhook": "https://93.184.216.34/", "webhook_events": [1]}, "is no event"),
    ({"webhook": "https://93.184.216.34/", "webhook_events": {"a": 1}}, "is not a list"),
    ({"webhook": "https://93.184.216.34/", "webhook_events": "[1"}, "not valid JSON"),
    ({"webhook_events": ["completed"]}, "webhook_events needs it"),
]


@pytest.mark.parametrize(("fields", "rule"), BAD)
def test_a_webhook_that_cannot_be_is_refused_at_once(world, fields, rule):
    response = world.http.post("/v1/jobs", json={"prompt": "x", **fields})
    assert response.status_code == 422, response.text
    error = response.json()["error"]
    assert rule in error["message"]
    assert error["param"].startswith("webhook")
    assert not world.fake.jobs


def test_the_address_is_judged_again_when_it_is_sent_to():
    answers = [["93.184.216.34"], ["127.0.0.1"]]

    async def resolve(host: str, port: int) -> list[str]:
        return answers.pop(0)

    async def check_and_post() -> None:
        fetcher = Fetcher(SsrfGuard((), resolve))
        await fetcher.check("webhook", "http://rebinds.example/")
        with pytest.raises(NotSent, match="does not send to"):
            await fetcher.post("http://rebinds.example/", {}, b"{}", 5.0)

    asyncio.run(check_and_post())


URL = "https://93.184.216.34/hook"


def post(world: World, path: str, **fields):
    body = {"prompt": "x", "webhook": URL, "webhook_events": ["video.completed"], **fields}
    return world.http.post(path, json={name: value for name, value in body.items() if value is not None})


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/jobs", {}),
        ("/v1/videos", {}),
        (
            "/v1/videos",
            {"webhook": None, "webhook_events": None, "extra_body": {"webhook": URL, "webhook_events": "completed"}},
        ),
        ("/v1/tasks/video/", {}),
        ("/v1/tasks/image/", {"model": "org/picture"}),
        ("/api/v1/task/submit", {"task": "t2v"}),
        ("/v1/local/video/generate", {"task_id": "t1", "save_video_path": "a.mp4"}),
    ],
)
def test_every_family_takes_one(world, path, fields):
    response = post(world, path, **fields)
    assert response.status_code in (200, 201, 202), response.text
    (sent,) = world.fake.submits.values()
    assert (sent.submission.webhook, sent.submission.webhook_events) == (URL, ("completed",))
    assert "webhook" not in str(response.json().get("warnings"))


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/tasks/video/", "/v1/local/video/generate"])
def test_every_family_refuses_a_bad_one(world, path):
    response = post(world, path, webhook="http://127.0.0.1/", task_id="t1", save_video_path="a.mp4")
    assert response.status_code in (400, 422), response.text
    assert not world.fake.submits


@pytest.mark.parametrize("events", ["failed, completed", '["job.completed","video.failed"]', "succeeded,failed"])
def test_forms_take_one_too(world, events):
    response = world.http.post("/v1/videos", data={"prompt": "x", "webhook": URL + "#part", "webhook_events": events})
    assert response.status_code == 200, response.text
    (sent,) = world.fake.submits.values()
    assert (sent.submission.webhook, sent.submission.webhook_events) == (URL, ("completed", "failed"))


# ---------------------------------------------------------------- secrets


def test_while_secrets_change_every_delivery_bears_both_signatures(open_edge, receiver):
    world = open_edge(fetch_allow=("127.0.0.1",), webhook_secrets=(NEW, OLD))
    succeed(world, submit(world, receiver))
    received = receiver.next()
    assert verified(received, NEW) == verified(received, OLD)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified(received, new_secret())


def test_without_secrets_one_is_made_for_all_edges(open_edge, receiver, start):
    one, other = open_edge(fetch_allow=("127.0.0.1",)), open_edge(fetch_allow=("127.0.0.1",))
    path = start / ".zoetrope" / "webhook_secret"
    secret = one.edge.webhooks.secrets.keys()
    assert other.edge.webhooks.secrets.keys() == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.glob("*webhook_secret*")] == ["webhook_secret"]
    succeed(other, submit(other, receiver))
    verified(receiver.next(), path.read_text().strip())
    path.write_text(f"# the new one\n{NEW}\n\n{OLD}\n")
    succeed(other, submit(other, receiver))
    received = receiver.next()
    assert verified(received, NEW) == verified(received, OLD)


def test_until_secrets_can_be_read_deliveries_wait(open_edge, receiver, start):
    world = open_edge(fetch_allow=("127.0.0.1",))
    path = start / ".zoetrope" / "webhook_secret"
    path.write_text("whsec_short")
    job_id = submit(world, receiver)
    succeed(world, job_id)
    assert hooks(world, job_id)[0]["attempts"] == 0
    path.write_text(NEW)
    later(world, 1.0)
    verified(receiver.next(), NEW)


@pytest.fixture
def start_edge(capsys):
    """`python -m http_edge` up to where it would serve: (exit code, standard error)."""
    return lambda *argv: (cli.main(argv, {}), capsys.readouterr().err)


@pytest.mark.parametrize(
    "text",
    ["", "whsec_", "whsec_AAAA", "whsec_" + "A" * 200, "whsk_" + base64.b64encode(bytes(32)).decode(), "whsec_ü"],
)
def test_what_is_no_secret_is_refused_without_repeating_it(tmp_path, text, start_edge):
    with pytest.raises(SecretsError, match="secret 2 must be whsec_ and the base64 of 24 to 64 bytes") as refused:
        WebhookSecrets((NEW, text), tmp_path / "webhook_secret")
    assert len(text) < 8 or text[6:] not in str(refused.value)
    if text:
        code, said = start_edge("--home", str(tmp_path / "home"), "--webhook-secrets", f"{NEW},{text}")
        assert code == 2
        assert "webhook_secrets: secret 2" in said


def test_a_file_that_cannot_be_used_is_said_at_start(tmp_path, start_edge):
    (tmp_path / "webhook_secret").write_text("# none\n")
    code, said = start_edge("--home", str(tmp_path))
    assert code == 2
    assert "holds no secret" in said


def test_bodies_are_json_of_one_object(told, receiver):
    succeed(told, submit(told, receiver))
    assert isinstance(json.loads(receiver.next().body), dict)


def test_a_byte_order_mark_before_the_secret_is_skipped(tmp_path):
    path = tmp_path / "webhook_secret"
    first = WebhookSecrets((), path).keys()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert WebhookSecrets((), path).keys() == first
