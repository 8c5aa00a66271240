"""The OpenAPI document: it is whole, it is of this application's routes, and answers are what it says they are."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin

import msgspec
import pytest

from broker.wire.messages import ClaimedDelivery
from http_edge.api.lightx2v import task_fields
from http_edge.api.lightx2v.cloud_json import STATUSES
from http_edge.api.native.jobs_api import STATES
from http_edge.api.openai import fields as openai_fields
from http_edge.app import FAMILIES
from http_edge.background import webhook_events
from http_edge.base.error_table import TABLE
from http_edge.base.errors import EdgeError, ErrorResponses
from http_edge.http.operation import EVENTS, JSON
from http_edge.http.routing import operations_of, route
from http_edge.jobs import webhook_fields
from http_edge.jobs.fields import NAMES
from http_edge.openapi import swagger_ui
from tests.edge.conftest import World
from tests.edge.levers import draws
from tests.edge.schema_check import faults, resolved
from tests.edge.small_media import clip, picture
from tests.testing.fake_broker import VIDEO, worker

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


@pytest.fixture
def document(world: World) -> dict[str, Any]:
    return world.http.get("/openapi.json").json()


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


# ---------------------------------------------------------------- whole


def test_a_route_is_refused_without_an_operation() -> None:
    async def handler(request: Any) -> Any: ...

    with pytest.raises(TypeError, match="declares no operation"):
        route("/v1/new", GET=handler)


def test_every_operation_has_a_summary(document: dict[str, Any]) -> None:
    for method, path, operation in _operations(document):
        assert operation["summary"], (method, path)


def test_head_goes_where_get_goes(world: World) -> None:
    for one in world.http.app.routes:
        assert ("HEAD" in one.methods) == ("GET" in one.methods), one.path


def test_names_are_unique_and_tags_known(document: dict[str, Any]) -> None:
    operations = list(_operations(document))
    assert len(operations) > 70
    hooks = [item["post"] for item in document["webhooks"].values()]
    ids = [operation["operationId"] for _, _, operation in operations] + [hook["operationId"] for hook in hooks]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in document["tags"]}
    assert {tag for _, _, operation in operations for tag in operation["tags"]} == tags


def test_it_is_openapi_3_1_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    references = re.findall(r'"\$ref":"([^"]+)"', msgspec.json.encode(document).decode())
    assert references
    for reference in set(references):
        assert resolved({"$ref": reference}, document), reference


def test_a_stream_of_events_has_no_schema_that_would_be_taken_for_one_of_each_event(document: dict[str, Any]) -> None:
    streams = [
        answer["content"][EVENTS]
        for _, _, operation in _operations(document)
        for answer in operation["responses"].values()
        if EVENTS in answer.get("content", {})
    ]
    assert len(streams) >= 3
    assert not [stream for stream in streams if "schema" in stream]


def test_patterns_are_those_of_javascript(document: dict[str, Any]) -> None:
    patterns = re.findall(r'"pattern":"((?:[^"\\]|\\.)*)"', msgspec.json.encode(document).decode())
    assert patterns
    assert not [pattern for pattern in patterns if "\\\\Z" in pattern or "(?i" in pattern]


def test_path_parameters_are_those_of_the_path(document: dict[str, Any]) -> None:
    for method, path, operation in _operations(document):
        named = [resolved(param, document) for param in operation.get("parameters", ())]
        in_path = {param["name"] for param in named if param["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path)), (method, path)
        assert all(param["required"] for param in named if param["in"] == "path")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs",
        "/v1/videos",
        "/v1/videos/sync",
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/tasks/video",
        "/v1/local/video/generate",
        "/api/v1/task/submit",
    ],
)
def test_whatever_makes_something_takes_json_and_both_forms(document: dict[str, Any], path: str) -> None:
    assert set(document["paths"][path]["post"]["requestBody"]["content"]) == {JSON, *FORMS}


def test_files_may_come_in_multipart(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    form = resolved(content["multipart/form-data"]["schema"], document)
    assert "contentMediaType" in form["properties"]["image"]
    assert "contentMediaType" not in resolved(content[JSON]["schema"], document)["properties"]["image"]
    assert form["required"] == ["prompt"]


def test_forms_say_how_lists_and_objects_are_written(document: dict[str, Any]) -> None:
    for kind in FORMS:
        content = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"][kind]
        assert content["encoding"]["webhook_events"] == {"style": "form", "explode": False}
        assert content["encoding"]["extra"] == {"style": "deepObject", "explode": True}
        fields = resolved(content["schema"], document)["properties"]
        assert set(content["encoding"]) <= set(fields)


def test_lists_and_objects_so_written_are_taken(world: World) -> None:
    form = {
        "prompt": "a",
        "size": "64,64",
        "extra[eta]": "0.5",
        "webhook": "http://93.184.216.34/",
        "webhook_events": "completed,failed",
    }
    job = world.http.post("/v1/jobs", data=form).json()
    assert (job["spec"]["width"], job["spec"]["extra"]) == (64, {"eta": 0.5})
    assert job["webhook"]["wanted"] == ["job.completed", "job.failed"]
    repeated = world.http.post("/v1/jobs", data={**form, "webhook_events": ["completed", "failed"]}).json()
    assert repeated["webhook"]["wanted"] == ["job.completed", "job.failed"]


def test_no_field_of_a_form_is_null(document: dict[str, Any]) -> None:
    for method, path, operation in _operations(document):
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            if kind in FORMS:
                for name, field in resolved(content["schema"], document)["properties"].items():
                    kinds = {option.get("type") for option in field.get("anyOf", [field])}
                    assert "null" not in kinds, (method, path, name)


def test_words_that_are_taken_are_listed(document: dict[str, Any]) -> None:
    def words(path: str, name: str) -> list[str]:
        params = [resolved(param, document) for param in document["paths"][path]["get"]["parameters"]]
        schema = next(param["schema"] for param in params if param["name"] == name)
        return resolved(schema.get("items", schema), document)["enum"]

    for path in ("/v1/jobs", "/v1/videos", "/v1/files"):
        assert sorted(words(path, "order")) == ["asc", "desc"]
    assert sorted(words("/v1/jobs", "state")) == sorted(STATES)
    assert sorted(words("/api/v1/task/list", "status")) == sorted(["ALL", *STATUSES])


@pytest.mark.parametrize(
    "key", ["a", "a b", '"a"', '"a b"', '"a\\"b"', '""', '"a', 'a"b', "a\tb", "x" * 255, "x" * 256]
)
def test_the_keys_that_are_promised_are_those_that_are_taken(world: World, document: dict[str, Any], key: str) -> None:
    promised = faults(key, document["components"]["parameters"]["IdempotencyKey"]["schema"], document) == []
    answer = world.http.post("/v1/jobs", json={"prompt": "a"}, headers={"Idempotency-Key": key})
    assert (answer.status_code == 200) == promised


def test_the_choices_of_a_field_are_its_own(document: dict[str, Any]) -> None:
    requests = [
        schema["properties"]
        for schema in document["components"]["schemas"].values()
        if {"cache", "neg_prompt"} <= set(schema.get("properties", ()))
    ]
    assert requests
    for fields in requests:
        assert _words(fields["cache"]) - {""} == {"off", "safe", "fast"}
        if "output" in fields and _words(fields["output"]):
            assert _words(fields["output"]) - {""} == {"image", "video"}


def _words(schema: dict[str, Any]) -> set[str]:
    """The texts that a schema lists, in itself or in one of its alternatives."""
    return set(schema.get("enum", ())).union(*map(_words, schema.get("anyOf", ())))


def test_an_edit_needs_one_of_the_fields_for_its_picture(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    for kind in (JSON, *FORMS):
        schema = content[kind]["schema"]
        assert faults({"prompt": "a"}, schema, document)
        assert faults({"prompt": "a", "url": "http://example.com/a.png"}, schema, document) == []


def test_every_declared_error_is_in_its_familys_shape(document: dict[str, Any]) -> None:
    errors = ErrorResponses(FAMILIES)
    for method, path, operation in _operations(document):
        for status, response in operation["responses"].items():
            if "$ref" not in response:
                continue
            response = resolved(response, document)
            kinds = re.findall(r"`(\w+)`", response["description"])
            assert kinds, (method, path, status)
            for kind in kinds:
                answer = errors.response(EdgeError(kind, "x"), path)  # type: ignore[arg-type]
                assert str(answer.status_code) == status
                schema = response["content"][answer.media_type]["schema"]
                assert schema["$ref"].endswith("/" + errors.family_of(path).body.__name__)
                assert faults(msgspec.json.decode(answer.body), schema, document) == []


def test_every_kind_of_error_is_told_of(document: dict[str, Any]) -> None:
    told = re.findall(
        r"`(\w+)`", " ".join(item["description"] for item in document["components"]["responses"].values())
    )
    assert set(told) == set(TABLE)


def test_every_name_that_is_read_is_described(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    own = {"id", "priority", "deadline_s", *webhook_fields.WEBHOOK_FIELDS}
    assert set(schemas["JobRequest"]["properties"]) == {*NAMES, *own}
    assert schemas["JobRequest"]["additionalProperties"] is False
    for name, policy in (
        ("VideoRequest", openai_fields.POLICY),
        ("TaskRequest", task_fields.POLICY),
        ("Gen1Request", task_fields.GEN1_POLICY),
    ):
        read = {alias for alias, field in NAMES.items() if field not in policy.without}
        assert read <= set(schemas[name]["properties"]), name


# ---------------------------------------------------------------- true


class Checked:
    """Asks the edge, and holds every answer against the document."""

    def __init__(self, world: World, document: dict[str, Any]) -> None:
        self.world = world
        self.document = document
        self.seen: set[str] = set()

    def __call__(self, method: str, path: str, template: str = "", *, status: int = 200, **request: Any) -> Any:
        response = self.world.http.request(method, path, **request)
        assert response.status_code == status, f"{method} {path}: {response.status_code} {response.text[:300]}"
        template = template or path.partition("?")[0]
        operation = self.document["paths"][template][method.lower()]
        said = resolved(operation["responses"][str(status)], self.document)
        media = response.headers.get("content-type", "").partition(";")[0]
        assert media in said["content"], f"{method} {path}: {media}"
        if media not in (JSON, "application/problem+json"):
            return response
        found = faults(response.json(), said["content"][media]["schema"], self.document)
        assert found == [], f"{method} {path}: {found[:5]}"
        if status == 200:
            self.seen.add(operation["operationId"])
        return response.json()


@pytest.fixture
def ask(world: World, document: dict[str, Any]) -> Checked:
    return Checked(world, document)


def test_native_answers(ask: Checked) -> None:
    body = {
        "prompt": "a",
        "seed": 5,
        "webhook": "http://93.184.216.34/",
        "webhook_events": ["completed"],
        "extra": {"a": 1},
    }
    job = ask("POST", "/v1/jobs", json=body)
    one = f"/v1/jobs/{job['id']}"
    ask.world.do(ask.world.fake.run, job["id"])
    ask("GET", "/v1/workers")
    ask("GET", f"{one}/result", "/v1/jobs/{id}/result", status=404)
    ask.world.do(ask.world.fake.succeed, job["id"])
    shown = ask("GET", one, "/v1/jobs/{id}")
    assert shown["artefacts"]
    assert shown["story"]
    ask("GET", f"{one}/result", "/v1/jobs/{id}/result")
    ask("GET", f"{one}/result", "/v1/jobs/{id}/result", status=206, headers={"Range": "bytes=0-9"})
    ask("GET", f"{one}/events", "/v1/jobs/{id}/events")
    failed = ask("POST", "/v1/jobs", data={"prompt": "b"}, headers={"Prefer": "respond-async"}, status=202)
    ask.world.do(ask.world.fake.run, failed["id"])
    ask.world.do(ask.world.fake.fail, failed["id"], "no")
    assert ask("GET", f"/v1/jobs/{failed['id']}", "/v1/jobs/{id}")["error"]
    assert len(ask("GET", "/v1/jobs")["data"]) == 2
    for method in ("PUT", "GET", "DELETE"):
        ask(method, f"{one}/pin", "/v1/jobs/{id}/pin")
    ask("DELETE", one, "/v1/jobs/{id}")
    ask("POST", f"{one}/cancel", "/v1/jobs/{id}/cancel")
    waits = f"/v1/jobs/{ask('POST', '/v1/jobs', json={'prompt': 'c'})['id']}"
    for action in ("pause", "resume", "commit"):
        ask("POST", f"{waits}/{action}", f"/v1/jobs/{{id}}/{action}")
    ask("GET", "/v1/queue/estimate?steps=4", "/v1/queue/estimate")
    assert _missed(ask, "Jobs") == set()


def test_native_refusals(ask: Checked) -> None:
    ask("POST", "/v1/jobs", json={"prompt": "a", "width": 63}, status=422)
    ask("POST", "/v1/jobs", content=b"{", status=400)
    ask("GET", "/v1/jobs/none", "/v1/jobs/{id}", status=404)
    ask("GET", "/v1/jobs?limit=x", status=422)
    ask.world.fake.down = True
    ask("GET", "/v1/jobs", status=503)


def test_a_service_without_broker(ask: Checked) -> None:
    ask.world.fake.down = True
    ask("GET", "/health", status=503)
    ask("GET", "/v1/models", status=503)
    ask("GET", "/v1/local/video/generate/service_status", status=503)


def test_video_answers(ask: Checked) -> None:
    over = msgspec.structs.replace(VIDEO, name="over", takes_inputs=("video",), needs_inputs=("video",))
    ask.world.fake.workers["cpu-2"] = worker("cpu-2", over)
    video = ask("POST", "/v1/videos", json={"prompt": "a", "seconds": "1"})
    one = f"/v1/videos/{video['id']}"
    ask.world.do(ask.world.fake.run, video["id"])
    ask("GET", one, "/v1/videos/{id}")
    ask("GET", f"{one}/content", "/v1/videos/{id}/content", status=404)
    ask.world.do(ask.world.fake.succeed, video["id"], video_mp4=clip())
    assert ask("GET", one, "/v1/videos/{id}")["url"]
    ask("GET", f"{one}/content", "/v1/videos/{id}/content")
    ask("GET", f"{one}/content?variant=thumbnail", "/v1/videos/{id}/content")
    ask("POST", f"{one}/remix", "/v1/videos/{id}/remix", json={"prompt": "b"})
    files = {"input_reference": ("a.png", picture())}
    ask("POST", "/v1/videos", data={"prompt": "a", "model": "animate"}, files=files)
    ask("POST", "/v1/videos/extensions", data={"prompt": "b", "video[id]": video["id"], "seconds": "1"})
    ask("GET", "/v1/videos")
    ask("DELETE", one, "/v1/videos/{id}")
    ask("POST", "/v1/videos/edits", json={"prompt": "a", "video": "none"}, status=404)
    ask("POST", "/v1/videos/edits", data={"prompt": "a"}, files={"video": ("a.mp4", clip())})
    ask("POST", "/v1/videos/characters", json={"name": "a"}, status=400)
    ask("GET", "/v1/videos/characters/a", "/v1/videos/characters/{id}", status=404)
    ask("POST", "/v1/videos", json={}, status=400)
    draws(ask.world, video_mp4=clip())
    assert ask("POST", "/v1/videos/sync", json={"prompt": "a"}).content
    ask("POST", "/v1/videos/sync", json={"prompt": "a"}, headers={"Prefer": "respond-async, wait=20"})
    assert _missed(ask, "Videos") == set()


def test_image_answers(ask: Checked) -> None:
    draws(ask.world, image_png=picture())
    for form in ("b64_json", "url", "file"):
        answer = ask("POST", "/v1/images/generations", json={"prompt": "a", "response_format": form})
    ask("POST", "/v1/images/generations", json={"prompt": "a", "stream": True})
    answer = ask("POST", "/v1/images/generations", data={"prompt": "a"})
    ask("GET", f"/v1/images/{answer['id']}/content", "/v1/images/{id}/content")
    ask("POST", "/v1/images/edits", json={"prompt": "a"}, status=400)
    ask("POST", "/v1/images/variations", json={}, status=410)
    assert _missed(ask, "Images") == {"editImage"}


def test_answers_about_models_files_and_the_service(ask: Checked) -> None:
    for path in ("/v1/models", "/models", "/v1/model_info", "/model_info"):
        ask("GET", path)
    ask("GET", "/v1/models/org%2Fpicture", "/v1/models/{id}")
    ask("GET", "/v1/models/none", "/v1/models/{id}", status=404)
    kept = ask("POST", "/v1/files", data={"purpose": "vision"}, files={"file": ("a.png", io.BytesIO(picture()))})
    ask("POST", "/v1/files", json={"file": "a"}, status=422)
    ask("GET", "/v1/files")
    ask("GET", f"/v1/files/{kept['id']}", "/v1/files/{id}")
    ask("DELETE", f"/v1/files/{kept['id']}", "/v1/files/{id}")
    for path in (
        "/health",
        "/readyz",
        "/healthz",
        "/health_generate",
        "/livez",
        "/liveness",
        "/v1/workers",
        "/v1/stats/history",
        "/",
    ):
        ask("GET", path)
    ask("GET", "/metrics")
    assert [_missed(ask, tag) for tag in ("Models", "Files", "Service")] == [set(), set(), set()]


def test_first_generations_answers(ask: Checked) -> None:
    base = "/v1/local/video/generate"
    task = {"task_id": "t1", "prompt": "a", "save_video_path": "out.mp4"}
    ask("GET", f"{base}/service_status")
    ask("POST", base, json=task)
    ask("GET", f"{base}/service_status")
    ask("POST", f"{base}/task_status", json={"task_id": "t1"})
    for job_id in list(ask.world.fake.jobs):
        ask.world.do(ask.world.fake.run, job_id)
        ask.world.do(ask.world.fake.succeed, job_id)
    ask("GET", f"{base}/task_status?task_id=t1")
    ask("GET", f"{base}/get_all_tasks")
    ask("GET", f"{base}/stop_running_task")
    ask("POST", f"{base}_form", "/v1/local/video/generate_form", params={**task, "task_id": "t2"})
    ask("GET", f"{base}/get_task_result?task_id=t1")
    ask("GET", f"{base}/get_task_result?task_id=t2")
    ask("POST", f"{base}/get_task_result", json={"task_id": "none"})
    ask("GET", "/v1/file/download/none", "/v1/file/download/{path}")
    ask("GET", "/v1/file/download")
    ask("POST", base, json={}, status=422)
    assert _missed(ask, "LightX2V, first generation") == set()


def test_task_answers(ask: Checked) -> None:
    ask("GET", "/v1/service/status")
    for path in ("/v1/tasks", "/v1/tasks/form", "/v1/tasks/video", "/v1/tasks/video/form"):
        task = ask("POST", path, json={"prompt": "a", "odd": 1})
    for path in ("/v1/tasks/image", "/v1/tasks/image/form"):
        ask("POST", path, data={"prompt": "a"})
    one = f"/v1/tasks/{task['task_id']}"
    for path in ("/v1/tasks", "/v1/tasks/queue/status", "/v1/service/status", "/v1/service/metadata"):
        ask("GET", path)
    ask("GET", f"{one}/status", "/v1/tasks/{id}/status")
    ask("GET", f"{one}/result", "/v1/tasks/{id}/result", status=404)
    ask("GET", "/v1/tasks/none/status", "/v1/tasks/{id}/status", status=404)
    ask("DELETE", one, "/v1/tasks/{id}")
    ask("DELETE", "/v1/tasks/running")
    ask("DELETE", "/v1/tasks/all/running")
    ask("POST", "/v1/tasks", json={"prompt": "a", "task": "none"}, status=422)
    draws(ask.world, image_png=picture())
    assert ask("POST", "/v1/tasks/image/sync", json={"prompt": "a"}).content
    assert _missed(ask, "LightX2V tasks") == {"drawImageTask"}


def test_cloud_answers(ask: Checked) -> None:
    ask("GET", "/api/v1/model/list")
    task = ask("POST", "/api/v1/task/submit", json={"task": "t2v", "prompt": "a", "model_cls": "demo"})["task_id"]
    for path in ("cancel", "resume", "cancel"):
        ask("GET", f"/api/v1/task/{path}?task_id={task}")
    ask("POST", "/api/v1/task/resume", json={"task_id": task})
    ask("POST", "/api/v1/task/cancel", json={"task_id": task})
    ask("GET", f"/api/v1/task/resume?task_id={task}")
    job_id = list(ask.world.fake.jobs)[-1]
    ask.world.do(ask.world.fake.run, job_id)
    ask("GET", f"/api/v1/task/result_url?task_id={task}", status=404)
    ask.world.do(ask.world.fake.succeed, job_id)
    ask("GET", f"/api/v1/task/query?task_id={task}")
    ask("GET", f"/api/v1/task/query?task_ids={task}")
    ask("GET", f"/api/v1/task/result_url?task_id={task}")
    ask("GET", "/api/v1/task/list")
    ask("GET", f"/assets/task/result?task_id={task}")
    ask("DELETE", f"/api/v1/task/delete?task_id={task}")
    ask("GET", "/api/v1/task/query?task_id=none", status=404)
    assert _missed(ask, "LightX2V cloud") == set()


def _missed(ask: Checked, tag: str) -> set[str]:
    """Operations with a JSON answer that were not asked for one: the others answer with files, refusals, or text for people and probes."""
    return {
        operation.id
        for operation in operations_of(ask.world.http.app.routes)
        if operation.tag.name == tag
        and 200 in operation.answers
        and JSON in operation.answers[200].media
        and operation.answers[200].types not in ((), (dict,))
    } - ask.seen


@pytest.mark.parametrize("event", ["started", "completed", "failed"])
def test_events_that_webhooks_are_told(world: World, document: dict[str, Any], event: str) -> None:
    job_id = world.submit()["id"]
    world.do(world.fake.run, job_id)
    world.do(world.fake.fail, job_id, "no") if event == "failed" else world.do(world.fake.succeed, job_id)
    assert world.http.portal is not None
    job = world.http.portal.call(world.edge.calls.jobs.get, job_id)
    claim = ClaimedDelivery(number=1, claim=1, job_id=job_id, event=event, created_at=1.5, attempts=1)  # type: ignore[arg-type]
    body = msgspec.json.decode(webhook_events.event_body(job, claim, "http://here"))
    schema = document["webhooks"][f"job.{event}"]["post"]["requestBody"]["content"][JSON]["schema"]
    assert faults(body, schema, document) == []
    assert faults({**body, "type": "odd"}, schema, document)


# ---------------------------------------------------------------- served


def test_it_is_the_same_bytes_until_the_service_changes(world: World) -> None:
    first, second = world.http.get("/openapi.json"), world.http.get("/openapi.json")
    assert first.content == second.content
    assert first.headers["content-type"] == JSON
    unchanged = world.http.get("/openapi.json", headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert world.http.get("/openapi.json", headers={"If-None-Match": '"x"'}).status_code == 200


def test_keys_are_asked_for_where_there_are_some(open_edge: Callable[..., World], document: dict[str, Any]) -> None:
    assert {} in document["security"]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "401" not in document["paths"]["/health"]["get"]["responses"]
    assert "401" in document["paths"]["/v1/jobs"]["get"]["responses"]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}


def test_the_page_needs_nothing_from_elsewhere(world: World) -> None:
    for path in ("/docs", "/docs/"):
        page = world.http.get(path)
        assert page.headers["content-type"].startswith("text/html")
        for kind, text in zip(("script", "style"), _inline(page.text), strict=True):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in page.headers["content-security-policy"], kind
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self' 'sha256-")
        assert "unsafe" not in page.headers["content-security-policy"]
        files = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert len(files) == 3
        for name in files:
            if name != "data:,":
                found = world.http.get(urljoin(str(page.url), name))
                assert found.status_code == 200, name
                again = world.http.get(found.url, headers={"If-None-Match": found.headers["etag"]})
                assert (again.status_code, again.content) == (304, b"")


def _inline(page: str) -> tuple[str, str]:
    (script,) = re.findall(r"<script>(.*)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*)</style>", page, re.DOTALL)
    return script, style


def test_the_page_reads_the_version_of_openapi_that_the_document_has(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert b"OpenAPI31" in swagger_ui.read("swagger-ui-bundle.js")


def test_an_example_of_a_body_is_a_body(document: dict[str, Any]) -> None:
    found = 0
    for method, path, operation in _operations(document):
        body = operation.get("requestBody", {}).get("content", {}).get(JSON, {})
        if "example" in body:
            found += 1
            assert faults(body["example"], body["schema"], document) == [], (method, path)
    assert found > 10


@pytest.mark.parametrize("value", [True, "false", "on", 0, 1])
def test_the_document_takes_each_way_to_say_yes_or_no_that_a_request_is_read_with(world: World, value: Any) -> None:
    document = world.http.get("/openapi.json").json()
    body = document["paths"]["/v1/local/video/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    task = {"prompt": "x", "save_video_path": "x.mp4", "task_id": "t", "use_prompt_enhancer": value}
    assert faults(task, body, document) == []
    assert world.http.post("/v1/local/video/generate", json=task).status_code == 200
