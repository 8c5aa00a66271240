"""Where a webhook may lead: what is refused when it is asked for, and every API family that takes one."""

from __future__ import annotations

import asyncio

import pytest

from http_edge.media.fetch import Fetcher, NotSent
from http_edge.media.ssrf import SsrfGuard
from tests.edge.conftest import World

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
