"""The OpenAPI document: it is whole, and it is of this application's routes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin

import msgspec
import pytest

from http_edge.api.lightx2v import task_fields
from http_edge.api.lightx2v.cloud_json import STATUSES
from http_edge.api.native.jobs_api import STATES
from http_edge.api.openai import fields as openai_fields
from http_edge.app import FAMILIES
from http_edge.base.error_table import TABLE
from http_edge.base.errors import EdgeError, ErrorResponses
from http_edge.http.operation import EVENTS, JSON
from http_edge.http.routing import route
from http_edge.jobs import webhook_fields
from http_edge.jobs.fields import NAMES
from http_edge.openapi import swagger_ui
from tests.edge.conftest import World
from tests.edge.schema_check import faults, resolved

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


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


def test_every_event_of_a_webhook_is_described(document: dict[str, Any]) -> None:
    assert set(document["webhooks"]) == {f"job.{event}" for event in webhook_fields.EVENTS}


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
    reported = re.findall(
        r"`(\w+)`", " ".join(item["description"] for item in document["components"]["responses"].values())
    )
    assert set(reported) == set(TABLE)


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
