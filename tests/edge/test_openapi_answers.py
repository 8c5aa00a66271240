"""Answers of every API family are what the OpenAPI document says they are."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest

from broker.wire.messages import ClaimedDelivery
from http_edge.background import webhook_events
from http_edge.http.operation import JSON
from http_edge.http.routing import operations_of
from tests.edge.conftest import World
from tests.edge.levers import draws
from tests.edge.schema_check import faults, resolved
from tests.edge.small_media import clip, picture
from tests.testing.fake_broker import VIDEO, worker


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
