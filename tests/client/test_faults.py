"""Whatever goes wrong in a call is a `ZoetropeError`, of both clients: a closed one, odd answers and fields, disks, the environment."""

import asyncio
import hashlib
import json

import httpx
import pytest

import zoetrope
from tests.client.scripted import Script, job, ok, refusal, stream

DATA = b"a clip"
FILE = {"name": "video.mp4", "size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
DONE = job("succeeded", artefacts=[FILE])


def test_a_closed_client_says_so():
    client = zoetrope.Client("http://service", transport=httpx.MockTransport(Script()))
    client.close()
    for call in (lambda: client.job("job-1"), lambda: list(client.jobs()), lambda: list(client.events("job-1"))):
        with pytest.raises(zoetrope.ClientClosed, match="was closed"):
            call()


def test_a_closed_asyncio_client_says_so():
    async def scene():
        client = zoetrope.AsyncClient("http://service", transport=httpx.MockTransport(Script()))
        await client.close()
        with pytest.raises(zoetrope.ClientClosed, match="was closed"):
            await client.job("job-1")
        with pytest.raises(zoetrope.ClientClosed, match="was closed"):
            async for _ in client.events("job-1"):
                pass

    asyncio.run(scene())


def test_a_job_without_files_is_asked_for_anew(asking, tmp_path):
    client, script = asking(ok(**job()), ok(**DONE), stream(DATA), ok(**job("running")))
    queued = client.call("submit", "a red circle")
    assert client.call("download", queued, tmp_path).size == len(DATA)
    assert script.paths[1:] == ["/v1/jobs/job-1", "/v1/jobs/job-1/result?name=video.mp4"]
    with pytest.raises(zoetrope.NotReady, match="is running and has no files"):
        client.call("download", queued, tmp_path)


def test_a_job_that_has_files_is_not(asking, tmp_path):
    client, script = asking(ok(**DONE), stream(DATA))
    client.call("download", client.call("job", "job-1"), tmp_path)
    assert len(script.requests) == 2


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}], ids=["object", "nan", "set"])
def test_a_field_that_cannot_be_written_is_said_before_anything_is_sent(asking, value):
    client, script = asking()
    with pytest.raises(zoetrope.ZoetropeError, match="cannot be written"):
        client.call("submit", "a red circle", mood=value)
    assert script.requests == []


def test_so_is_one_beside_a_file(asking):
    client, script = asking()
    with pytest.raises(zoetrope.ZoetropeError, match="mood: "):
        client.call("submit", "a red circle", image=b"png", mood=object())
    assert script.requests == []


def test_so_is_a_key_that_no_header_holds(asking):
    client, script = asking()
    with pytest.raises(zoetrope.ZoetropeError, match="cannot be written"):
        client.call("submit", "a red circle", idempotency_key="schlüssel")
    assert script.requests == []


def test_a_file_that_went_away_between_two_tries_is_said(asking, tmp_path):
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"png")

    def fail(request):
        picture.unlink()
        return refusal(503, "no_workers")

    client, _ = asking(fail)
    with pytest.raises(zoetrope.ZoetropeError, match=r"cannot be written: .*cat\.png"):
        client.call("submit", "a red circle", image=picture)


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("jobs", (), {"data": "none"}),
        ("jobs", (), {}),
        ("models", (), {"data": None}),
        ("models", (), {"data": [1]}),
        ("workers", (), {}),
        ("queue", (), {"queue": 7}),
        ("cancel", ("job-1",), {"id": "job-1", "outcome": "cancelled"}),
        ("health", (), {"status": 1}),
    ],
)
def test_an_answer_of_another_form_is_another_services(asking, name, arguments, answer):
    client, _ = asking(ok(**answer))
    with pytest.raises(zoetrope.NotThisService):
        (client.all if name == "jobs" else client.call)(name, *arguments)


def test_an_answer_that_cannot_be_unpacked_is_another_services(asking):
    client, _ = asking(stream(b"no gzip", content_encoding="gzip"))
    with pytest.raises(zoetrope.NotThisService, match="cannot be read"):
        client.call("job", "job-1")


def test_ids_of_events_that_are_no_revisions_are_none(asking):
    data = json.dumps(DONE)
    client, _ = asking(stream(f"id: x1\nevent: state\ndata: {data}\n\n".encode()))
    assert [event.revision for event in client.all("events", "job-1")] == [0]


def test_a_job_that_goes_on_after_the_end_of_its_events_is_no_fault_of_the_client(asking):
    client, _ = asking(httpx.Response(204), ok(**job("running")))
    with pytest.raises(zoetrope.WaitTimeout, match="is running when its events end"):
        client.call("wait", "job-1")


def test_a_pause_that_is_no_time_is_not_waited_for(asking):
    client, script = asking(
        refusal(503, "busy", retry_after="nan"), refusal(503, "busy", retry_after="inf"), ok(**job())
    )
    client.call("job", "job-1")
    assert all(0 < pause < 10 for pause in script.slept)


def test_a_place_that_cannot_be_written_is_said(asking, tmp_path):
    (tmp_path / "video.mp4").mkdir()
    client, _ = asking(ok(**DONE), stream(DATA))
    with pytest.raises(zoetrope.ZoetropeError, match="cannot be written to"):
        client.call("download", "job-1", tmp_path)


def test_a_proxy_of_the_environment_that_cannot_be_used_is_said(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "nonsense://proxy")
    for kind in (zoetrope.Client, zoetrope.AsyncClient):
        with pytest.raises(zoetrope.ZoetropeError, match="of the environment cannot be used"):
            kind("http://service")


def test_a_delivery_with_a_time_beyond_numbers_is_refused():
    headers = {"webhook-id": "1", "webhook-timestamp": "9" * 5_000, "webhook-signature": "v1,eA=="}
    with pytest.raises(zoetrope.BadSignature, match="no number of seconds"):
        zoetrope.verify(b"{}", headers, "whsec_eA==")


def test_text_that_is_no_unicode_is_no_delivery():
    headers = {"webhook-id": "1", "webhook-timestamp": "7", "webhook-signature": "v1,\udc80"}
    with pytest.raises(zoetrope.BadSignature, match="no signature"):
        zoetrope.verify("\udc80", headers, "whsec_eHh4eA==", now=7)
