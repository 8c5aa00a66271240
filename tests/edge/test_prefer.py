"""`Prefer: respond-async` and `wait=n`: 202 for whoever asks for it, and answers that wait for their job."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.edge.conftest import World
from tests.support.waiting import wait_until

CREATES = {
    "/v1/jobs": "/v1/jobs/{id}",
    "/v1/videos": "/v1/videos/{id}",
    "/v1/videos/sync": "/v1/videos/{id}",
    "/v1/images/generations": "/v1/jobs/{id}",
    "/v1/tasks/video": "/v1/tasks/{task_id}/status",
}


def create(world: World, path: str, prefer: str | None = None) -> Any:
    headers = {} if prefer is None else {"Prefer": prefer}
    return world.http.post(path, json={"prompt": "a red circle"}, headers=headers)


@pytest.mark.parametrize("path", CREATES)
def test_whoever_prefers_it_gets_202_and_an_address(world: World, path: str) -> None:
    answer = create(world, path, "Respond-Async")
    assert answer.status_code == 202
    assert answer.headers["location"] == CREATES[path].format(**answer.json())
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["preference-applied"] == "respond-async"
    assert "Prefer" in answer.headers["vary"]
    assert world.http.get(answer.headers["location"]).status_code == 200


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/videos", "/v1/tasks/video"])
@pytest.mark.parametrize("prefer", [None, "", "return=minimal", "wait=abc", "wait=-1", "handling=lenient, foo"])
def test_without_it_a_creation_is_200(world: World, path: str, prefer: str | None) -> None:
    answer = create(world, path, prefer)
    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers
    assert answer.headers["location"]


def test_the_time_to_come_back_is_what_the_broker_predicts(world: World) -> None:
    job = world.submit()
    world.fake.jobs[job["id"]] = world.fake._change(job["id"], eta_s=17.2)
    headers = {"Prefer": "respond-async", "Idempotency-Key": "k"}
    answer = world.http.post("/v1/videos", json={"prompt": "a"}, headers=headers)
    world.do(world.fake._change, answer.json()["id"], eta_s=17.2)
    again = world.http.post("/v1/videos", json={"prompt": "a"}, headers=headers)
    assert (again.status_code, again.headers["retry-after"]) == (202, "18")


def finish_when_asked_for(world: World, job_id: str, listeners: int = 1) -> threading.Thread:
    """Ends the job as soon as somebody waits for it."""

    def finish() -> None:
        wait_until(lambda: world.edge.hub.listeners >= listeners, what="a waiting request")
        world.do(world.fake.run, job_id)
        world.do(world.fake.succeed, job_id)

    thread = threading.Thread(target=finish)
    thread.start()
    return thread


def test_a_get_waits_until_its_job_is_final(world: World) -> None:
    job = world.submit()
    thread = finish_when_asked_for(world, job["id"])
    answer = world.http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"})
    thread.join()
    assert answer.json()["state"] == "succeeded"
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.headers["vary"] == "Prefer"


def test_a_wait_ends_with_its_time_and_is_bounded(world: World) -> None:
    job = world.submit()
    answer = world.http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"]) == (200, "queued")
    done = world.finished()
    granted = world.http.get(f"/v1/jobs/{done['id']}", headers={"Prefer": "wait=86400"})
    assert granted.headers["preference-applied"] == "wait=60"


def test_a_wait_for_a_job_that_is_not_there_is_404_at_once(world: World) -> None:
    assert world.http.get("/v1/jobs/nobody", headers={"Prefer": "wait=30"}).status_code == 404


@pytest.mark.parametrize(("path", "state"), [("/v1/videos", "completed"), ("/v1/tasks/video", "completed")])
def test_other_apis_wait_too(world: World, path: str, state: str) -> None:
    created = create(world, path).json()
    (job_id,) = world.fake.jobs
    thread = finish_when_asked_for(world, job_id)
    url = CREATES[path].format(**created)
    answer = world.http.get(url, headers={"Prefer": "wait=30"})
    thread.join()
    assert answer.json()["status"] == state


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/videos"])
def test_async_with_a_wait_answers_200_when_the_job_ends_in_time_and_else_202(world: World, path: str) -> None:
    late = create(world, path, "respond-async, wait=1")
    assert late.status_code == 202
    assert late.headers["preference-applied"] == "respond-async, wait=1"

    def finish() -> None:
        wait_until(lambda: len(world.fake.jobs) == 2 and world.edge.hub.listeners, what="a waiting request")
        world.do(world.fake.run, list(world.fake.jobs)[1])
        world.do(world.fake.succeed, list(world.fake.jobs)[1])

    thread = threading.Thread(target=finish)
    thread.start()
    answer = create(world, path, "respond-async;q=1, wait=30")
    thread.join()
    assert answer.status_code == 200
    assert answer.json().get("state", answer.json().get("status")) in ("succeeded", "completed")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/v1/jobs/{}", b""), ("GET", "/v1/videos/{}", b""), ("POST", "/v1/jobs", b'{"prompt": "a cat"}')],
)
def test_the_wait_of_a_client_that_leaves_ends(world: World, method: str, path: str, body: bytes) -> None:
    job_id = create(world, "/v1/videos").json()["id"]
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.format(job_id),
        "raw_path": path.format(job_id).encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"prefer", b"wait=60"), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        return None

    async def scene() -> None:
        async with asyncio.timeout(30):
            await world.http.app(scope, receive, send)  # type: ignore[arg-type]

    assert world.http.portal is not None
    world.http.portal.call(scene)
    assert world.edge.hub.listeners == 0
