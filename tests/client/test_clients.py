"""Both clients over a service that answers from a script: the same calls, the same requests, the same results."""

import ast
import hashlib
import inspect
import json
import re
from pathlib import Path

import httpx
import msgspec
import pytest

import zoetrope
from tests.client.scripted import Script, job, ok, refusal, stream

BREAK = httpx.ReadError("cut")
NO_SERVICE = httpx.ConnectError("refused")


def event(name, number, **members):
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {name}\ndata: {json.dumps(members)}\n\n".encode()


def test_a_submission_is_json_and_keeps_what_the_service_says_beside(asking):
    client, script = asking(ok(**job(spec={"seed": 7}, duplicate=False, novelty=[1])))
    made = client.call("submit", "a red circle", seed=7, model=None)
    assert json.loads(script.bodies[0]) == {"prompt": "a red circle", "seed": 7}
    assert (made.id, made.seed, made.raw["novelty"]) == ("job-1", 7, [1])


@pytest.mark.parametrize(
    "fail",
    [lambda: BREAK, lambda: NO_SERVICE, lambda: refusal(503, "no_workers"), lambda: refusal(500, "internal")],
    ids=["cut", "refused", "503", "500"],
)
def test_a_submission_sent_again_bears_the_same_key(asking, fail):
    client, script = asking(fail(), fail(), ok(**job()))
    client.call("submit", "a red circle")
    keys = [request.headers["idempotency-key"] for request in script.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(script.slept) == 2


def test_a_job_with_its_own_id_has_no_key(asking):
    client, script = asking(BREAK, ok(**job()))
    client.call("submit", "a red circle", id="mine")
    assert "idempotency-key" not in script.requests[1].headers
    with pytest.raises(zoetrope.ZoetropeError, match="exclude each other"):
        client.call("submit", "a red circle", id="mine", idempotency_key="k")


def test_two_submissions_have_two_keys(asking):
    client, script = asking(ok(**job()), ok(**job()))
    client.call("submit", "one")
    client.call("submit", "one")
    assert script.requests[0].headers["idempotency-key"] != script.requests[1].headers["idempotency-key"]


def test_retry_after_is_waited_for(asking):
    client, script = asking(refusal(429, "queue_full", retry_after="17"), ok(**job()))
    client.call("submit", "a red circle")
    assert script.slept == [17]


def test_a_retry_after_too_long_is_the_callers_affair(asking):
    client, script = asking(refusal(429, "queue_full", "the queue is full", retry_after="900"))
    with pytest.raises(zoetrope.QueueFull, match="the queue is full") as caught:
        client.call("submit", "a red circle")
    assert caught.value.retry_after_s == 900
    assert script.slept == []


def test_the_service_may_say_that_trying_again_is_no_use(asking):
    client, script = asking(refusal(500, "damaged", x_should_retry="false"))
    with pytest.raises(zoetrope.ServiceFault):
        client.call("job", "job-1")
    client, script = asking(refusal(409, "in_flight", x_should_retry="true", retry_after="1"), ok(**job()))
    assert client.call("submit", "a red circle").id == "job-1"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (422, "invalid_value", zoetrope.InvalidRequest),
        (400, "unsupported", zoetrope.InvalidRequest),
        (401, "invalid_api_key", zoetrope.Unauthorized),
        (403, "forbidden", zoetrope.Forbidden),
        (404, "not_found", zoetrope.NotFound),
        (404, "not_ready", zoetrope.NotReady),
        (410, "gone", zoetrope.NotFound),
        (409, "id_conflict", zoetrope.Conflict),
    ],
)
def test_a_refusal_is_raised_once_and_names_the_field(asking, status, code, kind):
    client, script = asking(refusal(status, code, "width: 63 must be a multiple of 16"))
    with pytest.raises(kind, match="width: 63 must be") as caught:
        client.call("submit", "a red circle", width=63)
    assert (caught.value.status, caught.value.code, caught.value.param) == (status, code, "width")
    assert len(script.requests) == 1


def test_a_service_that_is_away_is_one_error_after_the_last_try(asking):
    client, script = asking(*[NO_SERVICE] * 3, retries=zoetrope.RetryPolicy(most=2))
    with pytest.raises(zoetrope.ServiceUnreachable, match="http://service cannot be reached"):
        client.call("job", "job-1")
    assert len(script.requests) == 3


def test_what_is_not_this_service_is_said_so(asking):
    client, _ = asking(httpx.Response(200, text="<html>"), ok(hello="world"))
    for _ in range(2):
        with pytest.raises(zoetrope.NotThisService):
            client.call("job", "job-1")


def test_an_unknown_post_is_not_sent_twice(asking):
    client, script = asking(BREAK)
    with pytest.raises(zoetrope.ServiceUnreachable):
        client.call("request", "POST", "/v1/anything", {"a": 1})
    assert len(script.requests) == 1


def test_names_are_one_segment_of_the_path(asking):
    client, script = asking(ok(**job()))
    client.call("job", "a/../b?c")
    assert script.paths == ["/v1/jobs/a%2F..%2Fb%3Fc"]
    with pytest.raises(zoetrope.ZoetropeError, match="the name is empty"):
        client.call("delete", "")


def test_files_of_a_submission_are_uploaded(asking, tmp_path):
    client, script = asking(BREAK, ok(**job()))
    (tmp_path / "cat.png").write_bytes(b"PNG")
    client.call("submit", "a cat", image=tmp_path / "cat.png", last_image=b"bytes", seed=7, loras=[{"name": "ink"}])
    for body in script.bodies:
        assert b'name="image"; filename="cat.png"' in body
        assert b'name="last_image"; filename="last_image"' in body
        assert b'[{"name":"ink"}]' in body
        assert b"PNG" in body


def test_a_file_that_is_not_there_is_said_before_anything_is_sent(asking, tmp_path):
    client, script = asking()
    with pytest.raises(zoetrope.ZoetropeError, match=r"image: .*gone.png"):
        client.call("submit", "a cat", image=tmp_path / "gone.png")
    with pytest.raises(zoetrope.ZoetropeError, match="reference_images: is a mixture"):
        client.call("submit", "a cat", reference_images=[b"x", "file-1"])
    assert script.requests == []


def test_events_go_on_where_the_connection_broke(asking):
    client, script = asking(
        stream(event("state", 11, **job("running")), event("progress", 12, step=1)[:-9], error=BREAK),
        refusal(503, "unavailable"),
        stream(b": keep-alive\n\n", event("progress", 12, step=1), event("progress", 0, position=3)),
        stream(event("state", 15, **job("succeeded", step=2))),
    )
    seen = client.all("events", "job-1")
    assert [(one.name, one.revision, one.job.state, one.job.step) for one in seen] == [
        ("state", 11, "running", 0),
        ("progress", 12, "running", 1),
        ("progress", 0, "running", 1),
        ("state", 15, "succeeded", 2),
    ]
    assert [request.headers.get("last-event-id") for request in script.requests] == [None, "11", "11", "12"]


def test_nothing_left_to_tell_ends_the_iteration(asking):
    client, script = asking(httpx.Response(204))
    assert client.all("events", "job-1", after=99) == []
    assert script.requests[0].headers["last-event-id"] == "99"


def test_events_of_no_job_are_an_error(asking):
    client, _ = asking(refusal(404, "not_found", "job: no such"))
    with pytest.raises(zoetrope.NotFound):
        client.all("events", "job-1")


def test_waiting_tells_of_progress_and_returns_the_job_in_full(asking):
    client, _ = asking(
        stream(event("state", 1, **job("running")), event("progress", 2, progress=40), error=BREAK),
        stream(event("state", 3, **job("failed"))),
        ok(**job("failed", error={"code": "hung", "message": "no step"}, history=[{"to": "failed"}])),
    )
    seen = []
    done = client.call("wait", "job-1", on_progress=lambda now: seen.append((now.state, now.progress)))
    assert seen == [("running", 0), ("running", 40), ("failed", 0)]
    assert done.history
    with pytest.raises(zoetrope.JobFailed, match=r"job job-1 failed \(hung\): no step") as caught:
        done.raise_for_state()
    assert caught.value.code == "hung"


def test_waiting_ends_with_its_time(asking):
    client, _ = asking(ok(**job("running")))
    with pytest.raises(zoetrope.WaitTimeout, match="is running") as caught:
        client.call("wait", "job-1", timeout_s=0)
    assert caught.value.job.state == "running"


def test_a_list_is_walked_page_by_page(asking):
    def page(*ids, more):
        return ok(data=[job() | {"id": name} for name in ids], has_more=more, last_id=ids[-1])

    client, script = asking(page("a", "b", more=True), page("c", more=False))
    assert [one.id for one in client.all("jobs", state="queued,running")] == ["a", "b", "c"]
    assert script.paths[1] == "/v1/jobs?limit=100&after=b&state=queued%2Crunning&order=desc"
    client, script = asking(page("a", "b", more=True))
    assert [one.id for one in client.all("jobs", limit=2, prompt="red ball", since=7)] == ["a", "b"]
    assert script.paths == ["/v1/jobs?limit=2&since=7&prompt=red+ball&order=desc"]


def test_a_long_search_goes_on_over_short_pages_and_tells_how_far_it_is(asking):
    def page(*ids, last, searched_to=None):
        data = [job() | {"id": name} for name in ids]
        return ok(data=data, has_more=last is not None, last_id=last, searched_to=searched_to)

    reported = []
    client, script = asking(
        page(last="~900", searched_to=1000.5), page("a", last="~800", searched_to=990.0), page("b", last=None)
    )
    assert [one.id for one in client.all("jobs", prompt="rare", on_search=reported.append)] == ["a", "b"]
    assert [path.partition("&after=")[2].partition("&")[0] for path in script.paths] == ["", "~900", "~800"]
    assert reported == [1000.5, 990.0]


DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()
DONE = job("succeeded", artefacts=[{"name": "video.mp4", "size": len(DATA), "sha256": DIGEST}])


def test_a_download_goes_on_where_it_broke_off(asking, tmp_path):
    client, script = asking(
        ok(**DONE),
        stream(DATA[:3000], error=BREAK),
        stream(DATA[3000:5000], status=206, error=BREAK),
        stream(DATA[5000:], status=206),
    )
    got = client.call("download", "job-1", tmp_path)
    assert (tmp_path / "video.mp4").read_bytes() == DATA
    assert got == zoetrope.DownloadedFile(path=str(tmp_path / "video.mp4"), size=len(DATA), sha256=DIGEST)
    assert [one.headers.get("range") for one in script.requests[1:]] == [None, "bytes=3000-", "bytes=5000-"]
    assert script.requests[2].headers["if-range"] == f'"{DIGEST}"'
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_a_download_given_up_is_gone_on_with_by_the_next(asking, tmp_path):
    client, _ = asking(ok(**DONE), stream(DATA[:3000], error=BREAK), retries=zoetrope.RetryPolicy(most=0))
    with pytest.raises(zoetrope.ServiceUnreachable, match="goes on from"):
        client.call("download", "job-1", tmp_path / "a.mp4")
    assert not (tmp_path / "a.mp4").exists()
    client, script = asking(ok(**DONE), stream(DATA[3000:], status=206))
    client.call("download", "job-1", tmp_path / "a.mp4")
    assert script.requests[1].headers["range"] == "bytes=3000-"
    assert (tmp_path / "a.mp4").read_bytes() == DATA


def test_other_bytes_than_were_made_are_no_download(asking, tmp_path):
    client, _ = asking(ok(**DONE), stream(b"x" * len(DATA)))
    with pytest.raises(zoetrope.DigestMismatch, match="other bytes"):
        client.call("download", "job-1", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_download_names_what_is_missing(asking, tmp_path):
    client, _ = asking(ok(**job("running")), ok(**DONE), ok(**DONE))
    with pytest.raises(zoetrope.NotReady, match="is running and has no files"):
        client.call("download", "job-1", tmp_path)
    with pytest.raises(zoetrope.ZoetropeError, match=r"no file 'b.mp4'; it has video.mp4"):
        client.call("download", "job-1", tmp_path, name="b.mp4")
    with pytest.raises(zoetrope.ZoetropeError, match="cannot be written to"):
        client.call("download", zoetrope.client.results.convert(zoetrope.Job, DONE), tmp_path / "no/such.mp4")


def test_a_service_that_is_not_ready_is_an_answer(asking):
    client, _ = asking(
        httpx.Response(503, json={"status": "unhealthy", "reasons": ["no worker is ready"]}), ok(status="healthy")
    )
    said = client.call("health")
    assert (said.is_ready, said.reasons) == (False, ["no worker is ready"])
    assert client.call("health").is_ready


def test_the_address_and_the_key_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("ZOETROPE_URL", "https://gpu.example/zt/")
    monkeypatch.setenv("ZOETROPE_API_KEY", "sk-1")
    script = Script(ok(**job()), ok(**job()))
    transport = httpx.MockTransport(script)
    with zoetrope.Client(transport=transport) as client:
        client.job("job-1")
    with zoetrope.Client("http://other", "sk-2", transport=transport) as client:
        client.job("job-1")
    assert [str(one.url) for one in script.requests] == [
        "https://gpu.example/zt/v1/jobs/job-1",
        "http://other/v1/jobs/job-1",
    ]
    assert [one.headers["authorization"] for one in script.requests] == ["Bearer sk-1", "Bearer sk-2"]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://h:x", "http://h:99999"])
def test_an_address_that_is_none_is_one_sentence(monkeypatch, url):
    with pytest.raises(zoetrope.ZoetropeError, match=r"url: .* must be an address like"):
        zoetrope.Client(url)
    monkeypatch.setenv("ZOETROPE_URL", url)
    with pytest.raises(zoetrope.ZoetropeError, match=r"ZOETROPE_URL: .* must be an address like"):
        zoetrope.AsyncClient()


def test_both_clients_have_the_same_methods():
    def face(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    assert face(zoetrope.Client) == face(zoetrope.AsyncClient)


def test_the_clients_results_have_no_field_that_the_service_does_not_send():
    from http_edge.api.common import schema_jobs, schema_service
    from http_edge.api.native import usage_api
    from http_edge.api.openai import schema_openai

    pairs = [
        (zoetrope.Job, schema_jobs.JobTaken),
        (zoetrope.Artefact, schema_jobs.JobFile),
        (zoetrope.Worker, schema_service.Worker),
        (zoetrope.Queue, schema_service.QueueNumbers),
        (zoetrope.Model, schema_openai.Model),
        (zoetrope.UploadedFile, schema_openai.File),
        (zoetrope.Estimate, schema_jobs.JobEstimate),
        (zoetrope.Usage, usage_api.Usage),
        (zoetrope.UsageRow, usage_api.UsageNumbers),
    ]
    for ours, theirs in pairs:
        own = {one.name for one in msgspec.structs.fields(ours)} - {"raw"}
        assert own - {one.encode_name for one in msgspec.structs.fields(theirs)} == set(), ours


def test_every_state_of_the_service_is_final_or_active():
    from broker.wire.terms import FINAL_NAMES, JobState
    from zoetrope.client.results import ACTIVE_STATES, FINAL_STATES

    assert set(FINAL_NAMES) == FINAL_STATES
    assert {state.value for state in JobState} == {*ACTIVE_STATES, *FINAL_STATES}


def test_every_option_of_generate_is_a_field_of_the_service():
    from http_edge.jobs.fields import FIELDS
    from zoetrope.cli import generate

    body = ast.parse(inspect.getsource(generate.generate)).body[0]
    named = next(ast.literal_eval(one.keys[0]) and one.keys for one in ast.walk(body) if isinstance(one, ast.Dict))
    assert {key.value for key in named} - {name for field in FIELDS.values() for name in field.names} == {"priority"}


def test_the_page_writes_options_that_the_command_has():
    from zoetrope.cli import generate

    script = (Path(__file__).resolve().parents[2] / "http_edge/page/static/snippets.js").read_text()
    written = set(re.findall(r"['`](--[a-z-]+)", script))
    assert {"--model", "--set", "--lora"} <= written
    assert written <= set(re.findall(r'"(--[a-z-]+)"', inspect.getsource(generate)))


def test_every_error_code_of_the_service_has_a_class_of_its_kind():
    from http_edge.base.error_table import TABLE
    from zoetrope.client.errors import error_class

    kinds = {code: error_class(row.status, code) for code, row in TABLE.items()}
    assert {kinds[code] for code in ("busy", "no_workers", "shutting_down", "unavailable", "disk_full")} == {
        zoetrope.Unavailable
    }
    assert {kinds[code] for code in ("internal", "damaged", "upload_failed", "wait_timeout")} == {zoetrope.ServiceFault}
    assert {kinds[code] for code in ("missing_field", "too_large", "bad_json", "key_reused")} == {
        zoetrope.InvalidRequest
    }
