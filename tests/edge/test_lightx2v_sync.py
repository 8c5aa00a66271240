"""LightX2V's synchronous image route: the image, or what became of it, and nothing drawn for a client that left."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broker.client import errors
from broker.wire.jobspec import decode_spec
from tests.edge.conftest import World
from tests.edge.levers import leave, only_job, then

SYNC = "/v1/tasks/image/sync?timeout_seconds=30&poll_interval_seconds=0.5"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)

#: What LightX2V's script sends.
SCRIPT = {"prompt": "a lighthouse", "seed": 42, "aspect_ratio": "16:9", "presigned_url": ""}


def test_the_scripts_request_is_answered_with_the_image(world: World) -> None:
    then(world, world.fake.run, lambda job_id: world.fake.succeed(job_id, image_png=PNG))
    answer = world.http.post(SYNC, json=SCRIPT)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/png", PNG)
    assert answer.headers["content-disposition"] == 'inline; filename="result.png"'
    assert answer.headers["cache-control"] == "no-store"
    spec = decode_spec(only_job(world).body)
    assert (spec.output, spec.seed, spec.width / spec.height > 1.5) == ("image", 42, True)


def test_a_trailing_slash_is_the_same_route(world: World) -> None:
    then(world, world.fake.run, lambda job_id: world.fake.succeed(job_id, image_png=PNG))
    answer = world.http.post("/v1/tasks/image/sync/", json=SCRIPT, follow_redirects=False)
    assert answer.content == PNG


def test_the_task_is_known_like_any_other(world: World) -> None:
    then(world, world.fake.run, lambda job_id: world.fake.succeed(job_id, image_png=PNG))
    world.http.post(SYNC, json={**SCRIPT, "task_id": "mine", "save_result_path": "mine.png"})
    assert world.http.get("/v1/tasks/mine/status").json()["status"] == "completed"
    assert (world.start / "mine.png").read_bytes() == PNG


#: (what happens, status, detail)
ENDS: list[tuple[Callable[[World, str], Any], int, str]] = [
    (lambda world, job_id: world.fake.fail(job_id, "CUDA error"), 500, "CUDA error"),
    (lambda world, job_id: world.fake.fail(job_id, "no prompt", "invalid_input"), 413, "no prompt"),
    (lambda world, job_id: world.fake.stop(job_id), 409, "Task cancelled by user"),
]


@pytest.mark.parametrize(("end", "status", "detail"), ENDS, ids=[str(row[1]) for row in ENDS])
def test_what_becomes_of_a_task_is_a_status(
    world: World, end: Callable[[World, str], Any], status: int, detail: str
) -> None:
    then(world, world.fake.run, lambda job_id: end(world, job_id))
    answer = world.http.post(SYNC, json=SCRIPT)
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)
    # Repeating the request would draw another.
    assert status == 413 or answer.headers["x-should-retry"] == "false"


def test_a_wait_that_is_over_cancels_the_task(world: World) -> None:
    then(world, world.fake.run)
    answer = world.http.post("/v1/tasks/image/sync?timeout_seconds=1", json={**SCRIPT, "task_id": "slow"})
    assert (answer.status_code, answer.json()["detail"]) == (504, "Task slow timed out after 1 seconds")
    world.do(lambda: None)
    assert only_job(world).state == "cancelled"


def test_a_client_that_leaves_cancels_its_task(world: World) -> None:
    assert leave(world, "/v1/tasks/image/sync", b'{"prompt": "a cat"}') == 499
    assert only_job(world).state == "cancelled"


def test_an_edge_that_stops_cancels_what_clients_wait_for(world: World) -> None:
    then(world, world.fake.run, lambda job_id: world.edge.hub.close())
    answer = world.http.post(SYNC, json=SCRIPT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    world.do(lambda: None)
    assert only_job(world).state == "cancelled"


def test_a_full_queue_is_503(world: World) -> None:
    world.fake.refuse_with = errors.QueueFull("queue_full", "full", 9.0)
    answer = world.http.post(SYNC, json=SCRIPT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "9")


#: (query, status)
WAITING = [
    ("timeout_seconds=0", 400, "timeout_seconds must be > 0"),
    ("timeout_seconds=-5", 400, "timeout_seconds must be > 0"),
    ("poll_interval_seconds=0", 400, "poll_interval_seconds must be > 0"),
    ("timeout_seconds=long", 422, '"long" is not a number'),
    ("timeout_seconds=100000", 422, "must be 0 to 86400"),
    ("timeout_seconds=1.5", 422, "is not a whole number"),
    ("poll_interval_seconds=nan", 422, "is not a number"),
]


@pytest.mark.parametrize(("query", "status", "words"), WAITING, ids=[row[0] for row in WAITING])
def test_a_wait_that_makes_no_sense_is_refused(world: World, query: str, status: int, words: str) -> None:
    answer = world.http.post(f"/v1/tasks/image/sync?{query}", json=SCRIPT)
    assert answer.status_code == status
    assert words in str(answer.json()["detail"])
    assert world.fake.jobs == {}


# ---------------------------------------------------------------- presigned URLs


class Store(http.server.BaseHTTPRequestHandler):
    """An object store: keeps what is put, and answers `status`."""

    status = 200
    kept: list[tuple[str, str | None, bytes]] = []

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.kept.append((self.path, self.headers["Content-Type"], data))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def store() -> Iterator[tuple[type[Store], str]]:
    handler = type("OneStore", (Store,), {"kept": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}/bucket/a.png?X-Signature=abc"
        server.shutdown()
        thread.join()


def test_an_image_is_put_where_its_client_says(open_edge: Callable[..., World], store: tuple[type[Store], str]) -> None:
    kept, url = store
    world = open_edge(fetch_allow=("127.0.0.1",))
    then(world, world.fake.run, lambda job_id: world.fake.succeed(job_id, image_png=PNG))
    answer = world.http.post(SYNC, json={**SCRIPT, "task_id": "mine", "presigned_url": url})
    assert (answer.status_code, answer.json()) == (
        200,
        {"task_id": "mine", "task_status": "completed", "uploaded_to_presigned_url": True, "presigned_url": url},
    )
    assert kept.kept == [("/bucket/a.png?X-Signature=abc", "image/png", PNG)]


def test_the_answer_about_an_image_put_elsewhere_has_its_warnings(
    open_edge: Callable[..., World], store: tuple[type[Store], str]
) -> None:
    world = open_edge(fetch_allow=("127.0.0.1",))
    then(world, world.fake.run, lambda job_id: world.fake.succeed(job_id, warnings=("it was cut",), image_png=PNG))
    answer = world.http.post(SYNC, json={**SCRIPT, "odd": 1, "presigned_url": store[1]}).json()
    assert (len(answer["warnings"]), answer["warnings"][-1]) == (2, "it was cut")


def test_a_store_that_refuses_is_502_without_its_secret(
    open_edge: Callable[..., World], store: tuple[type[Store], str]
) -> None:
    kept, url = store
    kept.status = 403
    world = open_edge(fetch_allow=("127.0.0.1",))
    then(world, world.fake.run, lambda job_id: world.fake.succeed(job_id, image_png=PNG))
    answer = world.http.post(SYNC, json={**SCRIPT, "task_id": "mine", "presigned_url": url})
    assert answer.status_code == 502
    assert answer.json()["detail"] == "presigned_url: the result could not be uploaded: its server answered 403"
    # What was drawn is not lost.
    assert world.http.get("/v1/tasks/mine/result").content == PNG


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/x", "leads to an address or port"),
        ("http://169.254.169.254/latest", "leads to an address or port"),
        ("http://[::1]/x", "leads to an address or port"),
        ("ftp://example.org/x", "is no URL of http or https"),
        ("not a url", "URL"),
        ("http://user:word@example.org/x", "user name"),
    ],
)
def test_a_url_that_nothing_is_put_to_is_400_before_anything_is_drawn(world: World, url: str, words: str) -> None:
    answer = world.http.post(SYNC, json={**SCRIPT, "presigned_url": url})
    assert (answer.status_code, words in answer.json()["detail"]) == (400, True)
    assert world.fake.jobs == {}
